"""report.html of a run: what the page shows of its series."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from mar_pipeline import __version__
from mar_pipeline.dicom.correction.methods import Method
from mar_pipeline.dicom.process import SeriesResult, series_name
from mar_pipeline.dicom.reading.series import Discovery, Series
from mar_pipeline.dicom.review.page import PageSeries, PageSlice, write_page
from mar_pipeline.dicom.settings import DicomSettings
from mar_pipeline.dicom.slices import SliceReport


def write_report(
    path: Path,
    found: Discovery,
    results: Sequence[SeriesResult],
    failures: Sequence[tuple[Series, str]],
    settings: DicomSettings,
    method: Method,
) -> None:
    """Writes report.html: the slices with metal, at most so many of a series as the settings allow.

    Args:
        path: the file.
        found: the input.
        results: series that were looked at; their corrected pixels still wait.
        failures: series that failed, with the reason.
        settings: of the run.
        method: what corrected.
    """
    left_out = [
        *((f"Series {series.number}", found.without_names(reason)) for series, reason in failures),
        *((f"Series {r.work.series.number}", "no metal") for r in results if not r.metal_slices),
        *((found.without_names(one.name), found.without_names(one.reason)) for one in found.skipped),
    ]
    facts = {
        "Method": method.label,
        "Version": f"mar-pipeline {__version__}",
        "Metal": f"from {settings.metal_threshold:g} HU, at least {settings.min_metal_mm2:g} mm2 in a slice",
    }
    if method.weights_sha256:
        facts["Weights (SHA-256)"] = method.weights_sha256
    pages = [_page_series(result, found, settings.html_slices) for result in results if result.metal_slices]
    write_page(path, pages, left_out, facts)


def _page_series(result: SeriesResult, found: Discovery, most: int) -> PageSeries:
    series = result.work.series
    shown = _spread(result.metal_slices, most)
    facts = {
        "Slices": f"{len(series.slices)}, {len(result.metal_slices)} with metal",
        "Image": f"{series.shape[0]} x {series.shape[1]}, {series.spacing_mm[0]:.3g} x {series.spacing_mm[1]:.3g} mm",
        "Distance of slices": f"{series.gap_mm:.3g} mm" if series.gap_mm is not None else "single slice",
        "Folder": series_name(series),
    }
    return PageSeries(
        f"Series {series.number}",
        facts,
        [found.without_names(warning) for warning in result.warnings],
        [_page_slice(result, result.slices[number]) for number in shown],
        len(result.metal_slices) - len(shown),
    )


def _page_slice(result: SeriesResult, report: SliceReport) -> PageSlice:
    count = len(result.slices)
    figures = {"Metal": f"{report.metal_mm2:.0f} mm2", "Decision": report.decision}
    if report.trace_share is not None and report.changed is not None:
        figures["Projections behind metal"] = f"{100 * report.trace_share:.1f} %"
        figures |= {f"Changed by > {hu} HU": f"{100 * share:.1f} %" for hu, share in report.changed.items()}
    if report.reason:
        figures["Reason"] = report.reason
    return PageSlice(
        f"slice {report.number + 1} of {count}, {report.position_mm:.1f} mm",
        partial(_load, result, report.number),
        result.work.series.spacing_mm,
        figures,
    )


def _load(result: SeriesResult, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    _, pixels = result.work.read(number)
    stored = result.work.stored(number, pixels)
    corrected = (stored * pixels.slope + pixels.intercept).astype(np.float32)
    return pixels.hu, np.where(pixels.padding, pixels.hu, corrected), result.metal.masks[number].unpack()


def _spread(numbers: Sequence[int], most: int) -> list[int]:
    """At most so many of the numbers, evenly spread."""
    if len(numbers) <= most:
        return list(numbers)
    return [numbers[round(place)] for place in np.linspace(0, len(numbers) - 1, most)]
