"""What a slice shows in HU: the body, its soft tissue, and where the scanner's range ends."""

import numpy as np
from scipy import ndimage
from skimage.transform import downscale_local_mean

SOFT_HU = 250.0
"""Soft tissue lies within this of water, and so does its mean over some millimetres."""
CLIP_HU = 3071
"""Where scanners with 12 bits end."""
_SOFT_MEAN_HU, _SOFT_MEAN_MM = 200.0, 1.5
_CORE_MM = 0.7
_AT_CEILING_HU = 25.0
_ROUNDED_HU = 0.6
"""Values of scanners whose steps are fractions of a HU differ by this from the end of their range."""
_TISSUE_HU, _SMOOTH_MM, _THIN_MM, _SMALLEST_BODY = -600.0, 3.0, 5.0, 0.05
_COARSE_MM = 1.6
"""A body needs no finer pixels."""


def soft_tissue(hu: np.ndarray, spacing_mm: tuple[float, float]) -> np.ndarray:
    """Return where a slice shows soft tissue: Bool["rows columns"].

    Args:
        hu: Float["rows columns"].
        spacing_mm: distance of rows, and of columns.
    """
    mean = ndimage.gaussian_filter(np.clip(hu, -1000, 1000), np.divide(_SOFT_MEAN_MM, spacing_mm))
    return (np.abs(hu) < SOFT_HU) & (np.abs(mean) < _SOFT_MEAN_HU)


def body_mask(hu: np.ndarray, spacing_mm: tuple[float, float]) -> np.ndarray:
    """Return the patient: tissue without thin things such as the couch, holes filled, arms and both legs included.

    Args:
        hu: Float["rows columns"].
        spacing_mm: distance of rows, and of columns.

    Returns:
        Bool["rows columns"]: regions at least a twentieth as large as the largest.
    """
    step = max(1, round(_COARSE_MM / max(spacing_mm)))
    coarse_mm = np.multiply(step, spacing_mm)
    steps = max(1, round(_THIN_MM / coarse_mm.min()))
    # Smoothed and clipped at water, so that streaks neither tear the body nor make one of the air around it.
    coarse = downscale_local_mean(np.clip(hu, -1000, 0), step, cval=-1000)
    tissue = ndimage.gaussian_filter(coarse, _SMOOTH_MM / coarse_mm) > _TISSUE_HU
    labels, count = ndimage.label(ndimage.binary_opening(tissue, iterations=steps))
    if not count:
        return np.zeros(hu.shape, bool)
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    large = (areas >= _SMALLEST_BODY * areas.max())[labels] & (labels > 0)
    body = ndimage.binary_fill_holes(ndimage.binary_dilation(large, iterations=steps, mask=tissue))
    return body.repeat(step, 0).repeat(step, 1)[: hu.shape[0], : hu.shape[1]]


def box_of(mask: np.ndarray, margin: int = 0) -> tuple[slice, slice]:
    """Return the smallest box around a mask, which must not be empty, with a margin in pixels: rows and columns."""
    rows, columns = (
        slice(max(0, place.start - margin), place.stop + margin)
        for place in ndimage.find_objects(mask.astype(np.uint8))[0]
    )
    return rows, columns


def core_hu(hu: np.ndarray, spacing_mm: tuple[float, float]) -> np.ndarray:
    """Return a slice blurred by 0.7 mm, in which neither noise nor the overshoot of sharp kernels is left.

    Args:
        hu: Float["rows columns"].
        spacing_mm: distance of rows, and of columns.
    """
    return ndimage.gaussian_filter(hu, np.divide(_CORE_MM, spacing_mm))


def saturated(hu: np.ndarray, brightest_hu: float = np.inf) -> np.ndarray:
    """Return the voxels at the highest value that the scanner writes, if it has cut the slice off there.

    Args:
        hu: Float["rows columns"].
        brightest_hu: the highest value that the image's bits can store; 3071 HU counts as well.

    Returns:
        Bool["rows columns"].
    """
    highest = float(hu.max())
    if not any(abs(highest - limit) < _ROUNDED_HU for limit in (CLIP_HU, brightest_hu)):
        return np.zeros(hu.shape, bool)
    return hu >= highest - _AT_CEILING_HU
