"""The measured numbers as summary.json, measures.csv and the review page tell them: one rounding for all."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mar_pipeline.dicom.measures.figures import (
    CHANGES_HU,
    MetalFigures,
    RegionFigures,
    SeriesFigures,
    SliceFigures,
)
from mar_pipeline.dicom.measures.statistics import Statistics
from mar_pipeline.dicom.process import SeriesResult
from simulation.files import whole_file

STATISTICS = ("voxels", "mean_hu", "sd_hu", "min_hu", "max_hu")
OF_THE_SLICE = (
    *(f"changed_by_more_than_{hu}_hu_cm3" for hu in CHANGES_HU),
    *("proton_path_change_mm", "photon_path_change_mm"),
)
COLUMNS = (
    *("series", "slice", "position_mm", "decision", "region", "image", *STATISTICS),
    *("metal_mask_mm2", "metal_above_threshold_mm2", "metal_mask_cm3", "metal_above_threshold_cm3", *OF_THE_SLICE),
)
"""Of measures.csv. `slice` counts from 1, and is "all" in the rows of the whole series; `image` is before or after.
What belongs to a slice, and not to a region of it, stands in each of its rows."""


def statistics_facts(statistics: Statistics) -> dict[str, Any]:
    """Return a group of voxels as summary.json and measures.csv tell it; values of no voxels are None."""
    values = {
        "mean_hu": statistics.mean,
        "sd_hu": statistics.sd,
        "min_hu": statistics.least,
        "max_hu": statistics.most,
    }
    return {"voxels": statistics.count, **{name: _rounded(value) for name, value in values.items()}}


def slice_facts(figures: SliceFigures, thickness_mm: float | None, labels: Mapping[str, str]) -> dict[str, Any]:
    """Return what summary.json says of a slice's numbers.

    Args:
        figures: of the slice.
        thickness_mm: that the slice stands for; None of a single slice, which has no volume.
        labels: what the source calls regions, by name; empty if they may not be shown.
    """
    facts: dict[str, Any] = {"regions": _regions(figures.regions, labels)}
    if figures.metal_mm2:
        facts |= _metal(figures.metal_mm2, "mm2")
        for hu, area_mm2 in figures.changed_mm2:
            volume = None if thickness_mm is None else area_mm2 * thickness_mm / 1000
            facts[f"changed_by_more_than_{hu}_hu_cm3"] = _rounded(volume)
        facts |= _paths(figures)
    return facts


def series_facts(figures: SeriesFigures, labels: Mapping[str, str]) -> dict[str, Any]:
    """Return what summary.json says of the numbers of a whole series."""
    changed = dict.fromkeys(CHANGES_HU) | dict(figures.changed_cm3)
    return {
        "regions": _regions(figures.regions, labels),
        **_metal(figures.metal_cm3, "cm3"),
        **{f"changed_by_more_than_{hu}_hu_cm3": _rounded(value) for hu, value in changed.items()},
        **_paths(figures),
    }


def region_rows(known: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of measures.csv of a slice or a series: two for each region, before and after.

    Args:
        known: columns that say which slice or series it is.
        facts: what summary.json says of its numbers.
    """
    shared = {name: value for name, value in facts.items() if name in COLUMNS}
    for region in facts["regions"]:
        for image in ("before", "after"):
            above = {
                f"metal_above_threshold_{unit}": facts.get(f"metal_above_threshold_{image}_{unit}")
                for unit in ("mm2", "cm3")
            }
            yield {**known, "region": region["name"], "image": image, **region[image], **shared, **above}


def write_csv(path: Path, results: Sequence[SeriesResult]) -> None:
    """Write measures.csv: a row for each slice, region and image, and for each region and image of a whole series.

    Args:
        path: the file; its folder exists.
        results: series that were looked at; one without metal has no rows.

    Raises:
        OSError: the file cannot be written.
    """
    with whole_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        for result in results:
            writer.writerows(_rows_of_series(result))


def _rows_of_series(result: SeriesResult) -> Iterator[dict[str, Any]]:
    series = result.work.series
    if result.figures is None:
        return
    for report in result.slices:
        if report.figures is not None:
            place = {"slice": report.number + 1, "position_mm": round(report.position_mm, 3)}
            known = {"series": series.number, **place, "decision": report.decision}
            yield from region_rows(known, slice_facts(report.figures, result.thickness_mm(report.number), {}))
    yield from region_rows({"series": series.number, "slice": "all"}, series_facts(result.figures, {}))


def _regions(regions: Sequence[RegionFigures], labels: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {
            "name": region.name,
            **({"label": labels[region.name]} if region.name in labels else {}),
            "before": statistics_facts(region.before),
            "after": statistics_facts(region.after),
        }
        for region in regions
    ]


def _metal(figures: MetalFigures | None, unit: str) -> dict[str, float | None]:
    return {
        f"metal_mask_{unit}": _rounded(figures.mask if figures else None),
        f"metal_above_threshold_before_{unit}": _rounded(figures.before if figures else None),
        f"metal_above_threshold_after_{unit}": _rounded(figures.after if figures else None),
    }


def _paths(figures: SliceFigures | SeriesFigures) -> dict[str, float | None]:
    return {
        "proton_path_change_mm": _rounded(figures.proton_path_mm),
        "photon_path_change_mm": _rounded(figures.photon_path_mm),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
