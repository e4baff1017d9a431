"""Scores grouped by metal size, as the published tables are: CSV, Markdown and plain text."""

import csv
import io
import math
import statistics
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from mar_pipeline.tasks.metrics import PROTOCOLS

REFERENCE_GRID = "416 x 416"
"""Grid of the published tables, on which metal is measured."""

_REFERENCE_PIXELS = 416 * 416
_TEST_MASK_PIXELS = ((2061, 890), (881, 451), (254, 124), (118, 112), (53, 35))
"""Sizes of the ten test masks at 416 x 416, in the five groups of the published tables, large to small."""

_BOUNDARIES = tuple(math.sqrt(larger[1] * smaller[0]) for larger, smaller in pairwise(_TEST_MASK_PIXELS))
"""Geometric means between neighbouring groups, metal pixels at 416 x 416: 885.5, 338.5, 121.0, 77.0."""

GROUP_NAMES = (
    f"> {_BOUNDARIES[0]:.0f}",
    *(f"{low:.0f} to {high:.0f}" for high, low in pairwise(_BOUNDARIES)),
    f"< {_BOUNDARIES[-1]:.0f}",
)
"""Metal pixels of each size group at 416 x 416, large to small."""

_DIGITS = {"psnr": 2, "ssim": 4, "rmse_hu": 1}
"""The scores of a cell, and how many decimals each has."""

_TERMINAL_COLUMNS = 120


def size_group(metal_pixels: int, image_shape: tuple[int, int]) -> int:
    """Return the published tables' size group of a mask: 1 (largest) to 5 (smallest).

    Args:
        metal_pixels: how many pixels of the image are metal.
        image_shape: rows and columns; the count is scaled to 416 x 416.
    """
    pixels = metal_pixels * _REFERENCE_PIXELS / math.prod(image_shape)
    return 1 + sum(pixels < boundary for boundary in _BOUNDARIES)


@dataclass(frozen=True)
class ScoreRow:
    """Scores of one method on one sample; its values are the columns of results.csv, in this order.

    Args:
        sample: what names and describes the sample, by column. Of a pair: split, case, slice, mask, metal_pixels, grid
            (rows and columns, such as 416 x 416) and group (1, largest metal, to 5). Of other tasks: sample.
        method: column of the tables.
        run: name of the trained run; empty for a method that is not trained.
        seed: of the run's training, None where there is none.
        condition: how it was scored: by which protocol, or turned by which angle_deg.
        scores: name -> value.
    """

    sample: Mapping[str, Any]
    method: str
    run: str
    seed: int | None
    condition: Mapping[str, Any]
    scores: Mapping[str, float]

    @property
    def protocol(self) -> str:
        """Return the protocol of a pair's scores."""
        return str(self.condition["protocol"])

    @property
    def angle_deg(self) -> float:
        """Return by how much the sample was turned."""
        return float(self.condition.get("angle_deg", 0.0))


_CSV_DIGITS = {"psnr": 4, "ssim": 5, "rmse_hu": 3}


def to_csv(rows: Sequence[ScoreRow], digits: Mapping[str, int] = _CSV_DIGITS) -> str:
    """Write one line per sample, run or method, and condition.

    Args:
        rows: the scores.
        digits: score -> decimals; 5 for others.
    """
    text = io.StringIO()
    lines = [
        {**row.sample, "method": row.method, "run": row.run, "seed": row.seed, **row.condition}
        | {name: f"{value:.{digits.get(name, 5)}f}" for name, value in row.scores.items()}
        for row in rows
    ]
    columns = list(dict.fromkeys(column for line in lines for column in line))
    writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def to_text(rows: Sequence[ScoreRow]) -> str:
    """Return aligned tables for a terminal, one per protocol; wide ones go on below with the next columns."""

    def body(cells: list[list[str]]) -> str:
        return "\n\n".join(plain_table(part, totals=True) for part in _narrow(cells))

    return _tables(rows, head=lambda name, states: textwrap.fill(f"Protocol {name}. {states}", 100), body=body)


def to_markdown(rows: Sequence[ScoreRow]) -> str:
    """Return the same tables in Markdown."""
    return _tables(rows, head=lambda name, states: f"## Protocol `{name}`\n\n{states}\n", body=markdown_table)


def _states(rows: Sequence[ScoreRow], protocol: str) -> str:
    """Return what the numbers of a table are, in words."""
    columns = "Columns: PSNR (dB) / SSIM / RMSE (HU), means over the pairs"
    if any(len(runs) > 1 for runs in _runs(rows).values()):
        columns += "; several seeds: mean \N{PLUS-MINUS SIGN} sample standard deviation over the seeds of these means"
    return f"{PROTOCOLS[protocol].states} {columns}. {_metal_size(rows)}"


def _metal_size(rows: Sequence[ScoreRow]) -> str:
    """Return what the first column counts."""
    scaled = [grid for grid in dict.fromkeys(row.sample["grid"] for row in rows) if grid != REFERENCE_GRID]
    if not scaled:
        return f"Metal size in pixels at {REFERENCE_GRID}."
    return (
        f"Metal size in pixels at {REFERENCE_GRID}; counts of images of {' and '.join(scaled)} are scaled to it by the "
        "number of pixels, whatever a pixel measures in mm."
    )


def _tables(rows: Sequence[ScoreRow], head: Callable[[str, str], str], body: Callable[[list[list[str]]], str]) -> str:
    parts = []
    for protocol in dict.fromkeys(row.protocol for row in rows):
        cells = _cells([row for row in rows if row.protocol == protocol])
        parts.append(f"{head(protocol, _states(rows, protocol))}\n{body(cells)}\n")
    return "\n".join(parts)


def _cells(rows: Sequence[ScoreRow]) -> list[list[str]]:
    """Return header, the size groups that have pairs, the average: metal size, pairs, then one column per method."""
    runs = _runs(rows)
    heads = [f"{method} ({len(of)} seeds)" if len(of) > 1 else method for method, of in runs.items()]
    lines = [["metal size", "pairs", *heads]]
    for group, name in enumerate(GROUP_NAMES, start=1):
        members = [row for row in rows if row.sample["group"] == group]
        if members:
            lines.append([name, *_means(members, runs)])
    return [*lines, ["average", *_means(rows, runs)]]


def _runs(rows: Sequence[ScoreRow]) -> dict[str, list[str]]:
    """Return method -> its runs, in the order of the rows."""
    runs: dict[str, list[str]] = {}
    for method, run in dict.fromkeys((row.method, row.run) for row in rows):
        runs.setdefault(method, []).append(run)
    return runs


def _means_of_runs(rows: Sequence[ScoreRow], method: str, score: str) -> list[float]:
    """Return the mean over the pairs, for each run of a method."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row.method == method:
            values.setdefault(row.run, []).append(row.scores[score])
    return [sum(of_run) / len(of_run) for of_run in values.values()]


def averages(rows: Sequence[ScoreRow]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return means over all pairs: protocol -> method -> psnr, ssim, rmse_hu.

    A method of several seeds has the mean over the seeds, and ``psnr_std`` and so on, their sample standard deviation
    (None where a value is infinite).
    """
    means: dict[str, dict[str, dict[str, float | None]]] = {}
    for protocol in dict.fromkeys(row.protocol for row in rows):
        members = [row for row in rows if row.protocol == protocol]
        for method in _runs(members):
            entry = means.setdefault(protocol, {}).setdefault(method, {})
            for score in _DIGITS:
                of_runs = _means_of_runs(members, method, score)
                entry[score] = sum(of_runs) / len(of_runs)
                if len(of_runs) > 1:
                    entry[f"{score}_std"] = deviation(of_runs)
    return means


def _means(rows: Sequence[ScoreRow], methods: Iterable[str]) -> list[str]:
    """Return the number of pairs, then "PSNR / SSIM / RMSE" of every method; the rows are of one protocol."""
    pairs = {(row.sample["split"], row.sample["case"], row.sample["slice"], row.sample["mask"]) for row in rows}
    cells = [
        " / ".join(with_spread(_means_of_runs(rows, method, score), f".{digits}f") for score, digits in _DIGITS.items())
        for method in methods
    ]
    return [str(len(pairs)), *cells]


def deviation(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation, None for fewer than two values or one that is not finite."""
    return statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else None


def with_spread(values: Sequence[float], form: str) -> str:
    """Return one value as it is, several ones as "mean \N{PLUS-MINUS SIGN} sample standard deviation".

    Args:
        values: at least one.
        form: number format, such as ".2f".
    """
    mean, spread = sum(values) / len(values), deviation(values)
    return f"{mean:{form}}" if spread is None else f"{mean:{form}} \N{PLUS-MINUS SIGN} {spread:{form}}"


def _narrow(cells: list[list[str]]) -> Iterator[list[list[str]]]:
    """Return tables that fit a terminal: the first two columns, then as many of the others as there is room for."""
    widths = [max(map(len, column)) + 2 for column in zip(*cells, strict=True)]
    fixed, start = sum(widths[:2]), 2
    while start < len(widths):
        end = start + 1
        while end < len(widths) and fixed + sum(widths[start : end + 1]) <= _TERMINAL_COLUMNS:
            end += 1
        yield [row[:2] + row[start:end] for row in cells]
        start = end


def plain_table(cells: list[list[str]], totals: bool = False) -> str:
    """Return aligned text.

    Args:
        cells: header, then lines of as many cells.
        totals: the last line sums up the others: a rule goes before it.
    """
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    rule = "-" * len(lines[0])
    lines.insert(1, rule)
    if totals:
        lines.insert(-1, rule)
    return "\n".join(lines)


def markdown_table(cells: list[list[str]]) -> str:
    """Return a table in Markdown, from the header and lines of as many cells."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "---:|" * len(cells[0]), *lines[1:]])
