"""Whether a correction helped, from the original, the result and the metal that was corrected; no truth is needed.

A score adds up eight measurements, each a question that a radiologist would ask:

=============  ======================================================================================  ======
term           what it measures                                                                        weight
=============  ======================================================================================  ======
brightness     log(core of the metal / 2500 HU) / log(4700 / 2500), from 0 to 1: can it be bone?        9.5
plateau        share of the metal above 2500 HU that the scanner's range cuts off, if above 8 mm2       6.5
streaks        radial coherence around the metal in the original, less the 0.9 that noise has           1.3
inside         share of the metal that lies in the body                                                 5.0
agreement      was there what was removed? Regression of the original on it in soft tissue, 0 to 1      7.1
energy         did the streaks get weaker? log(fine structure of soft tissue after / before)           -9.3
levels         log(distance of soft tissue from the HU of fat or muscle, after / before)              -19.1
bone           does bone stay? log(its change / that of soft tissue), 20 to 60 mm from metal           -1.0
constant                                                                                              -22.2
=============  ======================================================================================  ======

The weights are a logistic regression on 3,700 simulated corrections with known truth, full and half, of 45 patients
that serve no test; a fifth of them has metal beside bone as dense as the skull's base. Those that raise the error by
more than 5 HU count ten times. A score above 0 stands for odds of at least 3 : 2 that the error outside metal fell.
That more agreement than 1 says nothing more was chosen after a look at real fillings, wires and hips.

Whatever the score, anatomy farther than 10 mm from metal must stay. A correction is refused that changes air cavities
or bone more than 15 times as much as soft tissue, or more than 0.7 of the body by more than 100 HU, that removes what
the original does not show (agreement below 0.7), or whose metal lies outside the body (inside below 0.5).
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from mar_pipeline.judge.streaks import fine_structure, radial_coherence
from mar_pipeline.judge.tissue import body_mask, box_of, core_hu, saturated, soft_tissue

WEIGHTS = {
    "brightness": 9.5,
    "plateau": 6.5,
    "streaks": 1.3,
    "inside": 5.0,
    "agreement": 7.1,
    "energy": -9.3,
    "levels": -19.1,
    "bone": -1.0,
}
CONSTANT = -22.2
HARMFUL = -2.0
"""A score below this is harmful beyond doubt, whatever the slices beside it say."""
_LEAST_HU, _CERTAIN_HU = 2500.0, 4700.0
_BELIEVED_HU = 2000.0
_PLATEAU_MM2 = 8.0
_NO_STREAKS, _STREAKS_RANGE = 0.9, (-0.3, 0.6)
_RIM_MM, _NEAR_MM, _FAR_MM = 3.0, 60.0, 10.0
_CAVITY_HU, _BONE_HU, _CAVITY_MM, _CAVITY_MM2 = -500.0, 300.0, 1.0, 50.0
_AROUND_MM, _SMALL_HU, _FEWEST = (20.0, 60.0), 5.0, 50
_FAT_HU, _MUSCLE_HU, _LEAST_AWAY_HU, _MOST_AWAY_HU = -100.0, 45.0, 3.0, 200.0
_LARGE_HU = 100.0
MOST = {"air changed": 15.0, "bone changed": 15.0, "body changed": 0.7}
"""What anatomy bears: changes of air and bone over those of soft tissue, and share of the body that changed much."""
LEAST = {"agreement": 0.7, "inside": 0.5}
"""Below these a correction is refused whatever its score."""
_ANATOMY = {
    "body changed": "it changes much of the body by more than 100 HU",
    "air changed": "it changes air cavities more than soft tissue",
    "bone changed": "it changes bone more than soft tissue",
}
_PIECES = 4
_EIGHT = np.ones((3, 3), bool)
_AGAINST = {
    "brightness": "the metal is hardly brighter than bone or enamel can be, and the other evidence is too weak",
    "streaks": "no streaks found",
    "inside": "what was taken for metal lies outside the body",
    "agreement": "it removes what the original does not show",
    "energy": "the streaks do not get weaker",
    "levels": "soft tissue moves away from the values of fat and muscle",
    "bone": "it changes bone more than soft tissue",
}
_GOOD = {
    "brightness": 1.0,
    "plateau": 0.0,
    "streaks": 0.3,
    "inside": 1.0,
    "agreement": 1.0,
    "energy": -0.2,
    "levels": -0.05,
    "bone": 0.0,
}
"""What a correction that helps measures; the term that falls short of this the most is the reason of a refusal."""


@dataclass(frozen=True)
class Judgement:
    """What is thought of a correction.

    Args:
        score: see the module.
        terms: the measurements that the score adds up, by name.
        anatomy: what happens to anatomy, by the names of `MOST`.
        vetoes: why it is refused whatever the score.
        reason: what speaks for it, or most against it, in plain words.
    """

    score: float
    terms: dict[str, float]
    anatomy: dict[str, float]
    vetoes: tuple[str, ...]
    reason: str

    @property
    def helps(self) -> bool:
        """Whether the error outside metal is more likely to have fallen than to have risen, and anatomy stays."""
        return self.score > 0 and not self.vetoes

    @property
    def harmful(self) -> bool:
        """Whether it does harm beyond doubt."""
        return self.score < HARMFUL or bool(self.vetoes)


class Judge:
    """Judges corrections of one slice; what it needs of the original is computed once.

    Args:
        original_hu: Float["rows columns"], the slice as it was scanned.
        metal: Bool["rows columns"], what is corrected as metal.
        spacing_mm: distance of rows, and of columns.
        field_of_view: Bool["rows columns"]; None is the whole slice.
        brightest_hu: the highest value that the image's bits can store.
        is_metal: whether the user says so, which is believed of what is brighter than bone usually is.

    Raises:
        ValueError: shapes differ, values are not finite, or there is no metal.
    """

    def __init__(
        self,
        original_hu: np.ndarray,
        metal: np.ndarray,
        spacing_mm: tuple[float, float],
        field_of_view: np.ndarray | None = None,
        brightest_hu: float = np.inf,
        is_metal: bool = False,
    ) -> None:
        self._original, self._metal = np.asarray(original_hu, np.float32), np.asarray(metal, bool)
        self._spacing_mm = spacing_mm
        inside = np.ones(self._metal.shape, bool) if field_of_view is None else np.asarray(field_of_view, bool)
        if not self._original.shape == self._metal.shape == inside.shape or self._original.ndim != 2:
            shapes = f"{self._original.shape}, {self._metal.shape}, {inside.shape}"
            raise ValueError(f"judge: got shapes {shapes}; expected one shape (rows, columns)")
        if not self._metal.any() or not np.isfinite(self._original).all():
            raise ValueError("judge: expected finite values and at least one voxel of metal")
        cut_off, body = saturated(self._original, brightest_hu), body_mask(self._original, spacing_mm)
        self._shape, self._box = self._metal.shape, box_of(body | self._metal)  # the air around them tells nothing
        self._original, self._metal = self._original[self._box], self._metal[self._box]
        inside, cut_off, body = inside[self._box], cut_off[self._box], body[self._box]
        away_mm = ndimage.distance_transform_edt(~self._metal, spacing_mm)
        self._where, self._near = inside & (away_mm > _RIM_MM), away_mm < _NEAR_MM
        self._around = body & inside & (away_mm > _AROUND_MM[0]) & (away_mm <= _AROUND_MM[1])
        self._body, self._far = body, body & inside & (away_mm > _FAR_MM)
        self._soft = soft_tissue(self._original, spacing_mm)
        self._before = _fine_within(self._original, self._where & self._soft, spacing_mm)
        self._of_metal = _of_metal(self._original, self._metal, self._soft, body, cut_off, spacing_mm)
        if is_metal:
            self._of_metal["inside"] = 1.0
            if core_hu(self._original, spacing_mm)[self._metal].max() >= _BELIEVED_HU:
                self._of_metal["brightness"] = 1.0

    def __call__(self, result_hu: np.ndarray) -> Judgement:
        """Judge a correction.

        Args:
            result_hu: Float["rows columns"], the corrected slice.

        Raises:
            ValueError: its shape differs, or a value is not finite.
        """
        result = np.asarray(result_hu, np.float32)
        if result.shape != self._shape or not np.isfinite(result).all():
            raise ValueError(f"judge: got a result of shape {result.shape}; expected {self._shape}, all finite")
        result = result[self._box]
        if (self._metal | (self._original == result)).all():
            return Judgement(0.0, dict.fromkeys(WEIGHTS, 0.0), dict.fromkeys(MOST, 0.0), (), "nothing changed")
        terms = self._of_metal | self._of_change(result)
        anatomy = self._of_anatomy(result)
        score = CONSTANT + sum(weight * terms[name] for name, weight in WEIGHTS.items())
        vetoes = tuple(_ANATOMY[name] for name, most in MOST.items() if anatomy[name] > most)
        vetoes += tuple(_AGAINST[name] for name, least in LEAST.items() if terms[name] < least)
        return Judgement(score, terms, anatomy, vetoes, vetoes[0] if vetoes else _reason(score, terms))

    def _of_change(self, result: np.ndarray) -> dict[str, float]:
        """Whether what was removed was there, and whether what is left is smoother, both in soft tissue."""
        seen = self._where & self._soft
        change = _fine_within(result, seen, self._spacing_mm) - self._before
        agreement = -float((self._before * change).sum()) / max(
            float((change * change).sum()), 1e-3 * seen.sum() + 1e-9
        )
        near = self._where & self._near & (self._soft | soft_tissue(result, self._spacing_mm))
        energies = [
            float(np.sqrt(np.mean(_fine_within(image, near, self._spacing_mm)[near] ** 2))) if near.any() else 1.0
            for image in (self._original, result)
        ]
        ratio = max(energies[1], 0.3) / max(energies[0], 1.0)
        in_body = seen & self._body
        levels = [_distance_to_levels(image[in_body]) for image in (self._original, result)]
        return {
            "agreement": float(np.clip(agreement, 0, 1)),
            "energy": float(np.clip(math.log(max(ratio, 0.3)), -1, 1)),
            "levels": float(np.clip(math.log(levels[1] / levels[0]), -1, 1)),
            "bone": self._bone_to_soft(result - self._original),
        }

    def _bone_to_soft(self, change: np.ndarray) -> float:
        """log(change of bone / change of soft tissue) at some distance from metal."""
        bone, soft = (
            _rms(change, where) + _SMALL_HU if where.sum() > _FEWEST else _SMALL_HU
            for where in (self._around & (self._original > _BONE_HU), self._around & self._soft)
        )
        return math.log(bone / soft)

    def _of_anatomy(self, result: np.ndarray) -> dict[str, float]:
        """Return what happens to cavities, bone and the body as a whole, far from metal."""
        change = result - self._original
        smooth = ndimage.gaussian_filter(self._original, np.divide(_CAVITY_MM, self._spacing_mm))
        cavity, bone = self._far & (smooth < _CAVITY_HU), self._far & (self._original > _BONE_HU)
        if cavity.sum() * self._spacing_mm[0] * self._spacing_mm[1] < _CAVITY_MM2:
            cavity = np.zeros_like(cavity)
        in_soft = max(_rms(change, self._where & self._soft), 1.0)
        return {
            "body changed": float((np.abs(change[self._far]) > _LARGE_HU).mean()) if self._far.any() else 0.0,
            "air changed": _rms(change, cavity) / in_soft,
            "bone changed": _rms(change, bone) / in_soft,
        }


def judge(
    original_hu: np.ndarray,
    result_hu: np.ndarray,
    metal: np.ndarray,
    spacing_mm: tuple[float, float],
    field_of_view: np.ndarray | None = None,
) -> Judgement:
    """Judge whether a correction of metal artifacts made a slice better; see `Judge` for several corrections of one.

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
    return Judge(original_hu, metal, spacing_mm, field_of_view)(result_hu)


def _of_metal(
    hu: np.ndarray,
    metal: np.ndarray,
    soft: np.ndarray,
    body: np.ndarray,
    cut_off: np.ndarray,
    spacing_mm: tuple[float, float],
) -> dict[str, float]:
    """Whether what was corrected is metal."""
    pixel_mm2 = spacing_mm[0] * spacing_mm[1]
    core = max(float(core_hu(hu, spacing_mm)[metal].max()), _LEAST_HU)
    cut_off = cut_off & metal
    strong = metal & (hu >= _LEAST_HU)
    plateau = cut_off.sum() / max(strong.sum(), 1) if cut_off.sum() * pixel_mm2 > _PLATEAU_MM2 else 0.0
    labels, _ = ndimage.label(metal, _EIGHT)
    areas = np.bincount(labels.ravel())[1:]
    fine = fine_structure(hu, spacing_mm)
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
        "inside": float(body[metal].mean()),
    }


def _rms(values: np.ndarray, where: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values[where] ** 2))) if where.any() else 0.0


def _distance_to_levels(soft_hu: np.ndarray) -> float:
    """How far soft tissue lies from the values that it can have, root mean square in HU."""
    if not soft_hu.size:
        return _LEAST_AWAY_HU
    away_hu = np.minimum(np.abs(soft_hu - _FAT_HU), np.abs(soft_hu - _MUSCLE_HU))
    return max(_LEAST_AWAY_HU, float(np.sqrt(np.mean(np.minimum(away_hu, _MOST_AWAY_HU) ** 2))))


def _fine_within(hu: np.ndarray, where: np.ndarray, spacing_mm: tuple[float, float]) -> np.ndarray:
    """Fine structure of a region alone: its edges to other tissue are none."""
    share = np.maximum(ndimage.gaussian_filter(where.astype(np.float32), np.divide(2.0, spacing_mm)), 1e-3)
    clipped = np.clip(hu, -300, 300) * where
    return (clipped - ndimage.gaussian_filter(clipped, np.divide(2.0, spacing_mm)) / share) * where


def _reason(score: float, terms: dict[str, float]) -> str:
    if score > 0:
        return f"streaks in soft tissue fell to {100 * math.exp(terms['energy']):.0f} %"
    missing = {name: weight * (_GOOD[name] - terms[name]) for name, weight in WEIGHTS.items()}
    missing["brightness"] += missing.pop("plateau")  # where the range ends, metal is as bright as it can be
    return _AGAINST[max(missing, key=lambda name: missing[name])]
