"""Laws of the scan as a value: the presets are the scanners they are named after, and impossible scans are refused."""

import dataclasses
import math

import numpy as np
import pytest

from simulation.errors import InputError, UsageError
from simulation.physics.geometry import GEOMETRIES, FanBeam


def scan(**changes) -> FanBeam:
    values = {
        "image_shape": (32, 32),
        "pixel_mm": 1.0,
        "source_mm": 100.0,
        "detector_mm": 50.0,
        "views": 8,
        "bins": 49,
        "pitch_mm": 2.0,
    }
    return FanBeam(**{**values, **changes})


def test_the_benchmark_geometry_is_the_measured_one() -> None:
    """The numbers of specs/simulation.md, in mm."""
    geometry = FanBeam.preset("syndeeplesion")
    assert geometry.image_shape == (416, 416)
    assert geometry.sinogram_shape == (640, 641)
    assert geometry.pixel_mm == pytest.approx(0.36923, abs=5e-6)
    assert 416 * geometry.pixel_mm == pytest.approx(153.6, rel=1e-12)
    assert geometry.source_mm == geometry.detector_mm == pytest.approx(396.923, abs=1e-3)
    assert geometry.magnification == 2
    assert geometry.pitch_mm == pytest.approx(0.677764, abs=1e-6)
    assert 641 * geometry.pitch_mm == pytest.approx(434.446, abs=1e-3)


def test_the_clinical_geometry_has_a_real_size() -> None:
    """550 / 950 mm and 1000 views of the AAPM challenge's scanner, a 500 mm image that every view sees whole."""
    geometry = FanBeam.preset("clinical")
    assert geometry.image_shape == (512, 512)
    assert 512 * geometry.pixel_mm == 500
    assert (geometry.source_mm, geometry.source_mm + geometry.detector_mm) == (550, 950)
    assert (geometry.views, geometry.pitch_mm) == (1000, 1.0)
    assert 500 <= geometry.field_of_view_mm < 503


def test_views_are_taken_at_cell_centres_of_the_full_circle() -> None:
    geometry = FanBeam.preset("syndeeplesion")
    angles = geometry.angles_rad
    assert angles[0] == pytest.approx(math.pi / geometry.views)
    np.testing.assert_allclose(np.diff(angles), 2 * math.pi / geometry.views)
    assert angles[-1] == pytest.approx(2 * math.pi - angles[0])


@pytest.mark.parametrize("clockwise", [False, True])
def test_views_start_and_turn_as_told(clockwise: bool) -> None:
    """The source of the first view is on top, of the quarter after it on the left, or clockwise on the right."""
    angles = scan(views=8, first_view_rad=-math.pi / 2, clockwise=clockwise).angles_rad
    sources = np.stack([np.sin(angles), -np.cos(angles)], axis=1)  # row, column
    np.testing.assert_allclose(sources[0], [-1, 0], atol=1e-12)
    np.testing.assert_allclose(sources[2], [0, 1 if clockwise else -1], atol=1e-12)


@pytest.mark.parametrize("detector", ["flat", "arc"])
def test_a_shifted_detector_has_the_central_ray_elsewhere(detector: str) -> None:
    geometry = scan(bins=20, detector=detector, column_offset=-1.25)
    assert geometry.central_bin == 9.5 + 1.25
    assert np.interp(0, geometry.fan_rad, np.arange(20)) == pytest.approx(10.75, abs=1e-3)


def test_bins_of_an_arc_are_equal_angles_whose_chord_is_the_pitch() -> None:
    geometry = FanBeam.preset("ctmar")
    steps = np.diff(geometry.fan_rad)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-12)
    assert 2 * 950 * math.tan(steps[0] / 2) == pytest.approx(1.0)


def test_what_has_its_default_is_not_stated() -> None:
    """So that manifests and hashes of sets made before there were arcs stay what they are."""
    assert set(FanBeam.preset("syndeeplesion").facts) == {
        *("image_shape", "pixel_mm", "source_mm", "detector_mm", "views", "bins", "pitch_mm")
    }
    arc = FanBeam.preset("ctmar")
    assert "detector='arc'" in repr(arc) and "clockwise" not in repr(arc)
    assert FanBeam(**arc.facts) == arc


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"detector": "bent"}, "got detector 'bent'"),
        ({"column_offset": 6.0}, "column offset of 6.0 of 10 bins"),
        ({"column_offset": math.nan}, "column offset"),
        ({"detector": "arc", "bins": 400}, "a fan wider than pi"),
    ],
)
def test_detectors_that_cannot_be_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        scan(**{"bins": 10, **changes})


@pytest.mark.parametrize("bins", [2, 5, 640])
def test_bins_lie_symmetric_about_the_central_ray(bins: int) -> None:
    geometry = scan(bins=bins)
    np.testing.assert_allclose(geometry.bins_mm, -geometry.bins_mm[::-1], atol=1e-12)
    np.testing.assert_allclose(np.diff(geometry.bins_mm), geometry.pitch_mm)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_the_field_of_view_touches_the_outermost_ray(name: str) -> None:
    """Its radius is the isocentre's distance from the ray to the detector's nearer end, here by a cross product."""
    geometry = FanBeam.preset(name)
    source_detector_mm, half = (
        geometry.source_mm + geometry.detector_mm,
        geometry.bins / 2 - abs(geometry.column_offset),
    )
    end = np.array([source_detector_mm, half * geometry.pitch_mm])
    if geometry.detector == "arc":
        end = source_detector_mm * np.array([math.cos(half * geometry.bin_rad), math.sin(half * geometry.bin_rad)])
    distance = abs(end[1] * geometry.source_mm) / np.hypot(*end)
    assert geometry.field_of_view_mm == pytest.approx(2 * distance, rel=1e-12)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_presets_see_the_whole_circle_inscribed_in_the_image(name: str) -> None:
    geometry = FanBeam.preset(name)
    assert geometry.field_of_view_mm >= geometry.image_shape[0] * geometry.pixel_mm


def test_pixels_inside_the_field_of_view_are_those_that_every_view_projects_onto_its_detector() -> None:
    geometry = scan(bins=20, image_shape=(33, 40))
    x, y = ((np.arange(n) - (n - 1) / 2) * geometry.pixel_mm for n in geometry.image_shape)
    seen = np.ones(geometry.image_shape, bool)
    for theta in np.linspace(0, 2 * np.pi, 2000):
        depth = geometry.source_mm - np.sin(theta) * x[:, None] + np.cos(theta) * y
        across = (np.cos(theta) * x[:, None] + np.sin(theta) * y) * 150 / depth
        seen &= np.abs(across) <= geometry.bins * geometry.pitch_mm / 2
    np.testing.assert_array_equal(geometry.inside_field_of_view, seen)
    assert 0 < np.count_nonzero(seen) < seen.size


def test_geometries_are_values() -> None:
    assert scan() == scan()
    assert hash(scan()) == hash(scan())
    assert scan() != scan(views=9)
    with pytest.raises(dataclasses.FrozenInstanceError):
        scan().views = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    "changes",
    [{"views": 0}, {"bins": 1}, {"image_shape": (0, 32)}, {"pixel_mm": 0}, {"source_mm": -1}, {"pitch_mm": 0}],
)
def test_counts_and_lengths_that_are_not_positive_are_refused(changes: dict) -> None:
    with pytest.raises(InputError, match="fan-beam geometry"):
        scan(**changes)


def test_a_detector_behind_the_isocentre_is_refused_and_one_at_it_is_not() -> None:
    assert scan(detector_mm=0).magnification == 1
    with pytest.raises(InputError, match="must be positive"):
        scan(detector_mm=-1)


def test_an_image_that_reaches_the_source_is_refused() -> None:
    scan(pixel_mm=4.4)
    with pytest.raises(InputError, match=r"reaches the source at 100 mm; use a smaller pixel"):
        scan(pixel_mm=4.42)


def test_an_unknown_preset_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"unknown geometry 'dental'; expected one of syndeeplesion, clinical, ctmar"):
        FanBeam.preset("dental")
