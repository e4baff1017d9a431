import math

import pytest
import torch

from mar_pipeline.equivariance.fourier_filters import initial_coefficients, rotated_fourier_basis, sample_filters


def orthonormal(functions: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (functions / weights).flatten(end_dim=2)


def test_the_basis_of_oscnet_has_25_functions() -> None:
    functions, weights = rotated_fourier_basis(9, 5, 8)
    assert functions.shape == (9, 9, 8, 25)
    assert weights.shape == (25,)
    assert functions.dtype == weights.dtype == torch.float32


@pytest.mark.parametrize(("size", "in_p", "rotations"), [(9, 5, 8), (5, 5, 8), (5, 3, 12), (7, 7, 4), (4, 4, 8)])
def test_functions_divided_by_their_weights_are_orthonormal(size: int, in_p: int, rotations: int) -> None:
    functions, weights = rotated_fourier_basis(size, in_p, rotations, dtype=torch.float64)
    gram = orthonormal(functions, weights).T @ orthonormal(functions, weights)
    torch.testing.assert_close(gram, torch.eye(len(weights), dtype=torch.float64), atol=1e-10, rtol=0)


@pytest.mark.parametrize("rotations", [4, 8, 12])
def test_a_quarter_turn_of_a_filter_is_rot90_of_its_samples_to_the_last_bit(rotations: int) -> None:
    functions, weights = rotated_fourier_basis(9, 5, rotations)
    filters = sample_filters(initial_coefficients((3,), weights), functions)
    assert filters.shape == (3, rotations, 9, 9)
    turned = torch.rot90(filters, 1, dims=(-2, -1))
    torch.testing.assert_close(turned, filters.roll(-(rotations // 4), dims=1), atol=0, rtol=0)
    assert not torch.allclose(turned, filters.roll(rotations // 4, dims=1), atol=1e-2)


def test_six_rotations_have_exact_half_turns() -> None:
    functions, _ = rotated_fourier_basis(5, 3, 6)
    assert torch.equal(torch.rot90(functions, 2), functions.roll(3, dims=2))


def test_rotations_of_45_degrees_turn_counter_clockwise_by_the_angle() -> None:
    """A bar's second moments tell its angle; the first function that is a bar will do."""
    functions, _ = rotated_fourier_basis(9, 5, 8, dtype=torch.float64)
    line = torch.linspace(-1, 1, 9, dtype=torch.float64)
    up, right = torch.meshgrid(-line, line, indexing="ij")
    energy = functions.square()
    cos_part = (energy * (right**2 - up**2)[..., None, None]).sum(dim=(0, 1))
    sin_part = (energy * (2 * right * up)[..., None, None]).sum(dim=(0, 1))
    strength = torch.hypot(cos_part, sin_part).amin(dim=0)
    bar = int(strength.argmax())
    angle = torch.atan2(sin_part, cos_part)[:, bar] / 2
    turned = (angle.roll(-1) - angle) % math.pi
    torch.testing.assert_close(turned, torch.full_like(turned, math.pi / 4), atol=0.2, rtol=0)
    quarter = (angle.roll(-2) - angle) % math.pi
    torch.testing.assert_close(quarter, torch.full_like(quarter, math.pi / 2), atol=1e-9, rtol=0)


def test_the_span_holds_every_plane_wave_of_the_frequencies() -> None:
    functions, weights = rotated_fourier_basis(9, 5, 8, dtype=torch.float64)
    line = torch.linspace(-1, 1, 9, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    fade = torch.exp(-(x**2 + y**2 - 1).clamp(min=0) / 0.2)
    v = math.pi * 4 / 5
    for k, m in [(0, 0), (2, -1), (-2, 2)]:
        wave = torch.stack(
            [
                fade
                * torch.cos(v * (k * (math.cos(a) * x - math.sin(a) * y) + m * (math.cos(a) * y + math.sin(a) * x)))
                for a in (2 * math.pi * s / 8 for s in range(8))
            ],
            dim=2,
        ).flatten()
        basis = orthonormal(functions, weights)
        torch.testing.assert_close(basis @ (basis.T @ wave), wave, atol=1e-9, rtol=0)


def test_functions_that_change_with_the_rotation_weigh_less_or_are_dropped() -> None:
    functions, weights = rotated_fourier_basis(5, 5, 8, dtype=torch.float64)
    assert weights.max() == 1
    assert 0.04 < weights.min() < 0.06
    energy = (functions / weights).square().sum(dim=(0, 1))
    variation = energy.std(dim=0, correction=0) / energy.mean(dim=0)
    assert torch.corrcoef(torch.stack([variation, weights]))[0, 1] < -0.6
    assert len(rotated_fourier_basis(4, 5, 12).weights) == 24
    assert len(rotated_fourier_basis(3, 3, 4, edge=None).weights) == 9


def test_the_corner_fades_only_where_asked() -> None:
    faded, whole = rotated_fourier_basis(5, 3, 4), rotated_fourier_basis(5, 3, 4, edge=None)
    assert faded.functions[0, 0].abs().max() < 0.02
    assert whole.functions[0, 0].abs().max() > 0.1


def test_initial_coefficients_keep_their_bounds() -> None:
    weights = torch.tensor([1.0, 0.5])
    coefficients = initial_coefficients((400, 3), weights, fan_in=3)
    assert coefficients.shape == (400, 3, 2)
    bound = coefficients.abs().amax(dim=(0, 1))
    torch.testing.assert_close(bound, weights, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("size", "in_p", "rotations", "edge"), [(1, 5, 8, 0.2), (9, 0, 8, 0.2), (9, 5, 0, 0.2), (9, 5, 8, 0)]
)
def test_impossible_bases_are_refused(size: int, in_p: int, rotations: int, edge: float) -> None:
    with pytest.raises(ValueError, match=rf"size {size}, in_p {in_p}, rotations {rotations}"):
        rotated_fourier_basis(size, in_p, rotations, edge)
