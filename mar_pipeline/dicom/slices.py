"""One slice of a series: looked at, corrected, written, checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from mar_pipeline.dicom.correction.metal import Candidates, PackedMask, candidates
from mar_pipeline.dicom.correction.projection import ProjectionCorrection
from mar_pipeline.dicom.correction.virtual_scan import field_of_view, is_truncated
from mar_pipeline.dicom.errors import RefusedInput
from mar_pipeline.dicom.reading.files import quiet
from mar_pipeline.dicom.reading.image_header import text
from mar_pipeline.dicom.reading.pixels import AIR_HU, SlicePixels, read_slice
from mar_pipeline.dicom.reading.series import Series
from mar_pipeline.dicom.settings import DicomSettings
from mar_pipeline.dicom.writing.check import check_derived
from mar_pipeline.dicom.writing.derivation import Derivation, pixels_sha256
from mar_pipeline.dicom.writing.derive import derived_slice, left_out, write_dataset

CHANGES_HU = (5, 20)


@dataclass(frozen=True)
class Look:
    """What the first look at a slice keeps.

    Args:
        metal: what may be metal.
        truncated: whether the body reaches the border of the field of view.
        clipped: whether its brightest voxel is the highest that its bits can store, or 3071 HU.
        pixels_sha256: of the stored values.
        series_number: of its header, None if it has none.
    """

    metal: Candidates
    truncated: bool
    clipped: bool
    pixels_sha256: str
    series_number: int | None


@dataclass(frozen=True)
class SliceReport:
    """What became of a slice.

    Args:
        number: place in the series, from 0.
        position_mm: along the slice normal.
        metal_mm2: area of metal.
        decision: ``corrected``, ``copied`` (no metal) or ``original kept`` (it could not be corrected).
        trace_share: share of the projections behind metal.
        changed: HU -> share of the field of view that changed by more.
        clipped_voxels: voxels whose corrected value could not be stored.
        reason: why the original was kept.
    """

    number: int
    position_mm: float
    metal_mm2: float
    decision: str
    trace_share: float | None = None
    changed: dict[int, float] | None = None
    clipped_voxels: int = 0
    reason: str | None = None


@dataclass(frozen=True)
class Work:
    """What the steps share.

    Args:
        series: the series.
        settings: of the run.
        staging: folder for the corrected pixels until they are written.
    """

    series: Series
    settings: DicomSettings
    staging: Path

    def read(self, number: int) -> tuple[Dataset, SlicePixels]:
        """Header and pixels of a slice."""
        return read_slice(self.series.slices[number], self.series, self.settings.limits, self.settings.repair_uids)

    def corrected_path(self, number: int) -> Path:
        """Where the corrected stored values wait."""
        return self.staging / f"{number}.npy"

    def stored(self, number: int, pixels: SlicePixels) -> np.ndarray:
        """The derived slice's stored values."""
        path = self.corrected_path(number)
        return np.load(path) if path.exists() else pixels.stored


def look(work: Work, number: int) -> Look:
    """Reads a slice and keeps what `Look` says."""
    header, pixels = work.read(number)
    hu = pixels.hu
    inside = _inside(work.series, header, pixels)
    brightest = float(hu.max())
    return Look(
        candidates(np.where(inside, hu, AIR_HU), work.settings.metal_threshold),
        is_truncated(hu, inside, work.series.spacing_mm),
        brightest in (pixels.brightest_hu, 3071),
        pixels_sha256(pixels.stored),
        _whole(_text(header, "SeriesNumber")),
    )


def correct_slice(
    work: Work,
    correction: ProjectionCorrection,
    masks: Sequence[PackedMask],
    truncated: Sequence[bool],
    areas: Sequence[float],
    number: int,
) -> SliceReport:
    """Corrects a slice and puts its stored values aside.

    Raises:
        RefusedInput: it cannot be corrected, and originals are not to be kept.
    """
    header, pixels = work.read(number)
    place = work.series.slices[number]
    hu, metal, inside = pixels.hu, masks[number].unpack(), _inside(work.series, header, pixels)
    try:
        corrected = correction(hu, metal, inside, truncated[number])
    except RefusedInput as error:
        if work.settings.slice_fallback == "original":
            return SliceReport(number, place.position_mm, areas[number], "original kept", reason=str(error))
        raise RefusedInput(f"{place.name}: {error}; --slice-fallback original keeps such slices as they are") from error
    stored, clipped = pixels.to_stored(corrected.hu, inside & ~metal)
    np.save(work.corrected_path(number), stored)
    change = np.abs(stored - pixels.stored)[inside] * abs(pixels.slope)
    changed = {hu_step: float((change > hu_step).mean()) for hu_step in CHANGES_HU}
    return SliceReport(number, place.position_mm, areas[number], "corrected", corrected.trace_share, changed, clipped)


def write_slice(work: Work, derivation: Derivation, folder: Path, number: int) -> tuple[str, ...]:
    """Writes the derived slice and reads it back; names of source attributes that are too malformed to be written.

    Raises:
        RefusedInput: it cannot be written, or was not written as it was meant.
    """
    header, pixels = work.read(number)
    name, path = work.series.slices[number].name, folder / image_name(number)
    stored = work.stored(number, pixels)
    try:
        write_dataset(derived_slice(header, pixels, stored, derivation), path)
    except RefusedInput as error:
        raise RefusedInput(f"{name}: {error}") from error
    if wrong := check_derived(path, header, derivation, not np.array_equal(stored, pixels.stored)):
        raise RefusedInput(f"{name}: the derived image is not as it was meant: {'; '.join(wrong)}")
    return left_out(header, derivation.keep_private)


def image_name(number: int) -> str:
    """File name of a derived slice, never built from tags."""
    return f"IM{number + 1:05}.dcm"


def _inside(series: Series, header: Dataset, pixels: SlicePixels) -> np.ndarray:
    diameter = _number(_text(header, "ReconstructionDiameter"))
    return field_of_view(series.shape, series.spacing_mm, pixels.padding, diameter)


def _text(header: Dataset, keyword: str) -> str:
    with quiet():
        return text(header, keyword)


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if number > 0 else None


def _whole(value: str) -> int | None:
    try:
        return int(value)
    except ValueError:
        return None
