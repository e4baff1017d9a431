"""Laws of the U-Net."""

import pytest
import torch
from small_networks import inputs, small_batch, small_network

from mar_pipeline.networks.unet import UNet
from simulation.errors import InputError


def test_silent_unet_returns_the_linear_interpolation() -> None:
    network = small_network("unet")
    torch.nn.init.zeros_(network.unet.last.weight)
    torch.nn.init.zeros_(network.unet.last.bias)
    batch = small_batch()
    assert torch.equal(network(*inputs(batch)).image, batch["li"])


@pytest.mark.parametrize(("in_channels", "out_channels", "poolings"), [(1, 1, 1), (2, 3, 3)])
def test_any_channels_and_depth(in_channels: int, out_channels: int, poolings: int) -> None:
    network = UNet(in_channels, out_channels, width=2, poolings=poolings)
    assert network(torch.rand(2, in_channels, 19, 24)).shape == (2, out_channels, 19, 24)


def test_image_smaller_than_the_poolings_allow_is_refused() -> None:
    with pytest.raises(InputError, match=r"got images of 15 x 40 pixels, expected 16 or more"):
        UNet(1, 1, width=2)(torch.rand(1, 1, 15, 40))
