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
"""Share of a correction that is tried where all of it is judged harmful."""
_STRENGTHS = (0.0, WEAK, 1.0)
_JUMP = 0.6
"""What a step of strength from slice to slice costs, over what one from a slice's own strength costs: a slice alone
goes along with its neighbours, two agree against them."""
_DARKEST_HU = -1024.0
"""Nothing gets darker than this that was not so before."""
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
        judges = Judge(hu, used, work.series.spacing_mm, inside, pixels.brightest_hu, _is_told(work))
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
                reason=str(impossible) if impossible else None if full.helps else full.reason,
            )
        if strength == 1:
            break
    if best is None:
        return _not_corrected(work, number, impossible or InputError("it holds no metal that could be corrected"))
    return best


def steadied(trials: Sequence[Trial], positions_mm: Sequence[float]) -> dict[int, float]:
    """Return the strength of every slice, so that none flickers between its neighbours.

    Of all ways along a run of neighbouring slices, the one is taken that departs least from their own strengths and
    changes least from slice to slice (`_JUMP`). No slice gets a strength at which its own correction was judged clearly
    harmful, and one that could not be corrected stays the original.

    Args:
        trials: of the slices with metal, in order.
        positions_mm: of all slices of the series.

    Returns:
        Number of the slice -> 1, 0.5 or 0.
    """
    strengths: dict[int, float] = {}
    run: list[Trial] = []
    for trial in trials:
        if run and not (
            trial.number == run[-1].number + 1
            and abs(positions_mm[trial.number] - positions_mm[run[-1].number]) <= FARTHEST_MM
        ):
            strengths |= _along(run)
            run = []
        run.append(trial)
    return strengths | (_along(run) if run else {})


def _along(run: Sequence[Trial]) -> dict[int, float]:
    """Return the strengths of neighbouring slices; of two ways that cost the same, the weaker."""

    def allowed(trial: Trial) -> list[float]:
        return [one for one in _STRENGTHS if one <= trial.most] if trial.judgement else [trial.strength]

    ways: list[tuple[float, tuple[float, ...]]] = [(abs(one - run[0].strength), (one,)) for one in allowed(run[0])]
    for trial in run[1:]:
        ways = [
            min((cost + abs(one - trial.strength) + _JUMP * abs(one - way[-1]), (*way, one)) for cost, way in ways)
            for one in allowed(trial)
        ]
    return {trial.number: strength for trial, strength in zip(run, min(ways)[1], strict=True)}


def finish_slice(
    work: Work, metal: Metal, areas: Sequence[float], strengths: Mapping[int, float], trial: Trial
) -> SliceReport:
    """Put aside the stored values of a slice at the strength that was decided for it, and say what became of it."""
    number, strength = trial.number, strengths[trial.number]
    header, pixels = work.read(number)
    hu, inside, mask = pixels.hu, inside_of(work.series, header, pixels), metal.masks[number].unpack()
    stored, clipped, changed, decision = pixels.stored, 0, None, "original kept"
    judgement = trial.judgement
    if strength:
        result = hu + strength * (np.load(work.result_path(number)) - hu)
        if strength != trial.strength:
            used = metal.sure[number].unpack() if trial.fewer else mask
            judges = Judge(hu, used, work.series.spacing_mm, inside, pixels.brightest_hu, _is_told(work))
            judgement = judges(result)
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
        judgement=judgement,
        figures=slice_figures(
            measured(work, number, header, pixels, stored, inside, mask), work.rois, work.settings.metal_threshold
        ),
    )


def _not_corrected(work: Work, number: int, error: InputError) -> Trial:
    if work.settings.slice_fallback == "original":
        return Trial(number, 0.0, reason=str(error))
    name = work.series.slices[number].name
    raise InputError(f"{name}: {error}; --slice-fallback original keeps such slices as they are") from error


def _is_told(work: Work) -> bool:
    """Whether the user says what is metal, so that the judge does not ask for evidence of it."""
    return work.given is not None or work.settings.all_candidates


def _why(trial: Trial, strength: float) -> str | None:
    """Why a slice is not corrected with all its metal at full strength."""
    if strength != trial.strength:
        return _AS_NEIGHBOURS
    return trial.reason or (_FEWER if trial.fewer else None)
