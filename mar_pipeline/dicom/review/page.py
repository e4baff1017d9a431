"""The review page: one HTML file with all it needs, original beside corrected beside difference, slice by slice.

A slice is two grey PNG images of byte planes, one above the other: high bytes, low bytes and the metal mask of the
original in HU; high bytes and low bytes of the residual, corrected - original, which is mostly nothing and so packs
well. (A plane for each byte is a quarter smaller than colours are, and ten times as fast to write.) The page decodes a
slice when it is shown.
"""

import base64
import hashlib
import html
import io
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from string import Template
from typing import TextIO

import numpy as np
from PIL import Image

from mar_pipeline.dicom.writing.derivation import STATEMENT
from simulation.files import whole_file

OFFSET = 32896
"""Stored value of 0 HU. The high byte then steps at -128 and 128 HU, away from the noise of air, fat and water, which
would else flicker between two bytes and pack badly."""
LOWEST_HU, HIGHEST_HU = -OFFSET, 65535 - OFFSET
MOST_BYTES, STEPS_HU = 400_000, (1, 2, 4, 8, 16)
"""A slice takes no more than this: noise packs badly, and where there is much of it, its last bits are left out."""
CHANGED_HU = 20
"""A voxel changed by more counts for the bars above the slider."""
SLICES = "<!-- slices -->"


@dataclass(frozen=True)
class PageSlice:
    """One slice of the page.

    Args:
        label: such as "slice 12 of 40, -35.0 mm".
        load: answers original in HU, corrected in HU (float32, rows x columns) and the metal mask (bool); called once,
            when the slice is written. Values are rounded to whole HU, or to 2, 4, 8 or 16 HU, and the page says so.
        spacing_mm: distance of rows, distance of columns.
        figures: names and values to show beside it.
        regions: name, and what was measured there before and after.
    """

    label: str
    load: Callable[[], tuple[np.ndarray, np.ndarray, np.ndarray]]
    spacing_mm: tuple[float, float]
    figures: Mapping[str, str]
    regions: Sequence[tuple[str, str, str]] = ()


@dataclass(frozen=True)
class PageSeries:
    """One series of the page.

    Args:
        title: what the series is called.
        facts: names and values.
        warnings: one sentence each.
        slices: may make its items as they are asked for; asked once, in order.
        slices_not_shown: how many slices of the series the page leaves out.
        verdict: one line above the images: how it was corrected, and how many slices were.
        tables: title -> rows of cells, the first of them the heads; shown below the images.
    """

    title: str
    facts: Mapping[str, str]
    warnings: Sequence[str]
    slices: Sequence[PageSlice]
    slices_not_shown: int
    verdict: str = ""
    tables: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)


def write_page(
    path: Path, series: Sequence[PageSeries], not_processed: Sequence[tuple[str, str]], facts: Mapping[str, str]
) -> None:
    """Write the review page slice by slice, readable by its owner only: whole or not at all.

    All texts are shown as they are, never as HTML. Who calls sees to it that none names a patient.

    Args:
        path: the HTML file; its folder exists.
        series: what was corrected; two slices at once are never in memory.
        not_processed: name and reason of what was left out.
        facts: names and values about the whole run.

    Raises:
        ValueError: a slice whose images differ in shape, have no pixels or hold values that are not finite, or whose
            spacing is not above 0.
        OSError: the file cannot be written.
    """
    before, after = _template(series, not_processed, facts)
    with whole_file(path) as partial, _private(partial) as file:
        file.write(before)
        for number, item in enumerate(series):
            for index, page_slice in enumerate(item.slices):
                _write_slice(file, number, index, page_slice)
        file.write(after)


def _private(path: Path) -> TextIO:
    """Open a new file for writing that only its owner may read, from its first byte on."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    os.fchmod(descriptor, 0o600)  # one left by a killed run may have had another mode
    return open(descriptor, "w", encoding="utf-8", errors="replace", newline="\n")


def _template(
    series: Sequence[PageSeries], not_processed: Sequence[tuple[str, str]], facts: Mapping[str, str]
) -> tuple[str, str]:
    """Return the page up to the slices, and from there on."""
    folder = resources.files(__package__)
    names = ("page.html", "page.css", "page_pixels.js", "page.js")
    page, style, *scripts = (folder.joinpath(name).read_text("utf-8") for name in names)
    script = "".join(scripts)
    policy = {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": _source_hash(style),
        "script-src": _source_hash(script),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    before, after = page.split(SLICES)
    values = {
        "policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "style": style,
        "research": html.escape(STATEMENT),
        "legend_hu": CHANGED_HU,
        "series": "\n".join(_head(number, item) for number, item in enumerate(series)),
        "details": _details(series, not_processed, facts),
    }
    return Template(before).substitute(values), Template(after).substitute(script=script)


def _source_hash(text: str) -> str:
    """Return what names an inline style or script in a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _head(number: int, series: PageSeries) -> str:
    """Return what stands above the images of a series."""
    count = len(series.slices)
    shown = f"{count} slice{'s' * (count != 1)} shown" if count else "no slice shown"
    if series.slices_not_shown:
        shown += f", {series.slices_not_shown} not shown"
    warnings = "".join(f"<li>{html.escape(warning)}</li>" for warning in series.warnings)
    return (
        f'<section class="of-series" data-role="head" data-series="{number}"><div class="head">'
        f"<h2><bdi>{html.escape(series.title)}</bdi></h2><p>{shown}</p></div>"
        + (f'<p class="verdict">{html.escape(series.verdict)}</p>' if series.verdict else "")
        + (f'<ul class="warnings" aria-label="Warnings" tabindex="0">{warnings}</ul>' if warnings else "")
        + "</section>"
    )


def _details(series: Sequence[PageSeries], not_processed: Sequence[tuple[str, str]], facts: Mapping[str, str]) -> str:
    """Return what stands below the images: facts of each series and the run, and what was left out."""
    parts = [
        f'<section class="of-series card" data-series="{number}"><h2>This series</h2>{_fact_list(item.facts)}</section>'
        for number, item in enumerate(series)
        if item.facts
    ]
    parts += [
        f'<section class="of-series card" data-series="{number}"><h2>{html.escape(title)}</h2>{_table(rows)}</section>'
        for number, item in enumerate(series)
        for title, rows in item.tables.items()
    ]
    if not series:
        parts.append('<section class="card"><h2>No series was corrected</h2></section>')
    if facts:
        parts.append(f'<section class="card"><h2>This run</h2>{_fact_list(facts)}</section>')
    table = _table([("What", "Why"), *not_processed])
    parts.append(
        f'<section class="card" id="not-processed"><h2>Not processed ({len(not_processed)})</h2>'
        f"{table if not_processed else '<p>Everything that was found was processed.</p>'}</section>"
    )
    return "\n".join(parts)


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table of texts; its first row are the heads."""

    def row(cells: Sequence[str], kind: str) -> str:
        return f"<tr>{''.join(f'<{kind}>{html.escape(cell)}</{kind}>' for cell in cells)}</tr>"

    lines = [row(rows[0], "th"), *(row(cells, "td") for cells in rows[1:])]
    return f'<div class="wide" tabindex="0"><table>{"".join(lines)}</table></div>'


def _fact_list(facts: Mapping[str, str]) -> str:
    pairs = "".join(f"<div><dt>{html.escape(a)}</dt><dd>{html.escape(b)}</dd></div>" for a, b in facts.items())
    return f'<dl class="facts">{pairs}</dl>'


def _write_slice(file: TextIO, series: int, index: int, page_slice: PageSlice) -> None:
    """Write a slice as data blocks, which the browser neither runs nor shows: what is known of it and two images."""
    original, corrected, metal = page_slice.load()
    _check(page_slice, original, corrected, metal)
    changed = np.abs(_stored(corrected) - _stored(original)) > CHANGED_HU
    for step_hu in STEPS_HU:
        images = _images(original, corrected, metal, step_hu)
        packed = {kind: _png(image) for kind, image in images.items()}
        if sum(map(len, packed.values())) <= MOST_BYTES:
            break
    rounded = {} if step_hu == 1 else {"Values shown in steps of": f"{step_hu} HU"}
    name = f"{series}-{index}"
    known = {
        "label": page_slice.label,
        "rows": original.shape[0],
        "columns": original.shape[1],
        "spacing": [float(spacing) for spacing in page_slice.spacing_mm],
        "figures": [[name, value] for name, value in {**page_slice.figures, **rounded}.items()],
        "regions": [list(region) for region in page_slice.regions],
        "metal": int(np.count_nonzero(metal)),
        "changed": round(float(changed.mean()), 6),
        "sums": [_sum(image) for image in images.values()],
    }
    file.write(
        f'<script type="application/json" class="slice" id="{name}" data-series="{series}">{_json(known)}</script>\n'
    )
    for kind, text in packed.items():
        file.write(f'<script type="text/plain" id="{kind}-{name}">{text}</script>\n')


def _images(original: np.ndarray, corrected: np.ndarray, metal: np.ndarray, step_hu: int) -> dict[str, np.ndarray]:
    """Return the two images of a slice."""
    first, second = _stored(original), _stored(corrected)
    if step_hu > 1:  # the change is rounded, not the result: two roundings would differ by a step everywhere
        change = step_hu * np.rint((second - first) / step_hu).astype(np.int32)
        first = step_hu * np.rint(first / step_hu).astype(np.int32)
        first, second = (np.clip(values, 0, 65535) for values in (first, first + change))
    return {
        "original": np.concatenate([_byte_planes(first), metal.astype(bool).view(np.uint8)]),
        "residual": _byte_planes(second - first + OFFSET),
    }


def _check(page_slice: PageSlice, original: np.ndarray, corrected: np.ndarray, metal: np.ndarray) -> None:
    """Refuse what the page could not show truly."""
    if original.ndim != 2 or original.size == 0 or not original.shape == corrected.shape == metal.shape:
        shapes = ", ".join(str(array.shape) for array in (original, corrected, metal))
        raise ValueError(f"{page_slice.label}: got shapes {shapes}; expected one shape (rows, columns)")
    if not (np.isfinite(original).all() and np.isfinite(corrected).all()):
        raise ValueError(f"{page_slice.label}: got values that are not finite; expected HU")
    if len(page_slice.spacing_mm) != 2 or not all(0 < spacing < math.inf for spacing in page_slice.spacing_mm):
        raise ValueError(f"{page_slice.label}: got spacing {page_slice.spacing_mm}; expected two lengths above 0 mm")


def _stored(hu: np.ndarray) -> np.ndarray:
    """HU as 16 bits in int32; what 16 bits cannot hold is shown as the nearest that they can."""
    return np.clip(np.rint(hu), LOWEST_HU, HIGHEST_HU).astype(np.int32) + OFFSET


def _byte_planes(values: np.ndarray) -> np.ndarray:
    """High bytes above low bytes of the values' low 16 bits, uint8 (2 rows, columns)."""
    return np.concatenate([(values >> 8) & 255, values & 255]).astype(np.uint8)


def _sum(image: np.ndarray) -> int:
    """Sum of all pixels times 1, 2 or 3 by place, so that the page can tell whether the browser altered them."""
    weights = np.resize([1, 2, 3], image.size)
    return int(image.ravel() @ weights)


def _png(image: np.ndarray) -> str:
    """Return a grey PNG without alpha and colour profile, base64."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _json(content: Mapping[str, object]) -> str:
    """JSON in which no text can end the script element around it or begin a comment."""
    text = json.dumps(content, allow_nan=False, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
