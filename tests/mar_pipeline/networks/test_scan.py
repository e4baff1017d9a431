"""The operators of the dual-domain networks: transposes, gradients, units, and the norm that the step sizes assume."""

import math

import numpy as np
import pytest
import torch
from small_scanner import SMALL
from torch import Tensor

from mar_pipeline.networks.scan import Scan
from simulation.errors import InputError, UsageError
from simulation.physics.geometry import FanBeam
from simulation.physics.projector import Projector

BENCHMARK = FanBeam.preset("syndeeplesion")
TINY = FanBeam((8, 8), 2.0, 60.0, 60.0, views=12, bins=15, pitch_mm=3.0)
LINE_INTEGRAL, MU = 255 / 4, 255.0


def scan_of(geometry: FanBeam, precision: str = "float32", weighting: str = "benchmark") -> Scan:
    return Scan(Projector(geometry, "cpu", 1, precision), weighting)


def random(shape: tuple[int, int], seed: int) -> Tensor:
    return torch.rand((1, 1, *shape), generator=torch.Generator().manual_seed(seed))


def pixel_cm2(geometry: FanBeam) -> float:
    return (geometry.pixel_mm / 10) ** 2


def bin_weight(geometry: FanBeam) -> float:
    return 2 * math.pi / geometry.views * geometry.pitch_mm / 10


@pytest.mark.parametrize("geometry", [BENCHMARK, SMALL], ids=["benchmark", "small"])
def test_the_weighted_adjoint_is_that_of_functions(geometry: FanBeam) -> None:
    """<P x, y> dtheta du = <x, P* y> pixel^2, of x in 1/cm and y in line integrals."""
    scan = scan_of(geometry)
    x, y = random(geometry.image_shape, 1), random(geometry.sinogram_shape, 2)
    projected = scan.project(x * MU) / LINE_INTEGRAL
    left = (projected.double() * y).sum() * bin_weight(geometry)
    right = (x.double() * scan.weighted_adjoint(y * LINE_INTEGRAL)).sum() * pixel_cm2(geometry)
    assert left.item() == pytest.approx(right.item(), rel=1e-5)


def test_the_weight_on_the_benchmark_is_the_published_one() -> None:
    """P* = P^T / 2.04889, in cm."""
    scan, y = scan_of(BENCHMARK), random(BENCHMARK.sinogram_shape, 3)
    transposed = scan.projector.adjoint(y)
    torch.testing.assert_close(scan.weighted_adjoint(y * LINE_INTEGRAL), transposed / 2.04889, rtol=1e-5, atol=0)


def test_the_norm_on_the_benchmark_is_that_of_the_published_steps() -> None:
    """Power iteration: ||P* P|| = 188.7, of the operators in 1/cm and line integrals."""
    scan, x, norm = scan_of(BENCHMARK), torch.ones(1, 1, *BENCHMARK.image_shape), 0.0
    for _ in range(6):
        y = scan.weighted_adjoint(scan.project(x * MU))
        norm, x = y.norm().item() / x.norm().item(), y / y.norm()
    assert norm == pytest.approx(188.7, rel=0.005)


@pytest.mark.parametrize("weighting", ["benchmark", "standard"])
@pytest.mark.parametrize("name", ["project", "weighted_adjoint", "reconstruct"])
def test_gradients_in_float64(name: str, weighting: str) -> None:
    operator = getattr(scan_of(TINY, "float64", weighting), name)
    shape = TINY.image_shape if name == "project" else TINY.sinogram_shape
    x = random(shape, 4).double().expand(2, 1, *shape).clone().requires_grad_()
    assert operator(x).dtype == torch.float64
    assert torch.autograd.gradcheck(operator, x)
    assert torch.autograd.gradgradcheck(operator, x)


@pytest.mark.parametrize("name", ["project", "weighted_adjoint", "reconstruct"])
def test_float64_is_the_same_operator_as_float32(name: str) -> None:
    shape = SMALL.image_shape if name == "project" else SMALL.sinogram_shape
    x = random(shape, 5)
    exact = getattr(scan_of(SMALL, "float64"), name)(x.double())
    rounded = getattr(scan_of(SMALL), name)(x)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded.double(), exact, rtol=1e-5, atol=1e-5 * exact.abs().max().item())
    assert not torch.equal(rounded.double(), exact)


def test_cuda_does_not_compute_in_float64() -> None:
    with pytest.raises(UsageError, match="got float64 on cuda, but CUDA computes in float32; use device cpu"):
        Projector(SMALL, "cuda", precision="float64")


def test_units_are_those_of_the_networks() -> None:
    """255 for 1/cm and for a line integral of 4, and nothing clipped."""
    scan, image_mu = scan_of(SMALL), np.full(SMALL.image_shape, 0.4, np.float32)
    sinogram = scan.projector.forward(image_mu)
    assert sinogram.max() > 4
    tensor = torch.from_numpy(image_mu)[None, None]
    np.testing.assert_allclose(scan.project(tensor * MU)[0, 0], sinogram * LINE_INTEGRAL, rtol=1e-5)
    lines = torch.from_numpy(sinogram)[None, None] * LINE_INTEGRAL
    expected = scan.projector.fbp(sinogram) * MU
    np.testing.assert_allclose(scan.reconstruct(lines)[0, 0], expected, rtol=1e-4, atol=1e-2)


def test_the_weighting_is_the_one_asked_for() -> None:
    y = random(SMALL.sinogram_shape, 6)
    results = [scan_of(SMALL, weighting=own).reconstruct(y) for own in ("benchmark", "standard")]
    assert not torch.allclose(*results, rtol=1e-2)


def test_autocast_does_not_round_projections() -> None:
    scan, x = scan_of(SMALL), random(SMALL.image_shape, 7)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(scan.project(x), scan_of(SMALL).project(x))


@pytest.mark.parametrize("name", ["project", "weighted_adjoint", "reconstruct"])
def test_another_device_than_the_projectors_is_refused(name: str) -> None:
    shape = SMALL.image_shape if name == "project" else SMALL.sinogram_shape
    with pytest.raises(
        InputError,
        match=r"^network: got tensors on meta, but its projector computes on cpu; build both for one device$",
    ):
        getattr(scan_of(SMALL), name)(torch.zeros((1, 1, *shape), device="meta"))


def test_another_geometry_is_refused() -> None:
    scan, image, sinogram = scan_of(SMALL), torch.zeros(1, 1, 64, 64), torch.zeros(1, 1, *SMALL.sinogram_shape)
    scan.check((image,), (sinogram,))
    with pytest.raises(
        InputError, match=r"^network: got images of 64 x 60, but those of its projector have 64 x 64; giv"
    ):
        scan.check((image, image[..., :60]), (sinogram,))
    with pytest.raises(
        InputError, match=r"^network: got sinograms of 64 x 1, but those of its projector have 64 x 81; g"
    ):
        scan.check((image,), (sinogram, sinogram[..., :1]))
    with pytest.raises(InputError, match="on meta"):
        scan.check((image.to("meta"),))
