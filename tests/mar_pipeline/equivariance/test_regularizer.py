"""The regulariser on unmodified networks: what it measures, when it measures, and that training uses it."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from c4_layers import convolution, group, lift, relative_error, strict_network
from torch import nn

from mar_pipeline.equivariance import EquivarianceRegularizer, act
from mar_pipeline.equivariance.penalty import residual_penalty

IMAGE = [("trivial", 1)]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def soft_network(width=8, dtype=torch.float32, **options):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, **options),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, padding=1, **options),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, 1, 3, padding=1, **options),
    ).to(dtype)


def step(regularizer, network, *images, output=True):
    x, *_ = prepared = regularizer.prepare(*images)
    y = network(x)
    return regularizer.loss(y if output else None), y, prepared


def penalties(network, x, **options):
    """Values of one step on all samples of x."""
    with EquivarianceRegularizer(network, batch_fraction=1, **options) as regularizer:
        step(regularizer, network, x)
        return regularizer.values


# What it measures


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


# When it measures


def test_the_batch_is_the_first_samples_and_their_rotations():
    network = soft_network()
    images = torch.randn(5, 1, 8, 8), torch.randn(5, 2, 6, 6)

    for fraction, kept in ((0.5, 2), (1, 5), (0.6, 3)):
        regularizer = EquivarianceRegularizer(network, batch_fraction=fraction)
        for x, both in zip(images, regularizer.prepare(*images), strict=True):
            assert torch.equal(both[:kept], x[:kept])
            assert torch.equal(both[kept:], torch.rot90(x[:kept], regularizer.n, (-2, -1)))
        assert regularizer.loss(network(both[:, :1])) > 0
        regularizer.detach()


def test_rotations_are_never_none_and_follow_the_seed():
    def draws(regularizer):
        found = []
        for _ in range(40):
            regularizer.prepare(torch.randn(2, 1, 4, 4))
            found.append(regularizer.n)
        return found

    regularizer = EquivarianceRegularizer(soft_network(), seed=3)
    first = draws(regularizer)
    assert set(first) == {1, 2, 3}
    assert draws(EquivarianceRegularizer(soft_network(), seed=3)) == first
    assert draws(EquivarianceRegularizer(soft_network(), seed=4)) != first
    regularizer.reseed(3)
    assert draws(regularizer) == first
    regularizer.reseed(3, step=10)
    assert draws(regularizer)[:30] == first[10:]  # a resumed training goes on as the straight one


def test_every_third_step_has_three_times_the_weight():
    network, x = soft_network(), torch.randn(2, 1, 8, 8)
    regularizer = EquivarianceRegularizer(network, every_k=3, weight=0.5, output_weight=0.1)
    losses = []
    for _ in range(7):
        loss, y, (both,) = step(regularizer, network, x)
        losses.append(loss.item())
        assert (len(y) == 2) and (torch.equal(both, x) == (loss == 0))
    values = regularizer.values
    mean = sum(values[name] for name in "024") / 3

    assert [loss > 0 for loss in losses] == [True, False, False, True, False, False, True]
    assert losses[-1] == pytest.approx(3 * (0.5 * mean + 0.1 * values["output"]))


def test_evaluation_and_calls_outside_a_step_leave_no_trace():
    network, x = soft_network(), torch.randn(4, 1, 8, 8)
    regularizer = EquivarianceRegularizer(network, output_weight=1)
    network.eval()
    (same,) = regularizer.prepare(x)
    assert same is x
    assert regularizer.loss(network(x)) == 0
    assert regularizer.step == 0
    network.train()
    network(x)
    loss, *_ = step(regularizer, network, x)
    network(x)
    again = EquivarianceRegularizer(copy.deepcopy(network), output_weight=1)
    assert step(again, again.model, x)[0] == loss


def test_a_deep_copy_of_the_network_is_left_alone():
    network, x = soft_network(), torch.randn(2, 1, 8, 8)
    regularizer = EquivarianceRegularizer(network)
    average = copy.deepcopy(network)
    (both,) = regularizer.prepare(x)
    average(torch.randn(7, 1, 8, 8))
    network(both)
    assert regularizer.loss() > 0


def test_detached_hooks_are_gone_and_keys_never_change():
    network = soft_network()
    keys = list(network.state_dict())
    with EquivarianceRegularizer(network) as regularizer:
        assert list(network.state_dict()) == keys
        assert len(network[0]._forward_hooks) == 1
    assert not network[0]._forward_hooks
    with pytest.raises(RuntimeError, match="attach"):
        regularizer.prepare(torch.randn(2, 1, 8, 8))
    regularizer.attach()
    regularizer.attach()
    assert len(network[0]._forward_hooks) == 1


class Twice(nn.Module):
    """A convolution called twice in a forward pass, and a functional one."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.kernel = nn.Parameter(torch.randn(8, 1, 3, 3))
        self.regularizer = None

    def forward(self, x):
        x = nn.functional.conv2d(x, self.kernel, padding=1)
        if self.regularizer is not None:
            x = self.regularizer().tap(x, "lift", [("trivial", 8)])
        return self.body(self.body(x).relu())


def test_several_calls_count_with_their_mean_and_functions_can_be_tapped():
    network, x = Twice(), torch.randn(2, 1, 8, 8)
    regularizer = EquivarianceRegularizer(network, batch_fraction=1)
    network.regularizer = lambda: regularizer
    (both,) = regularizer.prepare(x)
    n = regularizer.n
    network(both)
    loss = regularizer.loss()
    with torch.no_grad():
        maps = nn.functional.conv2d(both, network.kernel, padding=1)
        first = network.body(maps)
        calls = [residual_penalty(*y.chunk(2), n, [("regular", 2)]) for y in (first, network.body(first.relu()))]

    assert regularizer.values["body"] == pytest.approx((sum(calls) / 2).item())
    assert regularizer.values["lift"] == pytest.approx(residual_penalty(*maps.chunk(2), n, [("trivial", 8)]).item())
    loss.backward()
    assert network.kernel.grad is not None
    assert network(x) is not None  # outside a step a tap lets pass


def test_taps_alone():
    network = Twice()
    regularizer = EquivarianceRegularizer(network, layers=())
    network.regularizer = lambda: regularizer
    step(regularizer, network, torch.randn(2, 1, 8, 8), output=False)
    assert list(regularizer.values) == ["lift"]


# Which layers


@pytest.mark.parametrize(
    ("layers", "exclude", "expected"),
    [
        (None, (), ["0", "2", "4"]),
        ("2", (), ["2"]),
        (["[02]"], (), ["0", "2"]),
        (nn.ReLU, (), ["1", "3"]),
        ([nn.ReLU, "4"], "3", ["1", "4"]),
        (None, ["[04]"], ["2"]),
    ],
)
def test_layers_are_chosen_by_type_name_and_pattern(layers, exclude, expected):
    network = soft_network()
    regularizer = EquivarianceRegularizer(network, layers=layers, exclude=exclude)
    step(regularizer, network, torch.randn(2, 1, 8, 8), output=False)
    assert list(regularizer.values) == expected


def test_a_name_leaves_out_what_is_inside():
    network = nn.Sequential(soft_network(), soft_network())
    regularizer = EquivarianceRegularizer(network, exclude="0")
    step(regularizer, network, torch.randn(2, 1, 8, 8), output=False)
    assert list(regularizer.values) == ["1.0", "1.2", "1.4"]


@pytest.mark.parametrize("rest", ["free", "trivial"])
def test_named_fields_count(rest):
    network, x = soft_network(), torch.randn(2, 1, 8, 8)
    value = penalties(network, x, fields={"[02]": [("regular", 1), (rest, 4)], "4": IMAGE})
    assert value["2"] != pytest.approx(penalties(network, x)["2"])


def test_an_output_layer_can_be_named():
    network = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1))
    x = torch.randn(2, 3, 8, 8)
    named = penalties(network, x, group_order=2, output_layers="0", output_fields=[("trivial", 3)])
    assert named["0"] == pytest.approx(named["output"])
    assert penalties(network, x, group_order=2)["0"] != pytest.approx(named["0"])


CONV = nn.Conv2d(4, 4, 3, padding=1)


@pytest.mark.parametrize(
    ("network", "options", "words"),
    [
        (nn.Sequential(nn.ReLU()), {}, "no layer is left"),
        (nn.Sequential(CONV), {"exclude": "0"}, "no layer is left"),
        (nn.Sequential(CONV), {"layers": "body"}, "'body' fits no module"),
        (nn.Sequential(CONV), {"layers": [3]}, "module type, a name"),
        (nn.Sequential(CONV), {"exclude": "body.*"}, "'body.[*]' fits no module"),
        (nn.Sequential(CONV), {"fields": {"1": IMAGE}}, "'1' fits none"),
        (nn.Sequential(CONV), {"fields": {"0": IMAGE}}, "layer '0': fields .* describe 1 channels"),
        (nn.Sequential(CONV), {"group_order": 8}, "group_order 8 fits no layer"),
        (nn.Sequential(nn.Conv2d(1, 6, 3)), {"strict": True}, "layer '0': 6 channels are not a multiple"),
        (nn.Sequential(CONV), {"mode": "l1"}, "mode"),
        (nn.Sequential(CONV), {"weight": -1}, "weights"),
        (nn.Sequential(CONV), {"output_weight": math.nan}, "weights"),
        (nn.Sequential(CONV), {"batch_fraction": 1.5}, "batch_fraction"),
        (nn.Sequential(CONV), {"every_k": 0}, "every_k"),
        (nn.Sequential(CONV), {"seed": -1}, "seed"),
        (nn.DataParallel(CONV), {}, "DistributedDataParallel"),
    ],
)
def test_what_cannot_be_regularised_is_refused(network, options, words):
    with pytest.raises(ValueError, match=words):
        EquivarianceRegularizer(network, **options)
    assert not CONV._forward_hooks


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ((), "at least one"),
        ((torch.zeros(1, 1, 8, 8),), "leaves no sample"),
        ((torch.zeros(2, 1, 8, 8), torch.zeros(3, 1, 8, 8)), "hold .2, 3. samples"),
        ((torch.zeros(2, 1, 8, 9),), "8 x 9 do not fit .* group_order=2"),
        ((torch.zeros(2, 8, 8),), "expected images"),
    ],
)
def test_batches_that_cannot_be_doubled_are_refused(images, words):
    with pytest.raises(ValueError, match=words):
        EquivarianceRegularizer(nn.Sequential(CONV), batch_fraction=0.5).prepare(*images)


class Folded(nn.Module):
    """A network that folds samples into channels before a convolution, and has a layer that answers a pair."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.cut = nn.Conv2d(8, 8, 3, padding=1, stride=(1, 2))

    def forward(self, x, fold):
        return self.conv(x.reshape(-1, 8, 6, 6)) if fold else self.cut(x.reshape(len(x), 8, -1, 6))


def test_maps_that_cannot_be_compared_are_named():
    network = Folded()
    regularizer = EquivarianceRegularizer(network, output_weight=1)
    x = torch.randn(8, 4, 12, 12)
    network(*regularizer.prepare(x), fold=True)
    with pytest.raises(ValueError, match=r"layer 'conv': got .16, 8, 6, 6., expected maps .8, C, H, W."):
        regularizer.loss(x)
    network(*regularizer.prepare(x), fold=False)
    regularizer.n = 1
    with pytest.raises(ValueError, match=r"layer 'cut': .* cannot be compared"):
        regularizer.loss(x)
    with pytest.raises(RuntimeError, match="without prepare"):
        regularizer.loss(x)
    regularizer.prepare(x)
    with pytest.raises(RuntimeError, match="no chosen layer ran"):
        regularizer.loss(x)


def test_an_output_with_a_weight_is_needed():
    network = soft_network()
    regularizer = EquivarianceRegularizer(network, output_weight=1)
    network(*regularizer.prepare(torch.randn(2, 1, 8, 8)))
    with pytest.raises(ValueError, match=r"loss\(output\)"):
        regularizer.loss()


# Gradients


@pytest.mark.parametrize("mode", ["relative", "mse", "paper"])
def test_gradients_are_those_of_the_penalty(mode):
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 3, padding=1)).double()
    regularizer = EquivarianceRegularizer(network, mode=mode, output_weight=0.5)
    x = torch.randn(2, 1, 5, 5, dtype=torch.float64)
    names, values = zip(*network.named_parameters(), strict=True)

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, both):
            return regularizer.loss(self.network(both))

    loss = Loss()

    def function(*parameters):
        regularizer.reseed(0)
        (both,) = regularizer.prepare(x)
        named = {f"network.{name}": value for name, value in zip(names, parameters, strict=True)}
        return torch.func.functional_call(loss, named, (both,))

    assert torch.autograd.gradcheck(function, tuple(value.detach().requires_grad_() for value in values))


def test_every_chosen_weight_gets_a_gradient_that_descends():
    network, x = soft_network(), torch.randn(4, 1, 16, 16)
    regularizer = EquivarianceRegularizer(network)
    loss, *_ = step(regularizer, network, x)
    loss.backward()
    assert all(network[i].weight.grad.norm() > 1e-4 for i in (0, 2, 4))
    with torch.no_grad():
        for p in network.parameters():
            p -= 0.05 * p.grad
    regularizer.reseed(0)
    assert step(regularizer, network, x)[0] < loss


def test_scaling_the_features_down_does_not_help():
    """Relative: the gradient has no part along the weights of a layer without a bias, so nothing collapses."""
    layer = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False)).double()
    loss, *_ = step(EquivarianceRegularizer(layer), layer, torch.randn(4, 1, 16, 16, dtype=torch.float64))
    loss.backward()
    weight = layer[0].weight
    assert abs(torch.sum(weight * weight.grad)) < 1e-6 * weight.norm() * weight.grad.norm()


def monai_networks():
    from monai.networks.nets import BasicUNet, SegResNet

    unet = BasicUNet(spatial_dims=2, in_channels=1, out_channels=1, features=(8, 8, 8, 16, 16, 8))
    resnet = SegResNet(spatial_dims=2, init_filters=8, out_channels=1, blocks_down=(1, 1, 1), blocks_up=(1, 1))
    return {"BasicUNet": unet, "SegResNet": resnet}


@pytest.mark.parametrize("name", ["BasicUNet", "SegResNet"])
def test_unmodified_monai_networks_train_with_it(name):
    network = monai_networks()[name]
    keys = set(network.state_dict())
    x = nn.functional.avg_pool2d(3 * torch.rand(4, 1, 36, 36), 5, 1)
    regularizer = EquivarianceRegularizer(network, output_weight=0.1)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses, values = [], []
    for _ in range(24):
        image, target = regularizer.prepare(x, 1 - x)
        output = network(image)
        task, penalty = nn.functional.mse_loss(output, target), regularizer.loss(output)
        optimizer.zero_grad()
        (task + penalty).backward()
        optimizer.step()
        losses.append((task + penalty).item())
        values.append(penalty.item())

    convolutions = [key for key, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    assert set(regularizer.values) == {*convolutions, "output"}
    assert sum(losses[-6:]) < 0.8 * sum(losses[:6])
    assert sum(values[-6:]) < 0.8 * sum(values[:6])
    assert set(network.state_dict()) == keys
    monai_networks()[name].load_state_dict(network.state_dict())


# Around the hooks


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.first, self.body = nn.Conv2d(1, 8, 3, padding=1), soft_network(8)[2:4]
        self.reentrant = reentrant

    def forward(self, x):
        x = self.first(x)
        if self.reentrant is None:
            return self.body(x)
        return torch.utils.checkpoint.checkpoint(self.body, x, use_reentrant=self.reentrant)


def test_checkpointing_without_reentry_changes_nothing():
    plain, x = Checkpointed(None), torch.randn(2, 1, 8, 8)
    other = Checkpointed(False)
    other.load_state_dict(plain.state_dict())
    for network in (plain, other):
        regularizer = EquivarianceRegularizer(network)
        loss, y, _ = step(regularizer, network, x)
        (loss + y.square().mean()).backward()
        assert set(regularizer.values) == {"first", "body.2", "output"}
        assert regularizer._capture.stop() == {}  # the recomputation kept nothing
    for a, b in zip(plain.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_reentrant_checkpointing_is_refused():
    network = Checkpointed(True)
    (x,) = EquivarianceRegularizer(network).prepare(torch.randn(2, 1, 8, 8))
    with pytest.raises(RuntimeError, match=r"'body.2' ran without gradients.* use_reentrant=False"):
        network(x)


def test_penalties_can_be_read_without_gradients():
    network = soft_network()
    regularizer = EquivarianceRegularizer(network)
    with torch.no_grad():
        assert step(regularizer, network, torch.randn(2, 1, 8, 8))[0] > 0


def test_the_output_before_an_activation_in_place_is_penalised():
    network, x = soft_network(), torch.randn(2, 1, 8, 8)
    network[0].bias.data.fill_(-100.0)  # after the activation nothing is left
    assert penalties(network, x)["0"] > 0.5


@pytest.mark.parametrize("mode", ["mse", "relative", "paper"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_residual_is_wide_under_autocast(dtype, mode):
    network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1))
    network[0].weight.data *= 1e3  # squares of which are beyond float16
    regularizer = EquivarianceRegularizer(network, mode=mode, output_fields=[("regular", 2)])
    with torch.autocast("cpu", dtype):
        (both,) = regularizer.prepare(torch.randn(2, 1, 32, 32))
        n, y = regularizer.n, network(both)
        assert y.dtype == dtype
        loss = regularizer.loss(y)
    expected = residual_penalty(*y.double().chunk(2), n, [("regular", 2)], mode=mode)
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert regularizer.values["output"] == pytest.approx(loss.item())
    loss.backward()
    assert torch.isfinite(network[0].weight.grad).all()


def test_a_compiled_network_gives_the_same():
    network, x = soft_network(), torch.randn(4, 1, 8, 8)
    plain = EquivarianceRegularizer(network)
    expected, *_ = step(plain, network, x)
    plain.detach()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    regularizer = EquivarianceRegularizer(compiled)
    for _ in range(2):
        regularizer.reseed(0)
        loss, *_ = step(regularizer, compiled, x)
        torch.testing.assert_close(loss, expected)
    network.zero_grad()
    loss.backward()
    assert network[0].weight.grad.norm() > 0
    assert list(regularizer.values) == ["0", "2", "4", "output"]


def test_a_distributed_network_keeps_its_names(tmp_path):
    network, x = soft_network(), torch.randn(4, 1, 8, 8)
    expected, *_ = step(EquivarianceRegularizer(network), network, x)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(network)
        regularizer = EquivarianceRegularizer(wrapped)
        loss, y, _ = step(regularizer, wrapped, x)
        (loss + y.mean()).backward()
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(loss, expected)
    assert list(regularizer.values) == ["0", "2", "4", "output"]
    assert all(p.grad is not None for p in network.parameters())


# Other groups


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
