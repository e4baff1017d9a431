"""The residual U-Net of Robust Equivariant Imaging (Chen, Tachella, Davies, CVPR 2022) for inpainting."""

import itertools
from typing import Literal

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from mar_pipeline.equivariance.weight_space import Ends
from mar_pipeline.networks.blocks import check_sizes
from mar_pipeline.networks.field_patterns import unet_fields
from simulation.errors import InputError

_IMAGE_CHANNELS, _MASK_CHANNELS = 3, 1
_Padding = Literal["zeros", "circular"]


class InpaintingUNet(nn.Module):
    """x = y + UNet(y): the network adds what the measurement lacks.

    Level l has width * 2^l channels: 64, 128, 256, 512 as published. Each is two 3x3 convolutions with batch norm and
    ReLU; between levels max pooling on the way down, and on the way up nearest neighbours, a 3x3 convolution that
    halves the channels, and the skip. The first convolution pads circularly. 8.56 million parameters; the public
    code's object holds more, which a fifth level has that is never called.

    Args:
        width: channels of the first level.
        levels: number of levels.
        with_mask: whether the network also sees which pixels were measured; the published one does not.

    Raises:
        UsageError: a size below 1.
    """

    task = "inpainting"
    inputs: tuple[str, ...] = ("image",)

    def __init__(self, width: int = 64, levels: int = 4, with_mask: bool = False) -> None:
        super().__init__()
        check_sizes(width=width, levels=levels)
        if with_mask:
            self.inputs = ("image", "mask")
        self.with_mask = with_mask
        widths = [width * 2**level for level in range(levels)]
        seen = _IMAGE_CHANNELS + (_MASK_CHANNELS if with_mask else 0)
        self.first = _double_convolution(seen, width, padding_mode="circular")
        self.down = nn.ModuleList(_double_convolution(a, b) for a, b in itertools.pairwise(widths))
        upwards = list(itertools.pairwise(reversed(widths)))
        self.halve = nn.ModuleList(_convolution(below, above) for below, above in upwards)
        self.up = nn.ModuleList(_double_convolution(2 * above, above) for _, above in upwards)
        self.last = nn.Conv2d(width, _IMAGE_CHANNELS, 1)

    def forward(self, image: Tensor, mask: Tensor | None = None) -> Tensor:
        """Restore a batch.

        Args:
            image: Float["batch 3 H W"], the masked noisy measurement y, 1 is white.
            mask: Float["batch 1 H W"], 1 where a pixel was measured; for networks with a mask.

        Returns:
            Float["batch 3 H W"], in the same units, not clipped.

        Raises:
            InputError: the image is smaller than a pixel at the lowest level.
            ValueError: a mask for a network without, or none for one that needs it.
        """
        if (mask is not None) != self.with_mask:
            raise ValueError(f"inpainting U-Net: with_mask is {self.with_mask}, but a mask is {mask is not None}")
        smallest = 2 ** len(self.down)
        if min(image.shape[-2:]) < smallest:
            raise InputError(
                f"inpainting U-Net: got images of {image.shape[-2]} x {image.shape[-1]} pixels, expected {smallest} or "
                f"more a side for {len(self.down) + 1} levels; take larger images or fewer levels"
            )
        skips = [self.first(image if mask is None else torch.cat((image, mask), dim=1))]
        for down in self.down:
            skips.append(down(functional.max_pool2d(skips[-1], 2)))
        x = skips.pop()
        for halve, up in zip(self.halve, self.up, strict=True):
            skip = skips.pop()
            x = halve(functional.interpolate(x, skip.shape[-2:], mode="nearest"))
            x = up(torch.cat((skip, x), dim=1))
        return image + self.last(x)

    def typed_ends(self, group_order: int) -> tuple[dict[str, Ends], tuple[str, ...]]:
        """Return fields of the convolutions for EQ-Reg: images and mask are trivial, features automatic.

        Args:
            group_order: t.

        Returns:
            Name of a convolution -> fields of its input and of its output, a decoder's input being a skip and as many
            channels from below; no module is left out.
        """
        return unet_fields(self, group_order), ()


def _convolution(in_channels: int, out_channels: int, padding_mode: _Padding = "zeros") -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode=padding_mode),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


def _double_convolution(in_channels: int, out_channels: int, padding_mode: _Padding = "zeros") -> nn.Sequential:
    return nn.Sequential(
        *_convolution(in_channels, out_channels, padding_mode), *_convolution(out_channels, out_channels)
    )
