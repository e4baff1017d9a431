"""What a slice shows: the body whatever the pixels, boxes, and where the scanner's range ends."""

import numpy as np
import pytest

from mar_pipeline.judge.tissue import body_mask, box_of, saturated


def phantom(side: int, mm: float) -> np.ndarray:
    """Two legs of 60 mm radius with a cavity in one, on a couch 3 mm thick."""
    row, column = (axis * mm for axis in np.indices((side, side)) - side / 2)
    hu = np.full((side, side), -1000.0)
    for middle in (-75, 75):
        hu[np.hypot(row, column - middle) < 60] = 40
    hu[np.hypot(row, column + 75) < 20] = -1000
    hu[(row > 90) & (row < 93)] = 100
    return hu


@pytest.mark.parametrize("mm", [0.4, 0.8, 1.5, 2.5])
def test_the_body_is_both_legs_with_their_cavity_and_without_the_couch(mm: float) -> None:
    side = int(320 / mm)
    body = body_mask(phantom(side, mm), (mm, mm))
    row, column = (axis * mm for axis in np.indices((side, side)) - side / 2)
    legs = (np.hypot(row, column - 75) < 60) | (np.hypot(row, column + 75) < 60)
    assert (body ^ legs).sum() * mm**2 < 0.06 * legs.sum() * mm**2
    assert not body[row > 85].any()


def test_pixels_need_not_be_square() -> None:
    hu = phantom(400, 0.8)
    whole, narrow = body_mask(hu, (0.8, 0.8)), body_mask(hu[:, ::3], (0.8, 2.4))
    assert (whole[:, ::3] ^ narrow).mean() < 0.02


def test_the_box_holds_the_mask_and_no_row_or_column_more() -> None:
    mask = np.zeros((9, 8), bool)
    mask[2, 3] = mask[5, 6] = True
    assert box_of(mask) == (slice(2, 6), slice(3, 7))
    assert box_of(mask, 4) == (slice(0, 10), slice(0, 11))
    assert mask[box_of(mask, 4)].sum() == 2


def test_only_a_slice_that_is_cut_off_is_saturated() -> None:
    hu = np.array([[3071.0, 3060.0, 2000.0]])
    assert saturated(hu).tolist() == [[True, True, False]]
    assert not saturated(hu + 1).any()
    assert saturated(hu + 5000, brightest_hu=8071).tolist() == [[True, True, False]]
