"""What the header of one CT image says: whether it is one, where it lies, and how its pixels are stored."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEG2000,
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    LegacyConvertedEnhancedCTImageStorage,
    MediaStorageDirectoryStorage,
    RLELossless,
)

from mar_pipeline.dicom import dictionary as _dictionary  # noqa: F401  (keywords of LISTING are of it)
from mar_pipeline.dicom.identifiers import MANUFACTURER
from mar_pipeline.dicom.reading.limits import Limits
from simulation.errors import InputError, LimitError

NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
LOSSLESS = (*NATIVE, RLELossless, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless)
LOSSY = (JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000)  # each of them may be lossy; only the tag says if it is
NOT_SLICES = {"MIP", "MINIP", "MPR", "VRT", "SSD", "REFORMATTED", "PROJECTION"}
"""Words of ImageType that name images made of other images."""
VENDOR_CORRECTED = re.compile(r"(?<![a-z])(i-?mar|o-?mar|semar|smart[ _-]?mar|mars?)(?![a-z])", re.IGNORECASE)
VENDOR_TEXTS = ("SeriesDescription", "ProtocolName", "ConvolutionKernel", "ImageType")
IDENTIFIERS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
TIMES = frozenset(("AcquisitionTime", "ContentTime"))
ACQUISITION = (
    *("AcquisitionNumber", "TemporalPositionIdentifier", "TemporalPositionIndex", "NominalPercentageOfCardiacPhase"),
    *("ConvolutionKernel", "KVP", "ImageType", "SliceThickness", "AcquisitionTime", "ContentTime"),
)
"""What may tell acquisitions, phases and reconstructions of one volume apart, the first of equally good ones first."""
LISTING = (
    *IDENTIFIERS,
    *ACQUISITION,
    *("Modality", "Manufacturer", "SeriesDescription", "ProtocolName"),
    *("SeriesNumber", "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "LossyImageCompression", "PatientName", "PatientID"),
    *("MetalArtifactReductionSequence", "MetalArtifactReductionApplied"),
)
"""What `discover` reads of a header; of the patient no more than a hash is kept."""
UNSPECIFIED = "US"
"""RescaleType of values whose unit the writer did not say."""
LIKE_HOUNSFIELD = 0.85
"""Least likeness of a misspelt name: Houndsfield has .95, Housndfield .86, words like Field less than .7."""
SAME_SPACING = 1e-3
"""Largest relative difference of two PixelSpacings that are one, written with more and with fewer digits."""


@dataclass(frozen=True)
class PixelFormat:
    """How one image's pixels are stored in words of 16 bits.

    Args:
        rows: height in pixels.
        columns: width in pixels.
        bits: BitsStored.
        high_bit: the highest of them.
        signed: whether they are a two's complement.
        transfer_syntax: UID.
    """

    rows: int
    columns: int
    bits: int
    high_bit: int
    signed: bool
    transfer_syntax: str

    @property
    def lowest(self) -> int:
        """Lowest value that can be stored."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def highest(self) -> int:
        """Highest value that can be stored."""
        return self.lowest + (1 << self.bits) - 1

    @property
    def decoded_bytes(self) -> int:
        """Size of the decoded image."""
        return 2 * self.rows * self.columns


@dataclass(frozen=True)
class Geometry:
    """Where one image lies in the patient, in mm.

    Args:
        position_mm: centre of the first voxel.
        orientation: unit vectors along a row and along a column.
        spacing_mm: between rows, between columns.
    """

    position_mm: tuple[float, float, float]
    orientation: tuple[float, float, float, float, float, float]
    spacing_mm: tuple[float, float]


def same_spacing(one: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether two PixelSpacings are one but for the digits that were written.

    >>> same_spacing((1.5955, 1.5955), (1.59554, 1.59554)), same_spacing((0.5, 0.5), (0.5, 0.501))
    (True, False)
    """
    return all(abs(a - b) <= SAME_SPACING * min(a, b) for a, b in zip(one, other, strict=True))


class LackingError(InputError):
    """A CT image without one of the attributes that make it a slice in HU."""


def metal_reduced(dataset: Dataset) -> bool:
    """Whether the header says, in DICOM's own words of 2026, that metal artifacts were reduced.

    Args:
        dataset: with MetalArtifactReductionSequence, if the image has it.
    """
    try:
        items = list(dataset.get("MetalArtifactReductionSequence") or [])
    except Exception:  # malformed; then it says nothing
        items = []
    return any(
        text(item, "MetalArtifactReductionApplied").upper() == "YES"
        for item in (dataset, *items)
        if isinstance(item, Dataset)
    )


def text(dataset: Dataset, keyword: str) -> str:
    """Return a value as stripped text, several joined by a backslash; blank if absent or malformed."""
    try:
        value = dataset.get(keyword)
    except Exception:  # a malformed value raises when it is asked for
        return ""
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    parts = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)
    return "\\".join(str(part) for part in parts if part is not None).strip(" \0")


def uid(dataset: Dataset, keyword: str) -> str:
    """One UID, blank if absent or several."""
    value = text(dataset, keyword)
    return "" if "\\" in value else value


def numbers(dataset: Dataset, keyword: str, count: int, name: str) -> tuple[float, ...]:
    """Finite numbers of an attribute.

    Raises:
        LackingError: it is absent or blank.
        InputError: it is malformed or has another count.
    """
    found: tuple[float, ...] = ()
    try:
        value = dataset.get(keyword)
        if value is None or (hasattr(value, "__len__") and not len(value)):
            raise LackingError(f"{name}: has no {keyword}; take the file out")
        found = tuple(float(number) for number in (value if count > 1 else [value]))
    except LackingError:
        raise
    except Exception:  # a malformed value raises when it is asked for, each in its own way
        found = ()
    if len(found) != count or not all(math.isfinite(number) for number in found):
        raise InputError(f"{name}: {keyword} is malformed; expected {count} finite numbers")
    return found


def whole_number(dataset: Dataset, keyword: str, name: str, default: int | None = None) -> int:
    """Return an integer; the default stands for an absent one.

    Raises:
        InputError: it is malformed, or absent without a default.
    """
    if not text(dataset, keyword) and default is not None:
        return default
    (number,) = numbers(dataset, keyword, 1, name)
    if number != int(number):
        raise InputError(f"{name}: {keyword} is malformed; expected a whole number")
    return int(number)


def foreign_object(sop_class: str) -> str | None:
    """Why an object of this SOP class is no CT image, None if it is one."""
    if sop_class == CTImageStorage:
        return None
    if not sop_class:
        return "no SOP class; expected CT Image Storage"
    if sop_class == MediaStorageDirectoryStorage:
        return "DICOMDIR"
    if sop_class in (EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage):
        return "Enhanced CT is not supported yet; export as classic CT Image Storage"
    known = UID(sop_class).name
    return f"{known if known != sop_class else 'an object of a private SOP class'}; expected CT Image Storage"


def other_image(dataset: Dataset) -> str | None:
    """Why a CT image is none to correct (made here, a localizer, colour, ...), None if it is one."""
    if text(dataset, "Manufacturer") == MANUFACTURER:
        return f"written by {MANUFACTURER}"
    modality = text(dataset, "Modality")
    if modality not in ("", "CT"):
        return f"modality {modality[:16]!r}; expected CT"
    words = set(re.split(r"[^A-Z0-9]+", text(dataset, "ImageType").upper().replace("MIN_IP", "MINIP")))
    if "LOCALIZER" in words:
        return "localizer"
    if words & NOT_SLICES:
        return f"ImageType says {' '.join(sorted(words & NOT_SLICES))}; expected acquired slices"
    samples, colours = text(dataset, "SamplesPerPixel") or "1", text(dataset, "PhotometricInterpretation")
    if samples != "1" or colours != "MONOCHROME2":
        return f"{samples[:4]} x {colours[:16] or 'unknown colours'} per pixel; expected 1 x MONOCHROME2"
    return None


def check_unit(dataset: Dataset, name: str, assume_hu: bool) -> None:
    """Check that values are in HU.

    Args:
        dataset: a CT image's header.
        name: of its file.
        assume_hu: take values whose unit is unspecified for HU.

    Raises:
        LackingError: they are not.
    """
    rescale_type = text(dataset, "RescaleType").upper()
    if not rescale_type or is_hounsfield(rescale_type) or (assume_hu and rescale_type == UNSPECIFIED):
        return
    remedy = "; --assume-hu takes its values for HU" if rescale_type == UNSPECIFIED else ""
    what = "'US' (unspecified)" if rescale_type == UNSPECIFIED else repr(rescale_type[:16])
    raise LackingError(f"{name}: RescaleType {what}; expected HU{remedy}")


def is_hounsfield(rescale_type: str) -> bool:
    """Return whether a RescaleType names Hounsfield units, however it is spelt.

    >>> [is_hounsfield(unit) for unit in ("HU ", "Houndsfield Unit", "HU_MOD", "US")]
    [True, True, False, False]
    """
    words = re.findall(r"[A-Z]+", rescale_type.upper().replace("H.U.", "HU"))
    units = [word for word in words if word not in ("UNIT", "UNITS")]
    return bool(units) and all(
        word in ("HU", "HUS") or SequenceMatcher(None, word, "HOUNSFIELD").ratio() >= LIKE_HOUNSFIELD for word in units
    )


def geometry(dataset: Dataset, name: str) -> Geometry:
    """Where the image lies.

    Raises:
        LackingError: an attribute is absent.
        InputError: one is malformed, or the orientation is not that of a rectangle.
    """
    position = numbers(dataset, "ImagePositionPatient", 3, name)
    orientation = numbers(dataset, "ImageOrientationPatient", 6, name)
    spacing = numbers(dataset, "PixelSpacing", 2, name)
    axes = np.array(orientation).reshape(2, 3)
    if not np.allclose(axes @ axes.T, np.eye(2), atol=2e-3):
        raise InputError(f"{name}: ImageOrientationPatient is not two orthogonal unit vectors")
    if min(spacing) <= 0:
        raise InputError(f"{name}: got a PixelSpacing that is not positive")
    return Geometry((position[0], position[1], position[2]), orientation, (spacing[0], spacing[1]))  # type: ignore[arg-type]


def rescale(dataset: Dataset, name: str) -> tuple[float, float]:
    """Slope and intercept: HU = slope * stored + intercept.

    Raises:
        LackingError: one is absent.
        InputError: one is malformed, or the slope is zero.
    """
    (slope,), (intercept,) = (numbers(dataset, f"Rescale{which}", 1, name) for which in ("Slope", "Intercept"))
    if slope == 0:
        raise InputError(f"{name}: got a RescaleSlope of 0; expected another number")
    return slope, intercept


def pixel_format(dataset: Dataset, transfer_syntax: str, name: str, limits: Limits) -> PixelFormat:
    """How the pixels are stored, every number within what can be decoded.

    Raises:
        LimitError: more rows or columns than the limit.
        InputError: more frames than one, or words that no CT image has, or an unknown transfer syntax.
    """
    if transfer_syntax not in (*LOSSLESS, *LOSSY):
        raise InputError(
            f"{name}: got the transfer syntax {syntax_name(transfer_syntax)}, which is not supported; convert the "
            "file to Explicit VR Little Endian"
        )
    rows, columns = (whole_number(dataset, keyword, name) for keyword in ("Rows", "Columns"))
    if rows < 1 or columns < 1:
        raise InputError(f"{name}: got {rows} rows, {columns} columns; expected at least 1 each")
    if max(rows, columns) > limits.max_side:
        raise LimitError(f"{name}: got {rows} rows, {columns} columns; expected at most {limits.max_side} each")
    frames = whole_number(dataset, "NumberOfFrames", name, default=1)
    if frames != 1:
        raise InputError(f"{name}: got {frames} frames; expected 1")
    allocated, bits = (whole_number(dataset, keyword, name) for keyword in ("BitsAllocated", "BitsStored"))
    high_bit = whole_number(dataset, "HighBit", name, default=bits - 1)
    representation = whole_number(dataset, "PixelRepresentation", name)
    if allocated != 16 or not 1 <= bits <= 16 or not bits - 1 <= high_bit < 16 or representation not in (0, 1):
        raise InputError(
            f"{name}: got BitsAllocated {allocated}, BitsStored {bits}, HighBit {high_bit}, PixelRepresentation "
            f"{representation}; expected 1 .. 16 bits in words of 16, PixelRepresentation 0 or 1"
        )
    if high_bit != bits - 1 and transfer_syntax not in (*NATIVE, RLELossless):
        raise InputError(
            f"{name}: got HighBit {high_bit} of {bits} bits in the transfer syntax {syntax_name(transfer_syntax)}, "
            "whose values lie in the lowest bits"
        )
    return PixelFormat(rows, columns, bits, high_bit, representation == 1, transfer_syntax)


def syntax_name(transfer_syntax: str) -> str:
    """Name and UID of a transfer syntax."""
    known: Any = UID(transfer_syntax)
    return f"{known.name} ({transfer_syntax})" if known.name != transfer_syntax else transfer_syntax or "'' (blank)"
