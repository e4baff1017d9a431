"""The derived image says of itself what the table of its header demands, and of the patient what the source says."""

import copy
import hashlib
import io
import stat
import tempfile
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from derived_files import DERIVATION, WEIGHTS, corrected, derivation, derive_file, source_of
from dicom_files import SECRETS, ct_dataset, disc_hu, fake_uid, save, write_series
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import JPEG2000 as JPEG2000Lossy
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from mar_pipeline.dicom.identifiers import derived_uid
from mar_pipeline.dicom.writing.derivation import Derivation, series_number, series_uid
from mar_pipeline.dicom.writing.derive import derived_slice, write_dataset
from simulation.errors import InputError, ResourceError

COPIED = """
    StudyInstanceUID FrameOfReferenceUID PositionReferenceIndicator ImagePositionPatient ImageOrientationPatient
    PixelSpacing SliceThickness PatientPosition PatientName PatientID PatientBirthDate PatientSex PatientAge
    AccessionNumber StudyDate StudyTime StudyID StudyDescription ReferringPhysicianName SpecificCharacterSet
    PatientIdentityRemoved DeidentificationMethod AcquisitionDate AcquisitionTime AcquisitionNumber InstanceNumber
    RescaleSlope RescaleIntercept RescaleType BitsAllocated BitsStored HighBit PixelRepresentation PixelPaddingValue
    WindowCenter WindowWidth KVP ConvolutionKernel XRayTubeCurrent ExposureTime CTDIvol SamplesPerPixel
    PhotometricInterpretation Rows Columns SOPClassUID Modality ProtocolName TimezoneOffsetFromUTC
""".split()  # noqa: SIM905
DROPPED: dict[str, Any] = {
    "SmallestImagePixelValue": 1,
    "LargestImagePixelValue": 2,
    "SmallestPixelValueInSeries": 1,
    "LargestPixelValueInSeries": 2,
    "SmallestImagePixelValueInPlane": 1,
    "LargestImagePixelValueInPlane": 2,
    "HistogramSequence": [Dataset()],
    "PixelDataProviderURL": "http://fake.example/pixels",
    "InstanceCreatorUID": fake_uid("creator"),
    "LengthToEnd": 4711,
    "IconImageSequence": [Dataset()],
    "DigitalSignaturesSequence": [Dataset()],
    "MACParametersSequence": [Dataset()],
    "ReferencedPerformedProcedureStepSequence": [Dataset()],
    "OriginalAttributesSequence": [Dataset()],
    "PresentationIntentType": "FOR PRESENTATION",
    "ReconstructionAlgorithm": "ITERATIVE",
}
RICH: dict[str, Any] = {
    "PatientIdentityRemoved": "YES",
    "DeidentificationMethod": "none, it is fake",
    "TimezoneOffsetFromUTC": "+0200",
    "PixelPaddingValue": 0,
    "CTDIvol": 12.5,
    "StationName": "CT1",
    "InstitutionName": "Fake Hospital",
}


def code(item: Dataset) -> tuple[str, str]:
    return item.CodeValue, item.CodingSchemeDesignator


def derived(made: Derivation = DERIVATION, number: int = 0, **attributes: Any) -> tuple[FileDataset, FileDataset]:
    """(source as it was before, derived) of an image in memory."""
    source = ct_dataset(number, **attributes)
    before = copy.deepcopy(source)
    del source.PixelData
    _, pixels = source_of_memory(before)
    return before, derived_slice(source, pixels, corrected(pixels), made)


def source_of_memory(dataset: FileDataset) -> tuple[Dataset, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return source_of(save(copy.deepcopy(dataset), Path(folder, "0.dcm")))


def test_copies_what_belongs_to_patient_study_geometry_and_scan() -> None:
    source, made = derived(**RICH)
    for keyword in COPIED:
        assert keyword in made, keyword
        assert repr(made[keyword].value) == repr(source[keyword].value), keyword


def test_identifiers_are_new_and_agree() -> None:
    source, made = derived()
    assert made.SOPInstanceUID != source.SOPInstanceUID
    assert made.SOPInstanceUID.startswith("2.25.")
    assert made.SOPInstanceUID.is_valid
    assert made.SeriesInstanceUID == DERIVATION.series_uid != source.SeriesInstanceUID
    assert made.file_meta.MediaStorageSOPInstanceUID == made.SOPInstanceUID
    assert made.file_meta.MediaStorageSOPClassUID == made.SOPClassUID
    assert made.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian


def test_says_what_it_is() -> None:
    _, made = derived()
    assert made.SeriesNumber == DERIVATION.series_number
    assert list(made.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
    assert made.ContentQualification == "RESEARCH"
    assert made.SeriesDescription == "Hip 5.0 soft MAR-NMAR (RESEARCH)"
    description = made.DerivationDescription
    for said in ("NMAR", "1.2.3", WEIGHTS[:12], "research use only; review with the original"):
        assert said in description
    assert WEIGHTS not in description
    assert len(description) <= 1024
    (item,) = made.DerivationCodeSequence
    assert code(item) == ("MAR", "99MARPIPELINE")
    assert [scheme.CodingSchemeDesignator for scheme in made.CodingSchemeIdentificationSequence] == ["99MARPIPELINE"]


def test_a_changed_slice_says_which_algorithm_worked_on_it() -> None:
    for made, family in ((derivation(weights_sha256=None), ("MAR", "99MARPIPELINE")), (DERIVATION, ("123110", "DCM"))):
        (item,) = derived(made)[1].MetalArtifactReductionSequence
        (algorithm,) = item.MetalArtifactReductionAlgorithmIdentificationSequence
        assert item.MetalArtifactReductionApplied == "YES"
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("NMAR", "1.2.3")
        assert algorithm.AlgorithmParameters == made.parameters
        assert [code(one) for one in algorithm.AlgorithmFamilyCodeSequence] == [family]


def test_a_copied_slice_says_that_nothing_was_applied() -> None:
    source = ct_dataset()
    _, pixels = source_of_memory(source)
    copied = derived_slice(source, pixels, pixels.stored, DERIVATION)
    (item,) = copied.MetalArtifactReductionSequence
    assert list(item.keys()) == [0x00189391] and item.MetalArtifactReductionApplied == "NO"
    assert copied.DerivationDescription == f"Pixels unchanged, in a series of: {DERIVATION.description}"
    assert derived()[1].DerivationDescription == DERIVATION.description


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_reduction_by_the_scanner_stays_said(syntax: str, tmp_path: Path) -> None:
    own, said = Dataset(), Dataset()
    own.AlgorithmName = "Fake Reduction"
    said.MetalArtifactReductionApplied = "YES"
    said.MetalArtifactReductionAlgorithmIdentificationSequence = [own]
    source = save(ct_dataset(MetalArtifactReductionSequence=[said]), tmp_path / "source.dcm", syntax)
    header, pixels = source_of(source)
    for stored, names in ((pixels.stored, ["Fake Reduction"]), (corrected(pixels), ["Fake Reduction", "NMAR"])):
        (item,) = derived_slice(header, pixels, stored, DERIVATION).MetalArtifactReductionSequence
        assert item.MetalArtifactReductionApplied == "YES"
        algorithms = item.MetalArtifactReductionAlgorithmIdentificationSequence
        assert [algorithm.AlgorithmName for algorithm in algorithms] == names


def test_series_of_other_settings_can_be_told_apart_in_a_list() -> None:
    given = {
        "Hip 5.0 soft MAR-NMAR (RESEARCH)": derivation(threshold_hu=2500.0),
        "Hip 5.0 soft MAR-NMAR 3000HU (RESEARCH)": derivation(threshold_hu=3000.0, options=("--metal-threshold 3000",)),
        "Hip 5.0 soft MAR-NMAR cfg0123 (RESEARCH)": derivation(threshold_hu=2500.0, options=("--keep-private",)),
        "Hip 5.0 soft MAR-NMAR 3000HU cfg0123 (RESEARCH)": derivation(
            threshold_hu=3000.0, options=("--metal-threshold 3000", "--min-metal-mm2 20")
        ),
    }
    assert [derived(made)[1].SeriesDescription for made in given.values()] == list(given)


def test_the_derivation_names_threshold_and_options_in_plain_words() -> None:
    options = ("--metal-threshold 3000", "--min-metal-mm2 20")
    said = derived(derivation(threshold_hu=3000.0, options=options))[1].DerivationDescription
    assert "metal above 3000 HU; options: --metal-threshold 3000, --min-metal-mm2 20" in said
    assert "metal given by the user; options: defaults" in derived()[1].DerivationDescription


def test_refers_to_its_source() -> None:
    source, made = derived()
    (image,) = made.SourceImageSequence
    assert image.ReferencedSOPClassUID == source.SOPClassUID
    assert image.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert image.SpatialLocationsPreserved == "YES"
    (purpose,) = image.PurposeOfReferenceCodeSequence
    assert (*code(purpose), purpose.CodeMeaning) == ("121322", "DCM", "Source image for image processing operation")
    (series,) = made.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    (instance,) = series.ReferencedInstanceSequence
    assert instance.ReferencedSOPInstanceUID == source.SOPInstanceUID


def test_keeps_what_the_source_refers_to() -> None:
    instance, localizer, scheme = Dataset(), Dataset(), Dataset()
    instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = (
        CTImageStorage,
        fake_uid("localizer"),
    )
    localizer.SeriesInstanceUID, localizer.ReferencedInstanceSequence = fake_uid("scouts"), [instance]
    scheme.CodingSchemeDesignator, scheme.CodingSchemeName = "99FAKE", "Fake codes"
    _, made = derived(ReferencedSeriesSequence=[localizer], CodingSchemeIdentificationSequence=[scheme])
    assert [item.SeriesInstanceUID for item in made.ReferencedSeriesSequence] == [
        fake_uid("scouts"),
        fake_uid("series"),
    ]
    assert [item.CodingSchemeDesignator for item in made.CodingSchemeIdentificationSequence] == [
        "99FAKE",
        "99MARPIPELINE",
    ]


def test_a_source_that_lists_itself_is_listed_once() -> None:
    itself, series = Dataset(), Dataset()
    itself.ReferencedSOPClassUID, itself.ReferencedSOPInstanceUID = CTImageStorage, fake_uid("image", 0)
    series.SeriesInstanceUID, series.ReferencedInstanceSequence = fake_uid("series"), [itself]
    _, made = derived(ReferencedSeriesSequence=[series])
    (listed,) = made.ReferencedSeriesSequence
    assert [item.ReferencedSOPInstanceUID for item in listed.ReferencedInstanceSequence] == [fake_uid("image", 0)]


def test_names_the_scanner_and_itself_as_equipment() -> None:
    source, made = derived(StationName="CT1", DeviceUID=fake_uid("device"))
    assert (made.Manufacturer, made.ManufacturerModelName, made.SoftwareVersions) == ("mar-pipeline", "NMAR", "1.2.3")
    scanner, program = made.ContributingEquipmentSequence
    assert code(scanner.PurposeOfReferenceCodeSequence[0]) == ("109101", "DCM")
    assert code(program.PurposeOfReferenceCodeSequence[0]) == ("109102", "DCM")
    for keyword in ("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "DeviceSerialNumber", "StationName"):
        assert scanner[keyword].value == source[keyword].value
    assert program.Manufacturer == "mar-pipeline"
    for keyword in ("DeviceSerialNumber", "StationName", "DeviceUID"):  # of the scanner, not of this program
        assert keyword not in made
        assert keyword in scanner


def test_equipment_is_appended_to_the_sources() -> None:
    earlier = Dataset()
    earlier.Manufacturer = "Fake Archive"
    _, made = derived(ContributingEquipmentSequence=[earlier], Manufacturer="")
    assert [item.Manufacturer for item in made.ContributingEquipmentSequence] == [
        "Fake Archive",
        "unknown",  # which the sequence must name
        "mar-pipeline",
    ]


@pytest.mark.parametrize(
    ("offset", "expected"),
    [("+0200", "20260507010809.120000"), ("-0730", "20260506153809.120000"), ("+0000", "20260506230809.120000")],
)
def test_times_are_when_it_was_made_in_the_sources_zone(offset: str, expected: str) -> None:
    _, made = derived(TimezoneOffsetFromUTC=offset)
    for event in ("InstanceCreation", "Series", "Content"):
        assert made[f"{event}Date"].value + made[f"{event}Time"].value == expected
    assert made.ContributingEquipmentSequence[1].ContributionDateTime == expected
    assert made.TimezoneOffsetFromUTC == offset


@pytest.mark.parametrize("offset", [None, "", "MEZ", "+9900", "+0160"])
def test_times_are_local_where_the_source_has_no_zone(offset: str | None) -> None:
    local = DERIVATION.created.astimezone()
    _, made = derived(TimezoneOffsetFromUTC=offset)
    assert made.SeriesDate + made.SeriesTime == f"{local:%Y%m%d%H%M%S.%f}"


def test_a_naive_time_is_local() -> None:
    naive = datetime(2026, 5, 6, 7, 8, 9)
    assert derivation(created=naive).created_at(None) == naive
    there = naive.astimezone(timezone(timedelta(hours=2))).replace(tzinfo=None)
    assert derivation(created=naive).created_at("+0200") == there


def test_drops_what_is_true_of_the_source_only() -> None:
    source, made = derived(**DROPPED)
    for keyword in DROPPED:
        assert keyword in source
        assert keyword not in made, keyword


def with_private(dataset: FileDataset) -> FileDataset:
    dataset.add_new(0x00090010, "LO", "FAKE VENDOR")
    dataset.add_new(0x00091001, "LO", "private")
    nested = Dataset()
    nested.CodeValue, nested.CodingSchemeDesignator, nested.CodeMeaning = "1", "99FAKE", "fake"
    nested.add_new(0x00110010, "LO", "FAKE VENDOR")
    nested.add_new(0x00111001, "LO", "private")
    dataset.ProcedureCodeSequence = [nested]
    return dataset


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_private_attributes_stay_only_if_asked(tmp_path: Path, syntax: str, keep: bool) -> None:
    source = save(with_private(ct_dataset()), tmp_path / "source.dcm", syntax)
    made = dcmread(derive_file(source, tmp_path / "derived.dcm", derivation(keep_private=keep)))
    assert (0x00091001 in made) == keep
    assert (0x00111001 in made.ProcedureCodeSequence[0]) == keep
    assert made.ProcedureCodeSequence[0].CodeMeaning == "fake"
    if keep:
        assert made[0x00091001].value in ("private", b"private ")  # of unknown type once it was implicit


def test_missing_type_2_is_added_empty() -> None:
    names = """
        PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime ReferringPhysicianName StudyID
        AccessionNumber PositionReferenceIndicator InstanceNumber SliceThickness KVP AcquisitionNumber
    """.split()  # noqa: SIM905
    _, made = derived(**dict.fromkeys(names))
    for keyword in names:
        assert made[keyword].is_empty, keyword


def test_never_adds_what_this_image_may_not_say() -> None:
    source, made = derived()
    for keyword in ("PresentationIntentType", "ReconstructionAlgorithm", "SyntheticData", "RecognizableVisualFeatures"):
        assert keyword not in source
        assert keyword not in made


@pytest.mark.parametrize("length", [0, 40, 46, 47, 48, 49, 64])
def test_series_description_is_cut_so_that_the_suffix_fits(length: int) -> None:
    _, made = derived(SeriesDescription="ä" * length)
    suffix = " MAR-NMAR (RESEARCH)"
    assert made.SeriesDescription == ("ä" * min(length, 64 - len(suffix)) + suffix).strip()
    assert len(made.SeriesDescription) <= 64


@pytest.mark.parametrize("characters", ["ISO_IR 192", "ISO 2022 IR 6\\ISO 2022 IR 87", "GB18030"])
def test_series_description_fits_in_bytes_too(tmp_path: Path, characters: str) -> None:
    text = "骨盤の検査" * 6
    source = save(
        ct_dataset(SeriesDescription=text, SpecificCharacterSet=characters.split("\\")), tmp_path / "source.dcm"
    )
    made = dcmread(derive_file(source, tmp_path / "derived.dcm"))
    assert len(made.get_item("SeriesDescription").value) in (62, 63, 64)
    start = made.SeriesDescription.removesuffix(" MAR-NMAR (RESEARCH)")
    assert text.startswith(start)
    assert len(start) > 10


def test_series_description_is_one_clean_text() -> None:
    _, made = derived(SeriesDescription="a\\b", SpecificCharacterSet="ISO_IR 192")
    assert made.SeriesDescription == "a b MAR-NMAR (RESEARCH)"


def test_lossless_images_have_no_ratio_of_loss() -> None:
    _, made = derived(LossyImageCompression="00", LossyImageCompressionRatio="8", LossyImageCompressionMethod="FAKE")
    assert "LossyImageCompressionRatio" not in made
    assert "LossyImageCompressionMethod" not in made


LOSSY_CODE = Dataset()
LOSSY_CODE.CodeValue, LOSSY_CODE.CodingSchemeDesignator, LOSSY_CODE.CodeMeaning = "113040", "DCM", "Lossy Compression"


@pytest.mark.parametrize(
    ("attributes", "lossy"),
    [
        ({}, "00"),
        ({"LossyImageCompression": "00"}, "00"),
        ({"LossyImageCompression": "01"}, "01"),
        ({"LossyImageCompression": "01", "LossyImageCompressionRatio": "8"}, "01"),
        ({"DerivationCodeSequence": [LOSSY_CODE]}, "01"),
    ],
)
def test_lossy_flag_tells_the_past(attributes: dict[str, Any], lossy: str) -> None:
    source, made = derived(**attributes)
    assert made.LossyImageCompression == lossy
    assert made.get("LossyImageCompressionRatio") == source.get("LossyImageCompressionRatio")


@pytest.mark.parametrize(
    ("syntax", "options", "method"),
    [
        (JPEG2000Lossy, {"j2k_psnr": [60]}, "ISO_15444_1"),
        (JPEGLSNearLossless, {"jls_error": 2}, "ISO_14495_1"),
        (JPEG2000Lossless, {}, None),
        (JPEGLSLossless, {}, None),
        (RLELossless, {}, None),
    ],
)
def test_lossy_flag_follows_the_transfer_syntax(tmp_path: Path, syntax: str, options: Any, method: str | None) -> None:
    source = save(ct_dataset(), tmp_path / "source.dcm", syntax, **options)
    made = dcmread(derive_file(source, tmp_path / "derived.dcm"))
    assert made.LossyImageCompression == ("01" if method else "00")
    assert made.get("LossyImageCompressionMethod") == method


@pytest.mark.parametrize(
    "words",
    [
        {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0},
        {"BitsStored": 16, "HighBit": 15, "PixelRepresentation": 0},
        {"BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1, "RescaleIntercept": "0"},
        {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 1, "RescaleIntercept": "0"},
        {"BitsStored": 12, "HighBit": 15, "PixelRepresentation": 1, "RescaleIntercept": "0"},
        {"BitsStored": 12, "HighBit": 15, "PixelRepresentation": 0},
    ],
)
def test_pixels_are_those_given_in_the_sources_bits(tmp_path: Path, words: dict[str, Any]) -> None:
    header = ct_dataset(**words)
    shift, signed = words["HighBit"] + 1 - words["BitsStored"], words["PixelRepresentation"]
    lowest = -(1 << words["BitsStored"] - 1) if signed else 0
    highest = lowest + (1 << words["BitsStored"]) - 1
    stored = np.random.default_rng(1).integers(lowest, highest, (64, 64), np.int32, endpoint=True)
    stored[0, :2] = lowest, highest
    _, pixels = source_of(save(copy.deepcopy(header), tmp_path / "source.dcm"))
    made = derived_slice(header, pixels, stored, DERIVATION)
    write_dataset(made, tmp_path / "derived.dcm")
    read = dcmread(tmp_path / "derived.dcm")
    read_words = np.frombuffer(read.PixelData, "<i2" if signed else "<u2").reshape(64, 64).astype(np.int32)
    assert np.array_equal(read_words >> shift, stored)
    assert not (read_words & ((1 << shift) - 1)).any()
    for keyword, value in words.items():
        assert str(read[keyword].value) == str(value)
    assert read["PixelData"].VR == "OW"


def test_refuses_pixels_that_do_not_fit(tmp_path: Path) -> None:
    header, pixels = source_of(save(ct_dataset(), tmp_path / "source.dcm"))
    for stored in (pixels.stored[:-1], pixels.stored.astype(float), pixels.stored + 4096, pixels.stored - 4096):
        with pytest.raises(ValueError, match="stored: got"):
            derived_slice(header, pixels, stored, DERIVATION)


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "SOPClassUID"])
def test_refuses_a_source_without_identifiers(keyword: str, tmp_path: Path) -> None:
    _, pixels = source_of(save(ct_dataset(), tmp_path / "source.dcm"))
    for blank in (None, ""):
        with pytest.raises(InputError, match=keyword):
            derived_slice(ct_dataset(**{keyword: blank}), pixels, pixels.stored, DERIVATION)


def file_bytes(dataset: FileDataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    source = save(with_private(ct_dataset(**RICH, **DROPPED)), tmp_path / "source.dcm")
    header, pixels = source_of(source)
    once, again = (derived_slice(header, pixels, corrected(pixels), DERIVATION) for _ in range(2))
    assert file_bytes(once) == file_bytes(again) == derive_file(source, tmp_path / "derived.dcm").read_bytes()


def test_leaves_the_source_as_it_is(tmp_path: Path) -> None:
    source = save(with_private(ct_dataset(**RICH, **DROPPED)), tmp_path / "source.dcm", ImplicitVRLittleEndian)
    header, pixels = source_of(source)
    before = {tag: header.get_item(tag) for tag in header.keys()}  # noqa: SIM118
    derived_slice(header, pixels, corrected(pixels), DERIVATION)
    assert {tag: header.get_item(tag) for tag in header.keys()} == before  # noqa: SIM118


def test_instance_uid_follows_from_all_that_makes_the_image() -> None:
    def uid(made: Derivation = DERIVATION, number: int = 0, hu: np.ndarray | None = None) -> str:
        return str(derived(made, number, hu=disc_hu() if hu is None else hu)[1].SOPInstanceUID)

    others = [
        uid(number=1),
        uid(hu=disc_hu() + 1),
        uid(derivation(method="LI")),
        uid(derivation(version="1.2.4")),
        uid(derivation(configuration_sha256="0" * 64)),
        uid(derivation(weights_sha256=None)),
        uid(derivation(series_uid=fake_uid("another series"))),
    ]
    assert uid() == uid(derivation(created=datetime(2030, 1, 1, tzinfo=UTC), series_number=7))
    assert len({uid(), *others}) == 1 + len(others)


def test_series_uid_follows_from_all_that_makes_the_series() -> None:
    made = ("1.2", ["1.2.1", "1.2.2"], "NMAR", "1", "a", "b", "c")
    others = [
        ("1.3", *made[1:]),
        (made[0], ["1.2.1"], *made[2:]),
        (made[0], ["1.2.2", "1.2.1"], *made[2:]),
        *((*made[:place], "x", *made[place + 1 :]) for place in range(2, 7)),
        (*made[:5], None, "c"),
    ]
    assert series_uid(*made) == series_uid(*made)
    assert len({series_uid(*made), *(series_uid(*other) for other in others)}) == 1 + len(others)


def test_parts_of_an_identifier_do_not_run_together() -> None:
    assert derived_uid("a", "bc") != derived_uid("ab", "c")
    assert derived_uid("a", "b") != derived_uid("a", "b", "")
    assert derived_uid('a", "b') != derived_uid("a", "b")


@pytest.mark.parametrize(
    ("source", "taken", "expected"),
    [
        (3, (), 1003),
        (3, (1003, 1004), 1005),
        (None, (), 1000),
        (None, (1000,), 1001),
        (-5, (), 1000),
        (2**31 - 1, (1000,), 1001),
    ],
)
def test_series_number_is_1000_higher_and_free(source: int | None, taken: tuple[int, ...], expected: int) -> None:
    assert series_number(source, taken) == expected


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "a b"},
        {"method": ""},
        {"method": "x" * 33},
        {"method": "NMAR\\x"},
        {"version": "1\\2"},
        {"version": ""},
        {"configuration_sha256": "abc"},
        {"weights_sha256": "abc"},
        {"series_uid": "../../tmp"},
        {"series_number": -1},
        {"series_number": 2**31},
        {"options": ("--metal-mask /home/x",) * 2 + ("two words and more",)},
        {"options": ("--series Doe^John\\x",)},
    ],
)
def test_derivation_refuses_what_no_header_can_say(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        derivation(**wrong)


def test_the_longest_derivation_fits(tmp_path: Path) -> None:
    options = ("--metal-threshold 29999.9", *(f"--{'o' * 30}-{n} {'v' * 12}" for n in range(10)))
    made = derivation(method="m" * 32, version="v" * 32, threshold_hu=29999.9, options=options)
    read = dcmread(derive_file(save(ct_dataset(), tmp_path / "source.dcm"), tmp_path / "derived.dcm", made))
    assert len(read.SeriesDescription) <= 64
    assert read.SeriesDescription.startswith("Hip 5.0 soft MAR-mmm")
    assert len(read.DerivationDescription) <= 1024


def test_file_is_whole_private_and_never_replaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, made = derived()
    path = tmp_path / "IM00001.dcm"
    write_dataset(made, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ResourceError, match=r"IM00001\.dcm: exists"):
        write_dataset(made, path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mar_pipeline.dicom.writing.derive.dcmwrite", full)
    with pytest.raises(ResourceError, match="No space left"):
        write_dataset(made, tmp_path / "IM00002.dcm")
    assert [entry.name for entry in tmp_path.iterdir()] == ["IM00001.dcm"]


def test_says_nothing_of_the_patient_when_it_fails(tmp_path: Path) -> None:
    _, made = derived()
    write_dataset(made, tmp_path / "IM00001.dcm")
    texts = []
    for fails in (
        lambda: write_dataset(made, tmp_path / "IM00001.dcm"),
        lambda: write_dataset(made, tmp_path / "no folder" / "IM00001.dcm"),
        lambda: derived(SOPInstanceUID=None),
    ):
        with pytest.raises((ResourceError, InputError)) as raised:
            fails()
        assert raised.value.__cause__ is None
        texts.append(str(raised.value))
    assert not [secret for secret in (*SECRETS, str(tmp_path)) if secret in " ".join(texts)]


def test_slices_of_a_series_agree_on_the_series(tmp_path: Path) -> None:
    sources = write_series(tmp_path / "in", 3)
    made = [dcmread(derive_file(path, tmp_path / f"{path.stem}.dcm")) for path in sources]
    for keyword in (
        "SeriesInstanceUID",
        "SeriesNumber",
        "SeriesDate",
        "SeriesTime",
        "SeriesDescription",
        "Manufacturer",
    ):
        assert len({str(image[keyword].value) for image in made}) == 1
    assert len({image.SOPInstanceUID for image in made}) == 3
