"""Streaks in soft tissue: how far the fine structure around a piece of metal runs along the rays that leave it."""

import numpy as np
from scipy import ndimage

CLIPPED_HU = 300.0
_FINE_MM = 2.0
"""Streaks are finer than this; what is smoother is anatomy, or a dark band."""
_NEAR_MM, _REACH_MM, _SEGMENT_MM = 3.0, 30.0, 12.0
_STEP = 0.7
"""Samples of the polar image, in pixels."""
_FULL_SHARE, _FEWEST_SAMPLES = 0.8, 200


def fine_structure(hu: np.ndarray, spacing_mm: tuple[float, float]) -> np.ndarray:
    """Return a slice without what is smooth over 2 mm, clipped to -300 .. 300 HU before: Float["rows columns"]."""
    clipped = np.clip(hu, -CLIPPED_HU, CLIPPED_HU)
    return clipped - ndimage.gaussian_filter(clipped, np.divide(_FINE_MM, spacing_mm))


def radial_coherence(
    fine: np.ndarray, soft: np.ndarray, piece: np.ndarray, spacing_mm: tuple[float, float]
) -> float | None:
    """Return how much more the fine structure around a piece runs along rays from it than around it.

    The ratio of two root mean squares: of means over 12 mm along rays, and over 12 mm along circles, from 3 to 33 mm
    outside the piece. Noise and anatomy give about 0.9, streaks that leave the piece more than 1.2.

    Args:
        fine: Float["rows columns"], from `fine_structure`.
        soft: Bool["rows columns"], from `tissue.soft_tissue`; nothing else counts.
        piece: Bool["rows columns"], not empty.
        spacing_mm: distance of rows, and of columns.

    Returns:
        The ratio; None where too little soft tissue surrounds the piece.

    Example:
        >>> angle = np.arctan2(*np.mgrid[-60:60, -60:60])
        >>> piece = np.zeros((120, 120), bool)
        >>> piece[58:63, 58:63] = True
        >>> star = 50 * np.cos(24 * angle)
        >>> radial_coherence(star, np.ones_like(piece), piece, (1.0, 1.0)) > 3
        True
    """
    step_mm = _STEP * min(spacing_mm)
    rows, columns = np.nonzero(piece)
    middle = np.array([rows.mean(), columns.mean()])
    own_mm = np.hypot((rows - middle[0]) * spacing_mm[0], (columns - middle[1]) * spacing_mm[1]).max()
    radius_mm = np.arange(own_mm + _NEAR_MM, own_mm + _NEAR_MM + _REACH_MM, step_mm)[:, None]
    count = int(2 * np.pi * (own_mm + _NEAR_MM + _REACH_MM / 2) / step_mm)
    angle = np.arange(count) * (2 * np.pi / count)
    place = (
        middle[0] - radius_mm * np.sin(angle) / spacing_mm[0],
        middle[1] + radius_mm * np.cos(angle) / spacing_mm[1],
    )
    weight = (ndimage.map_coordinates(soft.astype(np.float32), place, order=1) > 0.9).astype(np.float32)
    values = ndimage.map_coordinates(fine, place, order=1) * weight
    length = max(3, int(_SEGMENT_MM / step_mm))
    along, around = (_energy(values, weight, length, axis) for axis in (0, 1))
    return None if along is None or not around else float(np.sqrt(along / around))


def _energy(values: np.ndarray, weight: np.ndarray, length: int, axis: int) -> float | None:
    """Mean square of the means over segments along an axis of the polar image."""
    mode = "wrap" if axis == 1 else "constant"
    total, share = (ndimage.uniform_filter1d(array, length, axis, mode=mode) for array in (values, weight))
    full = share > _FULL_SHARE
    if full.sum() < _FEWEST_SAMPLES:
        return None
    return float(np.mean((total[full] / share[full]) ** 2))
