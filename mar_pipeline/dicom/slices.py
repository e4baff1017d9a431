"""One slice of a series: surveyed, corrected, written, checked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from mar_pipeline.dicom.correction.parts import Candidates, find_candidates
from mar_pipeline.dicom.correction.virtual_scan import field_of_view, is_truncated
from mar_pipeline.dicom.given_mask import GivenValues, given_in, read_given_mask
from mar_pipeline.dicom.measures.figures import MeasuredSlice, SliceFigures, unchanged_figures
from mar_pipeline.dicom.measures.regions import Plane, Region, half_gap_mm
from mar_pipeline.dicom.measures.structures import read_structures
from mar_pipeline.dicom.reading.archives import InputFile
from mar_pipeline.dicom.reading.files import quiet
from mar_pipeline.dicom.reading.image_header import geometry, text
from mar_pipeline.dicom.reading.pixels import SlicePixels, read_slice
from mar_pipeline.dicom.reading.series import Series
from mar_pipeline.dicom.settings import DicomSettings
from mar_pipeline.dicom.writing.check import check_derived
from mar_pipeline.dicom.writing.derivation import Derivation, pixels_sha256
from mar_pipeline.dicom.writing.derive import derived_slice, left_out, write_dataset
from mar_pipeline.judge.tissue import saturated
from mar_pipeline.judge.verdict import Judgement
from simulation.errors import InputError
from simulation.implants.masks import PackedMask


@dataclass(frozen=True)
class SurveyedSlice:
    """What is found in a slice before anything is corrected.

    Args:
        metal: what may be metal.
        truncated: whether the body reaches the border of the field of view.
        clipped: whether its brightest voxel is the highest that its bits can store, or 3071 HU.
        pixels_sha256: of the stored values.
        series_number: of its header, None if it has none.
        figures: of the ROIs that it meets, in the original.
        given: the user's metal; None where that is decided by evidence.
        given_hu: values under it.
    """

    metal: Candidates
    truncated: bool
    clipped: bool
    pixels_sha256: str
    series_number: int | None
    figures: SliceFigures | None = None
    given: PackedMask | None = None
    given_hu: GivenValues | None = None


@dataclass(frozen=True)
class SliceReport:
    """What became of a slice.

    Args:
        number: place in the series, from 0.
        position_mm: along the slice normal.
        metal_mm2: area of metal.
        decision: ``copied`` (no metal), ``corrected``, ``weakened`` (half of the correction, or that of the surest
            metal alone) or ``original kept`` (it could not be corrected, or the judge found that it does not help).
        trace_share: share of the projections behind metal.
        changed: HU -> share of the field of view that changed by more.
        clipped_voxels: voxels whose corrected value could not be stored.
        reason: why the correction was weakened or the original kept.
        judgement: of the correction.
        figures: numbers before and after, see `measures.figures`; None where nothing was measured.
    """

    number: int
    position_mm: float
    metal_mm2: float
    decision: str
    trace_share: float | None = None
    changed: dict[int, float] | None = None
    clipped_voxels: int = 0
    reason: str | None = None
    judgement: Judgement | None = None
    figures: SliceFigures | None = None


@dataclass(frozen=True)
class Work:
    """What the steps share.

    Args:
        series: the series.
        settings: of the run.
        staging: folder for the corrected pixels until they are written.
        rois: regions to measure: those of the settings, and those that lie beside the series.
        given: regions that the user says are metal; None where that is decided by evidence.
    """

    series: Series
    settings: DicomSettings
    staging: Path
    rois: tuple[Region, ...] = ()
    given: tuple[Region, ...] | None = None

    @classmethod
    def of(
        cls, series: Series, settings: DicomSettings, staging: Path, beside: Sequence[tuple[InputFile, str]]
    ) -> "Work":
        """Return the work on a series, with the regions in RTSTRUCT and SEG files that lie beside it.

        Args:
            series: it gets the warnings about those files.
            settings: of the run.
            staging: see the class.
            beside: path and name for messages of files that are no CT images.

        Raises:
            InputError: the user's metal mask cannot be used.
        """
        found = read_structures(series, beside, settings.limits)
        warned = replace(series, warnings=(*series.warnings, *found.warnings))
        mask = settings.metal_mask
        given = None if mask is None else read_given_mask(mask, series, settings.limits)
        return cls(warned, settings, staging, (*settings.rois, *found.regions), given)

    def read(self, number: int) -> tuple[Dataset, SlicePixels]:
        """Header and pixels of a slice."""
        return read_slice(self.series.slices[number], self.series, self.settings.limits, self.settings.repair_uids)

    def corrected_path(self, number: int) -> Path:
        """Where the corrected stored values wait."""
        return self.staging / f"{number}.npy"

    def result_path(self, number: int) -> Path:
        """Where the corrected slice waits in HU, at full strength, until its strength is decided."""
        return self.staging / f"{number}.result.npy"

    def stored(self, number: int, pixels: SlicePixels) -> np.ndarray:
        """Return the derived slice's stored values."""
        path = self.corrected_path(number)
        return np.load(path) if path.exists() else pixels.stored


def survey(work: Work, number: int) -> SurveyedSlice:
    """Read a slice and return what `SurveyedSlice` keeps."""
    header, pixels = work.read(number)
    hu, spacing_mm = pixels.hu, work.series.spacing_mm
    inside = inside_of(work.series, header, pixels)
    images = measured(work, number, header, pixels, pixels.stored, inside)
    given = None if work.given is None else given_in(work.given, images.plane) & inside
    return SurveyedSlice(
        find_candidates(hu, inside, spacing_mm, work.settings.metal_threshold, pixels.brightest_hu),
        is_truncated(hu, inside, spacing_mm),
        bool(saturated(hu, pixels.brightest_hu).any()),
        pixels_sha256(pixels.stored),
        _whole(_text(header, "SeriesNumber")),
        unchanged_figures(images, work.rois),
        None if given is None else PackedMask.of(given),
        None if given is None else GivenValues.of(hu[given]),
    )


def write_slice(work: Work, derivation: Derivation, folder: Path, number: int) -> tuple[str, ...]:
    """Write the derived slice and read it back; return the names of source attributes too malformed to be written.

    Raises:
        InputError: it cannot be written, or was not written as it was meant.
    """
    header, pixels = work.read(number)
    name, path = work.series.slices[number].name, folder / image_name(number)
    stored = work.stored(number, pixels)
    try:
        write_dataset(derived_slice(header, pixels, stored, derivation), path)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    if wrong := check_derived(path, header, derivation, not np.array_equal(stored, pixels.stored)):
        raise InputError(f"{name}: the derived image is not as it was meant: {'; '.join(wrong)}")
    return left_out(header, derivation.keep_private)


def image_name(number: int) -> str:
    """File name of a derived slice, never built from tags."""
    return f"IM{number + 1:05}.dcm"


def measured(
    work: Work,
    number: int,
    header: Dataset,
    pixels: SlicePixels,
    stored: np.ndarray,
    inside: np.ndarray,
    metal: np.ndarray | None = None,
) -> MeasuredSlice:
    """Return what is measured: the slice as it was and as it is stored afterwards."""
    file = work.series.slices[number]
    with quiet():
        plane = Plane(geometry(header, file.name), work.series.shape, half_gap_mm(work.series.gap_mm), file.sop_uid)
    before = pixels.hu
    after = np.where(pixels.padding, before, stored * pixels.slope + pixels.intercept)
    return MeasuredSlice(plane, before, after, np.zeros(inside.shape, bool) if metal is None else metal, inside)


def inside_of(series: Series, header: Dataset, pixels: SlicePixels) -> np.ndarray:
    """Return the field of view of a slice: Bool["rows columns"]."""
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
