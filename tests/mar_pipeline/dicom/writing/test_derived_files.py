"""Derived images before the world's eyes: dicom3tools' validators, SimpleITK, MONAI, and real scanners' files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from derived_files import DERIVATION, complaints_about, derivation, derive_file, errors_of, source_of
from dicom_files import ct_dataset, fake_uid, save, write_series
from monai.data import PydicomReader
from monai.transforms import LoadImage
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000 as JPEG2000Lossy
from pydicom.uid import CTImageStorage, ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from mar_pipeline.dicom.reading.discovery import discover
from mar_pipeline.dicom.reading.pixels import read_slice
from mar_pipeline.dicom.writing.check import check_derived
from mar_pipeline.dicom.writing.derive import derived_slice, write_dataset

Tool = Callable[[str], str]
REPAIRED = {
    "SOPClassUID": CTImageStorage,
    "StudyInstanceUID": fake_uid("repaired study"),
    "SeriesInstanceUID": fake_uid("repaired series"),
}
SIGNED = {"PixelRepresentation": 1, "BitsStored": 16, "HighBit": 15, "RescaleIntercept": "0"}
EARLIER = Dataset()
EARLIER.Manufacturer = "Fake Archive"
EARLIER.PurposeOfReferenceCodeSequence = [Dataset()]
(PURPOSE,) = EARLIER.PurposeOfReferenceCodeSequence
PURPOSE.CodeValue, PURPOSE.CodingSchemeDesignator, PURPOSE.CodeMeaning = "109103", "DCM", "Modifying Equipment"


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {
            "PixelRepresentation": 1,
            "BitsStored": 16,
            "HighBit": 15,
            "RescaleIntercept": "0",
            "PixelPaddingValue": -2000,
        },
        {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "Müller^Jörg", "SeriesDescription": "Hüfte " * 9},
        {
            "LossyImageCompression": "01",
            "LossyImageCompressionRatio": "8",
            "LossyImageCompressionMethod": "ISO_15444_1",
        },
        {"TimezoneOffsetFromUTC": "+0200", "StationName": "CT1", "InstitutionName": "Fake", "DeviceUID": fake_uid("d")},
        {"ImageType": ["DERIVED", "PRIMARY", "AXIAL"], "ContributingEquipmentSequence": [EARLIER]},
        {"ImageOrientationPatient": [1, 0, 0, 0, 0.9396926, 0.3420201], "PixelSpacing": [4.0, 3.0]},
    ],
)
def test_a_clean_source_gives_an_image_without_errors(tool: Tool, tmp_path: Path, attributes: dict[str, Any]) -> None:
    validator = tool("dciodvfy")
    source = save(ct_dataset(**attributes), tmp_path / "source.dcm")
    assert errors_of(validator, source) == []
    assert errors_of(validator, derive_file(source, tmp_path / "derived.dcm")) == []


@pytest.mark.parametrize(
    ("syntax", "options"),
    [
        (ImplicitVRLittleEndian, {}),
        (ExplicitVRBigEndian, {}),
        (RLELossless, {}),
        (JPEG2000Lossless, {}),
        (JPEG2000Lossy, {"j2k_psnr": [60]}),
    ],
)
def test_any_encoding_gives_an_image_without_errors(tool: Tool, tmp_path: Path, syntax: str, options: Any) -> None:
    source = save(ct_dataset(PixelPaddingValue=0), tmp_path / "source.dcm", syntax, **options)
    assert errors_of(tool("dciodvfy"), derive_file(source, tmp_path / "derived.dcm")) == []


def test_the_validator_sees_an_error(tool: Tool, tmp_path: Path) -> None:
    source = save(ct_dataset(), tmp_path / "source.dcm")
    path = derive_file(source, tmp_path / "derived.dcm", change=lambda dataset: dataset.pop("KVP"))
    assert errors_of(tool("dciodvfy"), path)


def test_source_and_derived_series_agree(tool: Tool, tmp_path: Path) -> None:
    validator = tool("dcentvfy")
    sources = write_series(tmp_path / "in", 3)
    assert complaints_about(validator, sources) == []
    made = [derive_file(path, tmp_path / f"derived{path.name}") for path in sources]
    assert complaints_about(validator, [*sources, *made]) == []

    def other_patient(dataset: Dataset) -> None:
        dataset.PatientName = "Other^Patient"

    wrong = derive_file(sources[0], tmp_path / "wrong.dcm", change=other_patient)
    assert complaints_about(validator, [*sources, wrong])


def repaired(path: Path, target: Path) -> Path:
    """A real file as `read_slice` with repaired UIDs hands it on, uncompressed."""
    dataset = dcmread(path)
    if dataset.file_meta.TransferSyntaxUID.is_compressed:
        dataset.decompress(generate_instance_uid=False)
    for keyword, uid in (REPAIRED | {"SOPInstanceUID": dataset.file_meta.MediaStorageSOPInstanceUID}).items():
        if not dataset.get(keyword):
            setattr(dataset, keyword, uid)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.save_as(target)
    return target


@pytest.mark.parametrize("series", ["ct_3slices", "siemens_ct_20slices"])
@pytest.mark.parametrize("keep_private", [False, True])
def test_real_series_gain_no_error(
    tool: Tool, shared_data: Path, tmp_path: Path, series: str, keep_private: bool
) -> None:
    made = derivation(keep_private=keep_private)
    sources, targets = [], []
    for number, path in enumerate(sorted((shared_data / "dicom" / series).iterdir())[:3]):
        source = repaired(path, tmp_path / f"source{number}.dcm")
        target = derive_file(source, tmp_path / f"derived{number}.dcm", made)
        assert set(errors_of(tool("dciodvfy"), target)) <= set(errors_of(tool("dciodvfy"), source))
        assert check_derived(target, source_of(source)[0], made) == []
        sources.append(source)
        targets.append(target)
    entities = tool("dcentvfy")
    assert complaints_about(entities, [*sources, *targets]) == complaints_about(entities, sources)


def geometry(image: SimpleITK.Image) -> tuple[tuple[float, ...], ...]:
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()


@pytest.mark.parametrize(
    "placed",
    [
        {},
        {"PixelSpacing": [4.0, 3.0], "ImageOrientationPatient": [0, 1, 0, 0, 0, -1]},
        {"ImageOrientationPatient": [1, 0, 0, 0, 0.9396926, 0.3420201]},
        SIGNED | {"RescaleSlope": "0.5", "RescaleIntercept": "-10.5"},
    ],
)
@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # LoadImage also makes the readers it is not asked for
def test_other_readers_see_the_same_place_and_values(tmp_path: Path, placed: dict[str, Any]) -> None:
    source = save(ct_dataset(1, **placed), tmp_path / "source.dcm")
    target = derive_file(source, tmp_path / "derived.dcm")
    before, after = SimpleITK.ReadImage(source), SimpleITK.ReadImage(target)
    assert geometry(before) == geometry(after)
    hu_before, hu_after = SimpleITK.GetArrayFromImage(before)[0], SimpleITK.GetArrayFromImage(after)[0]
    changed = np.zeros(hu_before.shape, bool)
    changed[:3, :5] = True
    assert np.array_equal(hu_before[~changed], hu_after[~changed])
    assert np.allclose(hu_after[changed] - hu_before[changed], 7 * float(placed.get("RescaleSlope", 1)))
    load = LoadImage(PydicomReader, image_only=True, dtype=np.float32)
    monai_before, monai_after = load(source), load(target)
    assert np.array_equal(monai_before.affine, monai_after.affine)
    assert np.array_equal(np.asarray(monai_after), hu_after.T.astype(np.float32).reshape(monai_after.shape))


def test_a_volume_reader_sees_the_same_volume(tmp_path: Path) -> None:
    sources = write_series(tmp_path / "in", 4)
    (tmp_path / "out").mkdir()
    for path in sources:
        derive_file(path, tmp_path / "out" / path.name)
    volumes = []
    for folder in (tmp_path / "in", tmp_path / "out"):
        reader = SimpleITK.ImageSeriesReader()
        (series,) = reader.GetGDCMSeriesIDs(str(folder))
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), series))
        volumes.append(reader.Execute())
    assert geometry(volumes[0]) == geometry(volumes[1])
    before, after = map(SimpleITK.GetArrayFromImage, volumes)
    assert np.array_equal(before[:, 3:], after[:, 3:])
    assert DERIVATION.series_uid == series


def pass_through(folder: Path, out: Path) -> None:
    """Every eligible slice of a folder found, read, written as derived and checked, its pixels as they were."""
    out.mkdir()
    for series in discover(folder, repair_uids=True).series:
        for number, file in enumerate(series.slices):
            header, pixels = read_slice(file, series, repair_uids=True)
            path = out / f"IM{number:05d}.dcm"
            write_dataset(derived_slice(header, pixels, pixels.stored, DERIVATION), path)
            assert check_derived(path, header, DERIVATION, changed=False) == []
            assert np.array_equal(dcmread(path).pixel_array, pixels.stored)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless, JPEG2000Lossless])
def test_what_is_found_and_read_can_be_written_and_is_not_taken_again(tmp_path: Path, syntax: str) -> None:
    write_series(tmp_path / "in", 3, transfer_syntax=syntax)
    pass_through(tmp_path / "in", tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 3
    again = discover(tmp_path / "out")
    assert again.series == ()
    assert len(again.skipped) == 3


@pytest.mark.parametrize(("series", "count"), [("ct_3slices", 3), ("siemens_ct_20slices", 20)])
def test_real_series_can_be_read_and_written(shared_data: Path, tmp_path: Path, series: str, count: int) -> None:
    pass_through(shared_data / "dicom" / series, tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == count
