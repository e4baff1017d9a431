"""RTSTRUCT and SEG files beside a series."""

import numpy as np
import pytest
from dicom_files import strip_meta, write_series
from structure_files import OWN_NAME, write_rtstruct, write_seg

from mar_pipeline.dicom.measures.regions import Plane, half_gap_mm
from mar_pipeline.dicom.measures.structures import Found, read_structures
from mar_pipeline.dicom.reading.discovery import discover
from mar_pipeline.dicom.reading.files import read_header
from mar_pipeline.dicom.reading.image_header import geometry
from mar_pipeline.dicom.reading.limits import DEFAULT_LIMITS

SIDE, SPACING_MM = 64, 4.0


@pytest.fixture
def folder(tmp_path):
    write_series(tmp_path / "ct", 3)
    return tmp_path


def found(folder) -> tuple[Found, list[Plane]]:
    known = discover(folder)
    (series,) = known.series
    files = [(folder / one.name, one.name) for one in known.skipped]
    headers = [read_header(file.path, file.name, DEFAULT_LIMITS).dataset for file in series.slices]
    planes = [
        Plane(geometry(header, file.name), series.shape, half_gap_mm(series.gap_mm), file.sop_uid)
        for header, file in zip(headers, series.slices, strict=True)
    ]
    return read_structures(series, files, DEFAULT_LIMITS), planes


def box(low: int, high: int, number: int) -> np.ndarray:
    """A contour around the pixels from low to high in both directions of a slice."""
    low_mm, high_mm = (-126.0 + SPACING_MM * place for place in (low - 0.4, high + 0.4))
    corners = ((low_mm, low_mm), (high_mm, low_mm), (high_mm, high_mm), (low_mm, high_mm))
    return np.array([[x, y, 5.0 * number] for x, y in corners])


def block(low: int, high: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[low : high + 1, low : high + 1] = True
    return mask


def test_contours_and_their_holes_come_back_as_pixels_on_their_slice(folder):
    write_rtstruct(folder / "rs.dcm", {7: [box(10, 30, 1), box(15, 20, 1), box(40, 41, 2)], 9: [box(5, 6, 0)]})
    structures, planes = found(folder)
    assert [(one.name, one.label) for one in structures.regions] == [
        ("rtstruct1-roi7", OWN_NAME),
        ("rtstruct1-roi9", OWN_NAME),
    ]
    assert structures.warnings == ()
    first, second = structures.regions
    assert first.mask(planes[0]) is None
    np.testing.assert_array_equal(first.mask(planes[1]), block(10, 30) & ~block(15, 20))
    np.testing.assert_array_equal(first.mask(planes[2]), block(40, 41))
    np.testing.assert_array_equal(second.mask(planes[0]), block(5, 6))


def test_a_segment_comes_back_on_the_images_it_was_drawn_on(folder):
    write_seg(folder / "seg.dcm", {0: block(3, 9), 2: block(20, 50)})
    structures, planes = found(folder)
    (segment,) = structures.regions
    assert (segment.name, segment.label, structures.warnings) == ("seg1-segment4", OWN_NAME, ())
    np.testing.assert_array_equal(segment.mask(planes[0]), block(3, 9))
    assert segment.mask(planes[1]) is None
    np.testing.assert_array_equal(segment.mask(planes[2]), block(20, 50))


def test_files_of_another_series_are_no_concern_of_this_one(folder):
    write_rtstruct(folder / "rs.dcm", {1: [box(1, 2, 0)]}, series_uid="1.2.3")
    assert found(folder)[0] == Found()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SegmentationType": "FRACTIONAL"}, "binary"),
        ({"Rows": 32, "Columns": 128}, "rows and columns"),
        ({"NumberOfFrames": 100_000}, "ends early"),
        ({"PixelData": b"\0\0"}, "damaged"),
        ({"PerFrameFunctionalGroupsSequence": None}, "damaged"),
    ],
)
def test_what_cannot_be_used_is_a_warning_without_the_files_own_words(folder, changes, message):
    write_seg(folder / "seg.dcm", {0: block(3, 9)}, **changes)
    structures, _ = found(folder)
    assert structures.regions == ()
    (warning,) = structures.warnings
    assert message in warning and OWN_NAME not in warning


def test_points_and_open_contours_are_left_out_and_told(folder):
    write_rtstruct(folder / "rs.dcm", {1: [box(1, 2, 0)[:1], box(10, 12, 0)]})
    structures, planes = found(folder)
    np.testing.assert_array_equal(structures.regions[0].mask(planes[0]), block(10, 12))
    assert "left out" in structures.warnings[0]


def test_structures_without_preamble_and_file_meta_are_read(folder):
    write_rtstruct(folder / "rs.dcm", {7: [box(10, 30, 1)]})
    write_seg(folder / "seg.dcm", {0: block(3, 9)})
    for name in ("rs.dcm", "seg.dcm"):
        strip_meta(folder / name)
        assert b"DICM" not in (folder / name).read_bytes()[:200]
    structures, planes = found(folder)
    contours, segment = structures.regions
    assert structures.warnings == ()
    np.testing.assert_array_equal(contours.mask(planes[1]), block(10, 30))
    np.testing.assert_array_equal(segment.mask(planes[0]), block(3, 9))
