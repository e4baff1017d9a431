"""summary.json: what was done to every slice, by what, and what was not; without a word about the patient."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from mar_pipeline import __version__
from mar_pipeline.dicom.correction.metal import Component
from mar_pipeline.dicom.correction.methods import Method
from mar_pipeline.dicom.process import SeriesResult, series_name
from mar_pipeline.dicom.reading.series import Discovery, Series
from mar_pipeline.dicom.review.labels import region_labels, series_labels
from mar_pipeline.dicom.review.measures import series_facts, slice_facts
from mar_pipeline.dicom.settings import DicomSettings
from mar_pipeline.dicom.slices import SliceReport, image_name
from mar_pipeline.dicom.writing.derivation import STATEMENT
from simulation.files import sha256_of_text
from simulation.provenance import library_versions


def summary_of(
    found: Discovery,
    results: Sequence[SeriesResult],
    failures: Sequence[tuple[Series, str]],
    settings: DicomSettings,
    method: Method,
) -> dict[str, Any]:
    """All that summary.json says.

    Args:
        found: the input.
        results: series that were looked at.
        failures: series that were asked for and failed, with the reason.
        settings: of the run.
        method: what corrected.
    """
    return {
        "statement": STATEMENT,
        "version": __version__,
        "libraries": library_versions(),
        "method": method.facts,
        "weights_sha256": method.weights_sha256,
        "device": settings.device,
        "configuration": settings.configuration | {"method": method.label},
        "dry_run": settings.out is None,
        "series": [_of_series(result, found) for result in results],
        "not_processed": [
            *({"what": f"series {s.number}", "reason": found.without_names(reason)} for s, reason in failures),
            *(
                {"what": found.without_names(skipped.name), "reason": found.without_names(skipped.reason)}
                for skipped in found.skipped
            ),
        ],
    }


def verdict(slices: Sequence[SliceReport]) -> dict[str, int]:
    """Return how many slices with metal were corrected, corrected more weakly, and left as the original."""
    counts = Counter(report.decision for report in slices)
    return {name.replace(" ", "_"): counts[name] for name in ("corrected", "weakened", "original kept")}


def _of_series(result: SeriesResult, found: Discovery) -> dict[str, Any]:
    series, derivation = result.work.series, result.derivation
    return {
        "number": series.number,
        "folder": series_name(series) if derivation else None,
        "source_series_uid_sha256": sha256_of_text(series.series_uid),
        "configuration_sha256": derivation.configuration_sha256 if derivation else None,
        "derived_series_uid_sha256": sha256_of_text(derivation.series_uid) if derivation else None,
        "rows_columns": list(series.shape),
        "spacing_mm": list(series.spacing_mm),
        "slices": len(series.slices),
        "gap_mm": series.gap_mm,
        "tilt_deg": series.tilt_deg,
        "slices_with_metal": len(result.metal_slices),
        **verdict(result.slices),
        "clipped_voxels": sum(report.clipped_voxels for report in result.slices),
        "warnings": [found.without_names(warning) for warning in result.warnings],
        "seconds": round(result.seconds, 3),
        "labels": series_labels(result),
        "metal_components": [component_facts(one) for one in result.metal.components],
        "measures": series_facts(result.figures, region_labels(result)) if result.figures else None,
        "per_slice": [_of_slice(report, result) for report in result.slices],
    }


def component_facts(component: Component) -> dict[str, Any]:
    """Return what was decided about a piece that may be metal; slices count from 1, as the files do."""
    return {
        "kept_as_metal": component.kept,
        "reason": component.reason,
        "first_slice": component.first_slice + 1,
        "last_slice": component.last_slice + 1,
        "centre_row_column": list(component.centre),
        "largest_area_mm2": round(component.area_mm2, 2),
        "peak_hu": round(component.peak_hu, 1),
    }


def _of_slice(report: SliceReport, result: SeriesResult) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "file": image_name(report.number),
        "position_mm": round(report.position_mm, 3),
        "decision": report.decision,
        "metal_mm2": round(report.metal_mm2, 2),
    }
    if report.trace_share is not None and report.changed is not None:
        facts["trace_share"] = round(report.trace_share, 4)
        facts |= {f"changed_by_more_than_{hu}_hu": round(share, 4) for hu, share in report.changed.items()}
        facts["clipped_voxels"] = report.clipped_voxels
    if report.judgement is not None:
        terms = {name: round(value, 3) for name, value in report.judgement.terms.items()}
        facts["judgement"] = {"score": round(report.judgement.score, 3), "helps": report.judgement.helps, **terms}
    if report.figures is not None:
        facts["measures"] = slice_facts(report.figures, result.thickness_mm(report.number), region_labels(result))
    return facts | ({"reason": report.reason} if report.reason else {})
