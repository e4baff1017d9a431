"""DICOM folders: CT slices read one by one with pydicom, which the extra `clinic` installs."""

import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simulation.errors import InputError
from simulation.sources.slices import AIR_HU, SliceRef, image_from_hu, reading, safe_name, square_pixel_mm, unique_names

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
MAX_TILT_DEG = 5.0
"""A slice further than this from axial (a tilted gantry, a coronal series) is refused."""
MAX_SIDE = 4096
"""A header that claims more rows or columns is not decoded: a tiny file can claim gigabytes."""
INSTALL = "pip install 'mar-pipeline[clinic]'"
LISTING_TAGS = ["SOPClassUID", "SeriesInstanceUID", "ImageType", "ImagePositionPatient", "ImageOrientationPatient"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Header:
    """What the listing needs to know of a file."""

    is_ct_slice: bool
    series: str
    position_mm: float | None


def _walk(root: Path) -> Iterator[Path]:
    """Yield DICOM files under a folder in a fixed order: by their magic word whatever their name, or called .dcm."""
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            try:
                with path.open("rb") as file:
                    found = file.read(132)[128:] == b"DICM"
            except OSError:
                found = False
            if found or name.lower().endswith(".dcm"):  # a broken one: reported when it is loaded
                yield path


def has_dicom(root: Path) -> bool:
    """Return whether there is a DICOM file under the folder."""
    return next(_walk(root), None) is not None


def list_dicom(root: Path) -> list[SliceRef]:
    """Return CT slices under a folder, series by series, from inferior to superior, without localizers.

    A series is what shares its folder and SeriesInstanceUID (which may be blank); its case is named after its folder,
    never after a tag. A file whose header is broken or without a position is listed last in its folder.

    Args:
        root: the folder.

    Raises:
        InputError: if pydicom is missing or there are DICOM files but no CT slices.
    """
    series: dict[tuple[str, str], list[tuple[float, str]]] = {}
    unplaced: dict[str, list[str]] = {}
    ignored = 0
    _pydicom()
    for path in _walk(root):
        folder, relative = path.parent.relative_to(root).as_posix(), path.relative_to(root).as_posix()
        try:
            header = _read_header(path, relative)
        except InputError:  # loading the slice says it again
            unplaced.setdefault(folder, []).append(relative)
            continue
        if not header.is_ct_slice:
            ignored += 1
        elif header.position_mm is None:
            unplaced.setdefault(folder, []).append(relative)
        else:
            series.setdefault((folder, header.series), []).append((header.position_mm, relative))
    if ignored:
        logger.info("DICOM source: %d files that are not CT slices are left out", ignored)
    if not series and not unplaced:
        raise InputError(f"source {root}: got {ignored} DICOM files, none a CT slice; expected CT Image Storage")
    return _references(root, series, unplaced)


def _references(
    root: Path, series: dict[tuple[str, str], list[tuple[float, str]]], unplaced: dict[str, list[str]]
) -> list[SliceRef]:
    """Order the series by folder and first file, the slices by position, and name both."""
    groups = [(folder, [relative for _, relative in sorted(slices)]) for (folder, _), slices in series.items()]
    groups.sort(key=lambda group: (group[0], min(group[1])))
    for folder, files in unplaced.items():
        home = next((members for name, members in groups if name == folder), None)
        if home is None:
            groups.append((folder, files))
        else:
            home.extend(files)
    names = [safe_name(root.resolve().name if folder == "." else folder.replace("/", "_")) for folder, _ in groups]
    refs = []
    for case, (_, files) in zip(unique_names(names), groups, strict=True):
        for index, relative in enumerate(files):
            refs.append(SliceRef(case, f"{index:03d}", relative, read_dicom, (str(root), relative)))
    return refs


def _pydicom() -> Any:
    """Import pydicom, or say how to get it."""
    try:
        import pydicom
        import pydicom.filereader
        import pydicom.pixels
    except ImportError as error:
        raise InputError(f"DICOM sources need pydicom, which is not installed; {INSTALL}") from error
    return pydicom


def _read_header(path: Path, relative: str) -> _Header:
    """Read what the listing needs; raises InputError if the file is broken or its header packed."""
    pydicom = _pydicom()
    with reading(relative, "a whole DICOM file"):
        meta = pydicom.filereader.read_file_meta_info(path)
        if str(meta.get("TransferSyntaxUID", "")) == DEFLATED:  # a small file may unpack to gigabytes
            raise InputError(f"{relative}: got the Deflated transfer syntax, which is not accepted; convert the file")
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=LISTING_TAGS)
        # Said twice: a file cut within the second is still a CT slice, to be reported as broken.
        sop_classes = [str(meta.get("MediaStorageSOPClassUID") or ""), str(header.get("SOPClassUID") or "")]
        if not any(sop_classes):
            raise InputError(f"{relative}: no SOP class, the header is truncated; fetch the file again or take it out")
        localizer = "LOCALIZER" in str(header.get("ImageType") or "").upper()
        series = str(header.get("SeriesInstanceUID") or "")
        return _Header(CT_IMAGE_STORAGE in sop_classes and not localizer, series, _position_mm(header))


def _numbers(dataset: Any, name: str, length: int, relative: str) -> list[float]:
    """Return finite values of a decimal tag; raises InputError if it is missing, blank or malformed."""
    message = f"{relative}: {name} is missing or malformed; expected numbers, {length} of them; take the file out"
    try:
        value = dataset.get(name)
        values = [float(number) for number in (value if length > 1 else [value])]
    except Exception as error:  # malformed values raise when they are asked for, each in its own way
        raise InputError(message) from error
    if len(values) != length or not all(math.isfinite(number) for number in values):
        raise InputError(message)
    return values


def _position_mm(header: Any) -> float | None:
    """Return position along the slice normal, None if the header does not tell."""
    try:
        origin = _numbers(header, "ImagePositionPatient", 3, "")
        orientation = _numbers(header, "ImageOrientationPatient", 6, "")
    except InputError:
        return None
    return float(np.cross(orientation[:3], orientation[3:]) @ origin)


def read_dicom(root: str, relative: str) -> tuple[np.ndarray, float]:
    """Read one CT slice in HU, padding as air.

    Args:
        root: the source folder.
        relative: the file, relative to it.

    Returns:
        (image_mu float32 (rows, columns) in 1/cm, pixel_mm).

    Raises:
        InputError: if the file is broken, not axial, not in HU, not square in its pixels, or cannot be decoded here.
    """
    path = Path(root, relative)
    _read_header(path, relative)
    with reading(relative, "a whole DICOM file"):
        dataset = _pydicom().dcmread(path)
        _check_image(dataset, relative)
        _check_axial(dataset, relative)
    down_mm, across_mm = _numbers(dataset, "PixelSpacing", 2, relative)
    pixel_mm = square_pixel_mm(across_mm, down_mm, relative)
    (slope,) = _numbers(dataset, "RescaleSlope", 1, relative)
    (intercept,) = _numbers(dataset, "RescaleIntercept", 1, relative)
    stored = _decode(dataset, relative)
    hu = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    hu[_padding(dataset, stored)] = AIR_HU
    return image_from_hu(hu), pixel_mm


def _check_image(dataset: Any, relative: str) -> None:
    """Refuse what is not one grey slice in HU."""
    if "Rows" not in dataset or "Columns" not in dataset or "PixelData" not in dataset:
        raise InputError(
            f"{relative}: truncated, or a header without pixels; expected a CT slice; fetch the file again"
        )
    rows, columns = int(dataset.Rows or 0), int(dataset.Columns or 0)
    if not (0 < rows <= MAX_SIDE and 0 < columns <= MAX_SIDE):
        raise InputError(f"{relative}: got {rows} rows, {columns} columns; expected 1 .. {MAX_SIDE}; take the file out")
    frames, samples = int(dataset.get("NumberOfFrames") or 1), int(dataset.get("SamplesPerPixel") or 1)
    colours = str(dataset.get("PhotometricInterpretation", ""))
    if frames != 1 or samples != 1 or colours != "MONOCHROME2":
        raise InputError(f"{relative}: got {frames} frames of {samples} x {colours}; expected one MONOCHROME2 frame")
    rescale_type = str(dataset.get("RescaleType") or "HU").upper()
    if rescale_type != "HU":
        raise InputError(f"{relative}: got RescaleType {rescale_type[:16]!r}; expected HU; export the series in HU")


def _check_axial(dataset: Any, relative: str) -> None:
    """Refuse a slice whose rows do not run right to left and whose columns do not run anterior to posterior."""
    orientation = np.array(_numbers(dataset, "ImageOrientationPatient", 6, relative)).reshape(2, 3)
    lengths = np.linalg.norm(orientation, axis=1)
    cosines = np.diag(orientation[:, :2]) / np.maximum(lengths, 1e-9)
    tilt_deg = math.degrees(math.acos(float(np.clip(cosines.min(), -1, 1))))
    if tilt_deg > MAX_TILT_DEG:
        raise InputError(
            f"{relative}: got a slice {tilt_deg:.0f} degrees off axial; expected at most {MAX_TILT_DEG:g} "
            "(ImageOrientationPatient near 1, 0, 0, 0, 1, 0); resample the series to axial slices first"
        )


def _decode(dataset: Any, relative: str) -> np.ndarray:
    """Return stored values (rows, columns); a missing decoder and broken data each get their own line."""
    pixels = _pydicom().pixels
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    try:
        available = pixels.get_decoder(syntax).is_available
    except Exception:  # unknown or absent transfer syntax
        available = False
    if not available:
        name = getattr(syntax, "name", syntax)
        raise InputError(f"{relative}: no decoder for the transfer syntax {name} ({syntax}); {INSTALL}")
    with reading(relative, "whole pixel data", warn="error"):  # of missing data some decoders only warn
        return np.asarray(dataset.pixel_array)


def _padding(dataset: Any, stored: np.ndarray) -> np.ndarray:
    """Return True where a stored value is padding: PixelPaddingValue, up to PixelPaddingRangeLimit if there is one."""
    first = dataset.get("PixelPaddingValue")
    if not isinstance(first, int):
        return np.zeros(stored.shape, dtype=bool)
    last = dataset.get("PixelPaddingRangeLimit")
    wrap = 1 << int(dataset.get("BitsAllocated") or 16)
    signed = int(dataset.get("PixelRepresentation") or 0) == 1
    limits = [int(value) for value in (first, last if isinstance(last, int) else first)]
    limits = [value - wrap if signed and value >= wrap // 2 else value for value in limits]  # -2000 written as unsigned
    return (stored >= min(limits)) & (stored <= max(limits))
