"""Gradients of the regulariser, and what stands around the hooks: checkpoints, autocast, compilation, processes."""

import pytest
import torch
import torch.utils.checkpoint
from c4_layers import penalties, soft_network, step
from torch import nn

from mar_pipeline.equivariance import EquivarianceRegularizer
from mar_pipeline.equivariance.penalty import residual_penalty


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


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
