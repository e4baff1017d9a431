"""Regions that someone named, in the patient's coordinates, and their voxels in a slice."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from skimage.draw import polygon2mask

from mar_pipeline.dicom.reading.image_header import Geometry, same_spacing
from simulation.errors import UsageError

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,32}")
_MOST_MM = 1e5
_SAME_PLACE_MM = 0.05
"""Images whose first voxels are no farther apart lie in the same place."""

Crop = tuple[int, int, np.ndarray]
"""Row and column of a corner, and the voxels from there."""


@dataclass(frozen=True)
class Plane:
    """One slice in the patient.

    Args:
        geometry: where its first voxel lies, in mm, LPS as in DICOM, and where its rows and columns run.
        shape: rows and columns.
        half_gap_mm: how far before the slice, along its normal, a contour belongs to it; behind it, what is nearer.
        sop_uid: SOPInstanceUID.
    """

    geometry: Geometry
    shape: tuple[int, int]
    half_gap_mm: float
    sop_uid: str

    def to_pixels(self, points_mm: np.ndarray) -> np.ndarray:
        """Return row, column and distance in mm along the slice normal of points: Float["points 3"]."""
        along_row, along_column = np.array(self.geometry.orientation).reshape(2, 3)
        offset = np.asarray(points_mm, float) - self.geometry.position_mm
        rows, columns = (
            offset @ along_column / self.geometry.spacing_mm[0],
            offset @ along_row / self.geometry.spacing_mm[1],
        )
        return np.stack([rows, columns, offset @ np.cross(along_row, along_column)], axis=-1)


class Region(Protocol):
    """A region that is measured in every slice it meets."""

    @property
    def name(self) -> str:
        """What it is called in files and messages; says nothing about a patient."""

    @property
    def label(self) -> str | None:
        """What the source calls it; free text, which may name a patient."""

    def mask(self, plane: Plane) -> np.ndarray | None:
        """Return its voxels in a slice, Bool["rows columns"], or None if it holds none there."""


@dataclass(frozen=True)
class Sphere:
    """A ball: the voxels whose centres lie inside, on each slice.

    Args:
        name: letters, digits, dot, dash and underscore.
        centre_mm: x, y, z of the patient, LPS as in DICOM.
        radius_mm: above 0.
    """

    name: str
    centre_mm: tuple[float, float, float]
    radius_mm: float

    @property
    def label(self) -> str | None:
        """Return nothing: a sphere has no other name than the user's."""
        return None

    def mask(self, plane: Plane) -> np.ndarray | None:
        """Return its voxels in a slice, or None if it holds none there."""
        ((row, column, distance_mm),) = plane.to_pixels(np.array([self.centre_mm]))
        rest = self.radius_mm**2 - distance_mm**2
        if rest < 0:
            return None
        row_mm, column_mm = (
            (np.arange(count) - middle) * spacing
            for count, middle, spacing in zip(plane.shape, (row, column), plane.geometry.spacing_mm, strict=True)
        )
        inside = row_mm[:, None] ** 2 + column_mm**2 <= rest
        return inside if inside.any() else None


@dataclass(frozen=True)
class Contours:
    """An ROI of an RTSTRUCT: closed planar contours; where two overlap, the inner one is a hole.

    Args:
        name: by numbers.
        label: what the source calls it.
        contours_mm: Float["points 3"] each.
    """

    name: str
    label: str | None
    contours_mm: tuple[np.ndarray, ...]

    def mask(self, plane: Plane) -> np.ndarray | None:
        """Return its voxels in a slice: those whose centres lie in an odd number of its contours there."""
        inside = np.zeros(plane.shape, bool)
        for index in np.flatnonzero(_belongs(plane, self._first_points_mm)):
            contour = self.contours_mm[index]
            if _belongs(plane, contour).all():
                inside ^= _filled(plane.shape, plane.to_pixels(contour)[:, :2])
        return inside if inside.any() else None

    @cached_property
    def _first_points_mm(self) -> np.ndarray:
        return np.stack([contour[0] for contour in self.contours_mm])


@dataclass(frozen=True)
class Segment:
    """A segment of a SEG that was drawn on the images of the series, or on others in the same places.

    Args:
        name: by numbers.
        label: what the source calls it.
        frames: SOPInstanceUID of an image -> row and column of a corner, and the voxels from there.
        placed: the same of frames that were drawn on images of another series, each with its place.
    """

    name: str
    label: str | None
    frames: Mapping[str, Crop]
    placed: Sequence[tuple[Geometry, Crop]] = ()

    def mask(self, plane: Plane) -> np.ndarray | None:
        """Return its voxels in a slice, or None if it holds none there."""
        crop = self.frames.get(plane.sop_uid) or next(
            (one for geometry, one in self.placed if same_place(geometry, plane.geometry)), None
        )
        if crop is None:
            return None
        row, column, part = crop
        inside = np.zeros(plane.shape, bool)
        inside[row : row + part.shape[0], column : column + part.shape[1]] = part
        return inside if inside.any() else None


def parse_spheres(texts: Sequence[str]) -> tuple[Sphere, ...]:
    """Return the spheres that ``--roi NAME=x,y,z,radius_mm`` names.

    Raises:
        UsageError: one is malformed, or two have one name.

    >>> parse_spheres(["bladder=0,-12.5,340,8"])
    (Sphere(name='bladder', centre_mm=(0.0, -12.5, 340.0), radius_mm=8.0),)
    """
    spheres: list[Sphere] = []
    for text in texts:
        name, _, numbers = text.partition("=")
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"--roi {text}: expected NAME=x,y,z,radius_mm with a name of 1 to 32 letters, digits, dots, dashes or "
                "underscores"
            )
        try:
            x, y, z, radius = (float(number) for number in numbers.split(","))
        except ValueError:
            raise UsageError(f"--roi {text}: expected NAME=x,y,z,radius_mm with four numbers in mm") from None
        if not all(abs(number) <= _MOST_MM for number in (x, y, z)) or not 0 < radius <= _MOST_MM:
            raise UsageError(f"--roi {text}: expected a centre within {_MOST_MM:g} mm and a radius above 0 mm")
        if name in {sphere.name for sphere in spheres}:
            raise UsageError(f"--roi {text}: the name {name} is given twice; give each region its own")
        spheres.append(Sphere(name, (x, y, z), radius))
    return tuple(spheres)


def same_place(one: Geometry, other: Geometry) -> bool:
    """Return whether two images lie in the same place, pixel on pixel."""
    return (
        np.allclose(one.position_mm, other.position_mm, rtol=0, atol=_SAME_PLACE_MM)
        and np.allclose(one.orientation, other.orientation, rtol=0, atol=1e-3)
        and same_spacing(one.spacing_mm, other.spacing_mm)
    )


def _belongs(plane: Plane, points_mm: np.ndarray) -> np.ndarray:
    """Return which points are nearer to this slice than to its neighbours."""
    distances_mm = plane.to_pixels(points_mm)[:, 2]
    return (distances_mm >= -plane.half_gap_mm) & (distances_mm < plane.half_gap_mm)


def _filled(shape: tuple[int, int], outline: np.ndarray) -> np.ndarray:
    """Return the pixels inside a closed outline of rows and columns; drawn in its own box, as most are small."""
    filled = np.zeros(shape, bool)
    first = np.maximum(np.floor(outline.min(axis=0)).astype(int), 0)
    last = np.minimum(np.ceil(outline.max(axis=0)).astype(int) + 1, shape)
    if (last > first).all():
        box = tuple(slice(low, high) for low, high in zip(first, last, strict=True))
        filled[box] = polygon2mask(tuple(last - first), outline - first)
    return filled


def half_gap_mm(gap_mm: float | None) -> float:
    """Return how far from a slice a contour belongs to it: half the distance of slices; 1 mm beside a single one.

    >>> half_gap_mm(3.0)
    1.5
    """
    return 1.0 if gap_mm is None or not math.isfinite(gap_mm) or gap_mm <= 0 else gap_mm / 2
