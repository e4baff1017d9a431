"""Scores grouped by metal size, as the published tables are: CSV, Markdown and plain text."""

import csv
import io
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise

from mar_pipeline.metrics import PROTOCOLS

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


def size_group(metal_pixels: int, image_shape: tuple[int, int]) -> int:
    """The published tables' size group of a mask: 1 (largest) to 5 (smallest).

    Args:
        metal_pixels: how many pixels of the image are metal.
        image_shape: rows and columns; the count is scaled to 416 x 416.
    """
    pixels = metal_pixels * _REFERENCE_PIXELS / math.prod(image_shape)
    return 1 + sum(pixels < boundary for boundary in _BOUNDARIES)


@dataclass(frozen=True)
class ScoreRow:
    """Scores of one method on one pair; the fields are the columns of results.csv.

    Args:
        split: train or test.
        case: patient, study and series, such as 000321_03_01.
        slice: slice of the case, such as 011.
        mask: mask index.
        metal_pixels: metal pixels of the image.
        grid: rows and columns of the image, such as 416 x 416.
        group: size group, 1 (largest) to 5.
        method: key of `METHODS`.
        protocol: key of `PROTOCOLS`.
        psnr: dB.
        ssim: -1..1.
        rmse_hu: HU.
    """

    split: str
    case: str
    slice: str
    mask: int
    metal_pixels: int
    grid: str
    group: int
    method: str
    protocol: str
    psnr: float
    ssim: float
    rmse_hu: float


def to_csv(rows: Sequence[ScoreRow]) -> str:
    """One line per pair, method and protocol."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(ScoreRow)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        scores = {"psnr": f"{row.psnr:.4f}", "ssim": f"{row.ssim:.5f}", "rmse_hu": f"{row.rmse_hu:.3f}"}
        writer.writerow(asdict(row) | scores)
    return text.getvalue()


def to_text(rows: Sequence[ScoreRow]) -> str:
    """Aligned tables for a terminal, one per protocol."""
    return _tables(rows, head=lambda name, states: textwrap.fill(f"Protocol {name}. {states}", 100), body=_plain)


def to_markdown(rows: Sequence[ScoreRow]) -> str:
    """The same tables in Markdown."""
    return _tables(rows, head=lambda name, states: f"## Protocol `{name}`\n\n{states}\n", body=_markdown)


_COLUMNS = "Columns: PSNR (dB) / SSIM / RMSE (HU), means over the pairs."


def _metal_size(rows: Sequence[ScoreRow]) -> str:
    """What the first column counts."""
    scaled = [grid for grid in dict.fromkeys(row.grid for row in rows) if grid != REFERENCE_GRID]
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
        states = f"{PROTOCOLS[protocol].states} {_COLUMNS} {_metal_size(rows)}"
        parts.append(f"{head(protocol, states)}\n{body(cells)}\n")
    return "\n".join(parts)


def _cells(rows: Sequence[ScoreRow]) -> list[list[str]]:
    """Header, the size groups that have pairs, the average: metal size, pairs, then one column per method."""
    methods = list(dict.fromkeys(row.method for row in rows))
    lines = [["metal size", "pairs", *methods]]
    for group, name in enumerate(GROUP_NAMES, start=1):
        members = [row for row in rows if row.group == group]
        if members:
            lines.append([name, *_means(members, methods)])
    return [*lines, ["average", *_means(rows, methods)]]


def averages(rows: Sequence[ScoreRow]) -> dict[str, dict[str, dict[str, float]]]:
    """Means over all rows: protocol -> method -> psnr, ssim, rmse_hu."""
    means: dict[str, dict[str, dict[str, float]]] = {}
    for protocol, method in dict.fromkeys((row.protocol, row.method) for row in rows):
        members = [row for row in rows if (row.protocol, row.method) == (protocol, method)]
        means.setdefault(protocol, {})[method] = {
            name: sum(getattr(row, name) for row in members) / len(members) for name in ("psnr", "ssim", "rmse_hu")
        }
    return means


def _means(rows: Sequence[ScoreRow], methods: Sequence[str]) -> list[str]:
    """Number of pairs, then "PSNR / SSIM / RMSE" of every method; the rows are of one protocol."""
    pairs = {(row.split, row.case, row.slice, row.mask) for row in rows}
    (of_method,) = averages(rows).values()
    means = [of_method[method] for method in methods]
    return [str(len(pairs)), *(f"{m['psnr']:.2f} / {m['ssim']:.4f} / {m['rmse_hu']:.1f}" for m in means)]


def _plain(cells: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def _markdown(cells: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "---:|" * len(cells[0]), *lines[1:]])
