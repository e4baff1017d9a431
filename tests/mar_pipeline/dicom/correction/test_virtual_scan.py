"""The grid and the scan that stand in for raw data."""

import math

import numpy as np
import pytest

from mar_pipeline.dicom.correction.virtual_scan import field_of_view, is_truncated, virtual_scan
from simulation.units import hu_to_mu

SHAPES = pytest.mark.parametrize(
    ("shape", "spacing_mm"),
    [((64, 64), (1.5, 1.5)), ((65, 40), (0.8, 0.8)), ((48, 64), (1.0, 0.7)), ((512, 512), (1.6, 1.6))],
)


def smooth(shape: tuple[int, int], spacing_mm: tuple[float, float], width: float) -> np.ndarray:
    """A blob that is a function of position in mm, some widths wide."""
    y, x = ((np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing_mm, strict=True))
    return np.exp(-((y[:, None] - width) ** 2 + x**2) / (2 * width**2)).astype(np.float32)


@SHAPES
@pytest.mark.parametrize("extend", [False, True])
def test_the_fan_sees_the_whole_image(shape, spacing_mm, extend: bool) -> None:
    grid, geometry = virtual_scan(shape, spacing_mm, extend)
    side_mm = max(n * mm for n, mm in zip(shape, spacing_mm, strict=True))
    assert geometry.image_shape == grid.grid_shape == (grid.grid_shape[0],) * 2
    assert geometry.field_of_view_mm == pytest.approx(grid.grid_shape[0] * grid.pixel_mm, rel=1e-6)
    assert side_mm + 80 * extend - 1e-6 <= geometry.field_of_view_mm <= side_mm + 80 * extend + 2.1 * grid.pixel_mm
    assert geometry.views % 8 == 0
    arc_mm = math.pi * geometry.field_of_view_mm / geometry.views  # between two views, half-way to the border
    assert arc_mm < 2 * grid.pixel_mm


@SHAPES
def test_what_is_smooth_comes_back(shape, spacing_mm) -> None:
    grid, _ = virtual_scan(shape, spacing_mm)
    width = min(n * mm for n, mm in zip(shape, spacing_mm, strict=True)) / 8
    image = smooth(shape, spacing_mm, width)
    there = grid.to_grid(image)
    np.testing.assert_allclose(there, smooth(grid.grid_shape, (grid.pixel_mm,) * 2, width), atol=0.01)
    np.testing.assert_allclose(grid.from_grid(there), image, atol=0.01)


@pytest.mark.parametrize("shape", [(64, 64), (65, 65), (40, 64), (63, 41)])
@pytest.mark.parametrize("extend", [False, True])
def test_equal_pixels_are_copied_not_interpolated(shape, extend: bool) -> None:
    grid, _ = virtual_scan(shape, (1.3, 1.3), extend)
    image = np.random.default_rng(0).random(shape, np.float32)
    np.testing.assert_array_equal(grid.from_grid(grid.to_grid(image)), image)


def test_the_field_of_view_is_the_reconstruction_circle_without_padding() -> None:
    padding = np.zeros((40, 40), bool)
    padding[20, 20] = True
    inside = field_of_view((40, 40), (2.0, 2.0), padding, 60.0)
    assert not inside[20, 20] and inside[19, 19] and not inside[19, 2] and inside[19, 6]
    assert inside.sum() * 4 == pytest.approx(math.pi * 30**2, rel=0.02)
    without = field_of_view((40, 40), (2.0, 2.0), np.zeros_like(padding), None)
    assert without.sum() * 4 == pytest.approx(math.pi * 40**2, rel=0.02)
    narrow = field_of_view((40, 40), (2.0, 1.0), np.zeros_like(padding), 500.0)  # a header that claims too much
    assert narrow.sum() * 2 == pytest.approx(math.pi * 20**2, rel=0.02)


def body(radius_mm: float, centre_mm: float = 0.0) -> np.ndarray:
    y = (np.arange(100) - 49.5) * 2.0
    return np.where(np.hypot(y[:, None], y - centre_mm) < radius_mm, 40.0, -1000.0).astype(np.float32)


def test_a_body_that_reaches_the_border_is_truncated() -> None:
    inside = field_of_view((100, 100), (2.0, 2.0), np.zeros((100, 100), bool), None)
    assert not is_truncated(body(80), inside, (2.0, 2.0))
    assert is_truncated(body(80, 40), inside, (2.0, 2.0))
    assert is_truncated(body(200), inside, (2.0, 2.0))


def test_what_is_cut_off_goes_on_smoothly_and_fades_out() -> None:
    hu, inside = body(200), field_of_view((100, 100), (2.0, 2.0), np.zeros((100, 100), bool), None)
    grid, _ = virtual_scan((100, 100), (2.0, 2.0), extend=True)
    mu = grid.mu_on_grid(hu, inside, extend=True)
    cut = grid.mu_on_grid(hu, inside, extend=False)
    covered = grid.to_grid(inside.astype(np.float32)) > 0.5
    np.testing.assert_array_equal(mu[covered], cut[covered])
    middle = mu[mu.shape[0] // 2]
    assert np.abs(np.diff(middle[middle.size // 2 :])).max() < 0.1 * hu_to_mu(40.0)
    assert abs(middle[-1]) < 0.01 * hu_to_mu(40.0)
    assert cut[~covered].max() == 0


def test_air_at_the_border_stays_air() -> None:
    hu, inside = body(80), field_of_view((100, 100), (2.0, 2.0), np.zeros((100, 100), bool), None)
    grid, _ = virtual_scan((100, 100), (2.0, 2.0), extend=True)
    np.testing.assert_array_equal(grid.mu_on_grid(hu, inside, True), grid.mu_on_grid(hu, inside, False))
