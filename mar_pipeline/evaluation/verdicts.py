"""What the regulariser brings: regularised arms against the same arms without it, seed by seed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from scipy import stats

from mar_pipeline.evaluation.score_tables import markdown_table
from mar_pipeline.evaluation.trainings import Run
from mar_pipeline.training.settings import as_plain, flat

CONFIDENCE = 0.95
_OF_THE_RUN = ("run", "label", "seed", "threads")
_BATCH_SIZE = "data.batch_size"

Values = Mapping[str, Mapping[int, float]]
"""Arm -> seed -> value of a column, mean over the samples."""


@dataclass(frozen=True)
class Column:
    """A column of the results.

    Args:
        label: name and unit.
        digits: decimals to show.
        lower_is_better: whether smaller values are better.
        values: by arm and seed.
    """

    label: str
    digits: int
    lower_is_better: bool
    values: Values


def verdicts(runs: Sequence[Run], columns: Sequence[Column]) -> str:
    """Return a table of the differences that EQ-Reg makes; empty where no arm has it.

    A regularised arm is compared with arms that are the same but for EQ-Reg and show the network as many new samples a
    step, or as many images: EQ-Reg shows a share of a batch twice, as it is and rotated. Each line is the mean over the
    seeds of the difference between two arms trained with the same seed, and its 95 % interval by Student's t for paired
    samples. An interval that holds 0 is no difference.

    Args:
        runs: of the arms.
        columns: of the results.
    """
    lines = [["arms", "score", "difference", f"{100 * CONFIDENCE:.0f} % interval", "seeds", "EQ-Reg"]]
    alone: list[str] = []
    arms: dict[str, Run] = {}
    for run in runs:
        arms.setdefault(run.arm, run)
    for regularised in (run for run in arms.values() if run.settings.equivariance.enabled):
        plain = [run.arm for run in arms.values() if _is_partner(run, regularised)]
        alone += [] if plain else [regularised.arm]
        for other in plain:
            for column in columns:
                pairs = _paired(column.values, regularised.arm, other)
                if pairs:
                    name = f"{regularised.arm} \N{MINUS SIGN} {other}"
                    lines.append([name, column.label, *_difference(pairs, column)])
    table = [markdown_table(lines)] if len(lines) > 1 else []
    return "\n\n".join([*table, *(f"No arm shows what {arm} is without EQ-Reg." for arm in alone)])


def _is_partner(plain: Run, regularised: Run) -> bool:
    settings = regularised.settings
    if plain.settings.equivariance.enabled or _without_equivariance(plain) != _without_equivariance(regularised):
        return False
    return plain.settings.data.batch_size in (settings.data.batch_size, 2 * regularised.new_samples_a_step)


def _without_equivariance(run: Run) -> dict[str, object]:
    values = flat(as_plain(run.settings))
    left_out = (*_OF_THE_RUN, _BATCH_SIZE)
    return {key: own for key, own in values.items() if key not in left_out and not key.startswith("equivariance.")}


def _paired(values: Values, regularised: str, plain: str) -> list[tuple[float, float]]:
    first, second = values.get(regularised, {}), values.get(plain, {})
    return [(first[seed], second[seed]) for seed in first if seed in second]


def _difference(pairs: Sequence[tuple[float, float]], column: Column) -> list[str]:
    differences = [first - second for first, second in pairs]
    mean, form = fmean(differences), f"+.{column.digits}f"
    if len(pairs) < 2:
        return [f"{mean:{form}}", "-", str(len(pairs)), "too few seeds to tell"]
    spread = float(stats.sem(differences)) if math.isfinite(mean) else math.nan
    if not spread > 0:
        return [f"{mean:{form}}", "-", str(len(pairs)), "no spread over the seeds to judge by"]
    low, high = stats.t.interval(CONFIDENCE, len(pairs) - 1, loc=mean, scale=spread)
    better = (high < 0) if column.lower_is_better else (low > 0)
    worse = (low > 0) if column.lower_is_better else (high < 0)
    word = "helps" if better else "harms" if worse else "makes no difference that these seeds show"
    return [f"{mean:{form}}", f"{low:{form}} to {high:{form}}", str(len(pairs)), word]
