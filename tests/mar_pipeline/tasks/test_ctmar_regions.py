"""Regions of interest of the CT-MAR scores: where they lie, and what images have none."""

import math

import numpy as np
import pytest
from scipy import ndimage
from square_case import square_case

from mar_pipeline.tasks.ctmar_regions import automatic_regions
from simulation.errors import InputError


def box(columns: slice) -> np.ndarray:
    mask = np.zeros((128, 128), bool)
    mask[14:114, columns] = True
    return mask


def test_automatic_regions_lie_where_they_say():
    truth, metal = square_case()
    regions = automatic_regions(truth, metal, 1.0)
    truth, off_metal_mm = np.round(truth, -2), ndimage.distance_transform_edt(~metal)
    assert np.array_equal(regions.body, box(slice(14, 114)))
    assert np.ptp(truth[regions.noise]) == 0 and off_metal_mm[regions.noise].min() >= 20
    assert regions.noise.sum() == pytest.approx(math.pi * 6**2, rel=0.05)
    assert set(np.unique(truth[regions.bone])) == {0, 700} and off_metal_mm[regions.bone].min() >= 10
    assert set(np.unique(truth[regions.soft])) == {-100, 0} and off_metal_mm[regions.soft].min() >= 10
    assert np.array_equal(regions.metal, off_metal_mm <= 10)
    assert np.argwhere(regions.target).mean(axis=0) == pytest.approx([63.5, 63.5])
    again = automatic_regions(square_case()[0], metal, 1.0)
    assert all(np.array_equal(getattr(again, name), value) for name, value in vars(regions).items())


def test_the_body_is_the_largest_component_with_its_holes():
    truth, metal = square_case()
    truth[:10, :10], truth[70:75, 40:45] = 0, -1000  # a thing beside it, and a pocket of air
    assert np.array_equal(automatic_regions(truth, metal, 1.0).body, box(slice(14, 114)))


@pytest.mark.parametrize(("name", "mm"), [("noise", 20), ("bone", 10), ("soft", 10)])
def test_a_region_goes_elsewhere_when_metal_lies_near_its_best_place(name, mm):
    truth, metal = square_case()
    best = getattr(automatic_regions(truth, metal, 1.0), name)
    row, column = np.argwhere(best).mean(axis=0).astype(int)
    metal[row, column - 13 : column - 11] = True  # a second piece, 4 or 6 mm off the disc
    found, off_metal_mm = getattr(automatic_regions(truth, metal, 1.0), name), ndimage.distance_transform_edt(~metal)
    assert off_metal_mm[best].min() < 8 and off_metal_mm[found].min() >= mm


def test_of_places_equally_flat_that_farthest_from_metal_is_taken():
    truth, metal = square_case()
    noise = automatic_regions(np.round(truth, -2), metal, 1.0).noise
    rows, columns = np.argwhere(noise).T
    assert columns.max() > 100 and (rows.min() < 30 or rows.max() > 100)


def test_streaks_are_sought_across_the_long_axis_between_two_pieces_or_beside_one():
    truth, metal = square_case()
    rows, columns = np.argwhere(automatic_regions(truth, metal, 1.0).streak).T
    assert (rows.min(), rows.max()) == (34, 94) and np.ptp(columns) < 12
    assert columns.min() - 29 in range(3, 8)  # beyond the rod's end at column 29; the other end is too near the skin
    pair = metal | metal[:, ::-1]
    rows, columns = np.argwhere(automatic_regions(truth, pair, 1.0).streak).T
    assert columns.mean() == pytest.approx(63.5, abs=1) and rows.min() == 34


@pytest.mark.parametrize("quarters", range(4))
def test_the_beam_comes_from_the_side_of_the_metal(quarters):
    truth, metal = (np.rot90(array, -quarters) for array in square_case())
    assert automatic_regions(truth, metal, 1.0).beam_deg == 90 * quarters


def test_an_image_without_a_place_for_a_region_is_refused():
    truth, metal = square_case()
    for image, what in [
        (np.full_like(truth, -1000), "body"),
        (np.where(truth > 300, 0, truth), "bone"),
        (np.where((truth < -50) & (truth > -500), 0, truth), "soft"),
        (np.where(truth > -500, truth + 400, truth), "noise"),
    ]:
        with pytest.raises(InputError, match=what):
            automatic_regions(image, metal, 1.0)
    across = box(slice(14, 44))
    with pytest.raises(InputError, match="streak"):
        automatic_regions(truth, across, 1.0)
