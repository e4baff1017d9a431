"""Spheres and contours in the patient's coordinates."""

import math

import numpy as np
import pytest

from mar_pipeline.dicom.measures.regions import Contours, Plane, Sphere, half_gap_mm, parse_spheres
from mar_pipeline.dicom.reading.image_header import Geometry
from simulation.errors import UsageError

TURNED = (math.cos(0.3), math.sin(0.3), 0.0, -math.sin(0.3), math.cos(0.3), 0.0)
UPRIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def plane(z_mm: float, spacing_mm=(0.8, 0.8), orientation=UPRIGHT, corner=(-40.0, -40.0), gap_mm=1.0) -> Plane:
    return Plane(Geometry((*corner, z_mm), orientation, spacing_mm), (100, 110), half_gap_mm(gap_mm), "1.2.3")


@pytest.mark.parametrize("orientation", [UPRIGHT, TURNED])
def test_a_sphere_has_its_volume(orientation):
    sphere, spacing_mm, gap_mm = Sphere("a", (-3.0, 7.0, 1.3), 12.0), (0.8, 1.1), 1.0
    masks = [sphere.mask(plane(z, spacing_mm, orientation)) for z in np.arange(-20, 25, gap_mm)]
    volume = sum(mask.sum() for mask in masks if mask is not None) * math.prod(spacing_mm) * gap_mm
    assert volume == pytest.approx(4 / 3 * math.pi * 12**3, rel=0.01)


def test_a_sphere_holds_the_voxels_whose_centres_lie_inside():
    sphere, one = Sphere("a", (1.0, 2.0, 3.0), 5.0), plane(0.4, orientation=TURNED)
    rows, columns = np.mgrid[:100, :110]
    across, down = np.array(TURNED).reshape(2, 3)
    points = np.array([-40, -40, 0.4]) + columns[..., None] * 0.8 * across + rows[..., None] * 0.8 * down
    np.testing.assert_array_equal(sphere.mask(one), np.linalg.norm(points - [1, 2, 3], axis=-1) <= 5)


def test_a_sphere_beside_the_images_holds_nothing():
    assert Sphere("a", (0, 0, 10), 3).mask(plane(0)) is None
    assert Sphere("a", (500, 0, 0), 3).mask(plane(0)) is None


def square(half_mm: float, z_mm: float) -> np.ndarray:
    return np.array([[x * half_mm, y * half_mm, z_mm] for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))])


def test_a_contour_within_a_contour_is_a_hole():
    mask = Contours("a", None, (square(20.1, 5), square(10.1, 5))).mask(plane(5, (1, 1)))
    rows, columns = np.mgrid[-40:60, -40:70]
    reach = np.maximum(abs(rows), abs(columns))
    np.testing.assert_array_equal(mask, (reach <= 20) & (reach > 10))


def test_a_contour_belongs_to_the_slice_that_it_lies_on_and_to_no_other():
    roi = Contours("a", None, (square(5, 3.0), square(6, 4.5)))
    on = [z for z in np.arange(0, 8, 1.0) if roi.mask(plane(z)) is not None]
    assert on == [3.0, 5.0]  # 4.5 lies half way, and is drawn once
    slanted = square(5, 3.0)
    slanted[0, 2] = 6
    assert Contours("a", None, (slanted,)).mask(plane(3)) is None


def test_a_contour_that_reaches_beyond_the_image_is_cut_off_there():
    mask = Contours("a", None, (square(1000, 0),)).mask(plane(0))
    assert mask.all()
    assert Contours("a", None, (square(3, 0) + np.array([900, 0, 0]),)).mask(plane(0)) is None


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a"], "four numbers"),
        (["a=1,2,3"], "four numbers"),
        (["a=1,2,3,x"], "four numbers"),
        (["a=1,2,3,0"], "radius above 0"),
        (["a=1,2,nan,4"], "centre within"),
        (["a=1,2,3,inf"], "radius"),
        (["=1,2,3,4"], "a name of"),
        (["a b=1,2,3,4"], "a name of"),
        (["a=1,2,3,4", "b=1,2,3,4", "a=9,9,9,9"], "given twice"),
    ],
)
def test_a_malformed_sphere_is_a_mistake_of_the_user(texts, message):
    with pytest.raises(UsageError, match=message):
        parse_spheres(texts)
