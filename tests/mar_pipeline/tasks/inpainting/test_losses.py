"""SURE is unbiased, consistency sees measured pixels only, the equivariant term is what it says."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d

from mar_pipeline.networks.inpainting_unet import InpaintingUNet
from mar_pipeline.tasks.images.embedded import embedded_image
from mar_pipeline.tasks.inpainting.losses import (
    InpaintingLoss,
    equivariant_term,
    measured,
    measurement_consistency,
    move,
    sure_poisson,
)
from mar_pipeline.tasks.inpainting.physics import measure_again
from mar_pipeline.tasks.inpainting.samples import to_square
from mar_pipeline.tasks.inpainting.settings import InpaintingData

GAMMA, STEP, SIZE = 0.05, 1e-2, 64


@pytest.fixture
def truth():
    return torch.from_numpy(to_square(embedded_image("chelsea"), 512, SIZE))[None].double()


@pytest.fixture
def mask():
    torch.manual_seed(1)
    return (torch.rand(1, 1, SIZE, SIZE) >= 0.3).double()


def means(restore, truth, mask, draws, gamma=GAMMA):
    """Mean of SURE over noise and signs, and of what it estimates."""
    estimates, risks = [], []
    torch.manual_seed(0)
    with torch.no_grad():
        for _ in range(draws):
            y = measure_again(truth, mask, gamma)
            answer = restore(y, mask)
            estimates.append(float(sure_poisson(restore, answer, y, mask, gamma, STEP)))
            risks.append(float((mask * (answer - truth)).square().sum() / measured(mask)))
    return np.mean(estimates), np.mean(risks)


def denoisers():
    torch.manual_seed(2)
    network = InpaintingUNet(width=4, levels=3).double().eval()
    return {
        "U-Net": lambda y, _: network(y),
        "blur": lambda y, _: avg_pool2d(y, 3, 1, 1) / 0.7,
        "identity": lambda y, _: y,
        "nothing": lambda y, _: torch.zeros_like(y),
    }


@pytest.mark.parametrize("name", ["U-Net", "blur", "identity", "nothing"])
def test_sure_is_the_risk_in_the_mean(name, truth, mask):
    estimate, risk = means(denoisers()[name], truth, mask, 150)
    assert estimate == pytest.approx(risk, rel=5e-3)


def test_sure_of_a_scaling_is_the_formula_draw_by_draw(truth, mask):
    """f(y) = a y: |a y - y|^2 - gamma sum y + 2 gamma a sum y, over M, whatever the signs and the step."""
    y, count = measure_again(truth, mask, GAMMA), 3 * float(mask.sum())
    for a in (0.0, 0.4, 1.0):
        expected = ((a - 1) ** 2 * y.square().sum() - GAMMA * y.sum() + 2 * GAMMA * a * y.sum()) / count
        torch.testing.assert_close(sure_poisson(lambda z, _, a=a: a * z, a * y, y, mask, GAMMA, STEP), expected)
        # whose mean is the analytic risk (1 - a)^2 x^2 + a^2 gamma x
        risk = ((1 - a) ** 2 * mask * truth.square() + a**2 * GAMMA * mask * truth).sum() / count
        draws = [measure_again(truth, mask, GAMMA) for _ in range(150)]
        estimates = [
            sure_poisson(lambda z, _, a=a: a * z, a * own, own, mask, GAMMA, STEP, torch.ones_like(own))
            for own in draws
        ]
        assert float(torch.stack(estimates).mean()) == pytest.approx(float(risk), rel=5e-3)


def test_sure_looks_at_no_pixel_that_was_not_measured(truth, mask):
    y = measure_again(truth, mask, GAMMA)
    seen = []

    def restore(z, _):
        seen.append(z)
        return z + 0.1

    signs = torch.ones_like(y)
    plain = sure_poisson(restore, y + 0.1, y, mask, GAMMA, STEP, signs)
    torch.testing.assert_close(seen[0], y + STEP * mask)
    torch.testing.assert_close(sure_poisson(restore, y + 0.1 + (1 - mask), y, mask, GAMMA, STEP, signs), plain)


def test_consistency_is_the_mean_over_measured_pixels(truth, mask):
    y = measure_again(truth, mask, GAMMA)
    torch.testing.assert_close(measurement_consistency(y + 0.2, y, mask), torch.tensor(0.04).double())
    torch.testing.assert_close(measurement_consistency(y + 0.2 + 7 * (1 - mask), y, mask), torch.tensor(0.04).double())


@pytest.mark.parametrize("gamma", [0.0, 0.05])
def test_the_equivariant_term_measures_again_and_compares_all_pixels(truth, mask, gamma):
    seen = []

    def restore(z, _):
        seen.append(z)
        return z

    term = equivariant_term(restore, truth, mask, gamma)
    assert not (seen[0] * (1 - mask)).any()
    torch.testing.assert_close(term, (seen[0] - truth).square().mean())
    assert torch.equal(seen[0], mask * truth) == (gamma == 0)


@pytest.mark.parametrize("transform", ["shift", "rotation"])
def test_moves_keep_the_pixels_and_never_stay(truth, transform):
    torch.manual_seed(0)
    images = torch.cat([truth, 2 * truth])
    moved = move(images, transform, 5)
    assert moved.shape == (10, 3, SIZE, SIZE)
    for one, other in moved.unflatten(0, (5, 2)):
        torch.testing.assert_close(other, 2 * one)
        assert not torch.equal(one, truth[0])
        torch.testing.assert_close(one.flatten().sort().values, truth.flatten().sort().values)


LOSSES = {
    "supervised": 1,
    "measurement_consistency": 1,
    "sure": 2,
    "equivariant_imaging": 2,
    "robust_equivariant_imaging": 3,
}


def a_batch():
    torch.manual_seed(3)
    x, mask = torch.rand(2, 3, 32, 32), (torch.rand(2, 1, 32, 32) > 0.3).float()
    return {"image": measure_again(x, mask, GAMMA), "target": x, "mask": mask}


@pytest.mark.parametrize(("name", "calls"), LOSSES.items())
def test_every_loss_is_reproducible_and_reaches_the_weights(name, calls):
    batch, network = a_batch(), InpaintingUNet(width=4, levels=2)
    passes = []
    network.register_forward_hook(lambda *_: passes.append(1))
    loss = InpaintingLoss(lambda y, _: network(y), InpaintingData(loss=name))
    values = []
    for _ in range(2):
        torch.manual_seed(5)
        values.append(loss(network(batch["image"]), batch))
    assert torch.equal(*values)
    assert len(passes) == 2 * calls
    values[0].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    assert loss.full_precision == (name in ("sure", "robust_equivariant_imaging"))


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_of_nothing_is_that_of_a_network_of_zeros(name):
    class Nothing(nn.Module):
        def forward(self, y, _):
            return torch.zeros_like(y)

    batch = a_batch()
    loss = InpaintingLoss(Nothing(), InpaintingData(loss=name))
    expected = loss(torch.zeros_like(batch["image"]), batch)
    torch.testing.assert_close(loss.of_nothing(torch.rand(2, 3, 32, 32), batch), expected)
    assert expected > 0


def test_only_the_supervised_loss_sees_the_truth():
    batch, network = a_batch(), InpaintingUNet(width=4, levels=2).eval()
    for name in LOSSES:
        loss = InpaintingLoss(lambda y, _: network(y), InpaintingData(loss=name))
        values = []
        for truth in (batch["target"], batch["target"] + 1):
            torch.manual_seed(5)
            values.append(loss(network(batch["image"]), batch | {"target": truth}))
        assert torch.equal(*values) == (name != "supervised")
