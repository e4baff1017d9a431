"""Water-equivalent thickness along beams."""

import math

import numpy as np
import pytest
from metal_slices import discs

from mar_pipeline.dicom.measures.beams import ANGLES_DEG, attenuation, depths_mm, largest_change_mm, stopping_power

CURVE = {-1000: 0, -200: 0.788, -120: 0.897, -20: 1.003, 50: 1.038, 100: 1.084, 140: 1.097, 2990: 2.732, 2995: 3.2}


def test_the_curve_passes_through_its_points_and_is_level_beyond():
    np.testing.assert_allclose(stopping_power(np.array(list(CURVE))), list(CURVE.values()))
    np.testing.assert_allclose(stopping_power(np.array([-2000, 15, 9000])), [0, (1.003 + 1.038) / 2, 3.2])


@pytest.mark.parametrize("relative", [stopping_power, attenuation])
@pytest.mark.parametrize(("angle", "length_mm"), [(0, 40 * 1.5), (90, 30 * 2.0)])
def test_a_uniform_slice_is_as_long_as_it_is_times_what_a_mm_adds(relative, angle, length_mm):
    image = np.full((30, 40), 100.0)
    depths = depths_mm(relative(image), (2.0, 1.5), angle)
    np.testing.assert_allclose(depths[:, -1], length_mm * float(relative(np.array(100.0))))


@pytest.mark.parametrize("angle", [*ANGLES_DEG, 20])
def test_a_disc_is_its_chord_from_every_side(angle):
    disc = discs((200, 200), 1.0, (0, 0, 60)).astype(float)
    longest = depths_mm(disc, (1.0, 1.0), angle)[:, -1].max()
    assert longest == pytest.approx(120, abs=2.5)


def test_every_beam_sees_all_of_the_image():
    image = np.random.default_rng(1).random((40, 60))
    for angle in ANGLES_DEG:
        area = depths_mm(image, (1.0, 1.0), angle)[:, -1].sum()
        assert area == pytest.approx(image.sum(), rel=0.03)


def test_the_largest_change_is_found_where_it_is_even_if_it_cancels_behind():
    before, body = np.zeros((64, 64)), np.ones((64, 64), bool)
    after = before.copy()
    after[10:12, 10:30], after[10:12, 30:50] = 500, -500  # 20 mm denser, then 20 mm thinner
    _, photons = largest_change_mm(before, after, body, (1.0, 1.0))
    assert photons == pytest.approx(10)


@pytest.mark.parametrize("turned", [False, True])
def test_a_beam_may_come_from_either_side(turned: bool):
    """-50 HU over 50 mm, then 150 HU over 50 mm: 7.5 mm from behind, 5 from the front."""
    change = np.zeros((8, 120))
    change[:, 10:60], change[:, 60:110] = -50, 150
    after = change[:, ::-1] if turned else change
    _, photons = largest_change_mm(np.zeros((8, 120)), after, np.ones((8, 120), bool), (1.0, 1.0))
    assert photons == pytest.approx(7.5)


@pytest.mark.parametrize("angle_deg", [10, 22.5, 77])
def test_a_streak_is_found_whatever_its_direction(angle_deg: float):
    """200 HU in a band of 4 mm, 160 mm long: 32 mm of water along it; half a step of the angles costs some of it."""
    rows, columns = (axis - 100 for axis in np.mgrid[:201, :201])
    along = columns * math.cos(math.radians(angle_deg)) + rows * math.sin(math.radians(angle_deg))
    across = rows * math.cos(math.radians(angle_deg)) - columns * math.sin(math.radians(angle_deg))
    band = (abs(across) <= 2) & (abs(along) <= 80)
    _, photons = largest_change_mm(np.zeros(band.shape), 200.0 * band, np.ones(band.shape, bool), (1.0, 1.0))
    assert 0.5 * 32 < photons < 1.05 * 32


def test_what_lies_outside_the_body_counts_for_nothing():
    before, body = np.zeros((32, 32)), np.zeros((32, 32), bool)
    body[10:20, 10:20] = True
    assert largest_change_mm(before, np.where(body, before, 3000), body, (1.0, 1.0)) == (0, 0)


def test_a_change_across_a_slanted_beam_is_longer_by_the_slant():
    before, body = np.zeros((201, 201)), np.ones((201, 201), bool)
    rows, columns = np.mgrid[-100:101, -100:101]
    band = (abs(rows - columns) <= 20) & (abs(rows + columns) <= 80)  # along 45 degrees, 80 sqrt 2 mm long
    _, photons = largest_change_mm(before, np.where(band, 1000.0, 0.0), body, (1.0, 1.0))
    assert photons == pytest.approx(80 * math.sqrt(2), rel=0.03)
