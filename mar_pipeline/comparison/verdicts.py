"""What the regulariser brings: regularised arms against the same arms without it, seed by seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from scipy import stats

from mar_pipeline.comparison.trainings import Arms
from mar_pipeline.evaluation.score_tables import markdown_table

CONFIDENCE = 0.95
_EQUIVARIANCE = "equivariance."

Values = Mapping[str, Mapping[int, float]]
"""Arm -> seed -> value of a column, mean over the samples."""


@dataclass(frozen=True)
class Column:
    """A column of the results.

    Args:
        label: name and unit.
        digits: decimals that are told.
        lower_is_better: whether smaller values are better.
        values: by arm and seed.
    """

    label: str
    digits: int
    lower_is_better: bool
    values: Values


def verdicts(arms: Arms, columns: Sequence[Column]) -> str:
    """A table of the differences that EQ-Reg makes; empty where no arm has it or none is there to compare it with.

    Each line is the mean over the seeds of the difference between two arms trained with the same seed, and its 95 %
    interval by Student's t for paired samples. An interval that holds 0 is no difference.

    Args:
        arms: what each changes.
        columns: of the results.
    """
    lines = [["arms", "score", "difference", f"{100 * CONFIDENCE:.0f} % interval", "seeds", "EQ-Reg"]]
    for regularised, plain in _pairs(arms):
        for column in columns:
            pairs = _paired(column.values, regularised, plain)
            if pairs:
                lines.append([f"{regularised} \N{MINUS SIGN} {plain}", column.label, *_difference(pairs, column)])
    return markdown_table(lines) if len(lines) > 1 else ""


def _pairs(arms: Arms) -> list[tuple[str, str]]:
    """Each regularised arm, and the one that is the same without."""
    plain = {name: _without(changes) for name, changes in arms.items() if not _is_regularised(changes)}
    return [
        (name, other)
        for name, changes in arms.items()
        if _is_regularised(changes)
        for other, rest in plain.items()
        if rest == _without(changes)
    ]


def _is_regularised(changes: Mapping[str, object] | None) -> bool:
    return bool((changes or {}).get("equivariance.enabled"))


def _without(changes: Mapping[str, object] | None) -> dict[str, object]:
    return {key: value for key, value in (changes or {}).items() if not key.startswith(_EQUIVARIANCE)}


def _paired(values: Values, regularised: str, plain: str) -> list[tuple[float, float]]:
    first, second = values.get(regularised, {}), values.get(plain, {})
    return [(first[seed], second[seed]) for seed in first if seed in second]


def _difference(pairs: Sequence[tuple[float, float]], column: Column) -> list[str]:
    differences = [first - second for first, second in pairs]
    mean, form = fmean(differences), f"+.{column.digits}f"
    spread = float(stats.sem(differences)) if len(pairs) > 1 else 0.0
    if not spread > 0:
        return [f"{mean:{form}}", "-", str(len(pairs)), "too few seeds to tell"]
    low, high = stats.t.interval(CONFIDENCE, len(pairs) - 1, loc=mean, scale=spread)
    better = (high < 0) if column.lower_is_better else (low > 0)
    worse = (low > 0) if column.lower_is_better else (high < 0)
    word = "helps" if better else "harms" if worse else "makes no difference that these seeds show"
    return [f"{mean:{form}}", f"{low:{form}} to {high:{form}}", str(len(pairs)), word]
