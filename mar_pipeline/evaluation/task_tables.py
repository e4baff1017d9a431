"""Results of a task: means over samples and seeds, as Markdown and plain text."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mar_pipeline.evaluation.method_facts import clock_words
from mar_pipeline.evaluation.methods import Method
from mar_pipeline.evaluation.score_tables import deviation, markdown_table, plain_table, with_spread
from mar_pipeline.evaluation.task_scores import QUARTER_TURNS_DEG, TaskScores
from mar_pipeline.tasks.task import HeldOutSet, Score

ROTATED, ERROR = "rotated", "equivariance_error"
"""Further columns: the first score of samples turned by quarter turns, and the whole-network error."""


@dataclass(frozen=True)
class MethodResult:
    """A line of the table.

    Args:
        method: column of the scores.
        seeds: of its runs; empty for a baseline.
        values: name of a score, `ROTATED` or `ERROR` -> its mean over the samples, for each run.
        parameters: of the network, None for a baseline.
        seconds: a sample, mean over the runs; None for a baseline.
    """

    method: str
    seeds: tuple[int | None, ...]
    values: dict[str, tuple[float, ...]]
    parameters: int | None
    seconds: float | None

    def as_json(self) -> dict[str, Any]:
        """Return the mean and sample standard deviation of each value, and the rest."""
        means = {name: statistics.mean(values) for name, values in self.values.items()}
        spreads = {f"{name}_std": deviation(values) for name, values in self.values.items() if len(values) > 1}
        return means | spreads | {"seeds": list(self.seeds), "parameters": self.parameters, "seconds": self.seconds}


def results_of(methods: Sequence[Method], scores: TaskScores, test: HeldOutSet) -> list[MethodResult]:
    """Return one result for each method, in their order.

    Args:
        methods: what was scored.
        scores: what was measured.
        test: names the scores.
    """
    results = []
    for column in dict.fromkeys(method.column for method in methods):
        own = [method for method in methods if method.column == column]
        runs = [method for method in own if method.run]
        columns = [_values(one, scores, test) for one in own]
        results.append(
            MethodResult(
                method=column,
                seeds=tuple(run.seed for run in runs),
                values={name: tuple(of_run[name] for of_run in columns) for name in columns[0]},
                parameters=runs[0].facts["parameters"] if runs else None,
                seconds=statistics.mean(scores.seconds[one.name] for one in own) if runs else None,
            )
        )
    return results


def _values(method: Method, scores: TaskScores, test: HeldOutSet) -> dict[str, float]:
    rows = [row for row in scores.rows if (row.run or row.method) == method.name]
    upright = [row for row in rows if not row.angle_deg]
    values = {name: statistics.fmean(row.scores[name] for row in upright) for name in test.scores}
    turned = [row for row in rows if row.angle_deg in QUARTER_TURNS_DEG]
    if turned:
        values[ROTATED] = statistics.fmean(row.scores[next(iter(test.scores))] for row in turned)
    if method.name in scores.errors:
        values[ERROR] = statistics.fmean(scores.errors[method.name].values())
    return values


def table_columns(test: HeldOutSet) -> dict[str, Score]:
    """Return every column of the table by the name of its value."""
    first = next(iter(test.scores.values()))
    columns = dict(test.scores)
    if test.angles_deg:
        columns[ROTATED] = Score(f"{first.label}, rotated", first.digits)
    return columns | {ERROR: Score("equivariance error", 3)}


def states(test: HeldOutSet, scores: TaskScores, device: str, precision: str) -> str:
    """Return what the numbers of a table are, in words.

    Args:
        test: the samples.
        scores: what was measured.
        device: where, cpu or cuda.
        precision: of the networks.
    """
    turned = (
        f" {next(iter(test.scores.values())).label}, rotated: mean over all samples turned by 90, 180 and 270 degrees."
        if test.angles_deg
        else ""
    )
    error = (
        " Equivariance error of the whole network f: ||a - b|| / sqrt((||a||^2 + ||b||^2) / 2) with a = pi f(x) and "
        f"b = f(pi x), mean over the quarter turns pi, {scores.samples} samples; f(x) is the logits of a classifier, "
        "else what the network adds to its input. 0 is equivariant."
        if scores.samples
        else ""
    )
    return (
        f"{test.states} {len(test.samples)} samples: {test.name}. Means over the samples; several seeds: mean "
        f"\N{PLUS-MINUS SIGN} sample standard deviation over the seeds.{turned}{error} Time a sample: "
        f"{clock_words(device)}; networks in {precision}."
    )


def to_markdown(results: Sequence[MethodResult], test: HeldOutSet) -> str:
    """Return the table in Markdown."""
    return markdown_table(_cells(results, test))


def to_text(results: Sequence[MethodResult], test: HeldOutSet) -> str:
    """Return the table for a terminal."""
    return plain_table(_cells(results, test))


def _cells(results: Sequence[MethodResult], test: HeldOutSet) -> list[list[str]]:
    columns = table_columns(test)
    lines = [["method", *(column.label for column in columns.values()), "parameters", "s a sample"]]
    for result in results:
        values = [
            with_spread(result.values[name], f".{column.digits}f") if name in result.values else "-"
            for name, column in columns.items()
        ]
        lines.append(
            [
                f"{result.method} ({len(result.seeds)} seeds)" if len(result.seeds) > 1 else result.method,
                *values,
                "-" if result.parameters is None else f"{result.parameters:,}",
                "-" if result.seconds is None else f"{result.seconds:.3g}",
            ]
        )
    return lines
