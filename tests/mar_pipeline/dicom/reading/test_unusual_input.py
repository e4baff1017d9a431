"""Unusual input through the whole command: what is read is corrected, what is not ends with its exit code."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from dicom_files import SECRETS, ct_dataset, fake_uid, save, write_series
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian

from mar_pipeline.cli import main

CREATED = ("--created", "2026-01-02T03:04:05", "--no-html", "--workers", "1")
SPACED = {"PixelSpacing": [2.0, 2.0], "BitsStored": 16, "HighBit": 15}


def hip_hu(value_hu: float = 9000) -> np.ndarray:
    """Water with a piece of metal."""
    y, x = np.mgrid[-1:1:96j, -1:1:96j]
    hu = np.where(x**2 + y**2 < 0.8, 40.0, -1000.0)
    hu[(x - 0.2) ** 2 + y**2 < 0.004] = value_hu
    return hu


def derived(out: Path) -> list:
    return [dcmread(path) for path in sorted(out.rglob("IM*.dcm"))]


def test_a_zip_file_gives_what_its_folder_gives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_series(tmp_path / "in", 2, hu=hip_hu(), **SPACED)
    archive = Path(shutil.make_archive(str(tmp_path / "Fake^Patient"), "zip", tmp_path / "in"))
    for source, out in ((tmp_path / "in", "a"), (archive, "b")):
        assert main(["dicom", str(source), str(tmp_path / out), *CREATED]) == 0
    first, second = derived(tmp_path / "a"), derived(tmp_path / "b")
    assert len(second) == 2 and first == second
    said = "".join(capsys.readouterr()) + (tmp_path / "b" / "summary.json").read_text()
    assert not [secret for secret in SECRETS if secret in said]


def test_nothing_is_written_in_place_of_the_zip_file(tmp_path: Path) -> None:
    write_series(tmp_path / "in", 2, hu=hip_hu(), **SPACED)
    archive = Path(shutil.make_archive(str(tmp_path / "scan"), "zip", tmp_path / "in"))
    before = archive.read_bytes()
    assert main(["dicom", str(archive), str(archive), *CREATED]) == 6
    assert main(["dicom", str(archive), str(tmp_path / "out"), "--json", str(archive), *CREATED]) == 6
    assert archive.read_bytes() == before and not (tmp_path / "out").exists()


def test_the_phases_of_one_uid_become_two_series_that_refer_to_their_own_slices(tmp_path: Path) -> None:
    for phase in range(2):
        for number in range(2):
            uid = fake_uid("phase", phase, number)
            made = ct_dataset(number, hip_hu(9000 + phase), SOPInstanceUID=uid, AcquisitionNumber=phase + 1, **SPACED)
            save(made, tmp_path / "in" / f"{number}_{phase}.dcm")
    arguments = ["dicom", str(tmp_path / "in"), str(tmp_path / "out"), "--series", fake_uid("series"), *CREATED]
    assert main(arguments) == 0
    images = derived(tmp_path / "out")
    assert len(images) == 4
    for keyword in ("SeriesInstanceUID", "SeriesNumber"):
        assert [len({image[keyword].value for image in part}) for part in (images[:2], images[2:], images)] == [1, 1, 2]
    assert len({image.SOPInstanceUID for image in images}) == 4
    references = [image.SourceImageSequence[0].ReferencedSOPInstanceUID for image in images]
    assert references == [fake_uid("phase", phase, number) for phase in range(2) for number in range(2)]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert all("AcquisitionNumber" in one["warnings"][0] for one in summary["series"])


def test_an_unspecified_unit_needs_its_option_and_shows_in_the_identifiers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_series(tmp_path / "in", 2, hu=hip_hu(), RescaleType="US", **SPACED)
    write_series(tmp_path / "hu", 2, hu=hip_hu(), **SPACED)
    assert main(["dicom", str(tmp_path / "in"), str(tmp_path / "out"), *CREATED]) == 3
    assert "--assume-hu" in capsys.readouterr().err
    assert main(["dicom", str(tmp_path / "in"), str(tmp_path / "out"), "--assume-hu", *CREATED]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["configuration"]["assume_hu"] and "--assume-hu" in summary["series"][0]["warnings"][0]
    assert {image.RescaleType for image in derived(tmp_path / "out")} == {"US"}
    assert main(["dicom", str(tmp_path / "hu"), str(tmp_path / "plain"), *CREATED]) == 0
    plain, assumed = derived(tmp_path / "plain"), derived(tmp_path / "out")
    assert {image.SeriesInstanceUID for image in plain}.isdisjoint({image.SeriesInstanceUID for image in assumed})


def test_values_that_wrapped_end_with_5(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrapped = (hip_hu() - 100).astype("<i2").tobytes()
    attributes = SPACED | {"RescaleIntercept": "0", "PixelRepresentation": 0, "PixelData": wrapped}
    save(ct_dataset(0, hip_hu(), **attributes), tmp_path / "in" / "0.dcm")
    assert main(["dicom", str(tmp_path / "in"), str(tmp_path / "out"), *CREATED]) == 5
    assert "signed values" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_spacings_written_with_other_digits_come_back_as_they_were(tmp_path: Path) -> None:
    digits = ("1.5955", "1.59554")
    for number, value in enumerate(digits):
        made = ct_dataset(number, hip_hu(), **SPACED | {"PixelSpacing": [value, value]})
        save(made, tmp_path / "in" / f"{number}.dcm", ExplicitVRLittleEndian)
    assert main(["dicom", str(tmp_path / "in"), str(tmp_path / "out"), *CREATED]) == 0
    assert [str(image.PixelSpacing[0]) for image in derived(tmp_path / "out")] == list(digits)


def test_a_series_of_which_no_slice_can_be_used_is_listed_as_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_series(tmp_path / "in", 3)
    assert main(["dicom", str(tmp_path / "in"), "--list", "--max-side", "32"]) == 0
    said = capsys.readouterr().out
    assert "series 1: none of its slices can be used" in said and "0 slices" not in said
