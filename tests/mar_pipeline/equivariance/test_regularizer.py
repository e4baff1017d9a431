"""When the regulariser measures, on which layers, and what it refuses."""

import copy
import math

import pytest
import torch
import torch.utils.checkpoint
from c4_layers import penalties, soft_network, step
from torch import nn

from mar_pipeline.equivariance import EquivarianceRegularizer
from mar_pipeline.equivariance.penalty import residual_penalty

IMAGE = [("trivial", 1)]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


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
        (nn.Sequential(nn.ReLU()), {}, "no 2-D convolution"),
        (nn.Sequential(CONV), {"exclude": "0"}, "no 2-D convolution"),
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
