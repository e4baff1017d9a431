"""The inpainting U-Net: its published size, what it adds to the measurement, and its fields for EQ-Reg."""

import itertools

import pytest
import torch
from torch import nn

from mar_pipeline.equivariance.fields import check_fields
from mar_pipeline.networks.inpainting_unet import InpaintingUNet
from simulation.errors import InputError, UsageError


def test_published_configuration():
    with torch.device("meta"):
        network = InpaintingUNet()
    assert [block[0].out_channels for block in (network.first, *network.down)] == [64, 128, 256, 512]
    # By hand: two 3x3 convolutions with batch norm per level and decoder level, a halving one between, the 1x1.
    widths = [3, 64, 128, 256, 512]
    convolutions = list(itertools.pairwise(widths)) + [(b, b) for b in widths[1:]]
    convolutions += [pair for b in widths[1:-1] for pair in ((2 * b, b), (2 * b, b), (b, b))]
    expected = sum(9 * a * b + 3 * b for a, b in convolutions) + 64 * 3 + 3
    assert sum(p.numel() for p in network.parameters()) == expected == 8_564_163


@pytest.mark.parametrize("size", [(16, 16), (17, 23)])
@pytest.mark.parametrize("with_mask", [False, True])
def test_adds_to_the_measurement(size, with_mask):
    network = InpaintingUNet(width=4, levels=3, with_mask=with_mask)
    nn.init.zeros_(network.last.weight)
    nn.init.constant_(network.last.bias, 0.25)
    inputs = {"image": torch.rand(2, 3, *size), "mask": torch.ones(2, 1, *size)}
    answer = network(*(inputs[name] for name in network.inputs))
    torch.testing.assert_close(answer, inputs["image"] + 0.25)


def test_sees_the_mask_only_if_told_to():
    image, masks = torch.rand(1, 3, 16, 16), (torch.ones(1, 1, 16, 16), torch.zeros(1, 1, 16, 16))
    seeing = InpaintingUNet(width=4, levels=2, with_mask=True).eval()
    assert not torch.equal(seeing(image, masks[0]), seeing(image, masks[1]))
    with pytest.raises(ValueError, match="mask"):
        seeing(image)
    with pytest.raises(ValueError, match="mask"):
        InpaintingUNet(width=4, levels=2)(image, masks[0])


def test_shifts_by_whole_cells_commute_inside():
    """Pooling and nearest neighbours commute with shifts by 2^(levels-1) pixels, away from the padding."""
    torch.manual_seed(0)
    network = InpaintingUNet(width=4, levels=3).double().eval()
    image = torch.rand(1, 3, 96, 96, dtype=torch.float64)
    moved = network(torch.roll(image, (4, 8), (-2, -1)))
    inside = (..., slice(40, 60), slice(40, 60))
    torch.testing.assert_close(moved[inside], torch.roll(network(image), (4, 8), (-2, -1))[inside])


@pytest.mark.parametrize("group_order", [2, 4])
@pytest.mark.parametrize("with_mask", [False, True])
def test_every_convolution_has_fields_that_fit(group_order, with_mask):
    network = InpaintingUNet(width=8, levels=3, with_mask=with_mask)
    ends, exclude = network.typed_ends(group_order)
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}
    assert exclude == ()
    assert set(ends) == set(layers)
    for name, (before, after) in ends.items():
        check_fields(before, layers[name].in_channels, group_order)
        check_fields(after, layers[name].out_channels, group_order)


def test_images_are_trivial_and_features_are_not():
    ends, _ = InpaintingUNet(width=8, levels=2, with_mask=True).typed_ends(4)
    assert ends["first.0"] == ((("trivial", 4),), (("regular", 2),))
    assert ends["last"][1] == (("trivial", 3),)
    assert InpaintingUNet(width=8, levels=2).typed_ends(2)[0]["last"][1] == (("trivial", 3),)
    assert ends["halve.0.0"] == ((("regular", 4),), (("regular", 2),))
    assert ends["up.0.0"] == ((("regular", 2), ("regular", 2)), (("regular", 2),))


def test_refuses_what_cannot_be():
    with pytest.raises(UsageError, match="levels"):
        InpaintingUNet(levels=0)
    with pytest.raises(InputError, match="8 or more a side"):
        InpaintingUNet(width=4)(torch.rand(1, 3, 7, 64))
