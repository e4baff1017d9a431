"""What the source calls its series and regions, shown only where the user asks: free text may name a patient."""

from typing import Any

from mar_pipeline.dicom.process import SeriesResult
from mar_pipeline.dicom.reading.files import quiet
from mar_pipeline.dicom.reading.image_header import text

_MOST_LETTERS = 64


def series_labels(result: SeriesResult) -> dict[str, Any] | None:
    """Return SeriesDescription and the date of a series, blank where its first image has none; None unless asked for.

    Args:
        result: of a series that was read before.
    """
    if not result.work.settings.show_labels:
        return None
    header, _ = result.work.read(0)
    with quiet():
        date = text(header, "SeriesDate") or text(header, "StudyDate")
        return {"description": _one_line(text(header, "SeriesDescription")), "date": _readable(date)}


def region_labels(result: SeriesResult) -> dict[str, str]:
    """Return what the source calls the regions of a series, by name; empty unless asked for."""
    if not result.work.settings.show_labels:
        return {}
    return {roi.name: roi.label for roi in result.work.rois if roi.label}


def _one_line(value: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in value)[:_MOST_LETTERS].strip()


def _readable(date: str) -> str:
    """Return 20240229 as 2024-02-29; anything else is no date, and is left out."""
    return f"{date[:4]}-{date[4:6]}-{date[6:]}" if len(date) == 8 and date.isdecimal() else ""
