"""U-Net with bilinear upsampling, and its use for metal artifact reduction (Ronneberger et al., MICCAI 2015)."""

import itertools

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from mar_pipeline.networks.blocks import NetworkOutput, check_sizes
from mar_pipeline.networks.field_patterns import TypedEnds, unet_fields
from mar_pipeline.networks.losses import image_loss
from mar_pipeline.sample import UNITS_PER_MU
from simulation.errors import InputError


class UNet(nn.Module):
    """Encoder and decoder of double 3x3 convolutions with batch norm, max pooling, bilinear upsampling, skips.

    Level l has width * 2^l channels, the lowest one no more than the level above it. Sizes need not be multiples of
    anything: upsampling goes to the size of the skip.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        width: channels of the first level.
        poolings: number of times that the size is halved.
        guided: levels of the encoder whose input has a guide beside it, such as the metal trace.
    """

    def __init__(
        self, in_channels: int, out_channels: int, width: int = 32, poolings: int = 4, guided: int = 0
    ) -> None:
        super().__init__()
        check_sizes(in_channels=in_channels, out_channels=out_channels, width=width, poolings=poolings)
        self.guided = guided
        widths = [width * 2**level for level in range(poolings)]
        widths.append(widths[-1])
        self.first = _double_convolution(in_channels + (guided > 0), width)
        self.down = nn.ModuleList(
            _double_convolution(a + (guided > level), b) for level, (a, b) in enumerate(itertools.pairwise(widths), 1)
        )
        self.up = nn.ModuleList(
            _double_convolution(2 * widths[level], widths[max(level - 1, 0)]) for level in reversed(range(poolings))
        )
        self.last = nn.Conv2d(width, out_channels, 1)

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        """Map [batch, in_channels, height, width] to [batch, out_channels, height, width].

        Args:
            x: the input.
            guide: [batch, 1, height, width], where levels are guided; halved by its largest value.

        Raises:
            InputError: the image is smaller than a pixel at the lowest level.
            ValueError: a guide without guided levels, or none for them.
        """
        if (guide is None) != (self.guided == 0):
            raise ValueError(f"U-Net: {self.guided} guided levels, but a guide is {'not ' * (guide is None)}given")
        smallest = 2 ** len(self.down)
        if min(x.shape[-2:]) < smallest:
            raise InputError(
                f"U-Net: got images of {x.shape[-2]} x {x.shape[-1]} pixels, expected {smallest} or more a side for "
                f"{len(self.down)} poolings; take larger images or fewer poolings"
            )
        guides = [] if guide is None else [functional.max_pool2d(guide, 2**level) for level in range(self.guided)]
        skips = [self.first(torch.cat((x, *guides[:1]), dim=1))]
        for level, down in enumerate(self.down, 1):
            halved = functional.max_pool2d(skips[-1], 2)
            skips.append(down(torch.cat((halved, *guides[level : level + 1]), dim=1)))
        x = skips.pop()
        for up in self.up:
            skip = skips.pop()
            x = functional.interpolate(x, skip.shape[-2:], mode="bilinear", align_corners=False)
            x = up(torch.cat((skip, x), dim=1))
        return self.last(x)


class ResidualUNet(nn.Module):
    """Corrects the linear interpolation: X = XLI + UNet([Y, XLI] / 255).

    The output is in network units as it comes: multiplied by 255 it starts far off and learns much more slowly.

    Args:
        width: channels of the first level.
        poolings: number of times that the size is halved.
    """

    loss = staticmethod(image_loss)

    def __init__(self, width: int = 32, poolings: int = 4) -> None:
        super().__init__()
        self.unet = UNet(2, 1, width, poolings)

    def typed_ends(self, group_order: int) -> TypedEnds:
        """Return the fields of its U-Net."""
        return unet_fields(self.unet, group_order, "unet."), ()

    def forward(self, image: Tensor, li: Tensor, metal_mask: Tensor) -> NetworkOutput:
        """Correct a batch.

        Args:
            image: corrupted images Y, [batch, 1, height, width], network units.
            li: their linearly interpolated correction XLI.
            metal_mask: not used: Y shows the metal.

        Returns:
            The final image; no stages.
        """
        return NetworkOutput(li + self.unet(torch.cat((image, li), dim=1) / UNITS_PER_MU))


def _double_convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
        nn.Conv2d(out_channels, out_channels, 3, padding=1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )
