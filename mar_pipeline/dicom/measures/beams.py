"""How much longer or shorter tissue looks along a beam after the correction, in mm of water.

A treatment plan sends protons or photons through the image. What counts for their range and their dose is the
water-equivalent thickness: the integral of the stopping power, or of the attenuation, relative to water.
"""

import math

import numpy as np
from scipy import ndimage
from skimage.measure import block_reduce

from simulation.units import stopping_power

ANGLES_DEG = tuple(range(0, 180, 5))
"""Of the parallel beams to a row, in the slice plane: a streak lies along one of them or nearly so."""
_FINE_MM = 2.0
"""Images of smaller pixels are averaged to about this: a streak is wider."""


def attenuation(hu: np.ndarray) -> np.ndarray:
    """Return the photon attenuation relative to water, not below 0.

    >>> attenuation(np.array([-1000.0, 0.0, 1000.0]))
    array([0., 1., 2.])
    """
    return np.maximum((hu + 1000.0) / 1000.0, 0.0)


def depths_mm(relative: np.ndarray, spacing_mm: tuple[float, float], angle_deg: float) -> np.ndarray:
    """Return the integral along parallel beams from where they enter the image to each depth.

    Along rows and columns the voxels are summed; along slanted beams the image is interpolated linearly at steps of the
    smaller spacing, and so are the beams apart.

    Args:
        relative: Float["rows columns"], what a mm adds; 0 outside the body.
        spacing_mm: distance of rows, and of columns.
        angle_deg: between a beam and a row; 90 runs down the columns.

    Returns:
        Float["beams steps"], mm; the last step is the whole way.

    >>> depths_mm(np.ones((2, 3)), (1.0, 2.0), 0)[:, -1]
    array([6., 6.])
    """
    if angle_deg % 90 == 0:
        along_rows = angle_deg % 180 == 0
        lines, step_mm = (relative, spacing_mm[1]) if along_rows else (relative.T, spacing_mm[0])
        return np.cumsum(lines, axis=1, dtype=np.float64) * step_mm
    step_mm = min(spacing_mm)
    rows, columns = relative.shape
    half = math.ceil(math.hypot(rows * spacing_mm[0], columns * spacing_mm[1]) / 2 / step_mm)
    steps_mm = np.arange(-half, half + 1) * step_mm
    across, along = steps_mm[:, None], steps_mm
    cosine, sine = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    places = np.stack(
        [
            (along * sine + across * cosine) / spacing_mm[0] + (rows - 1) / 2,
            (along * cosine - across * sine) / spacing_mm[1] + (columns - 1) / 2,
        ]
    )
    sampled = ndimage.map_coordinates(relative.astype(np.float64), places, order=1, mode="grid-constant")
    return np.cumsum(sampled, axis=1) * step_mm


def largest_change_mm(
    before: np.ndarray, after: np.ndarray, body: np.ndarray, spacing_mm: tuple[float, float]
) -> tuple[float, float]:
    """Return the largest change of the water-equivalent thickness, for protons and for photons, in mm.

    It is the largest over parallel beams in steps of 5 degrees in the slice, from either side, and over all depths: a
    beam enters the body and may end anywhere in it, or leave it. What lies outside the body counts as nothing, before
    and after.

    Args:
        before: Float["rows columns"] in HU.
        after: the same.
        body: Bool["rows columns"].
        spacing_mm: distance of rows, and of columns.

    >>> water, body = np.zeros((2, 100)), np.ones((2, 100), bool)
    >>> round(largest_change_mm(water, water + 100, body, (1.0, 1.0))[1], 6)
    10.0
    """
    coarse = tuple(max(1, round(_FINE_MM / side)) for side in spacing_mm)
    coarse_mm = (spacing_mm[0] * coarse[0], spacing_mm[1] * coarse[1])

    def largest(change: np.ndarray) -> float:
        change = block_reduce(change, coarse, np.mean)
        found = 0.0
        for angle in ANGLES_DEG:
            depths = depths_mm(change, coarse_mm, angle)
            from_behind = depths[:, -1:] - depths
            found = max(found, float(np.abs(depths).max()), float(np.abs(from_behind).max()))
        return found

    protons, photons = (
        largest(np.where(body, relative(after) - relative(before), 0.0)) for relative in (stopping_power, attenuation)
    )
    return protons, photons
