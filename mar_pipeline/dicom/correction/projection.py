"""Correction of one reconstructed slice: projected, corrected there, and the difference added back.

Only the difference FBP(corrected) - FBP(projected) is added to the image, and only as far as the image speaks for it
(see `added`). Replacing the image would lose what its projection and reconstruction lose, everywhere.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.transform import downscale_local_mean

from mar_pipeline.dicom.correction.virtual_scan import Grid
from mar_pipeline.judge.tissue import soft_tissue
from simulation.correction import linear_interpolation, nmar, nmar_prior
from simulation.errors import InputError
from simulation.physics.projector import Projector
from simulation.units import MU_WATER_PER_CM, mu_to_hu

HU_PER_MU = 1000 / MU_WATER_PER_CM
_COVERED = 0.25
"""Share of metal from which a pixel of the grid is metal."""
_BESIDE_BINS = 6
"""A ray counts as long a path through metal as the longest so many bins beside it: its edge is its shadow's as well."""
_DEEP_CM = 1.2
"""From this path on the trace is a bin wider on both sides: the edge of a deep shadow is blurred."""
_FULL_SHARE, _FULL_CM = 0.2, 1.0
"""Share of the slice's longest path through metal, at most 1 cm, from which a ray is replaced altogether."""
_GATE_HU, _GATE_MM = (5.0, 20.0), 4.0
"""Local size of the difference at which what projecting loses begins to be left out, and is left out altogether."""
_FINE_MM, _WINDOW_MM, _RIM_MM = 5.0, 15.0, 5.0
"""Streaks are finer than the first, the regression is over the second, and the blurred rim of metal does not count."""
_MOST_HU, _NOTHING_HU2 = 150.0, 1e-3
_COARSE = 4
_SOFT_MM = 20.0, 60.0
"""Distance from metal at which soft tissue begins to decide alone, and does so."""
_PRIOR_SMOOTHING_MM = 1.2
"""Of the image that NMAR's prior is cut from: what is left of streaks there is noise to it."""


@dataclass(frozen=True)
class Corrected:
    """A corrected slice.

    Args:
        hu: Float32["rows columns"]; as it was on metal and outside the field of view.
        trace_share: share of the projections' bins whose ray meets metal.
    """

    hu: np.ndarray
    trace_share: float


SinogramMethod = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Projector], np.ndarray]
"""(image in 1/cm, its sinogram, trace, metal mask, projector) -> corrected sinogram."""


def li(mu: np.ndarray, sinogram: np.ndarray, trace: np.ndarray, metal: np.ndarray, projector: Projector) -> np.ndarray:
    """Return the sinogram after linear interpolation, see `simulation.correction.linear_interpolation`."""
    return linear_interpolation(sinogram, trace)


def normalised(
    mu: np.ndarray, sinogram: np.ndarray, trace: np.ndarray, metal: np.ndarray, projector: Projector
) -> np.ndarray:
    """Return the sinogram after NMAR, see `simulation.correction.nmar`; the prior is cut from LI's smoothed image."""
    image = projector.fbp(linear_interpolation(sinogram, trace), "standard")
    image = ndimage.gaussian_filter(
        np.where(metal, MU_WATER_PER_CM, image), _PRIOR_SMOOTHING_MM / projector.geometry.pixel_mm
    )
    return nmar(sinogram, trace, nmar_prior(image, metal), projector, "standard")[0]


SINOGRAM_METHODS: dict[str, SinogramMethod] = {"li": li, "nmar": normalised}


@dataclass(frozen=True)
class ProjectionCorrection:
    """The correction of images of one shape and pixel spacing in their projections.

    Args:
        fill: corrects the sinogram.
        grid: of the images.
        projector: of its scan.
        most_trace: trace share above which a slice is refused.
    """

    fill: SinogramMethod
    grid: Grid
    projector: Projector
    most_trace: float

    def __call__(self, hu: np.ndarray, metal: np.ndarray, field_of_view: np.ndarray, truncated: bool) -> Corrected:
        """Correct a slice.

        Args:
            hu: Float["rows columns"]; padding is air.
            metal: Bool["rows columns"].
            field_of_view: Bool["rows columns"]; the image stays as it is outside.
            truncated: whether the body goes on outside the field of view.

        Raises:
            InputError: metal hides too much of the projections.
        """
        mu = self.grid.mu_on_grid(hu, field_of_view, truncated)
        mask = self.grid.to_grid(metal.astype(np.float32)) > _COVERED
        sinogram, path_cm = (self.projector.forward(image) for image in (mu, mask.astype(np.float32)))
        beside_cm = ndimage.maximum_filter1d(path_cm, 2 * _BESIDE_BINS + 1, axis=-1)
        trace = (path_cm > 0) | (ndimage.maximum_filter1d(path_cm, 3, axis=-1) > 0) & (beside_cm > _DEEP_CM)
        trace_share = checked_trace_share(trace, self.most_trace)
        filled = self.fill(mu, sinogram, trace, mask, self.projector)
        corrected = sinogram + replaced_share(beside_cm) * (filled - sinogram)
        images = self.projector.fbp(np.stack((corrected - sinogram, sinogram)), "standard")
        difference, projected = (self.grid.from_grid(image) for image in images)
        difference *= HU_PER_MU
        lost = hu - mu_to_hu(projected)
        return Corrected(added(hu, difference, lost, metal, field_of_view, self.grid.spacing_mm), trace_share)


def checked_trace_share(trace: np.ndarray, most: float) -> float:
    """Share of the projections' bins whose ray meets metal.

    Raises:
        InputError: it is more than the most that is allowed, or a view sees nothing but metal.
    """
    share = float(np.mean(trace))
    if share > most or trace.all(axis=-1).any():
        raise InputError(
            f"metal hides {100 * share:.0f} % of the projections, more than can be filled in (at most "
            f"{100 * most:.0f} %, and no view whole); raise --metal-threshold, or mark less in --metal-mask, if bone "
            "or contrast was taken for metal"
        )
    return share


def replaced_share(path_cm: np.ndarray) -> np.ndarray:
    """How much of every ray a correction may replace: all of it where its path through metal is long.

    A needle's shadow is wide from its side, where its thin metal spoils little and what is interpolated across would
    spoil much: the chest's wall can vanish. There the measured values stay.

    Args:
        path_cm: Float["views bins"], length within metal of every ray or of the longest beside it.

    Returns:
        Float["views bins"], 0 .. 1.
    """
    full_cm = min(_FULL_CM, _FULL_SHARE * float(path_cm.max()))
    return np.clip(path_cm / max(full_cm, 1e-6), 0, 1)


def added(
    hu: np.ndarray,
    difference: np.ndarray,
    lost: np.ndarray,
    metal: np.ndarray,
    field_of_view: np.ndarray,
    spacing_mm: tuple[float, float],
) -> np.ndarray:
    """Return the image with the difference that a correction makes added, as far as the image itself speaks for it.

    A streak that the correction removes is in the image, and its negative in the difference; one that the correction
    brings is in the difference alone. So the difference is weighted by the local regression coefficient of the image
    on the negative difference, both without what is smooth: 1 where all of it is in the image, 0 where nothing is.
    Soft tissue by itself must say the same, for anatomy that a correction removes is in the image too.
    Where the weighted difference is large, what the way to the correction and back loses of the image, there mostly
    the sharpest part of the streaks, is left out.

    Args:
        hu: Float["rows columns"].
        difference: corrected - uncorrected, as ``hu``.
        lost: image - uncorrected, what does not come back.
        metal: Bool["rows columns"].
        field_of_view: Bool["rows columns"].
        spacing_mm: distance of rows, and of columns.

    Returns:
        Float32["rows columns"]; as it was on metal and outside the field of view.
    """
    away_mm = ndimage.distance_transform_edt(~metal, spacing_mm)
    seen = field_of_view & (away_mm > _RIM_MM)
    weight = _evidence(hu, difference, seen, spacing_mm)
    # Anatomy that the correction removes is in the image as well. So soft tissue alone must say the same, but not near
    # the metal, where streaks leave little of it.
    in_soft = np.minimum(weight, _evidence(hu, difference, seen & soft_tissue(hu, spacing_mm), spacing_mm))
    weight += np.clip((away_mm - _SOFT_MM[0]) / (_SOFT_MM[1] - _SOFT_MM[0]), 0, 1) * (in_soft - weight)
    weighted = weight * difference
    local = np.sqrt(ndimage.gaussian_filter(np.where(metal, 0, weighted) ** 2, np.divide(_GATE_MM, spacing_mm)))
    gate = np.clip((local - _GATE_HU[0]) / (_GATE_HU[1] - _GATE_HU[0]), 0, 1)
    return np.where(field_of_view & ~metal, hu + weighted - weight * gate * lost, hu).astype(np.float32)


def _evidence(hu: np.ndarray, difference: np.ndarray, where: np.ndarray, spacing_mm: tuple[float, float]) -> np.ndarray:
    """Local regression coefficient of the image on the negative difference, from 0 to 1.

    Both without what is smooth, and clipped, so that edges and the strongest streaks do not speak for all others.
    """
    counted, fine, window = where.astype(np.float32), np.divide(_FINE_MM, spacing_mm), np.divide(_WINDOW_MM, spacing_mm)
    share = np.maximum(ndimage.gaussian_filter(counted, fine), 1e-3)
    image, change = (
        np.clip((values - ndimage.gaussian_filter(values * counted, fine) / share) * counted, -_MOST_HU, _MOST_HU)
        for values in (hu, difference)
    )
    together, alone = (_blurred(product, window) for product in (image * change, change * change))
    return np.clip(-together / np.maximum(alone, _NOTHING_HU2), 0, 1)


def _blurred(image: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Return a wide Gaussian blur, computed on every fourth pixel: within some per mille of the slow one."""
    if min(sigma) < 2 * _COARSE:
        return ndimage.gaussian_filter(image, sigma)
    coarse = ndimage.gaussian_filter(downscale_local_mean(image, _COARSE).astype(np.float32), sigma / _COARSE)
    offset = (1 / _COARSE - 1) / 2
    return ndimage.affine_transform(coarse, [1 / _COARSE] * 2, offset, image.shape, order=1, mode="nearest")
