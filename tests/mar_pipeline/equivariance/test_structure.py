"""The structural check finds the layers that no weights make exact, and those alone."""

import pytest
import torch
from c4_layers import relative_error
from torch import nn

from mar_pipeline.equivariance import EquivarianceRegularizer, check_structure, project_to_equivariant
from mar_pipeline.equivariance.fields import automatic_fields
from mar_pipeline.equivariance.structure import names


def conv(*arguments, **options):
    return nn.Conv2d(8, 8, *arguments, **options)


EXACT = [
    (conv(3, padding=1), (16, 16)),
    (conv(3, padding=1), (15, 12)),
    (conv(5, padding=2), (15, 15)),
    (conv(3, padding="same", dilation=2), (16, 16)),
    (conv(3, 2, 1), (15, 15)),
    (conv(2, 2), (16, 16)),
    (conv(4, 2, 1), (16, 16)),
    (conv(3, padding=1, groups=8), (16, 16)),
    (nn.ConvTranspose2d(8, 8, 2, 2), (7, 7)),
    (nn.ConvTranspose2d(8, 8, 3, 2, 1), (8, 8)),
    (nn.MaxPool2d(2), (16, 16)),
    (nn.AdaptiveAvgPool2d(5), (16, 16)),
    (nn.Upsample(scale_factor=2, mode="bilinear"), (8, 8)),
    (nn.BatchNorm2d(8), (8, 8)),
    (nn.InstanceNorm2d(8, affine=True), (8, 8)),
    (nn.GroupNorm(2, 8), (8, 8)),
    (nn.PReLU(8), (8, 8)),
    (nn.Dropout2d(), (8, 8)),
]
BROKEN = [
    (conv(3, 2, 1), (16, 16), "mod stride is 1 and 1"),
    (conv(3, 2, 1), (16, 15), "mod stride is 1 and 0"),
    (conv(2, 2), (15, 15), "mod stride is 1 and 1"),
    (conv(1, 2), (16, 16), "mod stride is 1 and 1"),
    (conv(3, 2, 2, dilation=2), (16, 16), "mod stride is 1 and 1"),
    (conv((3, 1), padding=(1, 0)), (16, 16), "differ between the axes"),
    (conv(3, padding=1, groups=4), (16, 16), "4 groups"),
    (nn.ConvTranspose2d(8, 8, 3, 2, 1, 1), (8, 8), "output padding"),
    (nn.MaxPool2d(2), (15, 15), "mod stride"),
    (nn.AvgPool2d(2), (15, 15), "mod stride"),
    (nn.PixelShuffle(2), (8, 8), "sub-pixels"),
    (nn.PixelUnshuffle(2), (8, 8), "sub-pixels"),
    (nn.ZeroPad2d((0, 1, 0, 1)), (8, 8), "measured"),
    (nn.GroupNorm(4, 8), (8, 8), "4 groups cut through"),
]


def title(value):
    return str(value).replace(" ", "") if isinstance(value, nn.Module | tuple) else ""


@pytest.mark.parametrize(("layer", "size"), EXACT, ids=title)
def test_an_exact_layer_is_not_listed(layer, size):
    assert check_structure(layer, torch.zeros(1, 8, *size)) == []


@pytest.mark.parametrize(("layer", "size", "why"), BROKEN, ids=title)
def test_a_broken_layer_is_listed_with_the_reason_and_its_floor(layer, size, why):
    (finding,) = check_structure(layer, torch.zeros(1, 8, *size))

    assert finding.kind == type(layer).__name__
    assert finding.shape == (8, *size)
    assert why in finding.why
    assert finding.floor > (1e-3 if isinstance(layer, nn.GroupNorm) else 0.5)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_an_even_kernel_with_same_padding_is_listed():
    (finding,) = check_structure(conv(4, padding="same"), torch.zeros(1, 8, 16, 16))
    assert "wider on one side" in finding.why


@pytest.mark.parametrize(
    ("layer", "size"), [(layer, size) for layer, size, _ in BROKEN if isinstance(layer, nn.Conv2d)][:5]
)
def test_no_projection_makes_a_listed_layer_exact(layer, size):
    layer = nn.Sequential(layer).double()
    project_to_equivariant(layer)
    fields = automatic_fields(8)
    x = torch.randn(1, 8, *size, dtype=torch.float64)

    assert any(relative_error(layer, x, n, fields, fields) > 0.5 for n in (1, 2, 3) if n == 2 or size[0] == size[1])


class Encoder(nn.Module):
    """Two strides, of which the second meets 16 and 15 pixels; a layer that is never called; one without a map."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 2, 2)
        self.second = nn.Conv2d(8, 8, 3, 2, 1)
        self.last = nn.Conv2d(8, 1, 3, padding=1)
        self.unused = nn.Conv2d(8, 8, 3, 2)
        self.head = nn.Linear(8, 2)

    def forward(self, x, scale):
        x = self.first(x).relu() * scale
        return self.last(self.second(x)), self.second(x[..., :-1, :-1]), self.head(x.mean((2, 3)))


def test_a_network_is_probed_at_the_shapes_it_meets_and_left_as_it_was():
    network = Encoder()
    network.first.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    (finding,) = check_structure(network, (torch.randn(1, 1, 32, 32), 2.0))

    assert (finding.layer, finding.shape) == ("second", (8, 16, 16))
    assert network.training and not network.first.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_the_findings_can_be_left_out_of_the_regularisation():
    network = Encoder()
    found = names(check_structure(network, (torch.randn(1, 1, 32, 32), 2.0)))
    regularizer = EquivarianceRegularizer(network, exclude=found, layers="[fsl]*")
    (x,) = regularizer.prepare(torch.randn(2, 1, 32, 32))
    network(x, 2.0)
    regularizer.loss()

    assert set(regularizer.values) == {"first", "last"}


def test_a_weight_of_zero_hides_nothing():
    layer = conv(3, 2, 1)
    nn.init.zeros_(layer.weight)
    assert check_structure(layer, torch.zeros(1, 8, 16, 16))


def test_a_group_without_half_turns_has_nothing_to_check():
    with pytest.raises(ValueError, match="no quarter or half turn"):
        check_structure(conv(3), torch.zeros(1, 8, 16, 16), group_order=3)
