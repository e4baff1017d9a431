"""A data set: the same bytes however it was made, readable by the published loaders, safe against interruption."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import h5py
import nibabel
import numpy as np
import PIL.Image
import pytest
from command_lines import replaced
from small_scanner import PROGRAM, SMALL, body_hu, disc

from mar_pipeline import cli
from simulation.correction import metal_trace
from simulation.dataset import community, settings
from simulation.dataset.build import only_run
from simulation.dataset.generate import SimulateSettings
from simulation.dataset.reader import read_pair
from simulation.dataset.verify import verify
from simulation.errors import MarError
from simulation.physics import detector, protocols
from simulation.physics.geometry import FanBeam
from simulation.physics.projector import Projector
from simulation.physics.protocols import PROTOCOLS
from simulation.physics.spectra import exact_nodes
from simulation.simulator import Simulator
from simulation.units import hu_to_mu

PATIENCE_S = 60
INTERRUPTED = r"mar: error: interrupted; .+\n"


def slice_mu(number, kind="clean"):
    return hu_to_mu(body_hu(kind, 40 + number, 12 - number % 5)).astype(np.float32)


def write_source(root, kinds):
    """Slices as case/000/gt.h5."""
    for number, kind in enumerate(kinds):
        folder = root / f"case{number:02d}" / "000"
        folder.mkdir(parents=True)
        with h5py.File(folder / "gt.h5", "w") as file:
            file["image"] = slice_mu(number, kind)
    return root


def write_stack(path, centres=((0, 0), (60, -40), (-80, 30)), radius=20):
    np.save(path, np.stack([disc(radius, 512, *centre) for centre in centres], axis=2).astype(np.uint8))
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("source"), ["clean"] * 6)


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    return write_stack(tmp_path_factory.mktemp("masks") / "masks.npy")


def request(source, masks, out, *more):
    options = ["--source", source, "--masks", masks, "--compression", 0, "--device", "cpu", "--out", out]
    return ["simulate", *replaced(options, more)]


def contents(root):
    """Bytes of all files but the report and the locks."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name[0] != "." and path.name[:6] != "report")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def stamps(root):
    return {path: path.stat().st_mtime_ns for path in root.rglob("*.h5")}


@pytest.fixture(scope="module")
def straight(source, masks, tmp_path_factory):
    """The set made in one go by one process."""
    out = tmp_path_factory.mktemp("straight") / "set"
    with pytest.MonkeyPatch.context() as patch:
        name = "syndeeplesion"
        patch.setitem(protocols.PROTOCOLS, name, replace(PROTOCOLS[name], geometry=SMALL))
        assert cli.main(["-q", *map(str, request(source, masks, out))]) == 0
    return out


# --- the published loaders ---


def published_pairs(data_path, split, masks_of):
    """What the loaders of the benchmark's networks read, line for line: every slice with the masks asked for."""
    with open(os.path.join(data_path, f"{split}_640geo_dir.txt")) as listing:
        mat_files = listing.readlines()
    train_mask = np.load(os.path.join(data_path, f"{split}mask.npy"))
    for number, gt_dir in enumerate(mat_files):
        gt_file = gt_dir[:-1]
        gt_absdir = os.path.join(data_path, f"{split}_640geo/", gt_file)
        with h5py.File(gt_absdir, "r") as gt:
            x_gt = gt["image"][()]
        for mask_index in masks_of(number):
            data_file = gt_dir[:-6] + str(mask_index) + ".h5"
            with h5py.File(os.path.join(data_path, f"{split}_640geo/", data_file), "r") as pair:
                names = ("ma_CT", "LI_CT", "ma_sinogram", "LI_sinogram", "metal_trace")
                arrays = {name: pair[name][()] for name in names}
            m512 = train_mask[:, :, mask_index]
            mask = np.array(PIL.Image.fromarray(m512).resize((416, 416), PIL.Image.BILINEAR))
            yield data_file, x_gt, mask, arrays


def check_pairs(pairs):
    projector = Projector(FanBeam.preset("syndeeplesion"), "cpu")
    names = []
    for name, x_gt, mask, pair in pairs:
        assert x_gt.shape == pair["ma_CT"].shape == pair["LI_CT"].shape == (416, 416)
        assert pair["ma_sinogram"].shape == pair["LI_sinogram"].shape == pair["metal_trace"].shape == (640, 641)
        assert mask.any()
        np.testing.assert_array_equal(metal_trace(projector, mask), pair["metal_trace"] > 0)
        outside = pair["metal_trace"] == 0
        np.testing.assert_array_equal(pair["LI_sinogram"][outside], pair["ma_sinogram"][outside])
        # the image that was scanned is this one: where there is no metal it is what was reconstructed
        away = (x_gt > 0.18) & (x_gt < 0.22)
        assert abs(np.median(pair["LI_CT"][away]) - np.median(x_gt[away])) < 0.01
        names.append(name)
    return names


def test_published_loaders_read_a_set_of_given_masks(tmp_path, mar):
    stack = write_stack(tmp_path / "masks.npy", ((0, 0), (40, -30), (-30, 20)), 7)
    arguments = ["--masks", stack, "--masks-per-slice", 2, "--split", "test", "--compression", 0, "--device", "cpu"]
    code, out, err = mar("simulate", "--source", "phantom:head", "--slices", 2, *arguments, "--out", tmp_path / "set")
    assert (code, err) == (0, ""), out
    names = check_pairs(published_pairs(tmp_path / "set", "test", lambda number: range(2)))
    assert [name.rpartition("/")[2] for name in names] == ["0.h5", "1.h5"] * 2
    assert np.load(tmp_path / "set" / "testmask.npy").shape == (512, 512, 2)


def test_published_loaders_read_a_procedural_set_and_evaluate_scores_it(tmp_path, mar):
    """N is the mask's place in the stack; and the whole way of a newcomer: simulate, verify, evaluate."""
    data, scores = tmp_path / "set", tmp_path / "scores"
    arguments = ["--slices", 2, "--masks-per-slice", 2, "--compression", 0, "--workers", 2, "--device", "cpu"]
    code, out, err = mar("simulate", "--source", "phantom:head", *arguments, "--out", data)
    assert (code, err) == (0, ""), out
    names = check_pairs(published_pairs(data, "train", lambda number: (2 * number, 2 * number + 1)))
    assert [name.rpartition("/")[2] for name in names] == ["0.h5", "1.h5", "2.h5", "3.h5"]
    assert np.load(data / "trainmask.npy").shape == (512, 512, 4)
    assert mar("verify", data)[0] == 0
    code, out, err = mar(
        "evaluate", "--data", data, "--methods", "input", "li", "nmar", "--figures", 1, "--out", scores
    )
    assert (code, err) == (0, ""), out
    table = (scores / "table.md").read_text()
    for label in ("input", "li", "nmar"):
        assert re.search(rf"\b{label}\b", table, re.IGNORECASE)
        assert re.search(rf"\b{label}\b", out, re.IGNORECASE)
    pictures = list(scores.rglob("*.png"))
    assert len(pictures) == 1
    with PIL.Image.open(pictures[0]) as picture:
        assert np.asarray(picture.convert("L")).std() > 10


# --- the same bytes however it was made ---


def test_the_set_is_as_asked(straight, source):
    found = verify(straight)
    assert (found.slices, found.pairs, found.hashed, found.problems) == (6, 18, True, ())
    for number in range(6):
        pair = read_pair(straight / "train_640geo" / f"case{number:02d}" / "000" / "2.h5")
        np.testing.assert_array_equal(pair.image, slice_mu(number))


@pytest.mark.parametrize("workers", [2, 3])
def test_bytes_do_not_depend_on_workers(straight, source, masks, tmp_path, mar, small_scanner, workers):
    assert mar(*request(source, masks, tmp_path / "set", "--workers", workers))[0] == 0
    assert contents(tmp_path / "set") == contents(straight)


@pytest.mark.parametrize("shards", [("0/2", "1/2"), ("1/2", "0/2"), ("3/4", "0/4", "2/4", "1/4"), ("1/2", "0/1")])
def test_bytes_do_not_depend_on_shards_and_their_order(straight, source, masks, tmp_path, mar, small_scanner, shards):
    for shard in shards:
        assert mar(*request(source, masks, tmp_path / "set", "--part", shard))[0] == 0
    assert contents(tmp_path / "set") == contents(straight)


def test_a_shard_is_its_part_only(source, masks, tmp_path, mar, small_scanner):
    assert mar(*request(source, masks, tmp_path / "set", "--part", "1/4"))[0] == 0
    listed = (tmp_path / "set" / "train_640geo_dir.txt").read_text().split()
    assert listed == ["case01/000/gt.h5", "case05/000/gt.h5"]
    not_made = "planned slices: not made yet; the same mar simulate makes them, or says why it cannot"
    assert verify(tmp_path / "set").problems == (f"4 of 6 {not_made}",)
    mar(*request(source, masks, tmp_path / "set", "--part", "3/4"))
    assert verify(tmp_path / "set").problems == (f"3 of 6 {not_made}",)
    counts = json.loads((tmp_path / "set" / "report-3-of-4.json").read_text())["counts"]
    assert (counts["slices_done"], counts["slices_in_set"], counts["pairs_made"]) == (1, 3, 3)


def test_a_shard_without_slices_has_nothing_to_do(straight, source, masks, tmp_path, mar, small_scanner):
    for shard in range(7):
        assert mar(*request(source, masks, tmp_path / "set", "--part", f"{shard}/7"))[0] == 0
    assert contents(tmp_path / "set") == contents(straight)


def test_seed_changes_noise_only_where_it_should(straight, source, masks, tmp_path, mar, small_scanner):
    assert mar(*request(source, masks, tmp_path / "set", "--seed", 1, "--slices", 1))[0] == 0
    name = "train_640geo/case00/000/0.h5"
    one, other = read_pair(straight / name), read_pair(tmp_path / "set" / name)
    np.testing.assert_array_equal(one.metal_trace, other.metal_trace)
    np.testing.assert_array_equal(one.image, other.image)
    assert (one.ma_sinogram != other.ma_sinogram).mean() > 0.5


def test_a_slice_does_not_depend_on_how_many_follow(straight, source, masks, tmp_path, mar, small_scanner):
    assert mar(*request(source, masks, tmp_path / "set", "--slices", 2, "--masks-per-slice", 2))[0] == 0
    few, many = contents(tmp_path / "set"), contents(straight)
    pairs = [name for name in few if name.endswith(".h5")]
    assert len(pairs) == 6
    assert all(few[name] == many[name] for name in pairs)


# --- reruns ---


def test_a_rerun_makes_nothing_new(source, masks, tmp_path, mar, small_scanner):
    arguments = request(source, masks, tmp_path / "set", "--slices", 2)
    mar(*arguments)
    before, times = contents(tmp_path / "set"), stamps(tmp_path / "set")
    for more in ([], ["--workers", 2], ["--part", "1/2"]):
        code, out, err = mar(*arguments, *more)
        assert (code, err) == (0, "")
        assert "0 pairs made" in out
    assert contents(tmp_path / "set") == before
    assert stamps(tmp_path / "set") == times


def test_a_rerun_makes_what_was_lost(straight, source, masks, tmp_path, mar, small_scanner):
    out = tmp_path / "set"
    mar(*request(source, masks, out))
    for name in ("case01/000/1.h5", "case03/000/case.json", "case04/000/gt.h5"):
        (out / "train_640geo" / name).unlink()
    (out / "trainmask.npy").unlink()
    (out / "train_640geo_dir.txt").unlink()
    kept = stamps(out)
    assert "1 pair made" in mar(*request(source, masks, out))[1]
    assert contents(out) == contents(straight)
    assert {path: time_ns for path, time_ns in stamps(out).items() if path in kept} == kept


def test_a_rerun_tells_again_what_could_not_be_done(source, tmp_path, mar, small_scanner):
    """One mask of each slice lies outside the body; the record of the slice says so."""
    out = tmp_path / "set"
    arguments = request(source, write_stack(tmp_path / "masks.npy", ((0, 0), (-230, -230))), out, "--slices", 2)
    for pairs, more in ((2, []), (0, []), (0, ["--workers", 2])):
        code, said, err = mar(*arguments, *more)
        assert code == 8
        assert f"{pairs} pairs made, 2 of 2 slices done, 2 failed" in said
        for number, line in enumerate(err.splitlines()):
            assert line.startswith(f"failed: case0{number}/000, mask 1: metal mask lies outside the body")
        report = json.loads((out / "report.json").read_text())
        assert [f"failed: {line}" for line in report["failed"]] == err.splitlines()
        assert report["counts"]["failed"] == 2
    code, _, err = mar(*arguments, "--part", "1/2")
    assert (code, err.count("\n")) == (8, 1)
    assert "case01/000, mask 1: " in err


def test_a_rerun_does_not_hide_damage(source, masks, tmp_path, mar, small_scanner):
    out = tmp_path / "set"
    mar(*request(source, masks, out, "--slices", 1))
    folder = out / "train_640geo" / "case00" / "000"
    (folder / "0.h5").write_bytes((folder / "1.h5").read_bytes())
    (folder / "2.h5").unlink()
    assert mar(*request(source, masks, out, "--slices", 1))[0] == 0
    assert verify(out).problems == ("train_640geo/case00/000/0.h5: its bytes are not those that were written",)


CHANGES = {
    "seed": (["--seed", 1], "seed was 0, is 1"),
    "preset": (["--preset", "clinical"], "preset was 'syndeeplesion', is 'clinical'"),
    "metal": (["--metal", "gold"], "metal was 'titanium', is 'gold'"),
    "masks_per_slice": (["--masks-per-slice", 2], "masks_per_slice was 3, is 2"),
    "slices": (["--slices", 5], "the list of slices changed"),
    "compression": (["--compression", 1], "compression was 0, is 1"),
    "physics": (["--kvp", 100], "the physics (spectrum or version) changed"),
    "masks": (["--masks", "procedural"], "the masks changed"),
    "pad_square": (["--pad-square"], "pad_square was False, is True"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_rerun_with_other_settings_is_refused(straight, source, masks, mar, small_scanner, monkeypatch, name):
    monkeypatch.setattr(detector, "fit_nodes", lambda spectrum, *_: exact_nodes(spectrum))  # the fit takes minutes
    before, times = contents(straight), stamps(straight)
    options, words = CHANGES[name]
    for more in ([], ["--dry-run"]):
        code, out, err = mar(*request(source, masks, straight, *options, *more))
        assert (code, out) == (2, "")
        assert err.startswith("mar: error: ")
        assert err.count("\n") == 1
        assert words in err
        assert "choose another --out" in err
    assert contents(straight) == before
    assert stamps(straight) == times


def test_other_masks_of_the_same_name_are_refused(source, tmp_path, mar, small_scanner):
    stack = write_stack(tmp_path / "masks.npy")
    assert mar(*request(source, stack, tmp_path / "set", "--slices", 1))[0] == 0
    write_stack(stack, ((0, 0), (60, -40), (-80, 31)))
    code, _, err = mar(*request(source, stack, tmp_path / "set", "--slices", 1))
    assert code == 2
    assert "(the masks changed)" in err


def test_splits_share_a_folder(straight, source, masks, tmp_path, mar, small_scanner):
    """A community source without a list has no split: both take the same slices here."""
    out = tmp_path / "set"
    for split in ("train", "test"):
        assert mar(*request(source, masks, out, "--split", split))[0] == 0
    made = contents(out)
    for name, data in contents(straight).items():
        if "manifest" not in name:
            assert made[name.replace("train", "test")] == data if name.endswith((".h5", ".npy", ".txt")) else True
            assert made[name] == data
    assert verify(out).slices == 12
    assert verify(out).problems == ()


def test_a_folder_with_other_files_is_refused(source, masks, tmp_path, mar, small_scanner):
    (tmp_path / "thesis.tex").write_text("mine")
    code, _, err = mar(*request(source, masks, tmp_path))
    assert code == 2
    assert "thesis.tex" in err
    assert [path.name for path in tmp_path.iterdir() if path.name[0] != "."] == ["thesis.tex"]


def test_dry_run_writes_nothing(source, masks, tmp_path, mar, small_scanner):
    out = tmp_path / "set"
    code, said, err = mar(*request(source, masks, out, "--dry-run"))
    assert (code, err) == (0, "")
    assert "would make up to 6 of 6 slices with 3 masks each: 18 pairs" in said
    assert list(tmp_path.iterdir()) == []
    mar(*request(source, masks, out, "--part", "0/2"))
    before = contents(tmp_path)
    assert "would make up to 3 of 6 slices" in mar(*request(source, masks, out, "--dry-run"))[1]
    assert contents(tmp_path) == before


# --- skipped slices, reports ---


def test_unfit_slices_are_skipped_and_counted(masks, tmp_path, mar, small_scanner):
    kinds = ["metal", "clean", "empty", "metal", "clean"]
    source, out = write_source(tmp_path / "source", kinds), tmp_path / "set"
    code, said, err = mar(*request(source, masks, out))
    assert (code, err) == (0, "")
    assert "2 of 5 slices done" in said
    assert "2 skipped (metal)" in said
    assert "1 skipped (empty)" in said
    report = json.loads((out / "report.json").read_text())
    assert report["skipped"] == ["case00/000: metal", "case02/000: empty", "case03/000: metal"]
    counts = {"slices_done": 2, "slices_in_set": 2, "pairs_made": 6, "skipped": 3, "failed": 0}
    assert report["counts"] == counts
    assert (out / "train_640geo_dir.txt").read_text() == "case01/000/gt.h5\ncase04/000/gt.h5\n"
    assert sorted(path.name for path in (out / "train_640geo").iterdir()) == ["case01", "case04"]
    assert verify(out).problems == ()


def test_a_source_without_a_usable_slice_is_a_failure(masks, tmp_path, mar, small_scanner):
    arguments = request(write_source(tmp_path / "source", ["metal", "empty"]), masks, tmp_path / "set")
    code, _, err = mar(*arguments)
    assert code == 5
    assert re.fullmatch(r"mar: error: no slice could be used \(2 tried\); the first one: case00/000: metal\n", err)
    assert contents(tmp_path / "set") == {}
    assert mar(*arguments, "--seed", 5)[0] == 5  # nothing was made, so nothing binds


def test_a_slice_that_cannot_be_read_is_its_message(source, masks, tmp_path, mar, small_scanner):
    part = tmp_path / "source"
    shutil.copytree(source, part)
    (part / "case03" / "000" / "gt.h5").write_bytes(b"half")
    for _ in range(2):
        code, said, err = mar(*request(part, masks, tmp_path / "set"))
        assert (code, err.count("\n")) == (8, 1)
        assert err.startswith("failed: case03/000/gt.h5: broken or truncated")
        assert "5 of 6 slices done, 1 failed" in said


def test_the_report_says_all_that_was_asked_and_made(straight):
    report = json.loads((straight / "report.json").read_text())
    assert set(report["settings"]) == {field.name for field in fields(SimulateSettings)}
    assert report["settings"]["compression"] == 0
    assert report["command"] == "simulate"
    assert (report["seed"], report["device"]) == (0, "cpu")
    assert {"python", "numpy", "numba", "mar-pipeline"} <= set(report["versions"])
    assert report["identity_sha256"] == json.loads((straight / "train_manifest.json").read_text())["identity_sha256"]
    counts = {"slices_done": 6, "slices_in_set": 6, "pairs_made": 18, "skipped": 0, "failed": 0}
    assert report["counts"] == counts
    assert (report["failed"], report["skipped"]) == ([], [])
    assert all((straight / name).is_file() for name in report["outputs"])
    assert "18 pairs made, 6 of 6 slices done" in report["summary"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "add"])
def test_verify_finds_damage_and_exits_8(source, masks, tmp_path, mar, small_scanner, damage):
    out = tmp_path / "set"
    mar(*request(source, masks, out, "--slices", 1))
    code, said, err = mar("verify", out)
    assert (code, err) == (0, "")
    assert re.fullmatch(rf"{re.escape(str(out))}: .*no problems\n", said)
    victim = out / "train_640geo/case00/000/1.h5"
    data = victim.read_bytes()
    flipped = data[:-2000] + bytes([data[-2000] ^ 1]) + data[-1999:]
    match damage:
        case "flip":
            victim.write_bytes(flipped)
        case "truncate":
            victim.write_bytes(data[:-100])
        case "remove":
            victim.unlink()
        case "add":
            victim = victim.with_name("9.h5")
            victim.write_bytes(data)
    code, said, err = mar("verify", out)
    assert (code, err) == (8, "")
    assert str(victim.relative_to(out)) in said


def test_verify_compares_the_stack_of_procedural_masks_with_those_of_the_slices(tmp_path, mar):
    out = tmp_path / "set"
    arguments = request("phantom:head", "procedural", out, "--masks-per-slice", 2, "--slices", 1)
    assert mar(*arguments)[0] == 0
    assert mar("verify", out)[0] == 0
    stack, data = out / "trainmask.npy", (out / "trainmask.npy").read_bytes()
    for damaged in (data[:-70000] + b"\1" + data[-69999:], data[:-1], b"", None):
        stack.unlink() if damaged is None else stack.write_bytes(damaged)
        code, said, _ = mar("verify", out)
        assert (code, said.count("trainmask.npy: ")) == (8, 1), said
        stack.unlink(missing_ok=True)
        assert mar(*arguments)[0] == 0
        assert stack.read_bytes() == data


# --- real size ---


def test_the_clinical_scanner_keeps_millimetres_from_file_to_file(tmp_path, mar):
    """A cylinder of water of 200 mm in a volume of 1 mm pixels is 200 mm wide in gt.h5 and in its reconstruction."""
    hu = np.where(disc(100, 256), 0, -1000)[:, :, None].repeat(2, axis=2).astype(np.int16)
    image = nibabel.Nifti1Image(hu, np.diag([-1.0, -1.0, 3.0, 1.0]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / "cylinder.nii.gz")
    arguments = request(tmp_path / "cylinder.nii.gz", write_stack(tmp_path / "m.npy", ((0, 0),), 8), tmp_path / "set")
    assert mar(*arguments, "--preset", "clinical", "--slices", 1)[0] == 0
    (path,) = (tmp_path / "set").rglob("0.h5")
    pair = read_pair(path)
    pixel_mm = FanBeam.preset("clinical").pixel_mm
    for image_mu in (pair.image, pair.poly_CT):
        diameter_mm = 2 * np.sqrt((image_mu > 0.1).sum() / np.pi) * pixel_mm
        assert diameter_mm == pytest.approx(200, abs=1.5)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_clinical_scanner_refuses_a_source_without_pixel_size(source, masks, tmp_path, mar, small_scanner, workers):
    arguments = request(source, masks, tmp_path / "set", "--slices", 2, "--workers", workers)
    code, _, err = mar(*arguments, "--preset", "clinical")
    assert code == 2
    assert err.startswith("mar: error: ")
    assert err.count("\n") == 1
    assert "pixel size" in err
    assert contents(tmp_path / "set") == {}
    assert mar(*arguments)[0] == 0  # as the message advises


def test_a_gpu_serves_one_worker(source, masks, tmp_path, mar, small_scanner, monkeypatch):
    class OnCuda(Simulator):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.projector.device = "cuda"

    monkeypatch.setattr(settings, "Simulator", OnCuda)
    arguments = request(source, masks, tmp_path / "set", "--dry-run", "--workers")
    code, said, err = mar(*arguments, 2)
    assert (code, said) == (2, "")
    assert err == "mar: error: --workers: got 2 on CUDA, where one process works; use 1, or --device cpu\n"
    for workers in (0, 1):
        assert mar(*arguments, workers)[0] == 0


# --- interruption ---


@contextlib.contextmanager
def started(arguments):
    """The program in a process group of its own, which is gone afterwards."""
    command = [sys.executable, "-c", PROGRAM, "-q", *map(str, arguments)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_until(condition, process=None, patience_s=PATIENCE_S):
    """Whether the condition came true, at most until the process ended or patience did."""
    end = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > end or (process is not None and process.poll() is not None):
            return condition()
        time.sleep(0.002)
    return True


def progress(out):
    return sum(1 for _ in out.rglob("*.h5"))


def group_is_alive(process):
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def unreadable(out):
    """Files that have their final name and are not whole."""
    problems = []
    for path in out.rglob("*.h5"):
        try:
            with h5py.File(path) as file:
                [data[()] for data in file.values()]
        except OSError:
            problems.append(path)
    for path in out.rglob("*.json"):
        json.loads(path.read_text())
    return problems


@pytest.fixture(scope="module")
def long_source(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("long"), ["clean"] * 40)


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_ends_in_one_line_and_a_rerun_completes(long_source, masks, tmp_path, mar, small_scanner, workers):
    out = tmp_path / "set"
    arguments = request(long_source, masks, out, "--workers", workers, "--slices", 30)
    with started(arguments) as process:
        assert wait_until(lambda: len(list(out.rglob("case.json"))) >= 2, process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of the group
        said, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 130, (said, err)
        assert said == ""
        assert re.fullmatch(INTERRUPTED, err)
        assert not group_is_alive(process)
    assert progress(out) < 30 * 4
    assert unreadable(out) == []
    found = verify(out)
    assert 0 < found.slices < 30
    assert all(re.search(r"\.partial: left by|: unfinished; |: not made yet; ", own) for own in found.problems)
    if workers == 1:
        assert not list(out.rglob("*.partial"))
    assert mar(*arguments)[0] == 0
    assert verify(out).problems == ()
    assert verify(out).pairs == 90


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_ends_in_one_line_and_a_rerun_goes_on(long_source, masks, tmp_path, mar, small_scanner, workers):
    out = tmp_path / "set"
    arguments = request(long_source, masks, out, "--workers", workers, "--slices", 30)
    with started(arguments) as process:
        assert wait_until(lambda: len(list(out.rglob("case.json"))) >= 2, process)
        os.killpg(process.pid, signal.SIGTERM)  # as a cluster does: to all of the group
        said, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, said) == (75, ""), err
    assert re.fullmatch(r"mar: error: stopped by SIGTERM: what is finished in \S+ is kept; .+ go on\n", err)
    kept = stamps_of_done(out)
    assert kept
    assert mar(*arguments)[0] == 0
    assert verify(out).problems == ()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def stamps_of_done(root):
    """Times of the files of the slices that have a record."""
    folders = [path.parent for path in root.rglob("case.json")]
    return {path: path.stat().st_mtime_ns for folder in folders for path in folder.glob("*.h5")}


def test_ctrl_c_is_not_lost_where_python_drops_exceptions(source, masks, tmp_path):
    """A handler that raises is heard only outside of destructors and weakref callbacks; one of ten was lost so."""
    lost = PROGRAM.replace(
        "if __name__",
        """
import os, weakref
from simulation.dataset import community
written, write_sample = [], community.write_sample
class Thing: pass
def write_and_interrupt(*arguments):
    write_sample(*arguments)
    written.append(1)
    if len(written) == 2:
        thing = Thing()
        reference = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGINT))
        del thing
community.write_sample = write_and_interrupt
if __name__""",
    )
    command = [sys.executable, "-c", lost, "-q", *map(str, request(source, masks, tmp_path / "set"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout) == (130, "")
    assert re.fullmatch(INTERRUPTED, done.stderr)
    assert progress(tmp_path / "set") < 6 * 4


def test_workers_do_not_outlive_a_terminated_parent(long_source, masks, tmp_path):
    out = tmp_path / "set"
    with started(request(long_source, masks, out, "--workers", 2)) as process:
        assert wait_until(lambda: progress(out) >= 4, process)
        process.terminate()
        process.wait(PATIENCE_S)
        assert wait_until(lambda: not group_is_alive(process), patience_s=6)


def test_a_worker_that_is_killed_is_one_line(long_source, masks, tmp_path):
    """As the kernel does when memory runs out."""
    out = tmp_path / "set"
    with started(request(long_source, masks, out, "--workers", 2)) as process:
        assert wait_until(lambda: progress(out) >= 4, process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 5
    assert err.startswith("mar: error: ")
    assert err.count("\n") == 1


# --- two runs ---


def test_a_second_run_at_the_same_time_is_refused(long_source, masks, tmp_path, mar, small_scanner):
    out = tmp_path / "set"
    with started(request(long_source, masks, out)) as process:
        assert wait_until(lambda: progress(out) >= 1, process)
        os.kill(process.pid, signal.SIGSTOP)
        before = contents(out)
        code, said, err = mar(*request(long_source, masks, out))
        assert (code, said) == (6, "")
        assert err.startswith("mar: error: ")
        assert err.count("\n") == 1
        assert "another run" in err
        assert contents(out) == before
        os.kill(process.pid, signal.SIGCONT)
        _, err = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, err) == (0, "")
    assert verify(out).problems == ()
    assert verify(out).pairs == 120


def test_a_run_of_overlapping_parts_at_the_same_time_is_refused(long_source, masks, tmp_path, mar, small_scanner):
    out = tmp_path / "set"
    with started(request(long_source, masks, out)) as process:
        assert wait_until(lambda: progress(out) >= 1, process)
        os.kill(process.pid, signal.SIGSTOP)
        code, _, err = mar(*request(long_source, masks, out, "--part", "7/8"))
        assert code == 6
        assert "another run" in err


def test_shards_run_side_by_side(straight, source, masks, tmp_path):
    out = tmp_path / "set"
    with (
        started(request(source, masks, out, "--part", "0/2")) as first,
        started(request(source, masks, out, "--part", "1/2")) as second,
    ):
        for process in (first, second):
            _, err = process.communicate(timeout=PATIENCE_S)
            assert (process.returncode, err) == (0, "")
    assert contents(out) == contents(straight)


def test_an_interrupt_in_the_first_slice_does_not_lock_the_folder(
    straight, source, masks, tmp_path, mar, small_scanner, monkeypatch
):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(community, "write_sample", interrupted)
        assert mar(*request(source, masks, tmp_path / "set"))[0] == 130
    assert mar(*request(source, masks, tmp_path / "set"))[0] == 0
    assert contents(tmp_path / "set") == contents(straight)


def test_a_slice_that_has_no_place_for_any_mask_is_not_missing(source, tmp_path, mar, small_scanner):
    """It is told when the set is made; a job array that has seen all of it is whole."""
    out = tmp_path / "set"
    arguments = request(source, write_stack(tmp_path / "masks.npy", ((-230, -230),)), out, "--slices", 2)
    assert mar(*arguments, "--part", "0/2")[0] == 8
    assert [own.partition(":")[0] for own in verify(out).problems] == ["1 of 2 planned slices"]
    assert mar(*arguments, "--part", "1/2")[0] == 8
    assert verify(out).problems == ()
    reasons = json.loads((out / "train_manifest.json").read_text())["left_out"]
    assert list(reasons) == ["case00/000", "case01/000"]
    assert "metal mask lies outside the body" in reasons["case00/000"]


@pytest.mark.parametrize("layout", ["community", "shards"])
def test_an_interrupted_part_leaves_the_folder_to_the_others(
    source, masks, tmp_path, mar, small_scanner, monkeypatch, layout
):
    """Of which none may have written anything yet."""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    arguments = request(source, masks, tmp_path / "set", "--layout", layout)
    with monkeypatch.context() as patch:
        patch.setattr("simulation.dataset.build.run_parallel", interrupted)
        assert mar(*arguments, "--part", "0/2")[0] == 130
    assert (tmp_path / "set" / "train_manifest.json").exists()


def test_parts_that_begin_together_do_not_take_each_other_for_another_division(tmp_path):
    """Each looks whether locks of other divisions, which stay after a run, are held."""
    (tmp_path / ".simulate-0-of-1.lock").touch()
    begin = threading.Barrier(8)

    def begins(part):
        begin.wait()
        for _ in range(20):
            with only_run(tmp_path, f"{part}/8"):
                pass

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(begins, range(8)))
    refused = pytest.raises(MarError, match="another run is writing there")
    with only_run(tmp_path, "0/8"), refused, only_run(tmp_path, "0/1"):
        pass


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_broken_masks_of_a_slice_are_one_line(tmp_path, mar, damage):
    out = tmp_path / "set"
    arguments = request("phantom:head", "procedural", out, "--masks-per-slice", 1, "--slices", 1)
    assert mar(*arguments)[0] == 0
    whole = contents(out)
    (victim,) = out.rglob("masks.npz")
    data = victim.read_bytes()
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    victim.write_bytes({"truncate": data[:-100], "flip": flipped, "empty": b""}[damage])
    assert "masks.npz: its bytes are not those that were written" in mar("verify", out)[1]
    (out / "trainmask.npy").unlink()
    code, said, err = mar(*arguments)
    assert (code, said, err.count("\n")) == (5, "", 1)
    assert f"{victim}: broken" in err
    victim.unlink()
    assert mar(*arguments)[0] == 0
    assert contents(out) == whole
