"""Images in their order: positions along the slice normal, gaps and tilt, all from position and orientation."""

import math
from collections.abc import Sequence

import numpy as np

from mar_pipeline.dicom.reading.image_header import Geometry

SAME_POSITION_MM = 0.01
SAME_DIRECTION = 1e-3
"""Largest difference of two direction cosines that still are one orientation (0.06 degrees)."""
OFF_LINE_MM = 1.0
"""Images that lie farther off one line were shifted against each other: their voxels are not those of a stack."""
TILT_DEG = 0.1
"""A tilt from here on is worth a warning."""
MISSING_GAP = 1.5
"""A gap from this multiple of the median on looks like missing slices."""
UNEVEN_GAP = 0.02
"""Gaps that differ from the median by more than this share of it are uneven; positions are rounded to 0.01 mm or so."""
SHOWN = 3
LEAST_AXIAL = 0.7
"""Cosine between slice normal and patient axis below which slices are coronal or sagittal."""


def positions_mm(places: Sequence[Geometry]) -> np.ndarray:
    """Return positions along the normal of the first image: float64 [images], in mm."""
    normal = slice_normal(places[0])
    return np.array([place.position_mm for place in places]) @ normal


def slice_normal(place: Geometry) -> np.ndarray:
    """Return the unit vector across a slice."""
    normal = np.cross(place.orientation[:3], place.orientation[3:])
    return normal / np.linalg.norm(normal)


def differing_orientation(places: Sequence[Geometry]) -> int | None:
    """Index of an image that is turned against the first, None if there is none."""
    orientations = np.array([place.orientation for place in places])
    turned = np.abs(orientations - orientations[0]).max(axis=1) > SAME_DIRECTION
    return int(turned.argmax()) if turned.any() else None


def tilt_deg(places: Sequence[Geometry]) -> float:
    """Angle between the slice normal and the way from the first to the last position, in degrees.

    Args:
        places: in the order of their positions; of a single one the tilt is 0.
    """
    way = np.subtract(places[-1].position_mm, places[0].position_mm)
    length = float(np.linalg.norm(way))
    if length < SAME_POSITION_MM:
        return 0.0
    along = float(abs(way @ slice_normal(places[0])))
    return math.degrees(math.atan2(math.sqrt(max(length**2 - along**2, 0.0)), along))


def off_line_mm(places: Sequence[Geometry]) -> float:
    """Return how far an image lies off the straight line from the first to the last, at most, in mm."""
    points = np.array([place.position_mm for place in places])
    way = points[-1] - points[0]
    length = float(np.linalg.norm(way))
    if length < SAME_POSITION_MM:
        return 0.0
    offset = points - points[0]
    along = offset @ way / length
    return float(np.linalg.norm(offset - along[:, None] * way / length, axis=1).max())


def gap_mm(positions: np.ndarray) -> float | None:
    """Median distance of neighbours in mm, None of a single image."""
    return float(np.median(np.diff(positions))) if len(positions) > 1 else None


def thicknesses_mm(positions: Sequence[float]) -> tuple[float, ...] | None:
    """Return the thickness that each image stands for, half the way to its neighbours; None of a single image.

    Where slices are missing, an image stands for no more than the median distance.

    >>> thicknesses_mm([0.0, 2.0, 5.0, 7.0, 17.0])
    (2.0, 2.5, 2.5, 2.25, 2.5)
    """
    if len(positions) < 2:
        return None
    gaps = np.diff(positions)
    median = float(np.median(gaps))
    gaps = np.where(gaps > MISSING_GAP * median, median, gaps)
    return tuple(((np.append(gaps[:1], gaps) + np.append(gaps, gaps[-1:])) / 2).tolist())


def stacking_warnings(names: Sequence[str], positions: np.ndarray, tilt: float) -> list[str]:
    """Return what is uncommon about a stack: missing slices, uneven spacing, tilt.

    Args:
        names: of the files, in order.
        positions: in mm, rising.
        tilt: in degrees.
    """
    warnings = []
    median, gaps = gap_mm(positions), np.diff(positions)
    if median:
        wide = [int(index) for index in np.flatnonzero(gaps > MISSING_GAP * median)]
        if wide:
            where = [f"between {names[i]} and {names[i + 1]} ({gaps[i]:.2f} mm)" for i in wide[:SHOWN]]
            more = f" and {len(wide) - SHOWN} more" if len(wide) > SHOWN else ""
            warnings.append(
                f"slices may be missing: the median gap is {median:.2f} mm, wider ones are {', '.join(where)}{more}"
            )
        narrow = gaps[gaps <= MISSING_GAP * median]
        if np.abs(narrow - median).max() > max(UNEVEN_GAP * median, SAME_POSITION_MM):
            warnings.append(f"uneven spacing: gaps of {narrow.min():.2f} to {narrow.max():.2f} mm")
    if tilt >= TILT_DEG:
        warnings.append(f"tilted gantry: positions advance {tilt:.1f} degrees off the slice normal")
    return warnings
