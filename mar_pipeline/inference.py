"""A trained network made fast for inference on a CPU."""

import copy
from collections.abc import Callable
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mar_pipeline.networks.blocks import NetworkOutput, ResBlock
from mar_pipeline.winograd import MAX_WIDTH, WinogradConvolution

Precision = Literal["float32", "bfloat16"]
FastNetwork = Callable[[Tensor, Tensor, Tensor], Tensor]


def fast_network(network: nn.Module, precision: Precision = "float32") -> FastNetwork:
    """An inference copy: batch norms folded into convolutions, no autograd, residual blocks compiled.

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

    def run(image: Tensor, li: Tensor, metal_mask: Tensor) -> Tensor:
        rounded = torch.autocast(image.device.type, dtype, enabled=dtype != torch.float32)
        with torch.inference_mode(), rounded:
            output = cast(NetworkOutput, fast(image, li, metal_mask))
            return output.image.float().contiguous()

    return run


class _FastChain(nn.Module):
    def __init__(self, blocks) -> None:
        super().__init__()
        self.blocks = [
            (
                WinogradConvolution(fuse_conv_bn_eval(b.conv1, b.norm1)),
                WinogradConvolution(fuse_conv_bn_eval(b.conv2, b.norm2)),
            )
            for b in blocks
        ]

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        inner = torch.empty_like(x)
        targets = [torch.empty_like(x) for _ in self.blocks[:2]]
        for i, (first, second) in enumerate(self.blocks):
            first(x, inner)
            second(inner, targets[i % 2], x)
            x = targets[i % 2]
        return x


def _replace_blocks(module: nn.Module, dtype: torch.dtype) -> None:
    """Replaces residual blocks, and convolutions that are followed by a batch norm in a sequence, at any depth."""
    if isinstance(module, nn.Sequential):
        _fold_sequence(module)
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential) and all(isinstance(b, ResBlock) for b in child):
            setattr(module, name, _FastChain(child))
        else:
            _replace_blocks(child, dtype)


def _fold_sequence(sequence: nn.Sequential) -> None:
    for index in range(len(sequence) - 1):
        convolution, norm = sequence[index], sequence[index + 1]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            sequence[index] = fuse_conv_bn_eval(convolution, norm)
            sequence[index + 1] = nn.Identity()
