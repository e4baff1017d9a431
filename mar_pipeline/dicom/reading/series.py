"""What a folder holds: its CT series, slice by slice, and everything else with the reason why it is left out."""

from dataclasses import dataclass, field
from functools import cached_property
from itertools import count

from mar_pipeline.dicom.reading.archives import InputFile
from mar_pipeline.dicom.reading.stacking import thicknesses_mm
from simulation.errors import InputError, LimitError


@dataclass(frozen=True)
class SliceFile:
    """One CT image: a small record, without pixels or header.

    Args:
        path: the file, in a folder or a zip file.
        name: the file relative to the input folder, for messages; unprintable characters are escaped.
        sop_uid: SOPInstanceUID, that of the file meta where the data set has none.
        instance_number: InstanceNumber; slices are never sorted by it.
        position_mm: of the image's first voxel along the slice normal.
        transfer_syntax: UID.
    """

    path: InputFile
    name: str
    sop_uid: str
    instance_number: int | None
    position_mm: float
    transfer_syntax: str


@dataclass(frozen=True)
class Series:
    """CT images that share study, series, frame of reference, size and pixel spacing.

    Args:
        number: 1, 2, ... in the order of the first files' names.
        study_uid: StudyInstanceUID, blank only if refused.
        series_uid: SeriesInstanceUID, blank only if refused; never a part of a file name.
        frame_uid: FrameOfReferenceUID, blank only if refused.
        shape: rows, columns; zeros if no header tells.
        spacing_mm: between rows, between columns; zeros if no header tells.
        slices: in the order of their positions along the slice normal; empty if no image can be placed.
        gap_mm: median distance of neighbours along the slice normal, None of a single slice.
        tilt_deg: angle between the slice normal and the direction in which positions advance.
        warnings: what the user should know; no text of the header is quoted.
        refusal: why the series must not be processed, None if it may.
        limit_hit: whether the refusal is a limit, which an option can raise.
        assumed_hu: whether images do not say their unit, and are taken to be in HU.
        patient: hash of the patient's name and ID, which is never shown; blank where the headers name none.
    """

    number: int
    study_uid: str
    series_uid: str
    frame_uid: str
    shape: tuple[int, int]
    spacing_mm: tuple[float, float]
    slices: tuple[SliceFile, ...]
    gap_mm: float | None
    tilt_deg: float
    warnings: tuple[str, ...]
    refusal: str | None
    limit_hit: bool = False
    assumed_hu: bool = False
    patient: str = ""

    @property
    def thicknesses_mm(self) -> tuple[float, ...] | None:
        """Return the thickness that each slice stands for, see `stacking.thicknesses_mm`."""
        return thicknesses_mm([file.position_mm for file in self.slices])

    @property
    def patient_key(self) -> tuple[str, ...]:
        """The same for series of one patient; series that name nobody belong together by their study alone."""
        return (self.patient,) if self.patient else ("", self.study_uid)

    @property
    def error(self) -> InputError | LimitError | None:
        """The refusal as the exception to raise, with its exit code."""
        if self.refusal is None:
            return None
        return LimitError(self.refusal) if self.limit_hit else InputError(self.refusal)


@dataclass(frozen=True)
class Skipped:
    """A file that is no part of any series.

    Args:
        name: relative to the input folder.
        reason: why.
        limit_hit: whether a limit kept it from being read.
        path: the file, if it may be DICOM.
    """

    name: str
    reason: str
    limit_hit: bool = False
    path: InputFile | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Discovery:
    """What `discover` found, in the order of names.

    Args:
        series: with their faults.
        skipped: files that are no part of any series.
        images: names of all files of the series, those with faults among them.
    """

    series: tuple[Series, ...]
    skipped: tuple[Skipped, ...]
    images: frozenset[str] = frozenset()

    def without_names(self, text: str) -> str:
        """Return a text with names of files, which may name a patient, replaced by their alphabetical numbers."""
        for name, number in self._numbers.items():
            if name in text:
                text = text.replace(name, f"file {number}")
        return text

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """Return names of the input and their numbers, the longest first, so that no part of a name is left."""
        names = self.images | {one.name for one in self.skipped}
        return dict(sorted(zip(sorted(names), count(1), strict=False), key=lambda one: -len(one[0])))
