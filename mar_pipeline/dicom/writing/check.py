"""The own checks of a derived CT image, on the file as it was written: validators pass an image that is mislabelled."""

import copy
import re
import stat
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.sr.coding import Code
from pydicom.tag import BaseTag, Tag
from pydicom.uid import ExplicitVRLittleEndian

from mar_pipeline.dicom.identifiers import MANUFACTURER
from mar_pipeline.dicom.reading.decoding import stored_values
from mar_pipeline.dicom.reading.files import quiet
from mar_pipeline.dicom.reading.image_header import pixel_format
from mar_pipeline.dicom.reading.limits import Limits
from mar_pipeline.dicom.writing.derivation import Derivation, instance_uid
from mar_pipeline.dicom.writing.derive import ALGORITHMS, left_out, transfer_syntax_of, was_lossy
from mar_pipeline.dicom.writing.headers import (
    WORDS,
    carried,
    embedded_overlay,
    has_place,
    items_of,
    name_of,
    swapped,
    text_of,
)
from mar_pipeline.dicom.writing.tags import (
    ACQUISITION_EQUIPMENT,
    DROPPED,
    IMAGE_TYPE,
    LOSSY_SYNTAXES,
    MAR_CODE,
    NETWORK_FAMILY,
    OF_THE_SCANNER,
    PROCESSING_EQUIPMENT,
    SOURCE_IMAGE,
    TYPE_2,
)

ENDING = re.compile(r"(.*?) ?\bMAR-(\S+)(?: (\S+)HU)?(?: cfg([0-9a-f]{4}))? \(RESEARCH\)")
"""SeriesDescription: the source's, the method, a threshold that was given, a mark of other options."""
RESEARCH_USE = "research use only; review with the original"
WRITTEN = (
    *("SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "ImageType", "ContentQualification"),
    *(f"{event}{what}" for event in ("InstanceCreation", "Series", "Content") for what in ("Date", "Time")),
    *("DerivationDescription", "DerivationCodeSequence", "CodingSchemeIdentificationSequence"),
    *("SourceImageSequence", "ReferencedSeriesSequence", "ContributingEquipmentSequence"),
    *("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "PixelData"),
    *("LossyImageCompression", "LossyImageCompressionMethod", "LossyImageCompressionRatio"),
    "MetalArtifactReductionSequence",
)
"""What a derived image says for itself; all else is the source's or nothing."""
Rules = Iterator[tuple[str, bool]]
"""(what is wrong if it does not hold, whether it holds)."""


def check_derived(path: Path, source: Dataset, derivation: Derivation, changed: bool = True) -> list[str]:
    """Read a derived image back and compare every line of the table of its header with the source.

    The pixels are those that were meant if SOPInstanceUID follows from them.

    Args:
        path: the file.
        source: header of the source slice, as `derived_slice` had it; is left as it is.
        derivation: as `derived_slice` had it.
        changed: whether its pixels are others than the source's.

    Returns:
        What is wrong, in words without values; nothing if all is well.
    """
    rules = (_of_file, _of_identity, _of_series, _of_time, _of_derivation, _of_references, _of_equipment, _of_loss)
    with quiet():
        try:
            derived = dcmread(path)
        except Exception:  # whatever keeps it from being read
            return ["the file cannot be read back"]
        source = copy.deepcopy(source)
        wrong = [what for rule in rules for what, holds in _guarded(rule(derived, source, derivation)) if not holds]
        wrong += [what for what, holds in _guarded(_of_reduction(derived, source, derivation, changed)) if not holds]
        if stat.S_IMODE(path.stat().st_mode) != 0o600:
            wrong.append("others than the owner may open the file")
        wrong += _differences(derived, source, derivation)
    return wrong


def _guarded(rules: Rules) -> Rules:
    """Yield the rules, and a complaint in place of those behind one that fails on what is missing or malformed."""
    last = "the first rule"
    try:
        for what, holds in rules:
            last = what
            yield what, holds
    except Exception as error:  # what is malformed fails in many ways
        yield f"{type(error).__name__} after: {last}", False


def _of_file(derived: FileDataset, source: Dataset, derivation: Derivation) -> Rules:
    meta = derived.file_meta
    yield "TransferSyntaxUID is not Explicit VR Little Endian", meta.TransferSyntaxUID == ExplicitVRLittleEndian
    yield "MediaStorageSOPClassUID is not SOPClassUID", meta.MediaStorageSOPClassUID == derived.SOPClassUID
    yield "MediaStorageSOPInstanceUID is not SOPInstanceUID", meta.MediaStorageSOPInstanceUID == derived.SOPInstanceUID
    words = int(derived.Rows) * int(derived.Columns) * int(derived.BitsAllocated) // 8
    yield "PixelData has another length than one frame", len(derived.PixelData) == words + words % 2


def _of_identity(derived: FileDataset, source: Dataset, derivation: Derivation) -> Rules:
    yield "SOPInstanceUID is the source's", derived.SOPInstanceUID != source.SOPInstanceUID
    yield "SeriesInstanceUID is the source's", derived.SeriesInstanceUID != source.SeriesInstanceUID
    yield "SeriesInstanceUID is not that of the derivation", derived.SeriesInstanceUID == derivation.series_uid
    expected = instance_uid(str(source.SOPInstanceUID), _stored(derived), derivation)
    yield (
        "SOPInstanceUID does not follow from the source, the derivation and PixelData",
        (derived.SOPInstanceUID == expected),
    )


def _of_series(derived: FileDataset, source: Dataset, derivation: Derivation) -> Rules:
    yield "SeriesNumber is not that of the derivation", derived.SeriesNumber == derivation.series_number
    yield "ImageType is not DERIVED SECONDARY AXIAL", tuple(derived.ImageType) == IMAGE_TYPE
    yield "ContentQualification is not RESEARCH", derived.ContentQualification == "RESEARCH"
    said, original = derived.SeriesDescription, _description(source)
    ending = ENDING.fullmatch(said)
    yield "SeriesDescription does not end in what the image is", ending is not None
    start, method, threshold_hu, mark = (part or "" for part in ending.groups()) if ending else ("", "", "", "")
    named = derivation.method == method or (len(method) > 8 and derivation.method.startswith(method))
    yield "SeriesDescription does not name the method", named
    others = [option for option in derivation.options if not option.startswith("--metal-threshold ")]
    expected = "" if len(others) == len(derivation.options) else f"{derivation.threshold_hu or 0:g}"
    yield "SeriesDescription does not tell a threshold that was given", threshold_hu == expected
    yield (
        "SeriesDescription does not mark other options than the defaults",
        mark == (derivation.configuration_sha256[:4] if others else ""),
    )
    yield "SeriesDescription is longer than 64 characters", len(said) <= 64
    yield (
        "SeriesDescription does not begin like the source's",
        original.startswith(start) and bool(start or not original),
    )


def _description(source: Dataset) -> str:
    return text_of(source, "SeriesDescription")


def _of_time(derived: FileDataset, source: Dataset, derivation: Derivation) -> Rules:
    created = derivation.created_at(text_of(source, "TimezoneOffsetFromUTC"))
    for event in ("InstanceCreation", "Series", "Content"):
        said = f"{derived[f'{event}Date'].value}{derived[f'{event}Time'].value}"
        yield (
            f"{event}Date and {event}Time are not when it was made",
            (datetime.strptime(said, "%Y%m%d%H%M%S.%f") == created),
        )


def _of_derivation(derived: FileDataset, source: Dataset, derivation: Derivation) -> Rules:
    said = derived.DerivationDescription
    weights = derivation.weights_sha256[:12] if derivation.weights_sha256 else ""
    for what, text in (
        ("the method", derivation.method),
        ("the version", derivation.version),
        ("the weights", weights),
        ("what it may be used for", RESEARCH_USE),
        (
            "the threshold",
            "given by the user" if derivation.threshold_hu is None else f"{derivation.threshold_hu:g} HU",
        ),
        *(("each option", option) for option in derivation.options),
    ):
        yield f"DerivationDescription does not name {what}", text in said
    yield "DerivationDescription is longer than 1024 characters", len(said) <= 1024
    codes = items_of(derived, "DerivationCodeSequence")
    yield "DerivationCodeSequence is not the code of this program", len(codes) == 1 and _is_code(codes[0], MAR_CODE)
    schemes = [item.CodingSchemeDesignator for item in items_of(derived, "CodingSchemeIdentificationSequence")]
    before = {item.get("CodingSchemeDesignator") for item in items_of(source, "CodingSchemeIdentificationSequence")}
    yield "CodingSchemeIdentificationSequence lost what the source has", before <= set(schemes)
    yield "CodingSchemeIdentificationSequence lacks the code's scheme", schemes.count(MAR_CODE.scheme_designator) == 1


def _of_references(derived: FileDataset, source: Dataset, derivation: Derivation) -> Rules:
    original = (source.SOPClassUID, source.SOPInstanceUID)
    images = items_of(derived, "SourceImageSequence")
    yield "SourceImageSequence is not the one source slice", [_reference(image) for image in images] == [original]
    yield "SpatialLocationsPreserved is not YES", images[0].SpatialLocationsPreserved == "YES"
    purposes = items_of(images[0], "PurposeOfReferenceCodeSequence")
    yield (
        "the purpose of SourceImageSequence is not 121322",
        [_is_code(code, SOURCE_IMAGE) for code in purposes] == [True],
    )
    series_now = items_of(derived, "ReferencedSeriesSequence")
    before = {item.get("SeriesInstanceUID") for item in items_of(source, "ReferencedSeriesSequence")}
    kept = before <= {item.get("SeriesInstanceUID") for item in series_now}
    yield "ReferencedSeriesSequence lost what the source has", kept
    listed = [
        _reference(instance)
        for series in series_now
        if series.SeriesInstanceUID == source.SeriesInstanceUID
        for instance in items_of(series, "ReferencedInstanceSequence")
    ]
    yield "ReferencedSeriesSequence lacks the source slice", listed.count(original) == 1


def _of_equipment(derived: FileDataset, source: Dataset, derivation: Derivation) -> Rules:
    yield "Manufacturer is not this program", derived.Manufacturer == MANUFACTURER
    yield "ManufacturerModelName is not the method", derived.ManufacturerModelName == derivation.method
    yield "SoftwareVersions is not this version", derived.SoftwareVersions == derivation.version
    for keyword in OF_THE_SCANNER:
        yield f"{keyword} of the scanner is said of this program", keyword not in derived
    *others, scanner, program = items_of(derived, "ContributingEquipmentSequence")
    yield (
        "ContributingEquipmentSequence lost what the source has",
        (len(others) == len(items_of(source, "ContributingEquipmentSequence"))),
    )
    for item, code in ((scanner, ACQUISITION_EQUIPMENT), (program, PROCESSING_EQUIPMENT)):
        purposes = items_of(item, "PurposeOfReferenceCodeSequence")
        yield (
            f"ContributingEquipmentSequence does not end in 109101 and 109102: {code.value}",
            ([_is_code(purpose, code) for purpose in purposes] == [True]),
        )
    maker, malformed = text_of(source, "Manufacturer") or "unknown", left_out(source)
    yield "the acquisition equipment is not the source's", scanner.Manufacturer == maker
    for keyword in ("ManufacturerModelName", *OF_THE_SCANNER):
        kept = (
            keyword not in source
            or keyword in malformed
            or (keyword in scanner and _same(scanner, source, Tag(keyword), True))
        )
        yield f"the acquisition equipment lost {keyword}", kept
    yield (
        "the processing equipment is not this program",
        ((program.Manufacturer, program.SoftwareVersions) == (MANUFACTURER, derivation.version)),
    )


def _of_loss(derived: FileDataset, source: Dataset, derivation: Derivation) -> Rules:
    syntax = transfer_syntax_of(source)
    lossy = was_lossy(source, syntax)
    yield (
        "LossyImageCompression does not tell the source's past",
        derived.LossyImageCompression == ("01" if lossy else "00"),
    )
    added = {"LossyImageCompressionRatio": "", "LossyImageCompressionMethod": LOSSY_SYNTAXES.get(syntax, "")}
    for keyword, value in added.items():
        if lossy and text_of(source, keyword):
            kept = keyword in derived and _same(derived, source, Tag(keyword), False)
        else:
            kept = text_of(derived, keyword) == (value if lossy else "")
        yield f"{keyword} is not the source's", kept


def _of_reduction(derived: FileDataset, source: Dataset, derivation: Derivation, changed: bool) -> Rules:
    sequence = "MetalArtifactReductionSequence"
    before = [item for item in items_of(source, sequence) if text_of(item, "MetalArtifactReductionApplied") == "YES"]
    if before and not changed:
        yield f"{sequence} differs from the source's", _same(derived, source, Tag(sequence), derivation.keep_private)
        return
    (item,) = items_of(derived, sequence)
    applied = "YES" if changed else "NO"
    yield f"MetalArtifactReductionApplied is not {applied}", item.MetalArtifactReductionApplied == applied
    algorithms = items_of(item, ALGORITHMS)
    if not changed:
        yield "an algorithm is named that did not work", not algorithms
        return
    *others, ours = algorithms
    scanners = [one for each in before for one in items_of(each, ALGORITHMS)]
    kept = len(others) == len(scanners) and all(map(_same_item, others, scanners, [True] * len(others)))
    yield f"{ALGORITHMS} lost what the source has", kept
    said = ours.AlgorithmName, ours.AlgorithmVersion, ours.AlgorithmParameters
    made = derivation.method, derivation.version, derivation.parameters
    yield "the last algorithm is not this program's", said == made
    families = items_of(ours, "AlgorithmFamilyCodeSequence")
    family = NETWORK_FAMILY if derivation.weights_sha256 else MAR_CODE
    yield "the algorithm's family is not the method's", [_is_code(code, family) for code in families] == [True]


def _is_code(item: Dataset, code: Code) -> bool:
    return (item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning) == (
        code.value,
        code.scheme_designator,
        code.meaning,
    )


def _reference(item: Dataset) -> tuple[str, str]:
    return item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID


def _stored(derived: FileDataset) -> np.ndarray:
    """Return stored values, read back as those of the source were read."""
    image = pixel_format(derived, ExplicitVRLittleEndian, "", Limits(max_side=65535))
    return stored_values(derived.PixelData, image, "")


def _differences(derived: Dataset, source: Dataset, derivation: Derivation) -> list[str]:
    """Return what is not as in the source though it should be, or is there though it should not."""
    wrong = []
    written, dropped = {Tag(keyword) for keyword in WRITTEN}, {Tag(keyword) for keyword in DROPPED}
    added, moved = {Tag(keyword) for keyword in TYPE_2}, {Tag(keyword) for keyword in OF_THE_SCANNER}
    undecoded, malformed = carried(source, derivation.keep_private, dropped)
    copied = {tag for tag in source.keys() if not embedded_overlay(source, tag)}  # noqa: SIM118
    for tag in sorted({*derived.keys(), *copied, *added} - written - moved):
        absent = tag not in derived
        if tag in dropped or not has_place(tag, derivation.keep_private):
            if not absent:
                wrong.append(f"{name_of(tag)} should have been dropped")
        elif absent:
            if name_of(tag) not in malformed or tag in added:
                wrong.append(f"{name_of(tag)} is missing")
        elif tag not in source or name_of(tag) in malformed:
            if tag not in added or not derived[tag].is_empty:
                wrong.append(f"{name_of(tag)} is not in the source")
        elif not _same(derived, source if _is_readable(source, tag) else undecoded, tag, derivation.keep_private):
            wrong.append(f"{name_of(tag)} differs from the source's")
    return wrong


def _same(derived: Dataset, source: Dataset, tag: BaseTag, keep_private: bool) -> bool:
    """Whether an attribute has the same value, to the letter, whatever the source was encoded in."""
    ours, theirs = _value(derived, tag), _value(source, tag)
    if isinstance(ours, Sequence) and isinstance(theirs, Sequence):
        return len(ours) == len(theirs) and all(map(_same_item, ours, theirs, [keep_private] * len(ours)))
    if isinstance(ours, bytes) and isinstance(theirs, bytes):
        if source.original_encoding[1] is False and derived[tag].VR in WORDS:
            theirs = swapped(theirs, derived[tag].VR)
        return ours.rstrip(b" \0") == theirs.rstrip(b" \0")
    return repr(ours) == repr(theirs)


def _same_item(derived: Dataset, source: Dataset, keep_private: bool) -> bool:
    tags = {tag for tag in source.keys() if has_place(tag, keep_private)}  # noqa: SIM118
    return tags == set(derived.keys()) and all(_same(derived, source, tag, keep_private) for tag in tags)


def _is_readable(dataset: Dataset, tag: BaseTag) -> bool:
    try:
        return dataset[tag] is not None
    except Exception:  # malformed, as it came
        return False


def _value(dataset: Dataset, tag: BaseTag) -> Any:
    """Value; the bytes of what pydicom cannot read."""
    return dataset[tag].value if _is_readable(dataset, tag) else bytes(dataset.get_item(tag).value or b"")
