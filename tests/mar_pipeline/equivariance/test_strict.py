import itertools

import pytest
import torch
from torch import Tensor, nn

from mar_pipeline.equivariance.fields import act
from mar_pipeline.equivariance.rotation import disk
from mar_pipeline.equivariance.strict import (
    FourierConv2d,
    GroupBatchNorm2d,
    GroupPool,
    StrictConv2d,
    StrictImageNetwork,
)

KIND_PAIRS = list(itertools.product(("trivial", "regular"), repeat=2))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(3)


def relative(a: Tensor, b: Tensor) -> float:
    a, b = a.detach(), b.detach()
    return float((a - b).norm() / ((a.norm() ** 2 + b.norm() ** 2) / 2).sqrt())


def layer_error(layer: nn.Module, n: int, t: int, roll_sign: int = 1) -> float:
    """Error of a layer from its `in_field` to its `out_field`; `roll_sign` -1 rolls the wrong way."""
    fields_in, fields_out = [layer.in_field], [layer.out_field]
    channels = fields_in[0][1] * (t if fields_in[0][0] == "regular" else 1)
    x = torch.randn(2, channels, 12, 12, dtype=torch.float64)
    turned_output = act(layer(x), n, fields_out, t)
    if roll_sign == -1:
        turned_output = turned_output.unflatten(1, (-1, t)).roll(-2 * n, dims=2).flatten(1, 2)
    return relative(turned_output, layer(act(x, n, fields_in, t)))


def randomise(network: nn.Module) -> nn.Module:
    """Every bias and norm has values that a symmetry error would show in."""
    for name, parameter in network.named_parameters():
        if name.endswith("bias") or parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return network.double()


@pytest.mark.parametrize(("kind_in", "kind_out"), KIND_PAIRS)
@pytest.mark.parametrize("t", [2, 4])
def test_strict_layers_commute_with_every_rotation(kind_in: str, kind_out: str, t: int) -> None:
    layer = randomise(StrictConv2d((kind_in, 3), (kind_out, 2), 3, t))
    for n in range(1, t):
        assert layer_error(layer, n, t) < 1e-14


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("kind_in", ["trivial", "regular"])
def test_a_wrong_roll_is_far_from_equivariant(kind_in: str, n: int) -> None:
    layer = randomise(StrictConv2d((kind_in, 3), ("regular", 2), 3, 4))
    nn.init.zeros_(layer.bias)
    assert layer_error(layer, n, 4, roll_sign=-1) > 0.5


@pytest.mark.parametrize(("kind_in", "kind_out"), KIND_PAIRS)
@pytest.mark.parametrize("kernel", [5, 9])
def test_fourier_layers_of_8_rotations_are_exact_at_multiples_of_90_degrees(
    kind_in: str, kind_out: str, kernel: int
) -> None:
    layer = randomise(FourierConv2d((kind_in, 2), (kind_out, 3), kernel, 8, frequencies=5))
    for n in (2, 4, 6):
        assert layer_error(layer, n, 8) < 1e-13


def test_fourier_layers_follow_45_degrees_as_far_as_sampling_allows() -> None:
    """Not zero on noise, the hardest image, but far below the sqrt 2 of unrelated channels."""
    layer = randomise(FourierConv2d(("trivial", 2), ("regular", 3), 7, 8, frequencies=5))
    nn.init.zeros_(layer.bias)
    x, inside = torch.randn(1, 2, 64, 64, dtype=torch.float64), disk(64, 64, margin=0.12, border=3)
    turned = act(layer(x), 1, [layer.out_field], 8), layer(act(x, 1, [layer.in_field], 8))
    right = relative(*(part[..., inside] for part in turned))
    wrong_turn = turned[0].unflatten(1, (-1, 8)).roll(-2, dims=2).flatten(1, 2)
    wrong = relative(wrong_turn[..., inside], turned[1][..., inside])
    assert 0.05 < right < 0.4
    assert wrong > 1


@pytest.mark.parametrize(("t", "turns"), [(4, (1, 2, 3)), (2, (1,)), (8, (2, 4, 6))])
def test_a_network_of_strict_layers_is_equivariant(t: int, turns: tuple[int, ...]) -> None:
    network = randomise(StrictImageNetwork(3, 3, t, kernel_size=5, in_channels=2, out_channels=1))
    x = torch.randn(2, 2, 16, 16, dtype=torch.float64)
    for _ in range(2):
        network(x)  # running statistics that differ from 0 and 1
    for mode in (True, False):
        network.train(mode)
        for n in turns:
            expected = act(network(x), n, [("trivial", 1)], t)
            assert relative(expected, network(act(x, n, [("trivial", 2)], t))) < 1e-10
    network.train()


def test_a_plain_norm_between_strict_layers_breaks_the_symmetry() -> None:
    network = randomise(StrictImageNetwork(groups=2, depth=1))
    plain = nn.BatchNorm2d(8).double()
    nn.init.uniform_(plain.weight, 0.5, 1.5)
    network.layers[1] = plain
    x = torch.randn(1, 1, 12, 12, dtype=torch.float64)
    assert relative(torch.rot90(network(x), 1, (2, 3)), network(torch.rot90(x, 1, (2, 3)))) > 1e-2


def test_a_stride_that_fits_is_exact_and_one_that_does_not_is_refused() -> None:
    layer = randomise(StrictConv2d(("trivial", 1), ("regular", 2), 4, stride=2, padding=1))
    x = torch.randn(1, 1, 12, 12, dtype=torch.float64)
    assert relative(act(layer(x), 1, [("regular", 2)]), layer(torch.rot90(x, 1, (2, 3)))) < 1e-14
    with pytest.raises(ValueError, match="must be divisible by the stride"):
        StrictConv2d(("trivial", 1), ("regular", 2), 3, stride=2)(x.float())


@pytest.mark.parametrize("layer_class", [StrictConv2d, FourierConv2d])
def test_the_plain_copy_gives_the_same_output(layer_class: type[StrictConv2d] | type[FourierConv2d]) -> None:
    layer = randomise(layer_class(("regular", 2), ("regular", 3), 3, 4, stride=1))
    plain, x = layer.as_conv2d(), torch.randn(1, 8, 9, 9, dtype=torch.float64)
    assert type(plain) is nn.Conv2d
    assert plain.weight.shape == (12, 8, 3, 3)
    torch.testing.assert_close(plain(x), layer(x), atol=0, rtol=0)


def test_filters_train() -> None:
    for layer in (StrictConv2d(("regular", 1), ("regular", 1), 3), FourierConv2d(("regular", 1), ("regular", 1), 5)):
        layer(torch.randn(1, layer.group_order, 8, 8)).square().sum().backward()
        assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in layer.parameters())


@pytest.mark.parametrize("layer_class", [StrictConv2d, FourierConv2d])
def test_initial_layers_keep_the_scale_of_their_input(layer_class: type[StrictConv2d] | type[FourierConv2d]) -> None:
    layer = layer_class(("regular", 8), ("regular", 8), 5, 4)
    output = layer(torch.randn(2, 32, 16, 16).relu() * 2**0.5)
    assert 0.5 < output.std() < 2


def test_the_weight_of_a_fourier_layer_travels_with_its_basis() -> None:
    state = FourierConv2d(("trivial", 1), ("regular", 1), 5).state_dict()
    assert set(state) == {"coefficients", "basis", "bias"}


def test_the_norm_shares_its_statistics_over_orientations() -> None:
    x = torch.randn(3, 8, 6, 6) * torch.arange(1, 9)[:, None, None]
    y = GroupBatchNorm2d(2)(x).unflatten(1, (2, 4))
    torch.testing.assert_close(y.mean(dim=(0, 2, 3, 4)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var(dim=(0, 2, 3, 4), correction=0), torch.ones(2), atol=1e-3, rtol=0)
    spread = y.std(dim=(0, 3, 4))
    assert spread[0, 3] > 2 * spread[0, 0]


@pytest.mark.parametrize("how", ["mean", "max"])
def test_pooling_over_orientations_leaves_trivial_fields(how: str) -> None:
    x = torch.randn(1, 8, 5, 5)
    pool = GroupPool(4, how)
    turned = pool(act(x, 1, [("regular", 2)]))
    torch.testing.assert_close(turned, act(pool(x), 1, [("trivial", 2)]))
    with pytest.raises(ValueError, match="expected mean or max"):
        GroupPool(4, "min")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((("scalar", 1), ("regular", 2), 3), "scalar"),
        ((("trivial", 1), ("regular", 0), 3), "regular"),
        ((("trivial", 1), ("regular", 2), 0), "kernel 0"),
        ((("trivial", 1), ("regular", 2), 3, 8), "use FourierConv2d"),
        ((("trivial", 1), ("regular", 2), 3, 0), "group_order"),
    ],
)
def test_impossible_layers_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StrictConv2d(*arguments)
