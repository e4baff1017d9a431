"""A trained network made fast for inference on a CPU."""

import copy
from collections.abc import Callable
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mar_pipeline.networks.blocks import NetworkOutput, ResBlock

Precision = Literal["float32", "bfloat16"]
FastNetwork = Callable[[Tensor, Tensor, Tensor], Tensor]


def fast_network(network: nn.Module, precision: Precision = "float32") -> FastNetwork:
    """An inference copy: batch norms folded into convolutions, channels last, no autograd, sums in place.

    In bfloat16 the convolutions of the network work on rounded numbers; what residual blocks add to, and with it the
    image from stage to stage, stays in float32, and so do dictionaries and image steps.

    Args:
        network: called with (image, li, metal_mask), each [batch, 1, height, width] in network units; it stays as it
            is, and later changes of it do not reach the copy.
        precision: of the convolutions, "float32" or "bfloat16".

    Returns:
        Function of (image, li, metal_mask) that returns the final image, float32, [batch, 1, height, width].

    Raises:
        ValueError: unknown precision.
    """
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision: expected float32 or bfloat16, got {precision!r}")
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    fast = copy.deepcopy(network).eval().requires_grad_(False)
    _replace_blocks(fast, dtype)
    fast.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from the stubs

    def run(image: Tensor, li: Tensor, metal_mask: Tensor) -> Tensor:
        rounded = torch.autocast(image.device.type, dtype, enabled=dtype != torch.float32)
        with torch.inference_mode(), rounded:
            output = cast(NetworkOutput, fast(image, li, metal_mask))
            return output.image.float().contiguous()

    return run


class _FastBlock(nn.Module):
    """`ResBlock` for inference: two convolutions in `dtype`, their sum with the input in the input's precision."""

    def __init__(self, block: ResBlock, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.first = fuse_conv_bn_eval(block.conv1, block.norm1).to(dtype)
        self.second = fuse_conv_bn_eval(block.conv2, block.norm2).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        change = self.second(self.first(x.to(self.dtype)).relu_())
        total = change.add_(x) if change.dtype == x.dtype else x.add(change)
        return total.relu_()


def _replace_blocks(module: nn.Module, dtype: torch.dtype) -> None:
    """Replaces residual blocks, and convolutions that are followed by a batch norm in a sequence, at any depth."""
    if isinstance(module, nn.Sequential):
        _fold_sequence(module)
    for name, child in module.named_children():
        if isinstance(child, ResBlock):
            setattr(module, name, _FastBlock(child, dtype))
        else:
            _replace_blocks(child, dtype)


def _fold_sequence(sequence: nn.Sequential) -> None:
    for index in range(len(sequence) - 1):
        convolution, norm = sequence[index], sequence[index + 1]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            sequence[index] = fuse_conv_bn_eval(convolution, norm)
            sequence[index + 1] = nn.Identity()
