"""A header comes over into Explicit VR Little Endian whatever it was encoded in and however badly it was filled in."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from derived_files import DERIVATION, corrected, derivation, derive_file, source_of
from dicom_files import ct_dataset, save
from pydicom import dcmread
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from mar_pipeline.dicom.reading.files import quiet
from mar_pipeline.dicom.writing.check import check_derived
from mar_pipeline.dicom.writing.derive import derived_slice, left_out, write_dataset
from mar_pipeline.dicom.writing.headers import carried

WORDS = np.array([1, 258, 65535, 4], np.uint16)
FLOATS = np.array([1.5, -2.25], np.float32)


def of_all_types(syntax: str) -> FileDataset:
    """An image with attributes of every type of value, at the top and in a sequence."""
    order = ">" if syntax == ExplicitVRBigEndian else "<"

    def fill(dataset: Dataset) -> None:
        dataset.DataPointRows = 70000  # UL
        dataset.ReferencePixelX0 = -70000  # SL
        dataset.TableSpeed = 46.3  # FD
        dataset.ExaminedBodyThickness = 2.5  # FL
        dataset.FrameIncrementPointer = [Tag(0x00181063), Tag(0x00200032)]  # AT
        dataset.TagAngleSecondAxis = -3  # SS
        dataset.SelectorUVValue = 2**40  # UV
        dataset.SelectorSVValue = -(2**40)  # SV
        dataset.VectorGridData = FLOATS.astype(f"{order}f4").tobytes()  # OF
        dataset.add_new("RedPaletteColorLookupTableData", "OW", WORDS.astype(f"{order}u2").tobytes())
        dataset.EncapsulatedDocument = b"\x01\x02\x03"  # OB
        dataset.PatientComments = "Grüße\r\nan alle"  # LT
        dataset.PatientWeight = "79.50"  # DS

    dataset = ct_dataset(
        PixelRepresentation=1, BitsStored=16, HighBit=15, RescaleIntercept="0", SpecificCharacterSet="ISO_IR 192"
    )
    dataset.PatientName = "Müller^Jörg=山田^太郎"
    dataset.PixelPaddingValue = -2000
    item = Dataset()
    fill(dataset)
    fill(item)
    dataset.AcquisitionContextSequence = [item, Dataset()]
    return dataset


@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        RLELossless,
        JPEGLSLossless,
        JPEG2000Lossless,
    ],
)
def test_values_are_the_same_whatever_the_encoding(tmp_path: Path, syntax: str) -> None:
    meant = of_all_types(syntax)
    source = save(of_all_types(syntax), tmp_path / "source.dcm", syntax)
    made = dcmread(derive_file(source, tmp_path / "derived.dcm"))
    assert made.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert made.PatientName == meant.PatientName
    assert made.PixelPaddingValue == -2000
    assert made["PixelPaddingValue"].VR == "SS"
    for level, expected in ((made, meant), (made.AcquisitionContextSequence[0], meant.AcquisitionContextSequence[0])):
        assert np.array_equal(np.frombuffer(level.VectorGridData, "<f4"), FLOATS)
        assert np.array_equal(np.frombuffer(level.RedPaletteColorLookupTableData, "<u2"), WORDS)
        assert level.EncapsulatedDocument == b"\x01\x02\x03\0"
        for keyword in (
            *("DataPointRows", "ReferencePixelX0", "TableSpeed", "ExaminedBodyThickness", "FrameIncrementPointer"),
            *("TagAngleSecondAxis", "SelectorUVValue", "SelectorSVValue", "PatientComments", "PatientWeight"),
        ):
            assert str(level[keyword].value) == str(expected[keyword].value), keyword
    assert len(made.AcquisitionContextSequence) == 2
    header, _ = source_of(source)
    assert check_derived(tmp_path / "derived.dcm", header, DERIVATION) == []


def test_words_that_were_looked_at_are_turned_too(tmp_path: Path) -> None:
    source = save(of_all_types(ExplicitVRBigEndian), tmp_path / "source.dcm", ExplicitVRBigEndian)
    header, pixels = source_of(source)
    assert header.RedPaletteColorLookupTableData == WORDS.astype(">u2").tobytes()
    for _ in range(2):  # the source stays as it is
        made = derived_slice(header, pixels, corrected(pixels), DERIVATION)
        assert made.RedPaletteColorLookupTableData == WORDS.astype("<u2").tobytes()


def with_raw(values: dict[str, tuple[str, bytes]], **attributes: Any) -> FileDataset:
    """An image with attributes as bytes under a VR of one's own."""
    dataset = ct_dataset(**attributes)
    for keyword, (vr, value) in values.items():
        tag = Tag(keyword)
        dataset[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
    dataset.set_original_encoding(False, True, dataset.original_character_set)
    return dataset


def raw_file(path: Path, values: dict[str, tuple[str, bytes]], **attributes: Any) -> Path:
    """The same on disk: pydicom writes raw values as they are while the character set is the one they came with."""
    dataset = with_raw(values, **attributes)
    with quiet():
        dataset.set_original_encoding(False, True, dataset._character_set)
        dataset.save_as(path)
    return path


ODD_TEXTS: dict[str, tuple[str, bytes]] = {
    "PatientBirthTime": ("TM", b"noon"),
    "AcquisitionDate": ("DA", b"2020.01.01"),
    "AcquisitionDateTime": ("DT", b"yesterday "),
    "Exposure": ("IS", b"1.5 "),
    "ExposureTime": ("IS", b"99999999999999999999"),
    "PatientWeight": ("DS", b"heavy "),
    "CTDIvol": ("DS", b"1.23456789012345678901"),
    "BodyPartExamined": ("CS", b"not a code, and lower case"),
    "PatientAge": ("AS", b"old "),
    "IrradiationEventUID": ("UI", b"not..a.uid"),
    "PatientComments": ("LT", b"\xff\xfe no UTF-8 \xe4"),
    "PatientName": ("PN", b"\xc3\x28=\x1b$B^" + b"x" * 300),
    "ProtocolName": ("LO", b"a\\b\\c\n"),
    "OperatorsName": ("LO", b"of another type"),
    "DataPointRows": ("LO", b"of another type"),
}


@pytest.mark.parametrize(
    "characters", ["ISO_IR 192", "ISO_IR 999", "", "ISO_IR 100\\ISO_IR 192", "\\ISO 2022 IR 87", None]
)
def test_odd_values_come_over_byte_for_byte(tmp_path: Path, characters: str | None) -> None:
    source = raw_file(tmp_path / "source.dcm", ODD_TEXTS, SpecificCharacterSet=characters)
    header, pixels = source_of(source)
    before = {tag: header.get_item(tag).value for tag in map(Tag, ODD_TEXTS)}
    assert left_out(header) == ()
    write_dataset(derived_slice(header, pixels, corrected(pixels), DERIVATION), tmp_path / "derived.dcm")
    with quiet():
        made = dcmread(tmp_path / "derived.dcm")
    for keyword in ODD_TEXTS:
        value = made.get_item(Tag(keyword)).value
        assert value in (before[Tag(keyword)], before[Tag(keyword)] + b" "), keyword
        assert len(value) % 2 == 0
    assert check_derived(tmp_path / "derived.dcm", header, DERIVATION) == []


NOT_WRITABLE: dict[str, tuple[str, bytes]] = {
    "TagAngleSecondAxis": ("SS", b"\x01\x02\x03"),
    "TableSpeed": ("FD", b"\0" * 7),
    "FrameIncrementPointer": ("AT", b"\0" * 6 + b"\0"),
    "RedPaletteColorLookupTableData": ("OW", b"\0" * 3),
    "AcquisitionContextSequence": ("SQ", b"no items at all!"),
    "SelectorUVValue": ("UV", b"\0" * 9),
    "RequestAttributesSequence": ("SQ", b"\xfe\xff\x00\xe0\x0b\0\0\0\x18\0\x11\x93FD\x03\0abc"),
    "StudyComments": ("ZZ", b"type"),
}


def test_what_cannot_be_written_is_left_out_and_named(tmp_path: Path) -> None:
    source = raw_file(tmp_path / "source.dcm", NOT_WRITABLE)
    header, pixels = source_of(source)
    assert sorted(left_out(header)) == sorted(NOT_WRITABLE)
    write_dataset(derived_slice(header, pixels, corrected(pixels), DERIVATION), tmp_path / "derived.dcm")
    made = dcmread(tmp_path / "derived.dcm")
    assert not [keyword for keyword in NOT_WRITABLE if keyword in made]
    assert made.PatientName == header.PatientName
    assert check_derived(tmp_path / "derived.dcm", header, DERIVATION) == []


def test_values_that_do_not_fit_their_type_are_left_out() -> None:
    source = ct_dataset()
    source.add(DataElement("TagAngleSecondAxis", "SS", "text", already_converted=True))
    source["TableSpeed"] = RawDataElement(Tag("TableSpeed"), "FD", 16, b"\0" * 8, 0, False, True)  # cut
    source["StudyComments"] = RawDataElement(Tag("StudyComments"), "UN", 2, b"\0\1", 0, False, False)  # big endian
    assert sorted(left_out(source)) == ["StudyComments", "TableSpeed", "TagAngleSecondAxis"]


def test_control_characters_do_not_get_into_new_texts(tmp_path: Path) -> None:
    source = raw_file(tmp_path / "source.dcm", {"SeriesDescription": ("LO", b"Hip\r\n\x07 5.0\0")})
    with quiet():
        made = dcmread(derive_file(source, tmp_path / "derived.dcm"))
    assert made.SeriesDescription == "Hip 5.0 MAR-NMAR (RESEARCH)"


def test_a_character_set_that_is_no_text_is_left_out(tmp_path: Path) -> None:
    header, pixels = source_of(save(ct_dataset(), tmp_path / "source.dcm"))
    tag = Tag("SpecificCharacterSet")
    header[tag] = RawDataElement(tag, "US", 2, b"\x01\x02", 0, False, True)
    assert left_out(header) == ("SpecificCharacterSet",)
    write_dataset(derived_slice(header, pixels, corrected(pixels), DERIVATION), tmp_path / "derived.dcm")
    assert "SpecificCharacterSet" not in dcmread(tmp_path / "derived.dcm")


def nested(depth: int) -> Dataset:
    dataset = Dataset()
    dataset.CodeMeaning = f"depth {depth}"
    if depth:
        dataset.AcquisitionContextSequence = [nested(depth - 1)]
    return dataset


def test_sequences_nested_without_end_are_left_out() -> None:
    made, missing = carried(nested(10), keep_private=False)
    assert missing == ()
    assert str(made) == str(nested(10))
    assert carried(nested(100), keep_private=False)[1] == ("AcquisitionContextSequence",)


def test_messages_media_and_padding_do_not_come_along(tmp_path: Path) -> None:
    header, pixels = source_of(save(ct_dataset(), tmp_path / "source.dcm"))
    header[0xFFFCFFFC] = RawDataElement(Tag(0xFFFCFFFC), "OB", 2, b"\0\0", 0, False, True)
    header[0x00020010] = RawDataElement(Tag(0x00020010), "UI", 2, b"1\0", 0, False, True)
    header[0x00041500] = RawDataElement(Tag(0x00041500), "CS", 2, b"A ", 0, False, True)
    header[0x00080000] = RawDataElement(Tag(0x00080000), "UL", 4, b"\1\0\0\0", 0, False, True)
    header[0xFFFEE000] = RawDataElement(Tag(0xFFFEE000), "OB", 2, b"\0\0", 0, False, True)
    header[0x00030010] = RawDataElement(Tag(0x00030010), "LO", 2, b"A ", 0, False, True)
    made = derived_slice(header, pixels, corrected(pixels), derivation(keep_private=True))
    for tag in (0x00020010, 0x00041500, 0x00080000, 0x00030010, 0xFFFCFFFC, 0xFFFEE000):
        assert tag in header
        assert tag not in made


def test_overlays_in_bits_of_the_values_stay_behind(tmp_path: Path) -> None:
    source = ct_dataset()
    for group, data in ((0x6000, bytes(512)), (0x6002, None)):
        source.add_new((group, 0x0010), "US", 64)
        source.add_new((group, 0x0011), "US", 64)
        source.add_new((group, 0x0102), "US", 0 if data else 11)
        if data:
            source.add_new((group, 0x3000), "OW", data)
    path = save(source, tmp_path / "source.dcm")
    made = dcmread(derive_file(path, tmp_path / "derived.dcm"))
    assert (0x6000, 0x3000) in made
    assert (0x6000, 0x0010) in made
    assert (0x6002, 0x0010) not in made
    assert check_derived(tmp_path / "derived.dcm", source_of(path)[0], DERIVATION) == []


def test_values_longer_than_their_type_allows_come_over(tmp_path: Path) -> None:
    with quiet():
        source = save(ct_dataset(PatientComments="x" * 70000), tmp_path / "source.dcm", ImplicitVRLittleEndian)
    made = dcmread(derive_file(source, tmp_path / "derived.dcm"))
    assert len(made.get_item(Tag("PatientComments")).value) == 70000


@pytest.mark.parametrize("keep", [False, True])
def test_private_attributes_of_unknown_make_come_over_if_asked(tmp_path: Path, keep: bool) -> None:
    source = ct_dataset()
    source.add_new(0x00290010, "LO", "FAKE")
    source.add_new(0x00291001, "UN", b"\x01\x02\x03")
    item = Dataset()
    item.add_new(0x00290010, "LO", "FAKE")
    item.add_new(0x00291002, "US", 5)
    source.add_new(0x00291003, "SQ", Sequence([item]))
    path = save(source, tmp_path / "source.dcm")
    made = dcmread(derive_file(path, tmp_path / "derived.dcm", derivation(keep_private=keep)))
    assert (0x00291001 in made, 0x00291003 in made) == (keep, keep)
    if keep:
        assert made[0x00291001].value == b"\x01\x02\x03\0"
        assert made[0x00291003].value[0][0x00291002].value == 5
    assert check_derived(tmp_path / "derived.dcm", source_of(path)[0], derivation(keep_private=keep)) == []
