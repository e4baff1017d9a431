"""Numbers of a slice and of a series."""

import numpy as np
import pytest
from metal_slices import discs

from mar_pipeline.dicom.measures.figures import MeasuredSlice, SliceFigures, series_figures, slice_figures, unmet
from mar_pipeline.dicom.measures.regions import Plane, Sphere
from mar_pipeline.dicom.measures.rings import RING_NAMES
from mar_pipeline.dicom.reading.image_header import Geometry
from mar_pipeline.dicom.review.measures import region_rows, slice_facts

SHAPE, SPACING_MM = (100, 120), (2.0, 2.0)
BALL = Sphere("ball", (20.0, 0.0, 0.0), 20.0)


def measured() -> MeasuredSlice:
    """A trunk with a bar of metal, and a bright streak at it that the correction takes away."""
    body = discs(SHAPE, 2.0, (0, 0, 90))
    before = np.where(body, 40.0, -1000.0)
    metal = np.zeros(SHAPE, bool)
    metal[48:52, 60:64] = True
    before[metal] = 9000
    after = before.copy()
    before[50, 66] = 3000  # three pixels, 6 mm, from the metal: too far to be its image
    before[50, 65] = 2600  # 4 mm
    before[60, 60:70] += 150
    geometry = Geometry((-119.0, -99.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), SPACING_MM)
    inside = np.zeros(SHAPE, bool)
    inside[:, :110] = True
    return MeasuredSlice(Plane(geometry, SHAPE, 1.5, "1.2"), before, after, metal, inside)


def test_areas_of_metal_and_of_change_are_counts_of_voxels() -> None:
    figures = slice_figures(measured(), [], 2500)
    assert (figures.metal_mm2.mask, figures.metal_mm2.before, figures.metal_mm2.after) == (64, 68, 64)
    assert dict(figures.changed_mm2) == {20: 48, 100: 48}
    assert [region.name for region in figures.regions] == list(RING_NAMES)


def test_rows_of_the_csv_tell_before_from_after() -> None:
    facts = slice_facts(slice_figures(measured(), [BALL], 2500), 3.0, {})
    rows = {(row["region"], row["image"]): row for row in region_rows({"slice": 7}, facts)}
    assert {row["metal_above_threshold_mm2"] for (_, image), row in rows.items() if image == "before"} == {68}
    assert {row["metal_above_threshold_mm2"] for (_, image), row in rows.items() if image == "after"} == {64}
    assert rows["ring 0-10 mm", "before"]["max_hu"] == 3000
    assert rows["ring 0-10 mm", "after"]["max_hu"] == 40
    assert {row["slice"] for row in rows.values()} == {7}
    assert {row["changed_by_more_than_20_hu_cm3"] for row in rows.values()} == {round(48 * 3 / 1000, 3)}


def test_a_region_holds_its_metal_and_ends_with_the_field_of_view() -> None:
    images = measured()
    ball = slice_figures(images, [BALL], 2500).regions[-1]
    mask = BALL.mask(images.plane)
    assert mask[images.metal].any() and ball.before.most == 9000
    assert ball.before.count == mask.sum()
    edge = Sphere("edge", (100.0, 0.0, 0.0), 30.0)
    cut = slice_figures(images, [edge], 2500).regions[-1]
    assert cut.before.count == (edge.mask(images.plane) & images.inside).sum() < edge.mask(images.plane).sum()


def test_a_series_is_all_voxels_of_its_slices_and_the_largest_of_their_paths() -> None:
    one = slice_figures(measured(), [BALL], 2500)
    other = SliceFigures(one.regions[-1:], None)
    series = series_figures([None, one, other], [3.0, 3.0, 3.0])
    counts = {region.name: region.before.count for region in series.regions}
    assert counts["ball"] == 2 * one.regions[-1].before.count
    assert counts["ring 0-10 mm"] == one.regions[0].before.count
    assert series.metal_cm3.before == pytest.approx(68 * 3 / 1000)
    assert (series.proton_path_mm, series.photon_path_mm) == (one.proton_path_mm, one.photon_path_mm)
    assert list(counts) == [*RING_NAMES, "ball"]


def test_a_single_slice_has_no_volume() -> None:
    series = series_figures([slice_figures(measured(), [], 2500)], None)
    assert series.metal_cm3 is None and series.changed_cm3 == ()


def test_regions_that_no_slice_meets_are_named() -> None:
    figures = slice_figures(measured(), [BALL], 2500)
    assert unmet([BALL, Sphere("far", (0, 0, 99), 1)], [None, figures]) == ["far"]
