"""Regions from RTSTRUCT and SEG files that lie beside a series and refer to it."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage, SegmentationStorage

from mar_pipeline.dicom.measures.regions import Contours, Crop, Region, Segment
from mar_pipeline.dicom.reading.archives import InputFile, size_bytes
from mar_pipeline.dicom.reading.files import check_file_size, quiet, read_header, read_meta, reading
from mar_pipeline.dicom.reading.image_header import Geometry, geometry, uid
from mar_pipeline.dicom.reading.limits import Limits
from mar_pipeline.dicom.reading.series import Series
from simulation.errors import InputError, MarError

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_LABEL_LETTERS = 64


@dataclass(frozen=True)
class Found:
    """What the files beside a series say of it.

    Args:
        regions: in the order of files and numbers.
        warnings: what could not be used, without a word of the files' own text.
    """

    regions: tuple[Region, ...] = ()
    warnings: tuple[str, ...] = ()


def read_structures(
    series: Series, files: Sequence[tuple[InputFile, str]], limits: Limits, by_place: bool = False
) -> Found:
    """Read the regions of a series from the RTSTRUCT and SEG files among others.

    They are called by numbers, such as ``rtstruct1-roi3`` and ``seg1-segment2``: files in the order given, counted by
    kind among those that refer to the series. What the file calls them is kept as the label.

    Args:
        series: must be referred to by its SeriesInstanceUID.
        files: path and the name for messages of files that are no CT images.
        limits: how much may be read.
        by_place: take a SEG that was drawn on another series too, if both share the frame of reference; its frames
            count where an image of the series lies in the same place.

    Returns:
        Regions and warnings; a file that cannot be used is a warning, not an error.
    """
    regions: list[Region] = []
    warnings: list[str] = []
    counters: dict[str, Iterator[int]] = {RTStructureSetStorage: count(1), SegmentationStorage: count(1)}
    for path, name in files:
        try:
            dataset = _read(path, name, limits)
            if dataset is None:
                continue
            kind = uid(dataset, "SOPClassUID")
            shares_frame = kind == SegmentationStorage and uid(dataset, "FrameOfReferenceUID") == series.frame_uid
            if series.series_uid not in set(_referenced_series(dataset)) and not (by_place and shares_frame):
                continue
            number = next(counters[kind])
            read = _rois if kind == RTStructureSetStorage else partial(_segments, by_place=by_place and shares_frame)
            with quiet():
                for region in read(dataset, number, series, warnings.append):
                    regions.append(region)
        except MarError as error:
            warnings.append(f"{error}; its regions are not measured")
        except Exception:  # pydicom raises what the damage leads to
            warnings.append(f"{name}: is damaged or of an unknown form; its regions are not measured")
    return Found(tuple(regions), tuple(warnings))


def _read(path: InputFile, name: str, limits: Limits) -> Dataset | None:
    """Return the data set of an RTSTRUCT or a SEG; None of anything else, and of what other steps complain about."""
    try:
        with reading(name), quiet():
            kind = uid(read_meta(path, name), "MediaStorageSOPClassUID")
            kind = kind or uid(read_header(path, name, limits, ("SOPClassUID",)).dataset, "SOPClassUID")
    except MarError:
        return None
    if kind not in (RTStructureSetStorage, SegmentationStorage):
        return None
    with reading(name), quiet():
        check_file_size(path, name, limits)
        header = read_header(path, name, limits).dataset
        if kind == RTStructureSetStorage:
            return header
        if _decoded_bytes(header) > 8 * size_bytes(path) + 4096:  # one bit a pixel and uncompressed, or refused
            raise InputError(f"{name}: is compressed or ends early; expected a SEG of one bit a pixel")
        with path.open("rb") as file:
            dataset = dcmread(file, force=True)
        dataset.file_meta = header.file_meta  # of a file without preamble the reader knows no transfer syntax
        return dataset


def _decoded_bytes(header: Dataset) -> int:
    if uid(header.file_meta, "TransferSyntaxUID").startswith("1.2.840.10008.1.2.4"):
        return 1 << 62
    return math.prod(int(header.get(side, 0)) for side in ("NumberOfFrames", "Rows", "Columns"))


def _referenced_series(dataset: Dataset) -> Iterator[str]:
    """Yield the SeriesInstanceUIDs that an RTSTRUCT or a SEG refers to."""
    for one in dataset.get("ReferencedSeriesSequence") or ():
        yield uid(one, "SeriesInstanceUID")
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or ():
        for study in frame.get("RTReferencedStudySequence") or ():
            for one in study.get("RTReferencedSeriesSequence") or ():
                yield uid(one, "SeriesInstanceUID")


def _rois(dataset: Dataset, file: int, series: Series, warn: Callable[[str], None]) -> Iterator[Region]:
    """Yield the ROIs of an RTSTRUCT that have closed planar contours."""
    labels = {int(one.ROINumber): one.get("ROIName") for one in dataset.get("StructureSetROISequence") or ()}
    for roi in dataset.get("ROIContourSequence") or ():
        number = int(roi.ReferencedROINumber)
        name = f"rtstruct{file}-roi{number}"
        contours = [one for one in roi.get("ContourSequence") or () if one.get("ContourGeometricType") in _CLOSED]
        points = [np.array(one.ContourData, float).reshape(-1, 3) for one in contours]
        usable = [one for one in points if len(one) >= 3 and np.isfinite(one).all()]
        if len(usable) < len(roi.get("ContourSequence") or ()):
            warn(f"{name}: some of its contours are not closed and planar, and are left out")
        if usable:
            yield Contours(name, _label(labels.get(number)), tuple(usable))


def _segments(
    dataset: Dataset, file: int, series: Series, warn: Callable[[str], None], by_place: bool
) -> Iterator[Region]:
    """Yield the segments of a binary SEG whose frames have the images' rows and columns."""
    if dataset.get("SegmentationType") != "BINARY" or int(dataset.BitsAllocated) != 1:
        warn(f"seg{file}: is not a binary segmentation; its segments are not measured")
        return
    if (int(dataset.Rows), int(dataset.Columns)) != series.shape:
        warn(f"seg{file}: has not the rows and columns of the series; its segments are not measured")
        return
    pixels = dataset.pixel_array.reshape(-1, *series.shape).astype(bool)
    known = {file.sop_uid for file in series.slices}
    frames: dict[int, dict[str, Crop]] = defaultdict(dict)
    placed: dict[int, list[tuple[Geometry, Crop]]] = defaultdict(list)
    for group, frame in zip(dataset.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        number, image = _frame_of(group, dataset)
        if image in known and frame.any():
            frames[number][image] = _cropped(frame)
        elif by_place and frame.any():
            placed[number].append((_place_of(group, dataset), _cropped(frame)))
    for segment in dataset.SegmentSequence:
        number = int(segment.SegmentNumber)
        name = f"seg{file}-segment{number}"
        if number in frames or number in placed:
            yield Segment(name, _label(segment.get("SegmentLabel")), frames[number], placed[number])
        else:
            warn(f"{name}: none of its frames names an image of the series; it is not measured")


def _frame_of(group: Dataset, dataset: Dataset) -> tuple[int, str]:
    """Return the segment's number and the SOPInstanceUID of the image that a frame was drawn on, blank if untold."""
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    identification = (group.get("SegmentIdentificationSequence") or shared.SegmentIdentificationSequence)[0]
    images = [
        uid(image, "ReferencedSOPInstanceUID")
        for derivation in group.get("DerivationImageSequence") or ()
        for image in derivation.get("SourceImageSequence") or ()
    ]
    return int(identification.ReferencedSegmentNumber), images[0] if len(images) == 1 else ""


def _place_of(group: Dataset, dataset: Dataset) -> Geometry:
    """Return where a frame lies."""
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    merged = Dataset()
    for name in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"):
        merged.update((group.get(name) or shared.get(name) or [Dataset()])[0])
    return geometry(merged, "a frame")


def _cropped(frame: np.ndarray) -> Crop:
    rows, columns = np.flatnonzero(frame.any(axis=1)), np.flatnonzero(frame.any(axis=0))
    part = frame[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()
    return int(rows[0]), int(columns[0]), part


def _label(value: Any) -> str | None:
    """Return free text of the source as one short line."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(value or "")).strip()
    return text[:_LABEL_LETTERS] or None
