"""Whether a correction helped, from the original, the result and the metal that was corrected; no truth is needed.

A score adds up six measurements, each a question that a radiologist would ask:

=============  ======================================================================================  ======
term           what it measures                                                                        weight
=============  ======================================================================================  ======
brightness     log(core of the metal / 2500 HU) / log(4700 / 2500), from 0 to 1: can it be bone?        5.6
plateau        share of the metal above 2500 HU that the scanner's range cuts off, if above 8 mm2       3.2
streaks        radial coherence around the metal in the original, less the 0.9 that noise has           3.1
inside         share of the metal that lies in the body                                                 2.4
agreement      regression of the original on what was removed, in soft tissue: was it there at all?     2.7
energy         log(fine structure of soft tissue after / before): did the streaks get weaker?          -7.4
constant                                                                                               -10.9
=============  ======================================================================================  ======

The weights are a logistic regression on simulated slices with known truth, of patients that serve no test; above 0 the
error outside metal is more likely to have fallen than to have risen.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from mar_pipeline.judge.streaks import fine_structure, radial_coherence
from mar_pipeline.judge.tissue import body_mask, core_hu, saturated, soft_tissue

WEIGHTS = {
    "brightness": 5.6,
    "plateau": 3.2,
    "streaks": 3.1,
    "inside": 2.4,
    "agreement": 2.7,
    "energy": -7.4,
}
CONSTANT = -10.9
HARMFUL = -2.0
"""A score below this is harmful beyond doubt, whatever the slices beside it say."""
_LEAST_HU, _CERTAIN_HU = 2500.0, 4700.0
_PLATEAU_MM2 = 8.0
_NO_STREAKS, _STREAKS_RANGE = 0.9, (-0.3, 0.6)
_RIM_MM, _NEAR_MM = 3.0, 60.0
_PIECES = 4
_MOST_AGREEMENT = 1.5
_EIGHT = np.ones((3, 3), bool)
_AGAINST = {
    "brightness": "what was taken for metal is no brighter than bone or enamel",
    "plateau": "what was taken for metal is no brighter than bone or enamel",
    "streaks": "no streaks found",
    "inside": "what was taken for metal lies outside the body",
    "agreement": "it removes what the original does not show",
    "energy": "the streaks do not get weaker",
}
_GOOD = {"brightness": 1.0, "plateau": 0.0, "streaks": 0.3, "inside": 1.0, "agreement": 1.0, "energy": -0.2}
"""What a correction that helps measures; the term that falls short of this the most is the reason of a refusal."""


@dataclass(frozen=True)
class Judgement:
    """What is thought of a correction.

    Args:
        score: above 0 it helps; see the module.
        terms: the measurements that the score adds up, by name.
        reason: what speaks for it, or most against it, in plain words.
    """

    score: float
    terms: dict[str, float]
    reason: str

    @property
    def helps(self) -> bool:
        """Whether the error outside metal is more likely to have fallen than to have risen."""
        return self.score > 0

    @property
    def harmful(self) -> bool:
        """Whether it does harm beyond doubt."""
        return self.score < HARMFUL


def judge(
    original_hu: np.ndarray,
    result_hu: np.ndarray,
    metal: np.ndarray,
    spacing_mm: tuple[float, float],
    field_of_view: np.ndarray | None = None,
) -> Judgement:
    """Judge whether a correction of metal artifacts made a slice better.

    Args:
        original_hu: Float["rows columns"], the slice as it was scanned.
        result_hu: Float["rows columns"], the corrected slice.
        metal: Bool["rows columns"], what was corrected as metal.
        spacing_mm: distance of rows, and of columns.
        field_of_view: Bool["rows columns"]; None is the whole slice.

    Raises:
        ValueError: shapes differ, values are not finite, or there is no metal.

    Example:
        >>> slice_hu = np.full((64, 64), -1000.0)
        >>> slice_hu[8:56, 8:56] = 40
        >>> bone = np.zeros((64, 64), bool)
        >>> bone[30:34, 30:34] = True
        >>> slice_hu[bone] = 2600
        >>> changed = slice_hu + 50 * np.cos(np.arange(64))
        >>> judge(slice_hu, changed, bone, (1.0, 1.0)).helps
        False
    """
    original, result = (np.asarray(image, np.float32) for image in (original_hu, result_hu))
    metal = np.asarray(metal, bool)
    inside = np.ones(metal.shape, bool) if field_of_view is None else np.asarray(field_of_view, bool)
    if not original.shape == result.shape == metal.shape == inside.shape or original.ndim != 2:
        shapes = ", ".join(str(image.shape) for image in (original, result, metal, inside))
        raise ValueError(f"judge: got shapes {shapes}; expected one shape (rows, columns)")
    if not metal.any() or not (np.isfinite(original).all() and np.isfinite(result).all()):
        raise ValueError("judge: expected finite values and at least one voxel of metal")
    if not (metal | (original == result)).all():
        terms = _of_metal(original, metal, spacing_mm) | _of_change(original, result, metal, spacing_mm, inside)
        score = CONSTANT + sum(weight * terms[name] for name, weight in WEIGHTS.items())
        return Judgement(score, terms, _reason(score, terms))
    return Judgement(0.0, dict.fromkeys(WEIGHTS, 0.0), "nothing changed")


def _of_metal(hu: np.ndarray, metal: np.ndarray, spacing_mm: tuple[float, float]) -> dict[str, float]:
    """Whether what was corrected is metal."""
    pixel_mm2 = spacing_mm[0] * spacing_mm[1]
    core = max(float(core_hu(hu, spacing_mm)[metal].max()), _LEAST_HU)
    cut_off = saturated(hu) & metal
    strong = metal & (hu >= _LEAST_HU)
    plateau = cut_off.sum() / max(strong.sum(), 1) if cut_off.sum() * pixel_mm2 > _PLATEAU_MM2 else 0.0
    labels, _ = ndimage.label(metal, _EIGHT)
    areas = np.bincount(labels.ravel())[1:]
    fine, soft = fine_structure(hu, spacing_mm), soft_tissue(hu, spacing_mm)
    found = [
        (radial_coherence(fine, soft, labels == number, spacing_mm), areas[number - 1])
        for number in 1 + np.argsort(-areas)[:_PIECES]
    ]
    seen = [(value, area) for value, area in found if value is not None]
    coherence = sum(value * area for value, area in seen) / sum(area for _, area in seen) if seen else 1.0
    return {
        "brightness": min(1.0, math.log(core / _LEAST_HU) / math.log(_CERTAIN_HU / _LEAST_HU)),
        "plateau": float(plateau),
        "streaks": float(np.clip(coherence - _NO_STREAKS, *_STREAKS_RANGE)),
        "inside": float(body_mask(hu, spacing_mm)[metal].mean()),
    }


def _of_change(
    original: np.ndarray, result: np.ndarray, metal: np.ndarray, spacing_mm: tuple[float, float], inside: np.ndarray
) -> dict[str, float]:
    """Whether what was removed was there, and whether what is left is smoother, both in soft tissue."""
    away_mm = ndimage.distance_transform_edt(~metal, spacing_mm)
    soft, soft_after = (soft_tissue(image, spacing_mm) for image in (original, result))
    where = inside & (away_mm > _RIM_MM)
    before, after = (_fine_within(image, where & soft, spacing_mm) for image in (original, result))
    change = after - before
    agreement = -float((before * change).sum()) / max(
        float((change * change).sum()), 1e-3 * (where & soft).sum() + 1e-9
    )
    near = where & (soft | soft_after) & (away_mm < _NEAR_MM)
    energies = [
        float(np.sqrt(np.mean(_fine_within(image, near, spacing_mm)[near] ** 2))) for image in (original, result)
    ]
    ratio = max(energies[1], 0.3) / max(energies[0], 1.0) if near.any() else 1.0
    return {
        "agreement": float(np.clip(agreement, 0, _MOST_AGREEMENT)),
        "energy": float(np.clip(math.log(max(ratio, 0.3)), -1, 1)),
    }


def _fine_within(hu: np.ndarray, where: np.ndarray, spacing_mm: tuple[float, float]) -> np.ndarray:
    """Fine structure of a region alone: its edges to other tissue are none."""
    share = np.maximum(ndimage.gaussian_filter(where.astype(np.float32), np.divide(2.0, spacing_mm)), 1e-3)
    clipped = np.clip(hu, -300, 300) * where
    return (clipped - ndimage.gaussian_filter(clipped, np.divide(2.0, spacing_mm)) / share) * where


def _reason(score: float, terms: dict[str, float]) -> str:
    if score > 0:
        return f"streaks in soft tissue fell to {100 * math.exp(terms['energy']):.0f} %"
    missing = {name: weight * (_GOOD[name] - terms[name]) for name, weight in WEIGHTS.items()}
    return _AGAINST[max(missing, key=lambda name: missing[name])]
