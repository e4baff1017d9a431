"""A run over several series that is interrupted goes on with the same command, and ends as if nothing had happened."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import contents, write_series
from metal_slices import discs, with_metal

import mar_pipeline.dicom.run as module
from mar_pipeline.cli import main
from mar_pipeline.dicom.process import SeriesResult
from mar_pipeline.dicom.records import from_plain, to_plain

SIDE, SPACING_MM, SERIES = 64, 4.0, 3
SPACED = {"PixelSpacing": [SPACING_MM, SPACING_MM], "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1}
OPTIONS = ("--created", "2026-01-02T03:04:05", "--workers", "1", "--nifti")


def body(metal: bool) -> np.ndarray:
    """A slice in HU."""
    hu = np.where(discs((SIDE, SIDE), SPACING_MM, (0, 0, 100)), 40.0, -1000.0).astype(np.float32)
    return with_metal(hu, discs((SIDE, SIDE), SPACING_MM, (-10, 30, 14)), SPACING_MM, "steel") if metal else hu


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three series of two slices with metal in one, and one series without metal."""
    folder = tmp_path_factory.mktemp("made")
    for number in range(1, SERIES + 1):
        hu = np.stack([body(True), body(False)])
        write_series(folder / "in" / str(number), 2, hu=hu, SeriesInstanceUID=f"2.25.{number}", **SPACED)
    write_series(folder / "in" / "0", 1, hu=body(False), SeriesInstanceUID="2.25.9", **SPACED)
    return folder


@pytest.fixture
def source(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(made / "in", tmp_path / "in")


@pytest.fixture(scope="module")
def undisturbed(made: Path) -> dict[str, Any]:
    assert main(["dicom", str(made / "in"), str(made / "out"), *OPTIONS]) == 0
    return without_seconds(made / "out")


def without_seconds(out: Path) -> dict[str, Any]:
    """Hashes of all files of an output; its summary without the timings."""
    summary = json.loads((out / "summary.json").read_text())
    for series in summary["series"]:
        del series["seconds"]
    return contents(out) | {"summary.json": summary}


def staging(tmp_path: Path) -> Path:
    return tmp_path / ".out.partial"


def stop_at(monkeypatch: pytest.MonkeyPatch, name: str, call: int, error: BaseException) -> list[int]:
    """Lets the nth call of a function of the run fail; the calls are counted."""
    function, calls = getattr(module, name), []

    def failing(*arguments):
        calls.append(len(calls) + 1)
        if calls[-1] == call:
            raise error
        return function(*arguments)

    monkeypatch.setattr(module, name, failing)
    return calls


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_finished_series_survive_a_signal_and_the_end_is_the_same(
    sent: signal.Signals, source: Path, undisturbed: dict[str, Any], tmp_path: Path, capsys, monkeypatch
) -> None:
    command = [sys.executable, "-m", "mar_pipeline", "dicom", str(source), str(tmp_path / "out"), *OPTIONS[:2]]
    process = subprocess.Popen([*command, "--workers", "2"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (staging(tmp_path) / ".journal" / "series_002.json").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(sent)
    assert process.wait(60) == {signal.SIGTERM: 75, signal.SIGINT: 130}.get(sent, -sent)
    assert not (tmp_path / "out").exists() and stat.S_IMODE(staging(tmp_path).stat().st_mode) == 0o700
    calls = stop_at(monkeypatch, "process", 0, KeyboardInterrupt())
    assert main(["dicom", str(source), str(tmp_path / "out"), *OPTIONS]) == 0
    assert len(calls) < SERIES and "what it finished is taken over" in capsys.readouterr().err
    assert without_seconds(tmp_path / "out") == undisturbed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


@pytest.mark.parametrize(
    ("name", "call", "error", "code", "left"),
    [
        ("process", 3, KeyboardInterrupt(), 130, 2),
        ("write_segmentation", 2, KeyboardInterrupt(), 130, 2),
        ("write_report", 1, KeyboardInterrupt(), 130, 0),
        ("write_json", 1, KeyboardInterrupt(), 130, 0),
        ("process", 4, OSError(28, "No space left on device"), 6, 1),
    ],
)
def test_wherever_it_stops_it_goes_on(
    name, call, error, code, left, source, undisturbed, tmp_path, monkeypatch, capsys
) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, name, call, error)
        assert main(["dicom", str(source), str(tmp_path / "out"), *OPTIONS]) == code
    assert not (tmp_path / "out").exists()
    assert ("waits for the same command" if code == 6 else "go on with the same command") in capsys.readouterr().err
    calls = stop_at(monkeypatch, "process", 0, error)
    assert main(["dicom", str(source), str(tmp_path / "out"), *OPTIONS]) == 0
    assert len(calls) == left and without_seconds(tmp_path / "out") == undisturbed


def interrupted(source: Path, out: Path, call: int, *options: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, "process", call, KeyboardInterrupt())
        assert main(["dicom", str(source), str(out), *OPTIONS, *options]) == 130


def test_before_anything_is_finished_nothing_is_left(source: Path, tmp_path: Path) -> None:
    interrupted(source, tmp_path / "out", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        (lambda source: ["--min-metal-mm2", "11"], 4),
        (lambda source: ["--no-seg"], 4),
        (lambda source: ["--series", "2"], 1),
        (lambda source: (source / "1" / "1.dcm").rename(source / "1" / "2.dcm") and [], 4),
        (lambda source: shutil.rmtree(source / "3") or [], 3),
    ],
)
def test_other_settings_or_another_input_start_anew(
    change: Callable, counts: int, source: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    interrupted(source, tmp_path / "out", 3)
    options = change(source)
    calls = stop_at(monkeypatch, "process", 0, KeyboardInterrupt())
    assert main(["dicom", str(source), str(tmp_path / "out"), *OPTIONS, *options]) == 0
    assert len(calls) == counts
    assert "removing what an interrupted run with other settings or another input" in capsys.readouterr().err
    assert not staging(tmp_path).exists()


def test_settings_of_the_whole_output_alone_let_series_be_taken_over(source: Path, tmp_path: Path, monkeypatch) -> None:
    interrupted(source, tmp_path / "out", 4)
    calls = stop_at(monkeypatch, "process", 0, KeyboardInterrupt())
    options = [*OPTIONS[:2], "--workers", "2", "--no-html"]
    assert main(["dicom", str(source), str(tmp_path / "out"), *options]) == 0
    assert len(calls) == 1 and not (tmp_path / "out" / "report.html").exists()


def alter(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize(
    "damage",
    [
        lambda source, staged: alter(staged / "series_002" / "IM00001.dcm"),
        lambda source, staged: (staged / "series_002" / "metal_seg.dcm").unlink(),
        lambda source, staged: alter(staged / ".waiting" / "series_002" / "0.npy"),
        lambda source, staged: (staged / ".journal" / "series_002.json").write_text("{"),
        lambda source, staged: (staged / ".journal" / "series_002.json").write_text('{"source": []}'),
    ],
)
def test_what_is_not_as_it_was_is_made_anew(
    damage: Callable, source: Path, undisturbed: dict[str, Any], tmp_path: Path, monkeypatch, capsys
) -> None:
    interrupted(source, tmp_path / "out", 4)
    damage(source, staging(tmp_path))
    calls = stop_at(monkeypatch, "process", 0, KeyboardInterrupt())
    assert main(["dicom", str(source), str(tmp_path / "out"), *OPTIONS]) == 0
    assert len(calls) == 2 and "series 2: what an interrupted run finished is not as it was" in capsys.readouterr().err
    assert without_seconds(tmp_path / "out") == undisturbed


def test_a_source_whose_pixels_changed_is_made_anew(source: Path, undisturbed, tmp_path: Path, monkeypatch) -> None:
    interrupted(source, tmp_path / "out", 4)
    alter(source / "1" / "1.dcm")
    calls = stop_at(monkeypatch, "process", 0, KeyboardInterrupt())
    assert main(["dicom", str(source), str(tmp_path / "out"), *OPTIONS]) == 0
    ours = without_seconds(tmp_path / "out")
    assert len(calls) == 2 and ours["series_002/IM00002.dcm"] != undisturbed["series_002/IM00002.dcm"]


def test_a_folder_that_another_run_is_writing_is_left_alone(source: Path, tmp_path: Path, capsys) -> None:
    script = "import fcntl, sys; lock = open(sys.argv[1], 'a'); fcntl.lockf(lock, 2); print(1, flush=True); input()"
    staging(tmp_path).mkdir(0o700)
    lock = staging(tmp_path) / ".lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", script, lock], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    assert holder.stdout and holder.stdout.readline()
    try:
        assert main(["dicom", str(source), str(tmp_path / "out"), *OPTIONS]) == 6
        assert "another run is writing it" in capsys.readouterr().err and lock.exists()
    finally:
        holder.communicate("\n")
    assert main(["dicom", str(source), str(tmp_path / "out"), *OPTIONS]) == 0


@pytest.mark.parametrize("mode", [0o755, 0o770])
def test_a_hidden_folder_that_others_can_reach_is_refused(mode: int, source: Path, tmp_path: Path, capsys) -> None:
    staging(tmp_path).mkdir()
    os.chmod(staging(tmp_path), mode)
    assert main(["dicom", str(source), str(tmp_path / "out"), *OPTIONS]) == 6
    assert "not this user's alone" in capsys.readouterr().err


def test_a_link_in_place_of_the_hidden_folder_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(0o700)
    staging(tmp_path).symlink_to(tmp_path / "elsewhere")
    assert main(["dicom", str(source), str(tmp_path / "out"), *OPTIONS]) == 6
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_result_comes_back_from_json_as_it_was(source: Path, tmp_path: Path, monkeypatch) -> None:
    results: list[SeriesResult] = []
    function = module.process

    def kept(*arguments):
        results.append(function(*arguments))
        return results[-1]

    monkeypatch.setattr(module, "process", kept)
    assert main(["dicom", str(source), str(tmp_path / "out"), *OPTIONS]) == 0
    for result in results:
        text = json.dumps(to_plain(result, leave_out=("work",)))
        assert from_plain(SeriesResult, json.loads(text), {"work": result.work}) == result
    assert results[1].derivation and results[1].derivation.created == datetime(2026, 1, 2, 3, 4, 5)


def test_what_json_cannot_hold_is_told() -> None:
    with pytest.raises(TypeError, match="got ndarray"):
        to_plain((np.zeros(3),))
