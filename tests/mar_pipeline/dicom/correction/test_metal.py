"""Metal in a series: threshold with hysteresis, least area, connection from slice to slice."""

import numpy as np
import pytest

from mar_pipeline.dicom.correction.metal import PackedMask, candidates, connected


def slices(*regions: list[tuple[slice, slice, float]], side: int = 20) -> list:
    """Candidates of slices of water with rectangles of some HU, threshold 2500 HU."""
    found = []
    for rectangles in regions:
        hu = np.zeros((side, side), np.float32)
        for rows, columns, value in rectangles:
            hu[rows, columns] = value
        found.append(candidates(hu, 2500))
    return found


def areas(found: list, least_mm2: float, pixel_mm2: float = 1.0) -> list[int]:
    return [int(mask.unpack().sum()) for mask in connected(found, pixel_mm2, least_mm2)]


BLOCK = (slice(5, 9), slice(5, 9), 3000.0)  # 16 pixels
DOT = (slice(6, 7), slice(6, 7), 3000.0)
RIM = (slice(4, 10), slice(4, 10), 2100.0)  # around the block


def test_a_packed_mask_is_the_mask() -> None:
    mask = np.random.default_rng(0).random((7, 13)) > 0.5
    np.testing.assert_array_equal(PackedMask.of(mask).unpack(), mask)


def test_the_rim_belongs_to_the_metal_and_bright_bone_alone_does_not() -> None:
    bone = (slice(14, 19), slice(14, 19), 2400.0)
    (mask,) = connected(slices([RIM, BLOCK, bone]), 1, 1)
    expected = np.zeros((20, 20), bool)
    expected[4:10, 4:10] = True
    np.testing.assert_array_equal(mask.unpack(), expected)


@pytest.mark.parametrize(("pixel_mm2", "least_mm2", "kept"), [(1, 16, 16), (1, 17, 0), (0.5, 8, 16), (0.5, 8.1, 0)])
def test_the_least_area_is_in_square_millimetres(pixel_mm2: float, least_mm2: float, kept: int) -> None:
    assert areas(slices([BLOCK]), least_mm2, pixel_mm2) == [kept]


def test_a_dot_is_metal_only_where_it_touches_metal_of_the_next_slice() -> None:
    elsewhere = (slice(15, 16), slice(15, 16), 3000.0)
    assert areas(slices([DOT, elsewhere], [BLOCK], [DOT], [], [DOT]), 10) == [1, 16, 1, 0, 0]


def test_metal_goes_on_through_weak_slices_in_both_directions() -> None:
    weak = (slice(6, 8), slice(6, 8), 2200.0)
    assert areas(slices([weak], [weak], [BLOCK], [weak], [weak]), 10) == [4, 4, 16, 4, 4]
    assert areas(slices([weak], [weak]), 1) == [0, 0]


def test_metal_that_turns_back_is_followed() -> None:
    """A hook: down on the left, across below, and up again on the right, where every slice holds a weak dot only."""
    left, right = (slice(5, 9), slice(2, 6), 3000.0), (slice(6, 7), slice(15, 16), 2200.0)
    across = (slice(6, 7), slice(2, 16), 2200.0)
    assert areas(slices([left, right], [left, right], [across]), 10) == [17, 17, 14]


def test_a_series_without_metal_and_an_empty_one() -> None:
    assert areas(slices([], []), 1) == [0, 0]
    assert connected([], 1, 1) == []
