"""A round trip through Orthanc with the configuration that users get."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import orthanc_round_trip
import pytest
from dicom_files import SECRETS, fake_uid, write_series
from pydicom import dcmread

from mar_pipeline.cli import main

CONFIGURATION = Path(__file__).resolve().parents[4] / "configs" / "dicom" / "orthanc.json"
WAYS = ("sent", "storescu", "stow")


@pytest.fixture(scope="module")
def round_trip(tool, tmp_path_factory):
    """The folder of what was sent and came back, and what the program told."""
    apart = [tool("unshare"), "--net", "--map-root-user"]
    for program in ("ip", "Orthanc", "storescu"):
        tool(program)
    if subprocess.run([*apart, "true"], capture_output=True).returncode:
        absent = pytest.fail if "tools" in os.environ.get("MAR_REQUIRE", "") else pytest.skip
        absent("unshare --net is not permitted here, and Orthanc must not listen on this machine's network")
    folder = tmp_path_factory.mktemp("orthanc")
    for name in ("pacs", "c_get", "wado"):
        (folder / name).mkdir(mode=0o700)
    (folder / "pacs" / "orthanc.json").write_text(CONFIGURATION.read_text())
    users = {"RegisteredUsers": {orthanc_round_trip.USER: orthanc_round_trip.PASSWORD}}
    (folder / "pacs" / "users.json").write_text(json.dumps(users))
    for number, way in enumerate(WAYS):
        derived_series(folder / way, number, fake_uid(way))
    program = [*apart, sys.executable, orthanc_round_trip.__file__, str(folder)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def derived_series(folder: Path, number: int, study_uid: str) -> None:
    """What `mar dicom` writes of three slices with a block of metal, the page included."""
    hu = np.random.default_rng(number).integers(-50, 50, (3, 32, 48))
    hu[:, 12:18, 20:26] = 9000
    uids = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": fake_uid(study_uid, "series")}
    source = folder.with_name(f"{folder.name} source")
    write_series(source, 3, hu=hu, SeriesNumber=number, BitsStored=16, HighBit=15, **uids)
    assert main(["dicom", str(source), str(folder)]) == 0


def by_uid(paths):
    return {dataset.SOPInstanceUID: dataset for dataset in map(dcmread, paths)}


@pytest.mark.parametrize("back", ["c_get", "wado"])
def test_pixels_and_tags_come_back_the_same(round_trip, back):
    folder, _ = round_trip
    sent = by_uid(path for way in WAYS for path in (folder / way).rglob("*.dcm"))
    got = by_uid((folder / back).glob("*.dcm"))
    assert len(sent) == 12
    assert got.keys() == sent.keys()
    for uid, dataset in sent.items():
        assert got[uid] == dataset
        assert got[uid].file_meta.TransferSyntaxUID == dataset.file_meta.TransferSyntaxUID
        np.testing.assert_array_equal(got[uid].pixel_array, dataset.pixel_array)


def test_every_way_of_sending_succeeds(round_trip):
    _, told = round_trip
    assert (told["send"], told["storescu"], told["stow"]) == ("4 of 4 files sent", 0, 4)


def test_qido_finds_the_series(round_trip):
    folder, told = round_trip
    found = {one["0020000E"]["Value"][0] for one in told["series"]}
    assert found == {dcmread(path).SeriesInstanceUID for way in WAYS for path in (folder / way).rglob("*.dcm")}


def test_the_configuration_lets_nobody_in_without_a_password_or_a_known_name(round_trip):
    _, told = round_trip
    assert (told["without password"], told["wrong password"], told["with password"]) == (401, 401, 200)
    for name, reason in (("unknown caller", "Calling AE title"), ("wrong name", "Called AE title")):
        assert "association rejected" in told[name]
        assert reason.lower() in told[name].lower()


def test_orthancs_log_names_no_patient(round_trip):
    folder, _ = round_trip
    log = (folder / "log").read_text()
    assert "Orthanc has started" in log
    assert not any(secret in log for secret in SECRETS)
