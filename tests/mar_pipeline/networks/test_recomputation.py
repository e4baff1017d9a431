"""Stages computed once more give the same loss, gradients and batch-norm statistics as stages that are kept."""

import pytest
import torch
from small_scans import dual_network, inputs_of, scan_batch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from mar_pipeline.data.turning import field_of
from mar_pipeline.networks import NETWORKS
from mar_pipeline.networks.build import loss_of
from mar_pipeline.networks.recomputation import recomputed
from mar_pipeline.training.regularization import make_regularizer
from mar_pipeline.training.settings import EquivarianceTraining

NAMES = ("indudonet", "indudonet_plus")
State = dict[str, Tensor]


def step(name: str, recompute: bool, autocast: bool = False, evaluation: bool = False) -> tuple[Tensor, State, State]:
    """Loss, gradients and buffers of a training step of three stages."""
    network, batch = dual_network(name, stages=3, recompute=recompute), scan_batch()
    network.train(not evaluation)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = network(*inputs_of(network, batch))
    loss = loss_of(NETWORKS[name])(output, batch)
    loss.backward()
    gradients = {key: own.grad for key, own in network.named_parameters() if own.grad is not None}
    return loss.detach(), gradients, dict(network.named_buffers())


@pytest.mark.parametrize("mode", ["training", "autocast", "evaluation"])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_but_memory_differs(name: str, mode: str) -> None:
    options = {"autocast": mode == "autocast", "evaluation": mode == "evaluation"}
    kept, again = (step(name, recompute, **options) for recompute in (False, True))
    assert torch.equal(kept[0], again[0])
    for one, other in zip(kept[1:], again[1:], strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[key]) for key, value in one.items())
    counts = [value for key, value in again[2].items() if key.endswith("num_batches_tracked")]
    assert {int(count) for count in counts} == {0 if mode == "evaluation" else 1}


def test_less_is_kept_for_the_backward_pass() -> None:
    """Bytes that autograd saves until the loss is known."""
    sizes = []
    for recompute in (False, True):
        network, batch = dual_network("indudonet_plus", stages=4, recompute=recompute), scan_batch(1)
        kept: dict[int, int] = {}

        def keep(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor):
            network(*inputs_of(network, batch))
        sizes.append(sum(kept.values()))
    assert sizes[1] < 0.5 * sizes[0]


def test_buffers_are_as_they_were_even_if_the_recomputation_fails() -> None:
    norm = nn.BatchNorm1d(3)

    def function(x: Tensor) -> Tensor:
        if norm.num_batches_tracked == 1 and fail:
            norm(x)
            raise RuntimeError("no memory left")
        return norm(x).square()

    fail, x = False, torch.randn(5, 3, requires_grad=True)
    y = recomputed(function, norm, x)
    buffers = {key: value.clone() for key, value in norm.named_buffers()}
    fail = True
    with pytest.raises(RuntimeError, match="no memory left"):
        y.sum().backward()
    assert all(torch.equal(value, buffers[key]) for key, value in norm.named_buffers())


def test_regularised_steps_are_the_same_too() -> None:
    """EQ-Reg keeps outputs from inside of the stages."""
    results = []
    for recompute in (False, True):
        network, batch = dual_network("indudonet_plus", dual_channels=4, recompute=recompute), scan_batch()
        regularizer = make_regularizer(network, EquivarianceTraining(enabled=True, batch_fraction=1.0))
        assert regularizer is not None
        with regularizer:
            prepared = regularizer.prepare(*batch.values(), fields=[field_of(name) for name in batch])
            turned = dict(zip(batch, prepared, strict=True))
            output = network(*inputs_of(network, turned))
            loss = loss_of(NETWORKS["indudonet_plus"])(output, turned) + 100 * regularizer.loss(output.image)
            loss.backward()
            assert len(regularizer.values) > 10
        results.append((loss.detach(), [own.grad for own in network.parameters()], list(network.buffers())))
    kept, again = results
    assert torch.equal(kept[0], again[0])
    for one, other in zip(kept[1:], again[1:], strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
