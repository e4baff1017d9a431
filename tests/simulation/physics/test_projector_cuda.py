"""The CUDA side of the projector driven with ASTRA's CPU projector: all of it but the GPU's own arithmetic."""

import copy

import astra
import numpy as np
import pytest
import torch

from simulation.physics.geometry import FanBeam
from simulation.physics.projector_cpu import CpuOperators
from simulation.physics.projector_cuda import CudaOperators
from simulation.physics.projector_torch import _LinearMap

GEOMETRY = FanBeam((48, 40), 2.0, 200.0, 150.0, views=60, bins=75, pitch_mm=3.0)


@pytest.fixture
def operators(monkeypatch) -> CudaOperators:
    create = astra.create_projector
    monkeypatch.setattr(astra, "use_cuda", lambda: True)
    monkeypatch.setattr(astra, "create_projector", lambda _, *geometries: create("line_fanflat", *geometries))
    return CudaOperators(GEOMETRY)


@pytest.fixture
def images() -> torch.Tensor:
    rows, columns = np.mgrid[:48, :40]
    blobs = [np.exp(-((rows - r) ** 2 + (columns - c) ** 2) / 60) for r, c in ((20, 15), (30, 25))]
    return torch.from_numpy(np.stack(blobs).astype(np.float32))


def test_line_integrals_are_in_cm_and_equal_to_the_cpu_kernels(operators, images) -> None:
    ours = CpuOperators(GEOMETRY, threads=1).forward(images.numpy())
    difference = operators.forward(images).numpy() - ours
    assert np.linalg.norm(difference) < 1e-2 * np.linalg.norm(ours)


def test_forward_and_adjoint_are_matched(operators) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 48, 40, generator=generator), torch.rand(2, 60, 75, generator=generator)
    there, back = (operators.forward(x) * y).sum(), (x * operators.adjoint(y)).sum()
    assert abs(there / back - 1) < 1e-5


def test_what_asks_for_a_gradient_is_projected_and_gets_it(operators, images) -> None:
    x = images.clone().requires_grad_()
    sinograms = _LinearMap.apply(x, operators.forward, operators.adjoint)
    weights = torch.rand(sinograms.shape, generator=torch.Generator().manual_seed(1))
    (sinograms * weights).sum().backward()
    assert torch.equal(x.grad, operators.adjoint(weights))


def test_a_copy_may_be_dropped(operators, images) -> None:
    before = operators.forward(images)
    duplicate = copy.deepcopy(operators)
    assert torch.equal(duplicate.forward(images), before)
    del duplicate
    assert torch.equal(operators.forward(images), before)


def test_without_a_gpu_nothing_is_made(monkeypatch) -> None:
    monkeypatch.setattr(astra, "use_cuda", lambda: False)
    with pytest.raises(RuntimeError, match="no GPU"):
        CudaOperators(GEOMETRY)
