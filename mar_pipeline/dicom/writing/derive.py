"""The derived CT image: the source's header, with every line of the table of what a corrected image must say."""

import copy
import os
from pathlib import Path

import numpy as np
from pydicom.charset import convert_encodings, encode_string
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sr.coding import Code
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian

from mar_pipeline.dicom.identifiers import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    MANUFACTURER,
)
from mar_pipeline.dicom.reading.files import quiet
from mar_pipeline.dicom.reading.pixels import SlicePixels
from mar_pipeline.dicom.writing.derivation import Derivation, instance_uid
from mar_pipeline.dicom.writing.headers import carried, item_of, items_of, text_of
from mar_pipeline.dicom.writing.tags import (
    ACQUISITION_EQUIPMENT,
    ALSO_OF_THE_SCANNER,
    CODING_SCHEME,
    DROPPED,
    IMAGE_TYPE,
    LOSSY_COMPRESSION,
    LOSSY_SYNTAXES,
    MAR_CODE,
    NETWORK_FAMILY,
    OF_THE_SCANNER,
    PROCESSING_EQUIPMENT,
    SOURCE_IMAGE,
    TYPE_2,
)
from simulation.errors import InputError, ResourceError
from simulation.files import whole_file

MAX_DESCRIPTION = 64
UNCHANGED = "Pixels unchanged, in a series of: "
"""How DerivationDescription begins where nothing was corrected in a slice."""
ALGORITHMS = "MetalArtifactReductionAlgorithmIdentificationSequence"
NEEDED = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
_DROPPED_TAGS = frozenset(Tag(keyword) for keyword in DROPPED)


def left_out(source: Dataset, keep_private: bool = False) -> tuple[str, ...]:
    """Return names of the source's attributes that cannot be written into a derived image, malformed as they are."""
    return carried(source, keep_private, _DROPPED_TAGS)[1]


def derived_slice(source: Dataset, pixels: SlicePixels, stored: np.ndarray, derivation: Derivation) -> FileDataset:
    """Return a derived CT image in Explicit VR Little Endian; the source is left as it is.

    Args:
        source: header of the source slice, as `read_slice` gives it.
        pixels: its pixels, for the range of values that can be stored.
        stored: the derived image as stored values, whole numbers (rows, columns).
        derivation: how it was made.

    Raises:
        InputError: if the source has no UIDs, or pixels that CT images do not have.
        ValueError: if `stored` has another shape or values that cannot be stored.
    """
    header, _ = carried(source, derivation.keep_private, _DROPPED_TAGS)
    with quiet():
        nameless = [
            keyword for keyword in NEEDED if not isinstance(header.get(keyword), str) or not header[keyword].value
        ]
    if nameless:
        raise InputError(f"got a slice without one {', one '.join(nameless)}, which nothing derived can refer to")
    dataset = FileDataset("", header, bytes(128), is_implicit_VR=False)
    dataset.set_original_encoding(False, True, header.original_character_set)
    with quiet():
        _set_pixels(dataset, pixels, stored)
        _mark_lossy(dataset, transfer_syntax_of(source))
        _refer_to_source(dataset)
        _name_equipment(dataset, derivation)
        changed = not np.array_equal(stored, pixels.stored)
        _describe(dataset, changed, derivation)
        _say_whether_reduced(dataset, changed, derivation)
        _identify(dataset, stored, derivation)
        for keyword in TYPE_2:
            if keyword not in dataset:
                setattr(dataset, keyword, None)
    return dataset


def file_meta(sop_class: str, sop_instance: str) -> FileMetaDataset:
    """File meta information of an object that this program writes in Explicit VR Little Endian."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(sop_class), UID(sop_instance)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    return meta


def transfer_syntax_of(source: Dataset) -> str:
    """UID of the transfer syntax that a data set was read from, "" if it does not tell."""
    meta = getattr(source, "file_meta", None)
    return "" if meta is None else str(meta.get("TransferSyntaxUID", ""))


def _set_pixels(dataset: FileDataset, pixels: SlicePixels, stored: np.ndarray) -> None:
    """Pixel data in the source's bits; signed values carry their sign into the bits above."""
    shape, bits = (int(dataset.Rows), int(dataset.Columns)), int(dataset.BitsStored)
    shift = int(dataset.get("HighBit", bits - 1)) + 1 - bits
    if dataset.BitsAllocated != 16:
        raise InputError(f"got BitsAllocated {dataset.BitsAllocated}; expected 16, as CT images have")
    if stored.shape != shape or not np.issubdtype(stored.dtype, np.integer):
        raise ValueError(f"stored: got {stored.dtype} {stored.shape}; expected whole numbers {shape}")
    if stored.min() < pixels.lowest or stored.max() > pixels.highest:
        raise ValueError(
            f"stored: got {stored.min()} .. {stored.max()}; expected values in {pixels.lowest} .. {pixels.highest}"
        )
    dataset.PixelData = ((stored.astype(np.int64) << shift) & 0xFFFF).astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"


def code_item(code: Code) -> Dataset:
    """Return a code as the item of a sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item


def was_lossy(header: Dataset, transfer_syntax: str) -> bool:
    """Whether an image ever was compressed with loss, by its flags, its derivation or its transfer syntax."""
    with quiet():
        flag = text_of(header, "LossyImageCompression")
        codes = [
            (item.get("CodeValue"), item.get("CodingSchemeDesignator"))
            for item in items_of(header, "DerivationCodeSequence")
        ]
        derived = (LOSSY_COMPRESSION.value, LOSSY_COMPRESSION.scheme_designator) in codes
    return flag == "01" or derived or transfer_syntax in LOSSY_SYNTAXES


def _mark_lossy(dataset: Dataset, transfer_syntax: str) -> None:
    lossy = was_lossy(dataset, transfer_syntax)
    dataset.LossyImageCompression = "01" if lossy else "00"
    if not lossy:
        dataset.pop("LossyImageCompressionRatio", None)
        dataset.pop("LossyImageCompressionMethod", None)
    elif not dataset.get("LossyImageCompressionMethod") and transfer_syntax in LOSSY_SYNTAXES:
        dataset.LossyImageCompressionMethod = LOSSY_SYNTAXES[transfer_syntax]


def _refer_to_source(dataset: FileDataset) -> None:
    """SourceImageSequence, and ReferencedSeriesSequence, without which it is an error."""
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    image = copy.deepcopy(reference)
    image.SpatialLocationsPreserved = "YES"
    image.PurposeOfReferenceCodeSequence = [code_item(SOURCE_IMAGE)]
    dataset.SourceImageSequence = [image]
    others = items_of(dataset, "ReferencedSeriesSequence")
    series = next((item for item in others if item.get("SeriesInstanceUID") == dataset.SeriesInstanceUID), None)
    if series is None:
        series = Dataset()
        series.SeriesInstanceUID = dataset.SeriesInstanceUID
        others.append(series)
    instances = items_of(series, "ReferencedInstanceSequence")
    series.ReferencedInstanceSequence = [
        item for item in instances if item.get("ReferencedSOPInstanceUID") != dataset.SOPInstanceUID
    ] + [reference]
    dataset.ReferencedSeriesSequence = others


def _name_equipment(dataset: FileDataset, derivation: Derivation) -> None:
    """Name this program as the manufacturer, and the scanner and it as contributing equipment."""
    scanner = item_of(dataset, (*OF_THE_SCANNER, *ALSO_OF_THE_SCANNER))
    scanner.Manufacturer = text_of(dataset, "Manufacturer") or "unknown"
    scanner.PurposeOfReferenceCodeSequence = [code_item(ACQUISITION_EQUIPMENT)]
    for keyword in OF_THE_SCANNER:
        dataset.pop(keyword, None)
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = derivation.method
    dataset.SoftwareVersions = derivation.version
    program = item_of(dataset, ("Manufacturer", "ManufacturerModelName", "SoftwareVersions"))
    offset = text_of(dataset, "TimezoneOffsetFromUTC")
    program.ContributionDateTime = f"{derivation.created_at(offset):%Y%m%d%H%M%S.%f}"
    program.ContributionDescription = derivation.description
    program.PurposeOfReferenceCodeSequence = [code_item(PROCESSING_EQUIPMENT)]
    others = items_of(dataset, "ContributingEquipmentSequence")
    dataset.ContributingEquipmentSequence = [*others, scanner, program]


def _describe(dataset: FileDataset, changed: bool, derivation: Derivation) -> None:
    """Write what the image is, by whom and when, and what it may be used for."""
    created = derivation.created_at(text_of(dataset, "TimezoneOffsetFromUTC"))
    for event in ("InstanceCreation", "Series", "Content"):
        setattr(dataset, f"{event}Date", f"{created:%Y%m%d}")
        setattr(dataset, f"{event}Time", f"{created:%H%M%S.%f}")
    dataset.ImageType = list(IMAGE_TYPE)
    dataset.ContentQualification = "RESEARCH"
    dataset.DerivationDescription = ("" if changed else UNCHANGED) + derivation.description
    dataset.DerivationCodeSequence = [code_item(MAR_CODE)]
    scheme = Dataset()
    scheme.CodingSchemeDesignator = CODING_SCHEME
    scheme.CodingSchemeName = f"Private codes of {MANUFACTURER}"
    scheme.CodingSchemeResponsibleOrganization = MANUFACTURER
    others = items_of(dataset, "CodingSchemeIdentificationSequence")
    dataset.CodingSchemeIdentificationSequence = [
        *(item for item in others if item.get("CodingSchemeDesignator") != CODING_SCHEME),
        scheme,
    ]
    dataset.SeriesNumber = derivation.series_number
    encoding = convert_encodings(dataset.original_character_set)
    dataset.SeriesDescription = series_description(text_of(dataset, "SeriesDescription"), derivation.suffix, encoding)


def _say_whether_reduced(dataset: Dataset, changed: bool, derivation: Derivation) -> None:
    """DICOM's own words for it; what the scanner says of a reduction of its own stays said.

    One item: YES with all algorithms in the order in which they worked, or NO.
    """
    before = [item for item in items_of(dataset, "MetalArtifactReductionSequence") if reduction_applied(item)]
    if before and not changed:
        return
    item = Dataset()
    item.MetalArtifactReductionApplied = "YES" if changed else "NO"
    if changed:
        scanners = [one for each in before for one in items_of(each, ALGORITHMS)]
        setattr(item, ALGORITHMS, [*scanners, _algorithm(derivation)])
    dataset.MetalArtifactReductionSequence = [item]


def reduction_applied(item: Dataset) -> bool:
    """Whether an item of MetalArtifactReductionSequence says YES."""
    return text_of(item, "MetalArtifactReductionApplied").strip().upper() == "YES"


def _algorithm(derivation: Derivation) -> Dataset:
    """Return this program's method by the Algorithm Identification macro (PS3.3 10.16)."""
    item = Dataset()
    item.AlgorithmFamilyCodeSequence = [code_item(NETWORK_FAMILY if derivation.weights_sha256 else MAR_CODE)]
    item.AlgorithmName, item.AlgorithmVersion = derivation.method, derivation.version
    item.AlgorithmParameters = derivation.parameters
    item.AlgorithmSource = MANUFACTURER
    return item


def series_description(source: str, suffix: str, encodings: list[str]) -> str:
    """Return the source's description, cut so that what the image is now fits behind it.

    A value may have 64 characters; validators and archives that count bytes are content too.

    Args:
        source: the source's description.
        suffix: to stand behind it.
        encodings: Python's names of the character sets that it is written in.
    """
    for length in range(MAX_DESCRIPTION - 1 - len(suffix), 0, -1):
        made = f"{source[:length].rstrip()} {suffix}".strip()
        if len(encode_string(made, encodings)) <= MAX_DESCRIPTION:
            break
    return made


def _identify(dataset: FileDataset, stored: np.ndarray, derivation: Derivation) -> None:
    dataset.SOPInstanceUID = instance_uid(str(dataset.SOPInstanceUID), stored, derivation)
    dataset.SeriesInstanceUID = derivation.series_uid
    dataset.file_meta = file_meta(dataset.SOPClassUID, dataset.SOPInstanceUID)


def write_dataset(dataset: FileDataset, path: Path) -> None:
    """Write a data set in its transfer syntax, whole or not at all, for this user only (mode 0600).

    Args:
        dataset: with its file meta information.
        path: a new file in a folder that exists.

    Raises:
        ResourceError: if there is such a file already, or it cannot be written.
    """
    if path.exists():
        raise ResourceError(f"{path.name}: exists already; nothing is replaced; name another output folder")
    try:
        with whole_file(path) as partial, quiet():
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                dcmwrite(file, dataset, enforce_file_format=True)
    except OSError as error:
        raise ResourceError(f"{path.name}: cannot be written: {error.strerror}") from None
