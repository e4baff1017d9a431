"""A trained network made fast for inference on a CPU."""

import copy
from collections.abc import Callable
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mar_pipeline.inference.winograd import MAX_WIDTH, WinogradConvolution
from mar_pipeline.networks.blocks import NetworkOutput, ProxNet, ResBlock, SparseProxNet

Precision = Literal["float32", "bfloat16"]
FastNetwork = Callable[..., Tensor]
_VECTOR = 16
"""Rounded convolutions are faster than compiled ones where the channels fill the processor's vectors."""


def fast_network(network: nn.Module, precision: Precision = "float32") -> FastNetwork:
    """Return an inference copy: batch norms folded into convolutions, no autograd, compiled proximal networks.

    In bfloat16 the proximal networks of feature maps work on rounded numbers; the image, the proximal networks that it
    runs through and the dictionaries stay in float32. A network without proximal networks runs under autocast.

    Args:
        network: called with what `build.network_inputs` names, each [batch, 1, height, width] in network units; it
            stays as it is, and later changes of it do not reach the copy.
        precision: "float32" or "bfloat16".

    Returns:
        Function of the same tensors that returns the final image, float32, [batch, 1, height, width]. Its first call
        ever on a machine compiles for some seconds.

    Raises:
        ValueError: unknown precision.
    """
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision: expected float32 or bfloat16, got {precision!r}")
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    fast = copy.deepcopy(network).eval().requires_grad_(False)
    unfolded = _make_fast(fast, dtype)
    if not unfolded:
        for module in fast.modules():
            if isinstance(module, nn.Conv2d):  # other modules may hold tensors of any rank
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from the stubs
    autocast = not unfolded and dtype != torch.float32

    def run(*inputs: Tensor) -> Tensor:
        with torch.inference_mode(), torch.autocast(inputs[0].device.type, dtype, enabled=autocast):
            output = cast(NetworkOutput, fast(*inputs))
            return output.image.float().contiguous()

    return run


def _make_fast(module: nn.Module, dtype: torch.dtype) -> bool:
    """Replace proximal networks, and convolutions before a batch norm in a sequence, at any depth.

    Returns:
        Whether there were proximal networks.
    """
    if isinstance(module, nn.Sequential):
        _fold_sequence(module)
    found = False
    for name, child in module.named_children():
        if isinstance(child, ProxNet):
            setattr(module, name, _FastProxNet(child, dtype))
            found = True
        else:
            found |= _make_fast(child, dtype)
    return found


def _fold_sequence(sequence: nn.Sequential) -> None:
    for index in range(len(sequence) - 1):
        convolution, norm = sequence[index], sequence[index + 1]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            sequence[index] = fuse_conv_bn_eval(convolution, norm)
            sequence[index + 1] = nn.Identity()


class _FastProxNet(nn.Module):
    """`ProxNet` or `SparseProxNet` for inference.

    Float32 on a CPU without dilation goes through `WinogradConvolution`, all else through PyTorch's convolutions. Only
    maps are ever rounded: a network that is not sparse has the image among its channels.
    """

    def __init__(self, prox: ProxNet, dtype: torch.dtype) -> None:
        super().__init__()
        self.threshold = prox.threshold if isinstance(prox, SparseProxNet) else None
        blocks = [cast(ResBlock, block) for block in prox.blocks]
        pairs = [pair for block in blocks for pair in ((block.conv1, block.norm1), (block.conv2, block.norm2))]
        convolutions = [fuse_conv_bn_eval(convolution, norm) for convolution, norm in pairs]
        self.convolutions = nn.ModuleList(convolutions)
        self.compiled: list[WinogradConvolution] = []
        channels = blocks[0].conv1.in_channels
        if self.threshold is not None and dtype != torch.float32 and channels % _VECTOR == 0:
            self.convolutions.to(dtype)
        elif all(c.weight.device.type == "cpu" and c.dilation == (1, 1) for c in convolutions):
            self.compiled = [WinogradConvolution(convolution) for convolution in convolutions]

    def forward(self, x: Tensor) -> Tensor:
        if self.compiled and x.device.type == "cpu" and x.dtype == torch.float32 and x.shape[3] <= MAX_WIDTH:
            state = self._compiled_blocks(x.contiguous())
        else:
            state = self._blocks(x)
        return state if self.threshold is None else state.sub_(self.threshold).relu_()

    def _compiled_blocks(self, state: Tensor) -> Tensor:
        inner, *results = (torch.empty_like(state) for _ in range(3))
        for first, second in zip(self.compiled[::2], self.compiled[1::2], strict=True):
            first(state, inner)
            second(inner, results[0], state)
            state = results[0]
            results.reverse()  # a result that is its own addend would not be vectorised
        return state

    def _blocks(self, x: Tensor) -> Tensor:
        weight = cast(Tensor, self.convolutions[0].weight)
        state = x.to(weight.dtype).contiguous(memory_format=torch.channels_last)  # rounded first: half to move
        for first, second in zip(self.convolutions[::2], self.convolutions[1::2], strict=True):
            state = second(first(state).relu_()).add_(state).relu_()
        return state.contiguous().to(x.dtype)
