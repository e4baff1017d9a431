"""The own checks see every single thing that can be wrong with a derived image; a validator sees few of them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from derived_files import DERIVATION, corrected, derivation, derive_file, source_of
from dicom_files import SECRETS, ct_dataset, fake_uid, save
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID, ImplicitVRLittleEndian

from mar_pipeline.dicom.writing.check import check_derived
from mar_pipeline.dicom.writing.derive import ALGORITHMS, derived_slice, write_dataset

Change = Callable[[FileDataset], Any]
EARLIER = Dataset()
EARLIER.Manufacturer = "Fake Archive"
SCHEME = Dataset()
SCHEME.CodingSchemeDesignator = "99FAKE"
SCOUTS = Dataset()
SCOUTS.SeriesInstanceUID = fake_uid("scouts")
CODE = Dataset()
CODE.CodeValue, CODE.CodingSchemeDesignator, CODE.CodeMeaning = "1", "99FAKE", "fake"
SCANNERS_OWN = Dataset()
SCANNERS_OWN.AlgorithmFamilyCodeSequence = [CODE]
SCANNERS_OWN.AlgorithmName, SCANNERS_OWN.AlgorithmVersion = "Fake Reduction", "3"
REDUCED = Dataset()
REDUCED.MetalArtifactReductionApplied = "YES"
REDUCED.MetalArtifactReductionAlgorithmIdentificationSequence = [SCANNERS_OWN]
SOURCE: dict[str, Any] = {
    "TimezoneOffsetFromUTC": "+0200",
    "PixelPaddingValue": 0,
    "StationName": "CT1",
    "ProcedureCodeSequence": [CODE],
    "ContributingEquipmentSequence": [EARLIER],
    "CodingSchemeIdentificationSequence": [SCHEME],
    "ReferencedSeriesSequence": [SCOUTS],
    "LossyImageCompression": "01",
    "LossyImageCompressionRatio": "8",
    "CTDIvol": 12.5,
    "AccessionNumber": None,
    "MetalArtifactReductionSequence": [REDUCED],
}


def put(keyword: str, value: Any) -> Change:
    return lambda dataset: setattr(dataset, keyword, value)


def drop(keyword: str) -> Change:
    return lambda dataset: delattr(dataset, keyword)


def unseen(keyword: str, change: Callable[[str], str]) -> Change:
    """Changes a text behind the back of pydicom, which would warn."""
    return lambda dataset: dataset[keyword].__dict__.update(_value=change(dataset[keyword].value))


def within(path: str, keyword: str, value: Any) -> Change:
    """Sets an attribute of an item: `Sequence/0/Sequence/-1`; None deletes it."""

    def change(dataset: Dataset) -> None:
        steps = path.split("/")
        for sequence, place in zip(steps[::2], steps[1::2], strict=True):
            dataset = dataset[sequence].value[int(place)]
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)

    return change


def invert_a_pixel(dataset: FileDataset) -> None:
    dataset.PixelData = dataset.PixelData[:-1] + bytes([dataset.PixelData[-1] ^ 1])


def private(dataset: FileDataset) -> None:
    dataset.add_new(0x00090010, "LO", "FAKE VENDOR")


COPIED: dict[str, Any] = {
    "StudyInstanceUID": fake_uid("x"),
    "FrameOfReferenceUID": fake_uid("x"),
    "PositionReferenceIndicator": "SN",
    "ImagePositionPatient": [-126.0, -126.0, 0.001],
    "ImageOrientationPatient": [1, 0, 0, 0, 0.9999, 0],
    "PixelSpacing": [4.0, 4.0001],
    "SliceThickness": "5.0",
    "PatientPosition": "FFS",
    "PatientName": "Other^Name",
    "PatientID": "OTHER",
    "PatientBirthDate": "19561225",
    "PatientSex": "F",
    "StudyDate": "20240301",
    "StudyTime": "101501",
    "StudyID": "8",
    "SpecificCharacterSet": "ISO_IR 192",
    "TimezoneOffsetFromUTC": "+0100",
    "AcquisitionDate": "20240301",
    "AcquisitionTime": "101602",
    "AcquisitionNumber": 2,
    "InstanceNumber": 2,
    "RescaleSlope": "2",
    "RescaleIntercept": "-1000",
    "BitsStored": 13,
    "HighBit": 12,
    "PixelPaddingValue": 1,
    "WindowCenter": "41",
    "KVP": "100",
    "ConvolutionKernel": "B31",
    "CTDIvol": 12.500001,
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4",
    "Modality": "MR",
}
BROKEN: dict[str, tuple[Change, str]] = {
    **{f"{keyword} changed": (put(keyword, value), f"{keyword} differs") for keyword, value in COPIED.items()},
    **{f"{keyword} lost": (drop(keyword), f"{keyword} is missing") for keyword in ("KVP", "CTDIvol", "WindowCenter")},
    "type 2 lost": (drop("AccessionNumber"), "AccessionNumber is missing"),
    "type 2 made up": (put("AccessionNumber", "1"), "AccessionNumber is not in the source"),
    "nested value": (within("ProcedureCodeSequence/0", "CodeMeaning", "other"), "ProcedureCodeSequence differs"),
    "nested value lost": (within("ProcedureCodeSequence/0", "CodeMeaning", None), "ProcedureCodeSequence differs"),
    "item lost": (put("ProcedureCodeSequence", []), "ProcedureCodeSequence differs"),
    "made up": (put("ImageComments", "hello"), "ImageComments is not in the source"),
    "presentation intent": (put("PresentationIntentType", "FOR PROCESSING"), "PresentationIntentType should have been"),
    "algorithm": (put("ReconstructionAlgorithm", "ITERATIVE"), "ReconstructionAlgorithm should have been"),
    "synthetic": (put("SyntheticData", "NO"), "SyntheticData is not in the source"),
    "smallest value": (
        lambda dataset: dataset.add_new("SmallestImagePixelValue", "US", 0),
        "SmallestImagePixelValue should have been dropped",
    ),
    "icon": (put("IconImageSequence", []), "IconImageSequence should have been dropped"),
    "private": (private, "(0009,0010) should have been dropped"),
    "pixels": (invert_a_pixel, "SOPInstanceUID does not follow"),
    "pixels cut": (put("PixelData", b"\0\0"), "PixelData has another length"),
    "SOP UID": (put("SOPInstanceUID", fake_uid("x")), "SOPInstanceUID does not follow"),
    "SOP UID of the source": (put("SOPInstanceUID", fake_uid("image", 0)), "SOPInstanceUID is the source's"),
    "series UID": (put("SeriesInstanceUID", fake_uid("x")), "SeriesInstanceUID is not that"),
    "series UID of the source": (put("SeriesInstanceUID", fake_uid("series")), "SeriesInstanceUID is the source's"),
    "series number": (put("SeriesNumber", 3), "SeriesNumber is not"),
    "description of the source": (put("SeriesDescription", "Hip 5.0 soft"), "SeriesDescription does not end"),
    "description of another": (
        put("SeriesDescription", "Leg MAR-NMAR (RESEARCH)"),
        "SeriesDescription does not begin",
    ),
    "no description": (put("SeriesDescription", "MAR-NMAR (RESEARCH)"), "SeriesDescription does not begin"),
    "original": (put("ImageType", ["ORIGINAL", "PRIMARY", "AXIAL"]), "ImageType is not"),
    "qualification": (put("ContentQualification", "PRODUCT"), "ContentQualification is not"),
    "no qualification": (drop("ContentQualification"), "AttributeError after"),
    **{
        f"{event}{what}": (put(f"{event}{what}", value), f"{event}Date and {event}Time")
        for event in ("InstanceCreation", "Series", "Content")
        for what, value in (("Date", "20240229"), ("Time", "101602.000000"))
    },
    "no statement": (
        put("DerivationDescription", f"NMAR 1.2.3 {DERIVATION.weights_sha256}"),
        "DerivationDescription does not name what it may be used for",
    ),
    **{
        f"no {what}": (
            lambda dataset, part=part: setattr(
                dataset, "DerivationDescription", dataset.DerivationDescription.replace(part, "")
            ),
            f"DerivationDescription does not name the {what}",
        )
        for what, part in (("method", "NMAR"), ("version", "1.2.3"), ("weights", "fedcba987654"))
    },
    "long": (unseen("DerivationDescription", lambda said: said + " " * 900 + "x"), "DerivationDescription is longer"),
    "long series": (
        unseen("SeriesDescription", lambda said: said.replace("MAR", " " * 50 + "MAR")),
        "SeriesDescription is longer",
    ),
    "derivation code": (within("DerivationCodeSequence/0", "CodeValue", "113062"), "DerivationCodeSequence is not"),
    "no scheme": (put("CodingSchemeIdentificationSequence", [SCHEME]), "CodingSchemeIdentificationSequence lacks"),
    "scheme lost": (
        lambda dataset: dataset.CodingSchemeIdentificationSequence.pop(0),
        "CodingSchemeIdentificationSequence lost",
    ),
    "other image": (
        within("SourceImageSequence/0", "ReferencedSOPInstanceUID", fake_uid("x")),
        "SourceImageSequence is not",
    ),
    "other class": (within("SourceImageSequence/0", "ReferencedSOPClassUID", "1.2"), "SourceImageSequence is not"),
    "no image": (drop("SourceImageSequence"), "SourceImageSequence is not"),
    "locations": (within("SourceImageSequence/0", "SpatialLocationsPreserved", "NO"), "SpatialLocationsPreserved"),
    "purpose": (
        within("SourceImageSequence/0/PurposeOfReferenceCodeSequence/0", "CodeValue", "121320"),
        "the purpose of SourceImageSequence",
    ),
    "no series": (
        lambda dataset: dataset.ReferencedSeriesSequence.pop(1),
        "ReferencedSeriesSequence lacks",
    ),
    "series lost": (lambda dataset: dataset.ReferencedSeriesSequence.pop(0), "ReferencedSeriesSequence lost"),
    "other series": (
        within("ReferencedSeriesSequence/1", "SeriesInstanceUID", fake_uid("x")),
        "ReferencedSeriesSequence lacks",
    ),
    "manufacturer": (put("Manufacturer", "Fake Scanners"), "Manufacturer is not this program"),
    "model": (put("ManufacturerModelName", "Ring 64"), "ManufacturerModelName is not"),
    "version": (put("SoftwareVersions", "1.0"), "SoftwareVersions is not"),
    "station": (put("StationName", "CT1"), "StationName of the scanner"),
    "serial number": (put("DeviceSerialNumber", "12"), "DeviceSerialNumber of the scanner"),
    "equipment lost": (
        lambda dataset: dataset.ContributingEquipmentSequence.pop(0),
        "ContributingEquipmentSequence lost",
    ),
    "no equipment": (drop("ContributingEquipmentSequence"), "ValueError after"),
    "acquisition purpose": (
        within("ContributingEquipmentSequence/1/PurposeOfReferenceCodeSequence/0", "CodeValue", "109100"),
        "109101",
    ),
    "processing purpose": (
        within("ContributingEquipmentSequence/2/PurposeOfReferenceCodeSequence/0", "CodeValue", "109101"),
        "109102",
    ),
    "scanner": (
        within("ContributingEquipmentSequence/1", "Manufacturer", "Other"),
        "the acquisition equipment is not the source's",
    ),
    "scanner's station": (
        within("ContributingEquipmentSequence/1", "StationName", None),
        "the acquisition equipment lost StationName",
    ),
    "program": (within("ContributingEquipmentSequence/2", "SoftwareVersions", "0"), "the processing equipment is not"),
    "not reduced": (within("MetalArtifactReductionSequence/0", "MetalArtifactReductionApplied", "NO"), "is not YES"),
    "reduction lost": (drop("MetalArtifactReductionSequence"), "ValueError after"),
    "algorithm lost": (within("MetalArtifactReductionSequence/0", ALGORITHMS, []), "ValueError after"),
    **{
        f"algorithm's {keyword}": (
            within(f"MetalArtifactReductionSequence/0/{ALGORITHMS}/-1", keyword, "other"),
            "the last algorithm is not this program's",
        )
        for keyword in ("AlgorithmName", "AlgorithmVersion", "AlgorithmParameters")
    },
    "algorithm's family": (
        within(f"MetalArtifactReductionSequence/0/{ALGORITHMS}/-1", "AlgorithmFamilyCodeSequence", []),
        "the algorithm's family",
    ),
    "scanner's algorithm lost": (
        lambda dataset: getattr(dataset.MetalArtifactReductionSequence[0], ALGORITHMS).pop(0),
        "lost what the source has",
    ),
    "not lossy": (put("LossyImageCompression", "00"), "LossyImageCompression does not tell"),
    "lossy ratio": (put("LossyImageCompressionRatio", "9"), "LossyImageCompressionRatio is not"),
    "lossy method": (put("LossyImageCompressionMethod", "ISO_15444_1"), "LossyImageCompressionMethod is not"),
    "lossy ratio lost": (drop("LossyImageCompressionRatio"), "LossyImageCompressionRatio is not"),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save(ct_dataset(**SOURCE), tmp_path / "source.dcm")


def test_says_nothing_of_a_good_image(source: Path, tmp_path: Path) -> None:
    for keep_private in (False, True):
        made = derivation(keep_private=keep_private)
        path = derive_file(source, tmp_path / f"{keep_private}.dcm", made)
        assert check_derived(path, source_of(source)[0], made) == []


@pytest.mark.parametrize("name", BROKEN)
def test_sees_each_thing_that_is_wrong(name: str, source: Path, tmp_path: Path) -> None:
    change, expected = BROKEN[name]
    path = derive_file(source, tmp_path / "derived.dcm", change=change)
    header, _ = source_of(source)
    wrong = check_derived(path, header, DERIVATION)
    assert [what for what in wrong if expected in what], wrong
    assert not [secret for secret in (*SECRETS, "Other", "2.25.", str(tmp_path)) if secret in " ".join(wrong)]


def meta(keyword: str, value: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        dataset = dcmread(path)
        setattr(dataset.file_meta, keyword, UID(value))
        dataset.save_as(path, implicit_vr=value == ImplicitVRLittleEndian if keyword == "TransferSyntaxUID" else None)

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (meta("MediaStorageSOPInstanceUID", fake_uid("x")), "MediaStorageSOPInstanceUID is not"),
        (meta("MediaStorageSOPClassUID", "1.2.3"), "MediaStorageSOPClassUID is not"),
        (meta("TransferSyntaxUID", ImplicitVRLittleEndian), "TransferSyntaxUID is not"),
        (lambda path: path.write_bytes(path.read_bytes()[:200]), ""),
        (lambda path: path.write_bytes(b"nothing"), "cannot be read back"),
        (lambda path: path.unlink(), "cannot be read back"),
        (lambda path: path.chmod(0o644), "others than the owner"),
    ],
)
def test_sees_what_is_wrong_with_the_file(
    change: Callable[[Path], Any], expected: str, source: Path, tmp_path: Path
) -> None:
    path = derive_file(source, tmp_path / "derived.dcm")
    change(path)
    if path.exists() and "others" not in expected:
        os.chmod(path, 0o600)
    wrong = check_derived(path, source_of(source)[0], DERIVATION)
    assert [what for what in wrong if expected in what], wrong


@pytest.mark.parametrize(
    "other",
    [
        {"series_uid": fake_uid("x")},
        {"series_number": 5},
        {"method": "LI"},
        {"version": "9"},
        {"configuration_sha256": "0" * 64},
        {"weights_sha256": "0" * 64},
        {"threshold_hu": 2000.0},
        {"options": ("--keep-private",)},
        {"threshold_hu": 2000.0, "options": ("--metal-threshold 2000",)},
    ],
)
def test_sees_an_image_of_another_derivation(other: dict[str, Any], source: Path, tmp_path: Path) -> None:
    path = derive_file(source, tmp_path / "derived.dcm")
    assert check_derived(path, source_of(source)[0], derivation(**other))


def test_sees_an_image_of_another_source(source: Path, tmp_path: Path) -> None:
    path = derive_file(source, tmp_path / "derived.dcm")
    other = save(ct_dataset(1, **SOURCE), tmp_path / "other.dcm")
    wrong = check_derived(path, source_of(other)[0], DERIVATION)
    assert "SourceImageSequence is not the one source slice" in wrong
    assert "ImagePositionPatient differs from the source's" in wrong


def test_leaves_the_source_as_it_is(source: Path, tmp_path: Path) -> None:
    path = derive_file(source, tmp_path / "derived.dcm")
    header, _ = source_of(source)
    before = {tag: header.get_item(tag) for tag in header.keys()}  # noqa: SIM118
    check_derived(path, header, DERIVATION)
    assert {tag: header.get_item(tag) for tag in header.keys()} == before  # noqa: SIM118


def test_sees_a_slice_that_says_to_be_changed_and_is_not_or_the_other_way_round(tmp_path: Path) -> None:
    source = save(ct_dataset(), tmp_path / "source.dcm")
    header, pixels = source_of(source)
    for changed in (False, True):
        stored = corrected(pixels) if changed else pixels.stored
        write_dataset(derived_slice(header, pixels, stored, DERIVATION), tmp_path / f"{changed}.dcm")
        assert check_derived(tmp_path / f"{changed}.dcm", header, DERIVATION, changed) == []
        wrong = check_derived(tmp_path / f"{changed}.dcm", header, DERIVATION, not changed)
        assert any(what.startswith("MetalArtifactReductionApplied is not") for what in wrong), wrong
