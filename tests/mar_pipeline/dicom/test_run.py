"""`mar dicom` from a folder to a folder: what it writes, what it leaves, and how it ends."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from dicom_files import contents, write_series
from metal_slices import discs, with_metal
from pydicom import dcmread

from mar_pipeline.cli import main
from mar_pipeline.dicom.writing.derive import derived_slice as derive
from mar_pipeline.networks.build import build_network, plain
from mar_pipeline.weights.files import save_weights

SIDE, SPACING_MM = 96, 3.0
SPACED = {"PixelSpacing": [SPACING_MM, SPACING_MM], "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1}
CREATED = ("--created", "2026-01-02T03:04:05", "--workers", "1")


def volume(count: int = 4, metal_in: tuple[int, ...] = (1, 2)) -> np.ndarray:
    """Slices of a body in HU, some of them with a steel disc."""
    rng = np.random.default_rng(5)
    body = np.where(discs((SIDE, SIDE), SPACING_MM, (0, 0, 110)), 40.0, -1000.0)
    body[discs((SIDE, SIDE), SPACING_MM, (60, 0, 18))] = 700
    clean = np.rint(body + rng.normal(0, 10, (count, SIDE, SIDE)) * (body > -500)).astype(np.float32)
    metal = discs((SIDE, SIDE), SPACING_MM, (-10, 30, 12))
    return np.stack([with_metal(hu, metal, SPACING_MM, "steel") if n in metal_in else hu for n, hu in enumerate(clean)])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A series of four slices, two of them with metal."""
    folder = tmp_path_factory.mktemp("export")
    write_series(folder / "ct", 4, hu=volume(), **SPACED)
    return folder


@pytest.fixture(scope="module")
def result(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "out"
    assert main(["dicom", str(source), str(out), "--nifti", *CREATED]) == 0
    return out


def images(folder: Path) -> list:
    return [dcmread(path) for path in sorted(folder.glob("series_001/IM*.dcm"))]


def test_the_derived_series_is_complete_and_lies_in_order(source: Path, result: Path) -> None:
    derived = images(result)
    originals = [dcmread(source / "ct" / f"{number}.dcm") for number in range(4)]
    assert [d.ImagePositionPatient for d in derived] == [o.ImagePositionPatient for o in originals]
    assert len({d.SeriesInstanceUID for d in derived}) == 1
    assert not {d.SOPInstanceUID for d in derived} & {o.SOPInstanceUID for o in originals}
    assert {path.name for path in result.iterdir()} == {"series_001", "report.html", "summary.json", "nifti"}


def test_slices_without_metal_and_the_metal_are_bit_exact(source: Path, result: Path) -> None:
    for number, derived in enumerate(images(result)):
        original = dcmread(source / "ct" / f"{number}.dcm").pixel_array
        if number in (1, 2):
            metal = original * 1.0 - 1024 >= 2500
            assert metal.any()
            np.testing.assert_array_equal(derived.pixel_array[metal], original[metal])
            assert (derived.pixel_array != original).mean() > 0.1
        else:
            np.testing.assert_array_equal(derived.pixel_array, original)


def test_the_artifact_is_less(source: Path, result: Path) -> None:
    truth = volume(metal_in=())
    near = discs((SIDE, SIDE), SPACING_MM, (-10, 30, 45)) & ~discs((SIDE, SIDE), SPACING_MM, (-10, 30, 20))
    for number in (1, 2):
        before, after = (
            dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
            for dataset in (dcmread(source / "ct" / f"{number}.dcm"), images(result)[number])
        )
        before, after = (np.sqrt(np.mean((hu - truth[number])[near] ** 2)) for hu in (before, after))
        assert after < 0.8 * before


def test_the_segmentation_is_the_metal(source: Path, result: Path) -> None:
    import highdicom

    segmentation = highdicom.seg.segread(result / "series_001" / "metal_seg.dcm")
    derived = images(result)
    masks = segmentation.get_pixels_by_source_instance(
        [image.SOPInstanceUID for image in derived], assert_missing_frames_are_empty=True
    )
    for number, mask in enumerate(masks[..., 0]):
        original = dcmread(source / "ct" / f"{number}.dcm").pixel_array - 1024.0
        assert mask[original >= 2500].all()
        assert not mask[original < 2000].any()
        assert mask.any() == (number in (1, 2))


def test_the_summary_says_what_was_done_and_the_page_shows_it(result: Path) -> None:
    summary = json.loads((result / "summary.json").read_text())
    (series,) = summary["series"]
    assert [one["decision"] for one in series["per_slice"]] == ["copied", "corrected", "corrected", "copied"]
    corrected = series["per_slice"][1]
    assert corrected["metal_mm2"] == pytest.approx(np.pi * 12**2, rel=0.35)  # the kernel blurs it
    assert 0 < corrected["trace_share"] < 0.3
    assert corrected["changed_by_more_than_5_hu"] >= corrected["changed_by_more_than_20_hu"] > 0
    page = (result / "report.html").read_text()
    assert "slice 2 of 4" in page and "slice 1 of 4" not in page


def test_nothing_but_dicom_names_the_patient_or_the_input(source: Path, result: Path, capfd) -> None:
    main(["dicom", str(source), "--dry-run", "--json", "-"])
    said = capfd.readouterr()
    texts = [said.out, said.err, (result / "summary.json").read_text(), (result / "report.html").read_text()]
    header = dcmread(source / "ct" / "0.dcm")
    secrets = [str(header[key].value) for key in ("PatientName", "PatientID", "AccessionNumber", "StudyDate")]
    for secret in [*filter(None, secrets), header.SeriesInstanceUID, str(source)]:
        assert not any(secret in text for text in texts), secret


def test_only_the_owner_may_read(result: Path) -> None:
    assert stat.S_IMODE(result.stat().st_mode) == 0o700
    for path in result.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_the_same_input_gives_the_same_bytes_whatever_the_workers(source: Path, result: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    assert main(["dicom", str(source), str(again), "--nifti", *CREATED[:2], "--workers", "2"]) == 0
    first, second = contents(result), contents(again)
    assert first.keys() == second.keys()
    assert {name for name in first if first[name] != second[name]} <= {"summary.json"}  # it holds the seconds


def test_the_nifti_volume_has_the_geometry_and_the_hu(result: Path) -> None:
    import nibabel

    volume_ras = nibabel.load(result / "nifti" / "series_001.nii.gz")
    derived = images(result)
    column, row, number = 10, 20, 2
    place = volume_ras.affine @ [column, row, number, 1]
    x, y, z = (float(value) for value in derived[number].ImagePositionPatient)
    np.testing.assert_allclose(place[:3], [-(x + column * SPACING_MM), -(y + row * SPACING_MM), z], atol=1e-4)
    assert volume_ras.get_fdata()[column, row, number] == derived[number].pixel_array[row, column] - 1024


def test_a_dry_run_selects_the_same_and_writes_nothing(source: Path, tmp_path: Path, capsys) -> None:
    before = contents(source)
    assert main(["dicom", str(source), str(tmp_path / "out"), "--dry-run", "--json", "-"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["series"][0]["slices_with_metal"] == 2 and summary["dry_run"]
    assert list(tmp_path.iterdir()) == [] and contents(source) == before


def test_list_names_series_and_what_is_left_out(source: Path, tmp_path: Path, capsys) -> None:
    (source / "notes.txt").write_text("hello")
    try:
        assert main(["dicom", str(source), "--list"]) == 0
    finally:
        (source / "notes.txt").unlink()
    said = capsys.readouterr().out
    assert "series 1: 4 slices of 96 x 96, 3 x 3 mm, every 5 mm" in said
    assert "skipped notes.txt: " in said and "1 series, 1 other files" in said


def no_metal(folder: Path) -> None:
    write_series(folder, 2, hu=volume(2, ()), **SPACED)


def blank_uids(folder: Path) -> None:
    write_series(folder, 2, hu=volume(2, (0,)), SeriesInstanceUID="", **SPACED)


def a_note(folder: Path) -> None:
    folder.mkdir()
    (folder / "note.txt").write_text("hello")


@pytest.mark.parametrize(
    ("make", "options", "code", "word"),
    [
        (a_note, (), 3, "no CT series"),
        (no_metal, (), 4, "no metal in 1 series"),
        (blank_uids, (), 5, "--repair-uids"),
        (no_metal, ("--max-side", "64"), 7, "--max options"),
        (no_metal, ("--series", "7"), 2, "--series: no such series"),
        (no_metal, ("--method", "nowhere"), 2, "--method: got 'nowhere'"),
        (no_metal, ("--metal-threshold", "100"), 2, "--metal-threshold: got 100"),
        (no_metal, ("--workers", "0"), 2, "--workers"),
    ],
)
def test_how_it_ends(make, options, code: int, word: str, tmp_path: Path, capsys) -> None:
    make(tmp_path / "in")
    out = tmp_path / "out"
    assert main(["dicom", str(tmp_path / "in"), str(out), *options]) == code
    said = capsys.readouterr().err.splitlines()
    assert word in said[-1] and said[-1].startswith("mar: error: ")
    assert not out.exists() and not list(tmp_path.glob(".*"))


def test_a_target_that_holds_something_is_refused_and_left_alone(source: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "keep.txt").write_text("mine")
    before = contents(tmp_path)
    assert main(["dicom", str(source), str(tmp_path)]) == 6
    assert "not empty" in capsys.readouterr().err and contents(tmp_path) == before


def test_an_empty_folder_is_a_target(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert main(["dicom", str(source), str(tmp_path / "out"), "--no-seg", "--no-html", *CREATED]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"series_001", "summary.json"}
    assert not (tmp_path / "out" / "series_001" / "metal_seg.dcm").exists()


def test_repaired_uids_are_processed(tmp_path: Path) -> None:
    blank_uids(tmp_path / "in")
    assert main(["dicom", str(tmp_path / "in"), str(tmp_path / "out"), "--repair-uids", *CREATED]) == 0
    assert len(images(tmp_path / "out")) == 2


def test_one_damaged_series_leaves_the_other_and_is_told(source: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "in"
    write_series(folder / "a", 2, hu=volume(2, (0,)), SeriesInstanceUID="2.25.1", **SPACED)
    write_series(folder / "b", 2, hu=volume(2, (0,)), SeriesInstanceUID="2.25.2", **SPACED)
    damaged = folder / "a" / "1.dcm"
    damaged.write_bytes(damaged.read_bytes()[:-500])
    assert main(["dicom", str(folder), str(tmp_path / "out"), *CREATED]) == 8
    said = capsys.readouterr()
    assert "failed: series 1: " in said.err and "a/1.dcm" in said.err
    assert not (tmp_path / "out" / "series_001").exists()
    assert len(list((tmp_path / "out" / "series_002").glob("IM*.dcm"))) == 2
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [one["what"] for one in summary["not_processed"]] == ["series 1"]


def test_its_own_output_is_not_corrected_again(result: Path, tmp_path: Path) -> None:
    assert main(["dicom", str(result), str(tmp_path / "out")]) == 3


def test_too_much_metal_refuses_the_series_or_keeps_the_original(tmp_path: Path, source: Path, capsys) -> None:
    arguments = ["dicom", str(source), str(tmp_path / "out"), "--max-trace", "0.01", *CREATED]
    assert main(arguments) == 5
    assert "metal hides" in capsys.readouterr().err
    assert main([*arguments, "--slice-fallback", "original"]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [one["decision"] for one in summary["series"][0]["per_slice"]][1] == "original kept"
    for number, derived in enumerate(images(tmp_path / "out")):
        original = dcmread(source / "ct" / f"{number}.dcm").pixel_array
        np.testing.assert_array_equal(derived.pixel_array, original)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_killed_in_the_middle_it_leaves_nothing_and_the_next_run_cleans_up(
    source: Path, tmp_path: Path, workers: str
) -> None:
    out = tmp_path / "out [1]"
    command = [sys.executable, "-m", "mar_pipeline", "dicom", str(source), str(out), "--workers", workers]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out*.partial/.attempt-*/.waiting/*.npy")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists() and list(tmp_path.glob(".out*.partial"))
    assert main(["dicom", str(source), str(out), *CREATED]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out [1]"]
    left = Path("/proc").glob("[0-9]*/cmdline")
    deadline = time.monotonic() + 10
    while any(str(out).encode() in _content(path) for path in left) and time.monotonic() < deadline:
        time.sleep(0.1)
        left = Path("/proc").glob("[0-9]*/cmdline")
    assert time.monotonic() < deadline, "workers outlive the run"


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_memory_does_not_grow_with_the_series(tmp_path: Path) -> None:
    """300 slices of 128 x 128 are 10 MB as they are stored and 20 MB as float32."""
    hu = np.full((128, 128), -1000, np.float32)
    hu[40:90, 40:90] = 40
    hu[60:64, 60:64] = 9000
    peaks = []
    for count in (20, 300):
        write_series(tmp_path / str(count), count, hu=hu, **SPACED)
        script = (
            "import resource, sys; from mar_pipeline.cli import main; code = main(sys.argv[1:]); "
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"
        )
        arguments = ["dicom", str(tmp_path / str(count)), str(tmp_path / f"out{count}"), *CREATED]
        ended = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
        peaks.append(int(ended.stdout.split()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 4


def test_the_created_time_is_written(result: Path) -> None:
    assert {image.InstanceCreationDate for image in images(result)} == {datetime(2026, 1, 2).strftime("%Y%m%d")}


def test_a_network_of_images(source: Path, tmp_path: Path) -> None:
    assert main(["dicom", str(source), str(tmp_path / "out"), "--method", "unet_small", *CREATED]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert len(summary["weights_sha256"]) == 64
    assert {one.SeriesDescription for one in images(tmp_path / "out")} == {"Hip 5.0 soft MAR-unet_small (RESEARCH)"}


def test_a_network_of_both_domains(source: Path, tmp_path: Path) -> None:
    """Random weights are no method; only that they reach the voxels around the metal, and leave the rest."""
    arguments = {"stages": 1, "blocks": 1, "dual_channels": 1, "prior_width": 1}
    metadata = {"network": "indudonet_plus", "arguments": json.dumps(arguments), "preset": "syndeeplesion"}
    weights = tmp_path / "dual.safetensors"
    save_weights(weights, plain(build_network("indudonet_plus", arguments)).state_dict(), metadata)
    assert main(["dicom", str(source), str(tmp_path / "out"), "--method", str(weights), *CREATED]) == 0
    changed = [
        (image.pixel_array != dcmread(source / "ct" / f"{number}.dcm").pixel_array).mean()
        for number, image in enumerate(images(tmp_path / "out"))
    ]
    assert changed[0] == changed[3] == 0 and changed[1] > 0.1


def test_a_network_that_no_clinical_scanner_taught_is_warned_of(source: Path, tmp_path: Path, capsys) -> None:
    """In the log, the summary and the report, also of weights that say nothing of themselves."""
    arguments = {"width": 4}
    state = plain(build_network("unet", arguments)).state_dict()
    known = {"network": "unet", "arguments": json.dumps(arguments)}
    expected = {
        "none": ({"preset": "clinical", "psnr": "40"}, []),
        "other": ({"preset": "syndeeplesion", "psnr": "40"}, ["the preset syndeeplesion"]),
        "silent": ({}, ["do not say on which scanner's", "record no validation"]),
    }
    for name, (metadata, words) in expected.items():
        save_weights(tmp_path / f"{name}.safetensors", state, known | metadata)
        out = tmp_path / name
        assert main(["dicom", str(source), str(out), "--method", f"{out}.safetensors", "--no-seg", *CREATED]) == 0
        (series,) = json.loads((out / "summary.json").read_text())["series"]
        said, page = capsys.readouterr().err, (out / "report.html").read_text()
        assert [any(word in warning for warning in series["warnings"]) for word in words] == [True] * len(words)
        assert all(word in said for word in words) and said.count("warning: ") == len(words)
        assert page.count("compare with NMAR") == (name != "none")


def test_the_series_number_is_free_among_all_that_is_there(tmp_path: Path) -> None:
    """Taken are 1001 by another series, 1002 by an object that is no image."""
    hu = volume(1, (0,))
    write_series(tmp_path / "in" / "a", 1, hu=hu, SeriesNumber=1, SeriesInstanceUID="2.25.1", **SPACED)
    write_series(tmp_path / "in" / "b", 1, hu=hu, SeriesNumber=1001, SeriesInstanceUID="2.25.2", **SPACED)
    plan = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.3", "Modality": "RTSTRUCT", "SeriesNumber": 1002}
    write_series(tmp_path / "in" / "c", 1, hu=hu, SeriesInstanceUID="2.25.3", **SPACED | plan)
    assert main(["dicom", str(tmp_path / "in"), str(tmp_path / "out"), "--series", "1", "--no-seg", *CREATED]) == 0
    assert {image.SeriesNumber for image in images(tmp_path / "out")} == {1003}


def test_an_error_that_nobody_foresaw_costs_one_series_and_quotes_nothing(tmp_path, monkeypatch, capsys) -> None:
    for name in ("1", "2"):
        hu = volume(1, (0,))
        write_series(tmp_path / "in" / name, 1, hu=hu, SeriesInstanceUID=f"2.25.{name}", **SPACED)
    calls = []

    def derived_slice(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise ValueError("Doe^John")
        return derive(*arguments)

    monkeypatch.setattr("mar_pipeline.dicom.slices.derived_slice", derived_slice)
    assert main(["dicom", str(tmp_path / "in"), str(tmp_path / "out"), *CREATED]) == 8
    said = capsys.readouterr().err
    assert "failed: series 1: unexpected ValueError in test_run.py, line " in said and "Doe" not in said
    assert not (tmp_path / "out" / "series_001").exists() and (tmp_path / "out" / "series_002").exists()


def test_files_are_not_named_in_what_is_written(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in" / "DOE^JOHN"
    write_series(folder, 2, hu=volume(2, (0,)), **SPACED)
    (folder / "note.txt").write_text("hello")
    out = tmp_path / "out"
    assert main(["dicom", str(tmp_path / "in"), str(out), "--json", str(tmp_path / "said.json"), *CREATED]) == 0
    for file in (out / "summary.json", out / "report.html", tmp_path / "said.json"):
        assert "DOE" not in file.read_text() and "note.txt" not in file.read_text() and "file 3" in file.read_text()


@pytest.mark.parametrize("name", ["in/summary.json", "in/0.dcm"])
def test_nothing_is_written_into_the_input(name: str, tmp_path: Path, capsys) -> None:
    write_series(tmp_path / "in", 2, hu=volume(2, (0,)), **SPACED)
    before = contents(tmp_path)
    assert main(["dicom", str(tmp_path / "in"), str(tmp_path / "out"), "--json", str(tmp_path / name)]) == 6
    assert main(["dicom", str(tmp_path / "in"), str(tmp_path / "in" / "out")]) == 6
    assert "lies within IN" in capsys.readouterr().err and contents(tmp_path) == before


def test_a_summary_that_is_there_is_not_overwritten(source: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "mine.json").write_text("mine")
    assert main(["dicom", str(source), str(tmp_path / "out"), "--json", str(tmp_path / "mine.json")]) == 6
    assert (tmp_path / "mine.json").read_text() == "mine" and not (tmp_path / "out").exists()


def test_stopped_by_a_signal_it_cleans_up(source: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mar_pipeline", "dicom", str(source), str(tmp_path / "out"), "--workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out*.partial/.attempt-*/.waiting")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.terminate()
    assert process.wait(120) == 75
    assert list(tmp_path.iterdir()) == []


def test_a_place_for_json_that_cannot_be_is_told_before_the_work(source: Path, tmp_path: Path, capsys) -> None:
    assert main(["dicom", str(source), str(tmp_path / "out"), "--json", str(tmp_path / "no" / "x.json")]) == 6
    assert "--json" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_options_of_networks_are_refused_where_there_is_none(source: Path, tmp_path: Path, capsys) -> None:
    assert main(["dicom", str(source), str(tmp_path / "out"), "--precision", "bfloat16"]) == 2
    assert "of networks" in capsys.readouterr().err


def test_slices_say_whether_metal_artifacts_were_reduced(result: Path) -> None:
    said = [image.MetalArtifactReductionSequence[0].MetalArtifactReductionApplied for image in images(result)]
    assert said == ["NO", "YES", "YES", "NO"]


def test_a_run_with_another_threshold_can_be_told_apart(source: Path, result: Path, tmp_path: Path) -> None:
    assert main(["dicom", str(source), str(tmp_path / "out"), "--metal-threshold", "2600", "--no-seg", *CREATED]) == 0
    ours, first = images(tmp_path / "out")[0], images(result)[0]
    assert first.SeriesDescription == "Hip 5.0 soft MAR-NMAR (RESEARCH)"
    assert ours.SeriesDescription == "Hip 5.0 soft MAR-NMAR 2600HU (RESEARCH)"
    assert "options: --metal-threshold 2600" in ours.DerivationDescription
    assert "options: defaults" in first.DerivationDescription


def test_other_options_give_other_identifiers(source: Path, result: Path, tmp_path: Path) -> None:
    assert main(["dicom", str(source), str(tmp_path / "out"), "--keep-private", *CREATED]) == 0
    assert {image.SOPInstanceUID for image in images(tmp_path / "out")}.isdisjoint(
        {image.SOPInstanceUID for image in images(result)}
    )


def test_each_patient_has_a_report_of_their_own(tmp_path: Path, capsys) -> None:
    """Two series of one patient, one of another, and two of different studies that name nobody."""
    names = [
        ("A^A", "1", "2.25.1"),
        ("B^B", "2", "2.25.2"),
        ("A^A", "1", "2.25.3"),
        ("", "", "2.25.4"),
        ("", "", "2.25.5"),
    ]
    for number, (name, patient, study) in enumerate(names, 1):
        said = {"PatientName": name, "PatientID": patient, "StudyInstanceUID": study, "SeriesInstanceUID": f"{study}.9"}
        write_series(tmp_path / "in" / str(number), 1, hu=volume(1, (0,)), **said, **SPACED)
    out = tmp_path / "out"
    assert main(["dicom", str(tmp_path / "in"), str(out), "--no-seg", *CREATED]) == 0
    reports = json.loads((out / "summary.json").read_text())["reports"]
    expected = {"report_001.html": [1, 3], "report_002.html": [2], "report_003.html": [4], "report_004.html": [5]}
    assert reports == expected and {path.name for path in out.glob("*.html")} == set(expected)
    for name, series in expected.items():
        page = (out / name).read_text()
        assert [number for number in range(1, 6) if f"Series {number}<" in page] == series
        assert "A^A" not in page and "B^B" not in page
    assert "report_001.html to report_004.html, one a patient" in capsys.readouterr().out


def test_a_failed_series_is_told_in_its_own_patients_report(tmp_path: Path) -> None:
    for number, patient in enumerate(("1", "2", "2"), 1):
        said = {"PatientID": patient, "StudyInstanceUID": f"2.25.{patient}", "SeriesInstanceUID": f"2.25.9{number}"}
        write_series(tmp_path / "in" / str(number), 2, hu=volume(2, (0,)), **said, **SPACED)
    damaged = tmp_path / "in" / "3" / "1.dcm"
    damaged.write_bytes(damaged.read_bytes()[:-500])
    assert main(["dicom", str(tmp_path / "in"), str(tmp_path / "out"), "--no-seg", *CREATED]) == 8
    pages = [path.read_text() for path in sorted((tmp_path / "out").glob("report_*.html"))]
    assert ["Series 3<" in page for page in pages] == [False, True]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--list", "--dry-run"], "--dry-run: --list lists the input"),
        (["--list", "--method", "li"], "--method: --list"),
        (["--dry-run", "--send", "localhost:1"], "--send: --dry-run writes nothing"),
        (["--metal-mask", "IN", "--all-candidates"], "--all-candidates: --metal-mask says what is metal"),
        (["--metal-mask", "none.nii"], "none.nii: no such file"),
        (["--aet", "PACS"], "--aet: belongs to --send"),
        (["--series", "1", "--series", "1"], "--series: names a series twice"),
        (["--created", "soon"], "--created: got 'soon'; expected date and time"),
    ],
)
def test_no_option_is_ignored_without_a_word(options, words: str, source: Path, tmp_path: Path, capsys) -> None:
    given = [str(source) if word == "IN" else word for word in options]
    assert main(["dicom", str(source), str(tmp_path / "out"), *given]) == 2
    assert words in capsys.readouterr().err and not list(tmp_path.iterdir())
