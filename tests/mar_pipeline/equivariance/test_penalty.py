"""What the regulariser measures: zero for strict networks, two for uncorrelated maps, the formulas in between."""

import copy

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from c4_layers import convolution, group, lift, penalties, relative_error, soft_network, step, strict_network
from torch import nn

from mar_pipeline.equivariance import EquivarianceRegularizer, act
from mar_pipeline.equivariance.penalty import residual_penalty

IMAGE = [("trivial", 1)]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("n", [1, 3])
def test_strict_layers_have_no_residual_and_the_wrong_roll_shows(n):
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    layers = {
        "lift": (convolution(lift(torch.randn(2, 3, 3, 3, dtype=torch.float64))), x, [("trivial", 3)]),
        "group": (
            convolution(group(torch.randn(2, 3, 4, 3, 3, dtype=torch.float64))),
            torch.randn(2, 12, 16, 16, dtype=torch.float64),
            [("regular", 3)],
        ),
    }
    for layer, maps, fields in layers.values():
        assert relative_error(layer, maps, n, fields, [("regular", 2)]) < 1e-10
        assert relative_error(layer, maps, n, fields, [("regular", 2)], roll=-1) > 0.5


def test_a_strict_network_has_penalty_zero_and_a_random_one_has_not():
    x = torch.randn(3, 1, 16, 16, dtype=torch.float64)

    assert max(penalties(strict_network(), x).values()) < 1e-20
    assert min(penalties(soft_network(dtype=torch.float64), x).values()) > 0.1


def test_relative_is_two_for_uncorrelated_maps_at_any_scale():
    for scale in (1e-2, 1, 1e4):
        maps = scale * torch.randn(2, 4, 8, 64, 64)
        assert residual_penalty(*maps, 1, [("regular", 2)]) == pytest.approx(2, rel=0.02)


def test_relative_does_not_depend_on_the_patch_size_nor_on_the_batch():
    network = soft_network(16, padding_mode="circular")  # a border counts more in small patches
    values = []
    for size, batch in ((32, 16), (64, 4), (128, 1), (128, 4)):
        values.append(list(penalties(network, torch.randn(batch, 1, size, size)).values()))
    reference = torch.tensor(values[2])
    for value in values:
        torch.testing.assert_close(torch.tensor(value), reference, rtol=0.05, atol=0)
    assert reference.min() > 0.2


def test_paper_is_the_sum_over_layers_of_the_norms():
    network = soft_network()
    regularizer = EquivarianceRegularizer(network, mode="paper", weight=1e-6, batch_fraction=1)
    x = torch.randn(2, 1, 12, 12)
    (both,) = regularizer.prepare(x)
    n = regularizer.n
    network(both)
    loss = regularizer.loss()

    expected, a, b = 0.0, x, torch.rot90(x, n, (-2, -1))
    for i in (0, 2, 4):
        a, b = network[i](a), network[i](b)
        turned = torch.rot90(a, n, (-2, -1))
        if a.shape[1] > 1:
            turned = turned.reshape(2, -1, 4, 12, 12).roll(n, 2).reshape(a.shape)
        expected += (turned - b).norm()
        a, b = a.relu(), b.relu()
    torch.testing.assert_close(loss, 1e-6 * expected)


def test_mse_is_the_mean_square_of_what_is_compared():
    a, b = torch.randn(2, 3, 6, 8, 8)
    fields = [("regular", 1), ("free", 1), ("trivial", 1)]
    residual = (act(a, 1, fields) - b)[:, [0, 1, 2, 3, 5]]

    torch.testing.assert_close(residual_penalty(a, b, 1, fields, mode="mse"), residual.square().mean())
    torch.testing.assert_close(residual_penalty(a, b, 1, fields, mode="paper"), residual.norm())


def test_the_loss_weighs_the_mean_of_the_layers_and_the_output():
    network = soft_network()
    regularizer = EquivarianceRegularizer(network, weight=0.25, output_weight=3)
    loss, *_ = step(regularizer, network, torch.randn(4, 1, 16, 16))
    values = regularizer.values

    assert set(values) == {"0", "2", "4", "output"}
    assert values["output"] == pytest.approx(values["4"])  # the last layer is the output here
    mean = sum(values[name] for name in "024") / 3
    assert loss.item() == pytest.approx(0.25 * mean + 3 * values["output"])
    assert loss.dtype == torch.float32


def test_outputs_may_be_several_and_classes_are_invariant():
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    regularizer = EquivarianceRegularizer(network, weight=0, output_weight=1, batch_fraction=1)
    x, label = regularizer.prepare(torch.randn(3, 1, 9, 9), torch.arange(3))
    scores = network(x)
    loss = regularizer.loss([scores, x])
    first, second = scores.chunk(2)
    variance = (first.var(0, correction=0).mean() + second.var(0, correction=0).mean()) / 2

    assert label.tolist() == [0, 1, 2, 0, 1, 2]
    torch.testing.assert_close(loss, (first - second).square().mean() / variance / 2, rtol=1e-4, atol=0)
    assert list(regularizer.values) == ["output"]


def test_a_sinogram_is_compared_after_a_shift_of_its_views():
    network = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1, padding_mode="circular"), nn.Conv2d(6, 1, 1))
    views = {"*": [("views", 6)], "1": [("views", 1)]}
    regularizer = EquivarianceRegularizer(network, fields=views, output_weight=1, output_fields=[("views", 1)])
    image, sinogram = torch.randn(2, 1, 8, 8), torch.randn(2, 1, 12, 5)
    turned, both = regularizer.prepare(image, sinogram, fields=[None, [("views", 1)]])

    assert torch.equal(turned[1], torch.rot90(image[0], regularizer.n, (-2, -1)))
    assert torch.equal(both[1], sinogram[0].roll(3 * regularizer.n, -2))
    assert regularizer.loss(network(both)) < 1e-10
    assert residual_penalty(sinogram, sinogram, 1, [("views", 1)]) > 0.5


def test_half_turns_take_images_of_any_shape():
    network = soft_network()
    regularizer = EquivarianceRegularizer(network, group_order=2)
    loss, *_ = step(regularizer, network, torch.randn(2, 1, 8, 12))
    assert loss > 0


@pytest.mark.parametrize("group_order", [3, 8])
def test_interpolated_rotations_have_a_floor_and_are_compared_in_the_disk(group_order):
    gauss = torch.exp(-((torch.arange(9) - 4.0) ** 2) / 4)
    isotropic = nn.Conv2d(1, 1, 9, padding=4, bias=False)
    isotropic.weight.data[0, 0] = gauss[:, None] * gauss
    oriented = copy.deepcopy(isotropic)
    oriented.weight.data[0, 0] *= torch.arange(9) - 4
    x = nn.functional.avg_pool2d(torch.randn(2, 1, 70, 70), 7, 1)
    outside = x.clone()
    outside[..., 32, 0] = 1e3
    seed = next(s for s in range(99) if np.random.default_rng((s, 0)).integers(1, group_order) % 2)  # no quarter turn
    options = {"group_order": group_order, "fields": {"*": IMAGE}, "border": 4, "seed": seed}
    floor = penalties(isotropic, x, **options)
    value = penalties(oriented, x, **options)

    assert 1e-6 < floor["output"] < 0.1
    assert floor[""] == pytest.approx(floor["output"])
    assert floor["output"] == pytest.approx(penalties(isotropic, outside, **options)["output"], rel=1e-3)
    assert value["output"] > 10 * floor["output"]


def test_an_eighth_of_a_turn_of_images_that_are_not_square_is_refused():
    with pytest.raises(ValueError, match="do not fit"):
        EquivarianceRegularizer(soft_network(), group_order=8).prepare(torch.randn(2, 1, 8, 12))
