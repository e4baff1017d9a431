"""A slice is corrected on trial, the result is judged, its neighbours are heard, and then it is decided."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mar_pipeline.dicom.correction.metal import FARTHEST_MM, Metal
from mar_pipeline.dicom.correction.projection import ProjectionCorrection
from mar_pipeline.dicom.measures.figures import slice_figures
from mar_pipeline.dicom.slices import SliceReport, Work, inside_of, measured
from mar_pipeline.judge.verdict import Judge, Judgement
from simulation.errors import InputError

CHANGES_HU = (5, 20)
WEAK = 0.5
_DARKEST_HU = -1024.0
"""Nothing gets darker than this that was not so before."""
"""Share of a correction that is tried where all of it is judged harmful."""
_AS_NEIGHBOURS = "as the slices before and behind it"
_FEWER = "only the surest metal is corrected: with all of it the correction was judged harmful"


@dataclass(frozen=True)
class Trial:
    """What correcting a slice gave, before its neighbours are heard.

    Args:
        number: place in the series, from 0.
        strength: share of the correction that its judgement accepts: 1, 0.5, or 0 for the original.
        judgement: of the correction at that strength; at full strength if nothing was accepted; None if the slice
            could not be corrected.
        most: the strength to which neighbours may lift it: its own where full strength is clearly harmful.
        refused: whether all of the metal at full strength was judged not to help.
        trace_share: share of the projections behind metal.
        fewer: whether only the surest metal was corrected.
        reason: why the slice could not be corrected, or what speaks against all of the correction.
    """

    number: int
    strength: float
    judgement: Judgement | None = None
    trace_share: float | None = None
    fewer: bool = False
    reason: str | None = None
    most: float = 1.0
    refused: bool = False


def try_slice(
    work: Work, correction: ProjectionCorrection, metal: Metal, truncated: Sequence[bool], number: int
) -> Trial:
    """Correct a slice, judge the result, and put it aside at full strength.

    What the judge refuses is tried again with the surest metal alone, and then with half of the correction.

    Raises:
        InputError: the slice cannot be corrected, and originals are not to be kept.
    """
    header, pixels = work.read(number)
    hu, inside = pixels.hu, inside_of(work.series, header, pixels)
    everything, sure = metal.masks[number].unpack(), metal.sure[number].unpack()
    attempts = [(False, everything)]
    if sure.any() and not np.array_equal(sure, everything):
        attempts.append((True, sure))
    best: Trial | None = None
    impossible: InputError | None = None
    for fewer, used in attempts:
        try:
            corrected = correction(hu, used, inside, truncated[number])
        except InputError as error:
            impossible = impossible or error
            continue
        result = np.where(everything, hu, np.maximum(corrected.hu, np.minimum(hu, _DARKEST_HU)))
        judges = Judge(hu, used, work.series.spacing_mm, inside, pixels.brightest_hu, work.given is not None)
        full = judges(result)
        weak = None if full.helps else judges(hu + WEAK * (result - hu))
        strength = 1.0 if full.helps else WEAK if weak and weak.helps else 0.0
        if best is None or strength > best.strength:
            np.save(work.result_path(number), result)
            best = Trial(
                number,
                strength,
                weak if weak and strength else full,
                corrected.trace_share,
                fewer,
                most=strength if full.harmful else 1.0,
                refused=fewer or not full.helps,
                reason=None if full.helps else full.reason,
            )
        if strength == 1:
            break
    if best is None:
        return _not_corrected(work, number, impossible or InputError("it holds no metal that could be corrected"))
    return best


def steadied(trials: Sequence[Trial], positions_mm: Sequence[float]) -> dict[int, float]:
    """Return the strength of every slice, so that none flickers between its neighbours.

    A slice whose neighbours before and behind agree on more or less than its own strength goes along, but never to a
    strength at which its own correction was judged clearly harmful.

    Args:
        trials: of the slices with metal, in order.
        positions_mm: of all slices of the series.

    Returns:
        Number of the slice -> 1, 0.5 or 0.
    """
    known = {trial.number: trial for trial in trials}
    strengths = {}
    for number, trial in known.items():
        beside = [
            known[other].strength
            for other in (number - 1, number + 1)
            if other in known and abs(positions_mm[other] - positions_mm[number]) <= FARTHEST_MM
        ]
        strength = float(np.median([trial.strength, *beside])) if len(beside) == 2 else trial.strength
        strengths[number] = min(strength, trial.most if trial.judgement else trial.strength)
    return strengths


def finish_slice(
    work: Work, metal: Metal, areas: Sequence[float], strengths: Mapping[int, float], trial: Trial
) -> SliceReport:
    """Put aside the stored values of a slice at the strength that was decided for it, and say what became of it."""
    number, strength = trial.number, strengths[trial.number]
    header, pixels = work.read(number)
    hu, inside, mask = pixels.hu, inside_of(work.series, header, pixels), metal.masks[number].unpack()
    stored, clipped, changed, decision = pixels.stored, 0, None, "original kept"
    if strength:
        result = hu + strength * (np.load(work.result_path(number)) - hu)
        stored, clipped = pixels.to_stored(result, inside & ~mask)
        np.save(work.corrected_path(number), stored)
        change = np.abs(stored - pixels.stored)[inside] * abs(pixels.slope)
        changed = {step: float((change > step).mean()) for step in CHANGES_HU}
        decision = "weakened" if strength < 1 or trial.fewer else "corrected"
    work.result_path(number).unlink(missing_ok=True)
    return SliceReport(
        number=number,
        position_mm=work.series.slices[number].position_mm,
        metal_mm2=areas[number],
        decision=decision,
        trace_share=trial.trace_share,
        changed=changed,
        clipped_voxels=clipped,
        reason=_why(trial, strength),
        judgement=trial.judgement,
        figures=slice_figures(
            measured(work, number, header, pixels, stored, inside, mask), work.rois, work.settings.metal_threshold
        ),
    )


def _not_corrected(work: Work, number: int, error: InputError) -> Trial:
    if work.settings.slice_fallback == "original":
        return Trial(number, 0.0, reason=str(error))
    name = work.series.slices[number].name
    raise InputError(f"{name}: {error}; --slice-fallback original keeps such slices as they are") from error


def _why(trial: Trial, strength: float) -> str | None:
    """Why a slice is not corrected with all its metal at full strength."""
    if strength != trial.strength:
        return _AS_NEIGHBOURS
    return trial.reason or (_FEWER if trial.fewer else None)
