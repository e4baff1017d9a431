"""The metal as a segmentation: the same mask in every reader, on the derived images, of no other patient."""

import logging
import stat
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from derived_files import DERIVATION, complaints_about, derivation, derive_file, errors_of
from dicom_files import SECRETS, ct_dataset, fake_uid, save
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from mar_pipeline.dicom.reading.files import quiet
from mar_pipeline.dicom.writing.derivation import Derivation
from mar_pipeline.dicom.writing.segmentation import metal_segmentation
from simulation.errors import InputError, ResourceError

Tool = Callable[[str], str]
COUNT, ROWS, COLUMNS = 6, 33, 21
EMPTY = (1, 4)
TILTED = {"ImageOrientationPatient": [1, 0, 0, 0, 0.9396926, 0.3420201]}
SAGITTAL = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "PixelSpacing": [4.0, 3.1], "along": (-2.5, 0, 0)}
OBLIQUE = {"ImageOrientationPatient": [0.8, 0.6, 0, 0, 0, -1], "along": (-1.2, 1.6, 0)}


@pytest.fixture
def metal() -> np.ndarray:
    """Masks whose pixels are no multiple of 8; no two alike, two of them empty."""
    masks = np.random.default_rng(0).random((COUNT, ROWS, COLUMNS)) > 0.8
    masks[list(EMPTY)] = False
    return masks


def series(folder: Path, along: tuple[float, float, float] = (0, 0, 5), **attributes: Any) -> list[Path]:
    """Derived images of a series that is not square."""
    hu = np.full((ROWS, COLUMNS), 40, np.float32)
    for name in ("in", "out"):
        (folder / name).mkdir(parents=True)
    for number in range(COUNT):
        position = [-126.0 + number * along[0], 17.25 + number * along[1], number * along[2]]
        dataset = ct_dataset(number, hu, ImagePositionPatient=position, **attributes)
        save(dataset, folder / "in" / f"{number}.dcm")
    return [derive_file(path, folder / "out" / path.name) for path in sorted((folder / "in").iterdir())]


def segmented(
    path: Path, images: list[Path], metal: np.ndarray, made: Derivation = DERIVATION, **options: Any
) -> highdicom.seg.Segmentation:
    assert (
        metal_segmentation(path, images, lambda index: metal[index], made, 1004, **options) == metal.any((1, 2)).sum()
    )
    return highdicom.seg.segread(path)


@pytest.mark.parametrize("placed", [{}, TILTED, SAGITTAL, OBLIQUE])
def test_readers_see_the_same_mask_on_the_same_images(
    tmp_path: Path, metal: np.ndarray, placed: dict[str, Any]
) -> None:
    images = series(tmp_path, **placed)
    read = segmented(tmp_path / "out" / "SEG.dcm", images, metal)
    with_metal = [index for index in range(COUNT) if index not in EMPTY]
    headers = [dcmread(path, stop_before_pixels=True) for path in images]
    seen = read.get_pixels_by_source_instance([headers[index].SOPInstanceUID for index in with_metal])
    assert np.array_equal(seen[..., 0].astype(bool), metal[with_metal])
    plain = dcmread(tmp_path / "out" / "SEG.dcm")
    assert plain.NumberOfFrames == len(with_metal)
    frames = plain.pixel_array.reshape(-1, ROWS, COLUMNS).astype(bool)
    for frame, item in zip(frames, plain.PerFrameFunctionalGroupsSequence, strict=True):
        (source,) = item.DerivationImageSequence[0].SourceImageSequence
        index = [header.SOPInstanceUID for header in headers].index(source.ReferencedSOPInstanceUID)
        assert np.array_equal(frame, metal[index])
        assert source.SpatialLocationsPreserved == "YES"
        position = item.PlanePositionSequence[0].ImagePositionPatient
        assert np.allclose(position, headers[index].ImagePositionPatient, atol=1e-6)
    shared = plain.SharedFunctionalGroupsSequence[0]
    assert np.allclose(
        shared.PlaneOrientationSequence[0].ImageOrientationPatient, headers[0].ImageOrientationPatient, atol=1e-6
    )
    assert list(shared.PixelMeasuresSequence[0].PixelSpacing) == list(headers[0].PixelSpacing)
    assert plain.FrameOfReferenceUID == headers[0].FrameOfReferenceUID
    (referred,) = plain.ReferencedSeriesSequence
    assert referred.SeriesInstanceUID == DERIVATION.series_uid


def test_uneven_slices_keep_their_places(tmp_path: Path, metal: np.ndarray) -> None:
    images = []
    for number, z in enumerate((0.0, 5.0, 11.5, 12.0, 40.0, 41.25)):
        hu = np.zeros((ROWS, COLUMNS))
        source = save(ct_dataset(number, hu, ImagePositionPatient=[-1.0, 2.0, z]), tmp_path / f"source{number}.dcm")
        images.append(derive_file(source, tmp_path / f"{number}.dcm"))
    read = segmented(tmp_path / "SEG.dcm", images, metal)
    heights = {
        float(item.PlanePositionSequence[0].ImagePositionPatient[2]) for item in read.PerFrameFunctionalGroupsSequence
    }
    assert heights == {0.0, 11.5, 12.0, 41.25}
    assert "SpacingBetweenSlices" not in read.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]


def test_one_slice_of_metal_is_enough(tmp_path: Path, metal: np.ndarray) -> None:
    images = series(tmp_path)
    metal[1:] = False
    assert segmented(tmp_path / "SEG.dcm", images, metal).NumberOfFrames == 1


def test_without_metal_nothing_is_written(tmp_path: Path, metal: np.ndarray) -> None:
    images = series(tmp_path)
    before = sorted((tmp_path / "out").iterdir())
    assert (
        metal_segmentation(tmp_path / "out" / "SEG.dcm", images, lambda _: np.zeros_like(metal[0]), DERIVATION, 1004)
        == 0
    )
    assert sorted((tmp_path / "out").iterdir()) == before


def test_says_what_it_is_and_who_made_it(tmp_path: Path, metal: np.ndarray) -> None:
    read = segmented(tmp_path / "SEG.dcm", series(tmp_path), metal, parameters={"threshold": "2500 HU"})
    assert read.SegmentationType == "BINARY"
    assert (read.Modality, read.SeriesNumber) == ("SEG", 1004)
    assert (read.Manufacturer, read.ManufacturerModelName, read.SoftwareVersions) == ("mar-pipeline", "NMAR", "1.2.3")
    assert read.SeriesDescription == "Metal MAR-NMAR (RESEARCH)"
    assert read.SeriesInstanceUID not in (DERIVATION.series_uid, fake_uid("series"))
    (segment,) = read.SegmentSequence
    assert segment.SegmentLabel == "Metal"
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    assert segment.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning == "Physical object"
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Implant"
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    assert algorithm.AlgorithmName == "threshold with hysteresis"
    assert "2500 HU" in algorithm.AlgorithmParameters
    assert stat.S_IMODE((tmp_path / "SEG.dcm").stat().st_mode) == 0o600


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, metal: np.ndarray) -> None:
    images = series(tmp_path)
    for name in ("a.dcm", "b.dcm"):
        segmented(tmp_path / name, images, metal)
    content = (tmp_path / "a.dcm").read_bytes()
    assert content == (tmp_path / "b.dcm").read_bytes()
    assert f"{datetime.now():%Y%m%d}".encode() not in content


def test_identifiers_follow_from_all_that_makes_it(tmp_path: Path, metal: np.ndarray) -> None:
    images = series(tmp_path)
    other_metal = metal.copy()
    other_metal[0, 0, 0] ^= True
    made = [
        segmented(tmp_path / "0.dcm", images, metal),
        segmented(tmp_path / "1.dcm", images, other_metal),
        segmented(tmp_path / "2.dcm", images, metal, derivation(series_uid=fake_uid("x"))),
        segmented(tmp_path / "3.dcm", images[::-1], metal[::-1]),
        segmented(tmp_path / "4.dcm", images, metal, parameters={"threshold": "2000 HU"}),
    ]
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert len({read[keyword].value for read in made}) == len(made)
    assert len({read.DimensionOrganizationSequence[0].DimensionOrganizationUID for read in made}) == len(made)


def test_times_are_when_the_series_was_made(tmp_path: Path, metal: np.ndarray) -> None:
    read = segmented(tmp_path / "SEG.dcm", series(tmp_path, TimezoneOffsetFromUTC="+0200"), metal)
    for event in ("InstanceCreation", "Series", "Content"):
        assert str(read[f"{event}Date"].value) == "20260507"
        assert str(read[f"{event}Time"].value).startswith("010809.12")


PATIENT = """
    PatientName PatientID PatientBirthDate PatientSex PatientAge StudyInstanceUID StudyDate StudyTime StudyID
    StudyDescription AccessionNumber ReferringPhysicianName SpecificCharacterSet IssuerOfPatientID PatientComments
    PatientIdentityRemoved TimezoneOffsetFromUTC
""".split()  # noqa: SIM905


def test_patient_and_study_are_those_of_the_images(tmp_path: Path, metal: np.ndarray) -> None:
    images = series(
        tmp_path,
        SpecificCharacterSet="ISO_IR 192",
        PatientName="Müller^Jörg=山田^太郎",
        PatientSex="",
        IssuerOfPatientID="Fake Hospital",
        PatientComments="none",
        PatientIdentityRemoved="NO",
        TimezoneOffsetFromUTC="+0100",
        StudyTime="101500.123456",
    )
    read, image = segmented(tmp_path / "SEG.dcm", images, metal), dcmread(images[0])
    for keyword in PATIENT:
        assert repr(read[keyword].value) == repr(image[keyword].value), keyword
    for keyword in ("InstitutionName", "OperatorsName", "AcquisitionDate", "StationName", "ProtocolName"):
        assert keyword not in read


def test_a_badly_filled_in_patient_is_no_obstacle(tmp_path: Path, metal: np.ndarray) -> None:
    odd = {
        "PatientSex": ("CS", b"who knows "),
        "PatientBirthDate": ("DA", b"1.1.1950"),
        "StudyDate": ("DA", b"yesterday "),
        "PatientWeight": ("DS", b"heavy "),
        "PatientName": ("PN", b"\xff\xfe^" + b"x" * 99),
    }
    images = series(tmp_path, SpecificCharacterSet="ISO_IR 192")
    for number, path in enumerate(images):
        dataset = dcmread(path)
        for keyword, (vr, value) in odd.items():
            dataset[Tag(keyword)] = RawDataElement(Tag(keyword), vr, len(value), value, 0, False, True)
        images[number] = path.with_suffix(".odd")
        dataset.save_as(images[number])
    metal_segmentation(tmp_path / "SEG.dcm", images, lambda index: metal[index], DERIVATION, 1004)
    with quiet():
        read = dcmread(tmp_path / "SEG.dcm")
    for keyword, (_, value) in odd.items():
        assert read.get_item(Tag(keyword)).value == value


@pytest.mark.parametrize("placed", [{}, TILTED, SAGITTAL, OBLIQUE, {"LossyImageCompression": "01"}])
def test_validators_find_nothing(tool: Tool, tmp_path: Path, metal: np.ndarray, placed: dict[str, Any]) -> None:
    images = series(tmp_path, **placed)
    path = tmp_path / "SEG.dcm"
    segmented(path, images, metal)
    assert errors_of(tool("dciodvfy"), path) == []
    sources = sorted((tmp_path / "in").iterdir())
    assert complaints_about(tool("dcentvfy"), [*sources, *images, path]) == []


def test_real_images_can_be_segmented(tool: Tool, shared_data: Path, tmp_path: Path) -> None:
    sources = sorted((shared_data / "dicom" / "ct_3slices").iterdir())
    images = [derive_file(path, tmp_path / path.name) for path in sources]
    metal = np.zeros((len(images), 512, 512), bool)
    metal[1:, 200:230, 100:150] = True
    read = segmented(tmp_path / "SEG.dcm", images, metal)
    assert set(errors_of(tool("dciodvfy"), tmp_path / "SEG.dcm")) <= set(errors_of(tool("dciodvfy"), images[0]))
    assert np.array_equal(
        read.get_pixels_by_source_instance([dcmread(image).SOPInstanceUID for image in images[1:]])[..., 0], metal[1:]
    )


def test_says_nothing_of_the_patient(
    tmp_path: Path, metal: np.ndarray, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    images = series(tmp_path)
    caplog.set_level(logging.DEBUG)
    metal_segmentation(tmp_path / "SEG.dcm", images, lambda index: metal[index], DERIVATION, 1004)
    said = caplog.text + "".join(capfd.readouterr())
    assert not [secret for secret in (*SECRETS, "2.25.", str(tmp_path)) if secret in said]
    assert logging.getLogger("highdicom").level == logging.NOTSET


def test_masks_are_asked_for_once_each_in_order(tmp_path: Path, metal: np.ndarray) -> None:
    asked: list[int] = []

    def mask(index: int) -> np.ndarray:
        asked.append(index)
        return metal[index]

    metal_segmentation(tmp_path / "SEG.dcm", series(tmp_path), mask, DERIVATION, 1004)
    assert asked == list(range(COUNT))


def test_refuses_what_it_cannot_segment(tmp_path: Path, metal: np.ndarray) -> None:
    images = series(tmp_path)
    path = tmp_path / "out" / "SEG.dcm"
    with pytest.raises(ValueError, match=r"masks\(0\)"):
        metal_segmentation(path, images, lambda index: metal[index].T, DERIVATION, 1004)
    turned = save(
        ct_dataset(9, np.zeros((ROWS, COLUMNS)), ImageOrientationPatient=[0, 1, 0, 0, 0, -1]), tmp_path / "turned.dcm"
    )
    with pytest.raises(InputError, match="different directions"):
        metal_segmentation(path, [images[0], turned], lambda index: metal[0], DERIVATION, 1004)
    with pytest.raises(ResourceError, match=r"SEG\.dcm"):
        metal_segmentation(tmp_path / "none" / "SEG.dcm", images, lambda index: metal[index], DERIVATION, 1004)
    assert len(list((tmp_path / "out").iterdir())) == COUNT
    segmented(path, images, metal)
    with pytest.raises(ResourceError, match=r"SEG\.dcm: exists"):
        metal_segmentation(path, images, lambda index: metal[index], DERIVATION, 1004)
