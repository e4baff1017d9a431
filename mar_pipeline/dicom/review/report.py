"""report.html of a run: what the page shows of its series."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from mar_pipeline import __version__
from mar_pipeline.dicom.correction.metal import Component
from mar_pipeline.dicom.correction.methods import Method
from mar_pipeline.dicom.measures.figures import SeriesFigures, SliceFigures
from mar_pipeline.dicom.measures.statistics import Statistics
from mar_pipeline.dicom.process import SeriesResult, series_name
from mar_pipeline.dicom.reading.series import Discovery, Series
from mar_pipeline.dicom.review.labels import region_labels, series_labels
from mar_pipeline.dicom.review.page import PageSeries, PageSlice, write_page
from mar_pipeline.dicom.review.summary import verdict
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
    """Write report.html: the slices with metal, at most so many of a series as the settings allow.

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
        "Metal": settings.metal_source,
    }
    if method.weights_sha256:
        facts["Weights (SHA-256)"] = method.weights_sha256
    pages = [_page_series(result, found, settings.html_slices, method) for result in results if result.metal_slices]
    write_page(path, pages, left_out, facts)


def _page_series(result: SeriesResult, found: Discovery, most: int, method: Method) -> PageSeries:
    series = result.work.series
    shown = _spread(result.metal_slices, most)
    facts = {
        "Slices": f"{len(series.slices)}, {len(result.metal_slices)} with metal",
        "Image": f"{series.shape[0]} x {series.shape[1]}, {series.spacing_mm[0]:.3g} x {series.spacing_mm[1]:.3g} mm",
        "Distance of slices": f"{series.gap_mm:.3g} mm" if series.gap_mm is not None else "single slice",
        "Folder": series_name(series),
    }
    if figures := result.figures:
        facts |= _facts_of_figures(figures)
    tables = {"What was taken for metal": _components(result.metal.components)} if result.metal.components else {}
    if figures and figures.regions:
        heads = ("Region", "HU before: mean ± SD (min to max)", "HU after")
        tables["HU of the series: rings in the slices with metal, regions in all slices that they meet"] = [
            heads,
            *_regions(figures, region_labels(result)),
        ]
    return PageSeries(
        _title(result),
        facts,
        [found.without_names(warning) for warning in result.warnings],
        [_page_slice(result, result.slices[number]) for number in shown],
        len(result.metal_slices) - len(shown),
        _verdict(result, method),
        tables,
    )


def _title(result: SeriesResult) -> str:
    """Return the number of the series, and how the source calls it if that may be shown."""
    labels = series_labels(result) or {}
    return ", ".join([f"Series {result.work.series.number}", *filter(None, labels.values())])


def _verdict(result: SeriesResult, method: Method) -> str:
    """How the series was corrected, and how many of its slices were."""
    counts = verdict(result.slices)
    return (
        f"{method.label}, metal {result.work.settings.metal_source}: {counts['corrected']} slices corrected, "
        f"{counts['weakened']} weakened, {counts['original_kept']} kept the original"
    )


def _facts_of_figures(figures: SeriesFigures) -> dict[str, str]:
    """Return volumes and beams of the whole series."""
    facts = {}
    if metal := figures.metal_cm3:
        facts["Metal"] = f"{metal.mask:.2f} cm3"
        facts["Metal above the threshold"] = f"{metal.before:.2f} cm3 before, {metal.after:.2f} cm3 after"
    facts |= {f"Volume changed by > {hu} HU": f"{volume:.1f} cm3" for hu, volume in figures.changed_cm3}
    for what, path_mm in (("proton", figures.proton_path_mm), ("photon", figures.photon_path_mm)):
        if path_mm is not None:
            facts[f"Largest change along a {what} path"] = f"{path_mm:.1f} mm of water"
    return facts


def _page_slice(result: SeriesResult, report: SliceReport) -> PageSlice:
    count = len(result.slices)
    figures = {"Metal": f"{report.metal_mm2:.0f} mm2", "Decision": _decision(report)}
    if report.trace_share is not None and report.changed is not None:
        figures["Projections behind metal"] = f"{100 * report.trace_share:.1f} %"
        figures |= {
            f"Changed by > {hu} HU": f"{100 * share:.1f} % of the field of view's voxels"
            for hu, share in report.changed.items()
        }
    if report.figures is not None:
        figures |= _measured(report.figures, result.thickness_mm(report.number))
    return PageSlice(
        f"slice {report.number + 1} of {count}, {report.position_mm:.1f} mm",
        partial(_load, result, report.number),
        result.work.series.spacing_mm,
        figures,
        _regions(report.figures, region_labels(result)) if report.figures is not None else (),
    )


def _decision(report: SliceReport) -> str:
    """Return what became of the slice and why, as a sentence says it."""
    done = "kept the original" if report.decision == "original kept" else report.decision
    return f"{done}: {report.reason}" if report.reason else done


def _measured(figures: SliceFigures, thickness_mm: float | None) -> dict[str, str]:
    """Metal, volumes and beams of a slice."""
    facts = {}
    if metal := figures.metal_mm2:
        facts["Metal above the threshold"] = f"{metal.before:.0f} mm2 before, {metal.after:.0f} mm2 after"
    for hu, area_mm2 in figures.changed_mm2:
        if thickness_mm is not None:
            facts[f"Volume changed by > {hu} HU"] = f"{area_mm2 * thickness_mm / 1000:.1f} cm3"
    for what, path_mm in (("proton", figures.proton_path_mm), ("photon", figures.photon_path_mm)):
        if path_mm is not None:
            facts[f"Largest change along a {what} path"] = f"{path_mm:.1f} mm of water"
    return facts


def _regions(figures: SliceFigures | SeriesFigures, labels: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Name and number of voxels of each region, and its HU before and after."""
    names = [f"{one.name} ({labels[one.name]})" if one.name in labels else one.name for one in figures.regions]
    return [
        (f"{name}, {one.before.count} voxels", _hu(one.before), _hu(one.after))
        for name, one in zip(names, figures.regions, strict=True)
    ]


def _hu(statistics: Statistics) -> str:
    if statistics.mean is None:
        return "none"
    text = f"{statistics.mean:.0f} ± {statistics.sd:.0f} ({statistics.least:.0f} to {statistics.most:.0f})"
    return text.replace("-", "\N{MINUS SIGN}")


def _components(components: Sequence[Component]) -> list[tuple[str, ...]]:
    """Return what was taken for metal, and what was left alone, piece by piece."""
    heads = ("Piece", "Decision", "Why", "Slices", "Row, column", "Largest area", "Brightest voxel")
    rows = []
    for number, one in enumerate(components, start=1):
        first, last = one.first_slice + 1, one.last_slice + 1
        rows.append(
            (
                str(number),
                "kept as metal" if one.kept else "left alone",
                one.reason,
                str(first) if first == last else f"{first} to {last}",
                f"{one.centre[0]}, {one.centre[1]}",
                f"{one.area_mm2:.1f} mm2",
                f"{one.peak_hu:.0f} HU",
            )
        )
    return [heads, *rows]


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
