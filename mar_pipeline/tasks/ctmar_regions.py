"""Regions of interest for the eight scores of the AAPM CT-MAR challenge, found in the metal-free truth of any case."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy import ndimage, signal
from skimage import draw, measure
from skimage.filters import sobel

from mar_pipeline.judge.tissue import soft_tissue
from simulation.errors import InputError

FEWEST_PIXELS = 11
"""Of a side of an image: the window of the SSIM."""

_BODY_HU, _FAT_HU, _BONE_HU = -500.0, -200.0, 150.0
_NOISE_RADIUS_MM, _EDGE_RADIUS_MM, _TARGET_RADIUS_MM, _METAL_MARGIN_MM = 6.0, 8.0, 20.0, 10.0
_NOISE_CLEAR_MM, _EDGE_CLEAR_MM, _STREAK_CLEAR_MM = 20.0, 10.0, 3.0
"""How far regions stay off metal."""
_STRIP_HALF_MM, _STRIP_STEP_MM, _STRIP_SOFT_SHARE = (5.0, 30.0), 2.0, 0.5
"""The streaks' strip: half its size along and across the metal's long axis, where it is tried, how much is soft."""
_SMOOTH_MM, _PLAIN_MM, _BONE_SHARE, _WHOLE, _FLAT_HU = 1.5, 5.0, (0.2, 0.8), 0.999, 1.0
"""Of edges: seen without noise, how far soft ones stay off bone and air, how much is bone, what is no edge."""


@dataclass(frozen=True)
class RegionsOfInterest:
    """Hold where each metric looks: Bool["rows columns"], none of them empty.

    Args:
        body: the patient, metal included.
        noise: homogeneous soft tissue.
        bone: an edge between bone and soft tissue.
        soft: an edge between two soft tissues.
        streak: soft tissue across which streaks run.
        metal: the metal and what surrounds it.
        target: what the proton beam has to reach.
        beam_deg: where the beam comes from: 0 the left, 90 the top, 180 the right, 270 the bottom of the image.

    Raises:
        InputError: if a region is no mask of the body's shape, or is empty.

    >>> RegionsOfInterest(*[np.ones((4, 4), bool)] * 7).beam_deg
    0.0
    """

    body: np.ndarray
    noise: np.ndarray
    bone: np.ndarray
    soft: np.ndarray
    streak: np.ndarray
    metal: np.ndarray
    target: np.ndarray
    beam_deg: float = 0.0

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self) if field.name != "beam_deg"):
            mask = getattr(self, name)
            if mask.dtype != bool or mask.shape != self.body.shape or not mask.any():
                raise InputError(f"region {name}: expected a mask of {self.body.shape} that is not empty; draw it")


def automatic_regions(truth_hu: np.ndarray, metal_mask: np.ndarray, pixel_mm: float) -> RegionsOfInterest:
    """Return regions found in the truth; the same for the same input.

    - body: the largest component above -500 HU, holes filled.
    - noise: the flattest disc of 12 mm (lowest standard deviation) that is all soft tissue, 20 mm off metal.
    - bone: the disc of 16 mm with the steepest edges that is 20 to 80 % bone and has no air, 10 mm off metal.
    - soft: the same between -200 and 150 HU, 5 mm off bone and air, 10 mm off metal.
    - streak: soft tissue in a strip of 60 mm across the metal's long axis and 10 mm along it, as near to the metal's
      centroid as no metal lies in it: between two hips, or just beyond the end of a single piece.
    - metal: 10 mm around the metal.
    - target: a disc of 40 mm at the body's centroid; the beam comes from the side of the largest piece of metal.

    Args:
        truth_hu: Float["rows columns"], without metal.
        metal_mask: Bool["rows columns"], not empty.
        pixel_mm: size of a pixel.

    Raises:
        InputError: if an argument is wrong, or the image has no place for a region.

    >>> image, metal = np.full((128, 128), -1000.0), np.zeros((128, 128), bool)
    >>> image[14:114, 14:114], image[90:110, 60:100], image[20:60, 90:110] = 0, 700, -100
    >>> metal[62:67, 20:30] = True
    >>> automatic_regions(image, metal, 1.0).body.sum()
    np.int64(10000)
    """
    check_images(metal_mask, pixel_mm, truth_hu)
    truth_hu = truth_hu.astype(np.float64)
    labels = measure.label(truth_hu > _BODY_HU)
    if not labels.any():
        raise InputError(f"body: no pixel of the truth lies above {_BODY_HU:g} HU; expected an image in HU")
    body = ndimage.binary_fill_holes(labels == 1 + np.argmax(np.bincount(labels.ravel())[1:]))
    soft = soft_tissue(truth_hu, (pixel_mm, pixel_mm)) & body
    off_metal_mm = ndimage.distance_transform_edt(~metal_mask, sampling=pixel_mm)
    centre = np.argwhere(body).mean(axis=0)
    return RegionsOfInterest(
        body,
        *_discs(truth_hu, body, soft, off_metal_mm, pixel_mm),
        streak=_strip(metal_mask, soft, off_metal_mm, pixel_mm),
        metal=off_metal_mm <= _METAL_MARGIN_MM,
        target=disc(body.shape, centre, _TARGET_RADIUS_MM / pixel_mm) & body,
        beam_deg=_beam_deg(metal_mask, centre),
    )


def disc(shape: tuple[int, ...], centre: Sequence[float] | np.ndarray, radius: float) -> np.ndarray:
    """Return the pixels nearer to a centre (row, column) than a radius: Bool["rows columns"].

    >>> disc((3, 3), (1, 1), 1.2).astype(int).tolist()
    [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    """
    mask = np.zeros(shape, bool)
    mask[draw.disk(tuple(centre), radius, shape=shape)] = True
    return mask


def _disc_means(image: np.ndarray, radius: float) -> np.ndarray:
    """Return the mean over a disc around each pixel; what lies beyond the image counts as 0."""
    half = int(np.ceil(radius))
    footprint = disc((2 * half + 1, 2 * half + 1), (half, half), radius)
    return signal.fftconvolve(image, footprint / footprint.sum(), mode="same")


def _best_disc(cost: np.ndarray, allowed: np.ndarray, off_metal_mm: np.ndarray, radius: float, what: str) -> np.ndarray:
    """Return the disc of the lowest cost; of equal ones that farthest from metal, then the first."""
    if not allowed.any():
        raise InputError(f"{what} region: got no place for a disc far enough from metal; draw the regions by hand")
    order = np.lexsort((-off_metal_mm[allowed], np.round(cost[allowed], 2)))
    return disc(cost.shape, np.argwhere(allowed)[order[0]], radius)


def _discs(
    truth_hu: np.ndarray, body: np.ndarray, soft: np.ndarray, off_metal_mm: np.ndarray, pixel_mm: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the flattest disc, and those with the steepest edges of bone and of soft tissue, seen without noise."""
    radius = _NOISE_RADIUS_MM / pixel_mm
    clipped = np.clip(truth_hu, -1000, 1000)
    variance = _disc_means(clipped**2, radius) - _disc_means(clipped, radius) ** 2
    allowed = (_disc_means(soft, radius) > _WHOLE) & (off_metal_mm >= _NOISE_RADIUS_MM + _NOISE_CLEAR_MM)
    flat = _best_disc(np.sqrt(np.maximum(variance, 0)), allowed, off_metal_mm, radius, "noise")
    radius = _EDGE_RADIUS_MM / pixel_mm
    smooth = ndimage.gaussian_filter(truth_hu, _SMOOTH_MM / pixel_mm)
    cost = -_disc_means(sobel(smooth), radius)
    tissue, bone = (smooth > _FAT_HU) & body, (smooth >= _BONE_HU) & body
    plain = ndimage.distance_transform_edt(tissue & ~bone, sampling=pixel_mm) >= _PLAIN_MM
    whole, inner, share = (_disc_means(mask, radius) for mask in (tissue, plain, bone))
    clear = (off_metal_mm >= _EDGE_RADIUS_MM + _EDGE_CLEAR_MM) & (whole > _WHOLE)
    at_bone, in_soft = (share > _BONE_SHARE[0]) & (share < _BONE_SHARE[1]), (inner > _WHOLE) & (cost < -_FLAT_HU)
    bone_disc = _best_disc(cost, clear & at_bone, off_metal_mm, radius, "bone")
    return flat, bone_disc, _best_disc(cost, clear & in_soft, off_metal_mm, radius, "soft")


def _strip(metal_mask: np.ndarray, soft: np.ndarray, off_metal_mm: np.ndarray, pixel_mm: float) -> np.ndarray:
    metal = measure.regionprops(metal_mask.astype(np.uint8))[0]
    rows, columns = (np.indices(soft.shape) - np.reshape(metal.centroid, (2, 1, 1))) * pixel_mm
    cosine, sine = np.cos(metal.orientation), np.sin(metal.orientation)
    along, across = rows * cosine + columns * sine, columns * cosine - rows * sine
    inside = np.abs(across) <= _STRIP_HALF_MM[1]
    steps = int(np.abs(along).max() / _STRIP_STEP_MM)
    area = 4 * _STRIP_HALF_MM[0] * _STRIP_HALF_MM[1] / pixel_mm**2
    for place in sorted(_STRIP_STEP_MM * np.arange(-steps, steps + 1), key=abs):
        strip = inside & (np.abs(along - place) <= _STRIP_HALF_MM[0])
        clear = off_metal_mm[strip].min(initial=np.inf) >= _STREAK_CLEAR_MM
        if clear and (strip & soft).sum() >= _STRIP_SOFT_SHARE * area:
            return strip & soft
    raise InputError("streak region: got no strip of soft tissue across the metal's axis; draw the regions by hand")


def _beam_deg(metal_mask: np.ndarray, centre: np.ndarray) -> float:
    """Return the side of the largest piece of metal as seen from a place, in steps of 90 degrees."""
    piece = max(measure.regionprops(measure.label(metal_mask)), key=lambda region: region.area)
    row, column = centre - piece.centroid
    return float(round(np.degrees(np.arctan2(row, column)) / 90) * 90 % 360)


def check_images(metal_mask: np.ndarray, pixel_mm: float, *images: np.ndarray) -> None:
    """Refuse images that do not fit the mask, and what no score can be made of.

    Raises:
        InputError: if shapes differ or are too small, a value is not finite, or there is no metal or no pixel size.

    >>> check_images(np.eye(11, dtype=bool), 1.0, np.zeros((11, 11)))
    """
    shapes = [array.shape for array in (metal_mask, *images)]
    if len(set(shapes)) > 1 or len(shapes[0]) != 2 or min(shapes[0]) < FEWEST_PIXELS:
        raise InputError(
            f"metal mask and images: got shapes {shapes}; expected one, of 2 axes, at least {FEWEST_PIXELS} pixels each"
        )
    if not all(np.isfinite(image).all() for image in images):
        raise InputError("image: some values are not finite; expected HU")
    if metal_mask.dtype != bool or not metal_mask.any():
        raise InputError(f"metal mask: got {metal_mask.sum()} of {metal_mask.dtype}; expected bool with some metal")
    if not (np.isfinite(pixel_mm) and pixel_mm > 0):
        raise InputError(f"pixel_mm: got {pixel_mm}; expected a size above 0")
