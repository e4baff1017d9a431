"""Bad input through the command line: one clear line, the right exit code, nothing half written."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
from command_lines import replaced
from PIL import Image
from small_scanner import PROGRAM, body_hu, disc

from simulation.dataset.verify import verify
from simulation.units import hu_to_mu

USAGE, REFUSED, UNWRITABLE, SOME_FAILED = 2, 5, 6, 8
PLAIN = ("--compression", "0", "--device", "cpu")
pytestmark = pytest.mark.usefixtures("small_scanner")


def write_gt(root, case, image=None):
    folder = root / case / "000"
    folder.mkdir(parents=True)
    with h5py.File(folder / "gt.h5", "w") as file:
        file["image"] = hu_to_mu(body_hu()).astype(np.float32) if image is None else image
    return folder / "gt.h5"


def write_png(root, name="103", pixels=None, row=True):
    """A DeepLesion folder; more calls add slices. Without a row, the slice's series is not in DL_info.csv."""
    table = root / "DL_info.csv"
    if not table.exists():
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text("File_name,Slice_range,Spacing_mm_px_,Train_Val_Test\n")
    series = f"0000{name}_01_01"
    path = root / "Images_png" / series / f"{name}.png"
    path.parent.mkdir(parents=True)
    Image.fromarray((body_hu() + 32768).astype(np.uint16) if pixels is None else pixels).save(path)
    if row:
        with table.open("a") as file:
            file.write(f'{series}_{name}.png,"1, 999","0.8, 0.8, 1",1\n')
    return path


def write_nifti(path, values, affine=None):
    affine = np.diag([-1.5, -1.5, 3.0, 1.0]) if affine is None else affine
    image = nibabel.Nifti1Image(np.stack([values] * 3, axis=2), affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    return path


def truncate(path, share=0.6):
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path


@pytest.fixture
def masks(tmp_path):
    path = tmp_path / "masks.npy"
    np.save(path, np.stack([disc(20, 512), disc(20, 512, 60, -40)], axis=2).astype(np.uint8))
    return path


@pytest.fixture
def source(tmp_path):
    write_gt(tmp_path / "source", "case0")
    return tmp_path / "source"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "set"


@pytest.fixture
def refusal(mar, masks, source, out):
    """Runs `mar simulate` with good defaults and these options; the only line on standard error, without its start."""

    def run(*more, code, words=(), masks=masks, source=source, out=out):
        options = ["--source", source, "--masks", masks, *PLAIN, "--out", out]
        got, said, err = mar("simulate", *replaced(options, more))
        check_line(err, "mar: error: ", words)
        assert (got, said) == (code, "")
        assert nothing_half_written(out)
        return err

    return run


def check_line(err, start, words):
    assert err.startswith(start)
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert "Error(" not in err
    assert not err.rstrip().endswith(":")
    for word in words:
        assert word in err, err


def nothing_half_written(out):
    """No temporary file, no h5 that cannot be read, no slice listed that is not whole."""
    if not out.is_dir():
        return True
    for path in out.rglob("*.h5"):
        with h5py.File(path) as file:
            [data[()] for data in file.values()]
    problems = verify(out).problems if (out / "train_640geo_dir.txt").exists() else ()
    return not list(out.rglob("*.partial")) and all("planned slices: not made yet" in own for own in problems)


# --- slices: alone they end the run, beside good ones they are told and the good ones are made ---


def bad_png(folder, **options):
    return write_png(folder, "555", **options)


BAD_SLICES = {
    "truncated PNG": (lambda folder: truncate(bad_png(folder)), ("555.png", "truncated")),
    "8-bit PNG": (lambda folder: bad_png(folder, pixels=np.zeros((64, 64), np.uint8)), ("555.png", "8-bit", "16-bit")),
    "colour PNG": (lambda folder: bad_png(folder, pixels=np.zeros((64, 64, 3), np.uint8)), ("555.png", "colour")),
    "PNG without a row": (lambda folder: bad_png(folder, row=False), ("555.png", "DL_info.csv has no row")),
    "PNG of 12 bits": (lambda folder: bad_png(folder, pixels=(body_hu() + 1024).astype(np.uint16)), ("32768",)),
    "PNG not square": (
        lambda folder: bad_png(folder, pixels=(body_hu()[:40] + 32768).astype(np.uint16)),
        ("40 x 64", "--pad-square"),
    ),
    "gt.h5 truncated": (lambda folder: truncate(write_gt(folder, "bad")), ("bad/000/gt.h5", "truncated")),
    "gt.h5 in HU": (lambda folder: write_gt(folder, "bad", body_hu().astype(np.float32)), ("bad/000/gt.h5", "1/cm")),
    "gt.h5 not square": (lambda folder: write_gt(folder, "bad", np.full((40, 64), 0.2, np.float32)), ("40 x 64",)),
    "gt.h5 with NaN": (lambda folder: write_gt(folder, "bad", np.full((64, 64), np.nan, np.float32)), ("finite",)),
    "NIfTI of mu": (
        lambda folder: write_nifti(folder / "bad.nii.gz", hu_to_mu(body_hu()).astype(np.float32)),
        ("bad.nii.gz", "attenuation", "HU"),
    ),
    "NIfTI of HU + 1024": (
        lambda folder: write_nifti(folder / "bad.nii.gz", (body_hu() + 1024).astype(np.int16)),
        ("bad.nii.gz", "1024"),
    ),
    "NIfTI oblique": (
        lambda folder: write_nifti(
            folder / "bad.nii.gz",
            body_hu().astype(np.int16),
            np.array([[-1.4, 0.5, 0, 0], [-0.5, -1.4, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]]),
        ),
        ("bad.nii.gz", "oblique"),
    ),
    "NIfTI truncated": (
        lambda folder: truncate(write_nifti(folder / "bad.nii.gz", body_hu().astype(np.int16))),
        ("bad.nii.gz", "truncated"),
    ),
}


def add_good(folder, name):
    if "PNG" in name:
        write_png(folder, "100")
    elif "gt.h5" in name:
        write_gt(folder, "good")
    else:
        write_nifti(folder / "good.nii.gz", body_hu().astype(np.int16))


@pytest.mark.parametrize("name", BAD_SLICES)
def test_a_bad_slice_alone(name, refusal, tmp_path):
    make, words = BAD_SLICES[name]
    folder = tmp_path / "bad source"
    folder.mkdir()
    make(folder)
    refusal(code=REFUSED, source=folder, words=("no slice could be used", *words))


@pytest.mark.parametrize("name", BAD_SLICES)
def test_a_bad_slice_beside_good_ones(name, mar, masks, out, tmp_path):
    make, words = BAD_SLICES[name]
    folder = tmp_path / "bad source"
    folder.mkdir()
    make(folder)
    add_good(folder, name)
    code, said, err = mar("simulate", "--source", folder, "--masks", masks, *PLAIN, "--out", out)
    assert code == SOME_FAILED
    lines = err.splitlines()
    assert lines
    for line in lines:
        check_line(f"{line}\n", "failed: ", words)
    # a volume whose header is good fails with each of its slices
    assert len(lines) == (3 if "NIfTI" in name and "oblique" not in name else 1)
    assert f"{len(lines)} failed" in said
    good = 3 if "NIfTI" in name else 1
    (problem,) = verify(out).problems
    assert problem.startswith(f"{len(lines)} of {len(lines) + good} planned slices: not made yet; ")
    assert verify(out).slices == good
    assert nothing_half_written(out)


def test_slices_with_metal_are_counted_not_failed(mar, masks, source, out):
    write_gt(source, "case1", hu_to_mu(body_hu("metal")).astype(np.float32))
    code, said, err = mar("simulate", "--source", source, "--masks", masks, *PLAIN, "--out", out)
    assert (code, err) == (0, "")
    assert "1 skipped (metal)" in said


def test_only_slices_with_metal(refusal, tmp_path):
    write_gt(tmp_path / "metal", "case1", hu_to_mu(body_hu("metal")).astype(np.float32))
    refusal(code=REFUSED, source=tmp_path / "metal", words=("case1/000: metal",))


# --- mask stacks ---

GOOD = disc(20, 512)[:, :, None].astype(np.uint8)
BAD_STACKS = {
    "wrong shape": (np.ones((416, 416, 2), np.uint8), ("(416, 416, 2)", "(512, 512, n)")),
    "masks first": (np.ones((2, 512, 512), np.uint8), ("(2, 512, 512)", "axis 2")),
    "two dimensions": (GOOD[:, :, 0], ("(512, 512)",)),
    "no masks": (GOOD[:, :, :0], ("(512, 512, 0)",)),
    "values 255": (GOOD * 255, ("0 .. 255", "threshold")),
    "floats": (GOOD.astype(np.float32), ("float32", "uint8")),
    "an empty mask": (np.concatenate([GOOD, GOOD * 0], axis=2), ("mask 1 is empty",)),
    "objects": (np.array([{}], object), ("is broken, truncated, or no .npy file of numbers",)),
}


@pytest.mark.parametrize("name", BAD_STACKS)
def test_a_bad_mask_stack(name, refusal, tmp_path, out):
    stack, words = BAD_STACKS[name]
    np.save(tmp_path / "bad.npy", stack)
    refusal(code=REFUSED, masks=tmp_path / "bad.npy", words=("bad.npy", *words))
    assert not out.exists()


NO_STACKS = {
    "absent": "no such file",
    "text": "is broken, truncated, or no .npy file of numbers",
    "truncated": "is broken, truncated, or no .npy file of numbers",
    "archive": "is an archive of several arrays",
}


@pytest.mark.parametrize("name", NO_STACKS)
def test_a_mask_file_that_is_no_stack(name, refusal, tmp_path, out):
    path = tmp_path / "bad.npy"
    if name == "text":
        path.write_text("0 1 1 0\n")
    elif name == "truncated":
        np.save(path, GOOD)
        truncate(path)
    elif name == "archive":
        with path.open("wb") as file:
            np.savez(file, GOOD)
    refusal(code=REFUSED, masks=path, words=("bad.npy", NO_STACKS[name]))
    assert not out.exists()


def test_a_mask_outside_the_body(refusal, mar, source, tmp_path, out):
    corner = disc(15, 512, -235, -235)[:, :, None].astype(np.uint8)
    np.save(tmp_path / "bad.npy", corner)
    refusal(code=REFUSED, masks=tmp_path / "bad.npy", words=("case0/000, mask 0: ", "outside the body"))
    assert not list(out.rglob("*.h5"))
    np.save(tmp_path / "half.npy", np.concatenate([GOOD, corner], axis=2))
    options = ["--masks", tmp_path / "half.npy", *PLAIN, "--out", tmp_path / "half"]
    code, said, err = mar("simulate", "--source", source, *options)
    assert code == SOME_FAILED
    check_line(err, "failed: case0/000, mask 1: ", ("outside the body",))
    assert "1 pair made" in said
    assert verify(tmp_path / "half").problems == ()


# --- names and numbers ---

USAGE_ERRORS = {
    "preset": (["--preset", "siemens"], ("'siemens'", "syndeeplesion, clinical")),
    "metal": (["--metal", "unobtainium"], ("'unobtainium'", "titanium")),
    "implant kind": (["--masks", "procedural", "--implants", "horn"], ("horn", "electrodes")),
    "implants and stack": (["--implants", "clips"], ("--implants: ", "procedural")),
    "region": (["--source", "phantom:knee"], ("'knee'", "pelvis")),
    "source": (["--source", "/absent/source"], ("/absent/source", "no such file")),
    "part": (["--part", "2/2"], ("--part: got '2/2'", "I/N")),
    "part of nothing": (["--part", "0/0"], ("'0/0'",)),
    "part in words": (["--part", "first"], ("'first'", "0/4")),
    "negative part": (["--part=-1/2"], ("'-1/2'",)),
    "workers": (["--workers", "-1"], ("--workers: got -1",)),
    "workers in words": (["--workers", "many"], ("--workers: expected a whole number", "many")),
    "no photons": (("--photons", "0"), ("--photons: got 0", "more than 0")),
    "negative scatter": (("--scatter-counts", "-1"), ("--scatter-counts: got -1", "0 or more")),
    "anode angle of 0": (("--kvp", "120", "--anode-angle-deg", "0"), ("0.0 degrees", "1..45")),
    "filters without kvp": (("--filters", "Al:2"), ("--filters", "--kvp")),
    "masks per slice": (["--masks-per-slice", "0"], ("--masks-per-slice: got 0",)),
    "too many masks": (["--masks-per-slice", "3"], ("--masks-per-slice: got 3", "2 masks")),
    "slices": (["--slices", "0"], ("0 slices",)),
    "seed": (["--seed", "-1"], ("seed", "-1")),
    "compression": (["--compression", "12"], ("--compression: got 12",)),
    "split": (["--split", "validation"], ("--split", "train | test")),
    "device": (["--device", "tpu"], ("--device", "auto | cpu | cuda")),
    "kvp": (["--kvp", "5"], ("5", "kVp")),
    "filters": (["--kvp", "100", "--filters", "lead"], ("'lead'", "ELEMENT:MM")),
    "option": (["--mask", "a.npy"], ("--mask",)),
}


@pytest.mark.parametrize("name", USAGE_ERRORS)
def test_what_cannot_be_asked_for(name, refusal, out):
    more, words = USAGE_ERRORS[name]
    refusal(*more, code=USAGE, words=words)
    assert not out.exists()


def test_no_out_and_no_command(mar):
    for arguments, word in ((["simulate"], "out"), ([], "simulate"), (["simulat"], "'simulat'")):
        code, said, err = mar(*arguments)
        assert (code, said) == (USAGE, "")
        check_line(err, "mar: error: ", (word,))


YAML = {
    "unknown key": ("maskz: a.npy\n", ("maskz",)),
    "wrong type": ("workers: many\n", ("--workers: expected a whole number", "many")),
    "list for a number": ("seed: [1, 2]\n", ("--seed: expected a whole number",)),
    "not a mapping": ("- 1\n- 2\n", ()),
    "broken": ("seed: [1\n", ()),
    "a key twice": ("seed: 1\nsource: phantom\nseed: 2\n", ("run.yaml: seed stands in line 1 and again in line 3",)),
    "a key twice in a section": ("a:\n  b: 1\n  b: 2\n", ("b stands in line 2 and again in line 3",)),
    "an anchor within itself": ("seed: &a [*a]\n", ()),
}


@pytest.mark.parametrize("name", YAML)
def test_bad_yaml(name, refusal, tmp_path, out):
    text, words = YAML[name]
    (tmp_path / "run.yaml").write_text(text)
    refusal("--settings", tmp_path / "run.yaml", code=USAGE, words=words)
    assert not out.exists()


def test_absent_yaml(refusal, tmp_path):
    refusal("--settings", tmp_path / "absent.yaml", code=USAGE, words=("absent.yaml",))


SPECTRA = {
    "words": ("energy,photons\n20,1\nthirty,2\n", ("line 3", "thirty")),
    "one column": ("20\n30\n", ("line 2",)),
    "no numbers": ("energy,photons\n", ("no line with two numbers",)),
    "empty": ("", ("no line with two numbers",)),
    "negative": ("20,1\n30,-1\n40,2\n", ("spectrum",)),
    "NaN": ("20,1\n30,nan\n40,2\n", ("spectrum",)),
    "zeros": ("20,0\n30,0\n", ("spectrum",)),
    "descending": ("40,1\n30,1\n20,2\n", ("spectrum",)),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_a_bad_spectrum(name, refusal, tmp_path, out):
    text, words = SPECTRA[name]
    (tmp_path / "tube.csv").write_text(text)
    refusal("--spectrum", tmp_path / "tube.csv", code=REFUSED, words=words)
    assert not out.exists()


def test_an_absent_spectrum_and_one_too_many(refusal, tmp_path):
    refusal("--spectrum", tmp_path / "absent.csv", code=REFUSED, words=("absent.csv", "no such file"))
    refusal("--spectrum", tmp_path / "absent.csv", "--kvp", 100, code=USAGE, words=("both",))


# --- where the set should go ---


def test_out_is_a_file_or_below_one(refusal, tmp_path):
    (tmp_path / "file").write_text("mine")
    refusal(code=UNWRITABLE, out=tmp_path / "file", words=(f"{tmp_path / 'file'}: is a file; --out needs a folder",))
    below = tmp_path / "file" / "below"
    refusal(code=UNWRITABLE, out=below, words=(f"{below}: cannot be written (Not a directory)", "another --out"))
    assert (tmp_path / "file").read_text() == "mine"


def test_out_where_the_system_allows_none(refusal):
    out = Path("/proc/self/mar")
    refusal(code=UNWRITABLE, out=out, words=(f"{out}: cannot be written (", "choose another --out"))


@pytest.fixture
def mount(tmp_path):
    """Mounts a file system on a new folder, where the machine allows it."""
    mounted = []

    def run(*arguments):
        folder = tmp_path / "mounted"
        folder.mkdir(exist_ok=True)
        program = shutil.which("mount")
        if os.geteuid() or not program:
            pytest.skip("mounting needs root")
        done = subprocess.run([program, *arguments, str(folder)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"this machine does not let us mount: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield run
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=False)


@pytest.mark.parametrize("name", ["", "below"])
def test_out_is_read_only(refusal, mount, name):
    out = mount("-t", "tmpfs", "-o", "size=1m,ro", "none") / name
    refusal(code=UNWRITABLE, out=out, words=(f"{out}: cannot be written (Read-only file system)",))


def run_apart(*arguments):
    command = [sys.executable, "-c", PROGRAM, "-q", "simulate", *PLAIN, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_a_full_disk(mount, tmp_path):
    """Room for gt.h5 (53 kB) and not for the pair; the slice is the first, so there is nothing to list."""
    folder = mount("-t", "tmpfs", "-o", "size=80k", "none")
    done = run_apart("--source", "phantom:head", "--slices", 1, "--masks-per-slice", 1, "--out", folder / "set")
    assert done.returncode == UNWRITABLE
    check_line(done.stderr, "mar: error: ", ("/000/0.h5: No space left on device",))
    assert nothing_half_written(folder / "set")


def test_a_disk_that_is_full_when_the_mask_stack_is_written(mount, source, masks):
    """Room for the slice (260 kB) and not for the stack of two masks (512 kB)."""
    folder = mount("-t", "tmpfs", "-o", "size=400k", "none")
    done = run_apart("--source", source, "--masks", masks, "--out", folder / "set")
    assert done.returncode == UNWRITABLE
    check_line(done.stderr, "mar: error: ", ("trainmask.npy: No space left on device",))
    assert not list(folder.rglob("*.partial"))


def set_bytes(root):
    files = (path for path in root.rglob("*") if path.is_file() and path.name[0] != "." and path.name != "report.json")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_a_disk_that_fills_at_any_flush(refusal, mar, source, masks, tmp_path, out, monkeypatch):
    """Whichever file is the first not to fit; with room again the same command makes the same set."""
    fsync, calls = os.fsync, []
    options = ["simulate", "--source", source, "--masks", masks, *PLAIN, "--out"]

    def full_from(call):
        def full(descriptor):
            calls.append(descriptor)
            if len(calls) > call:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(descriptor)

        calls.clear()
        return full

    monkeypatch.setattr(os, "fsync", full_from(1000))
    assert mar(*options, tmp_path / "straight")[0] == 0
    order = ["_manifest.json", "/gt.h5", "/0.h5", "/1.h5", "/case.json"]
    order += ["mask.npy", "_dir.txt", "_manifest.json", "report.json"]
    assert len(calls) == len(order)
    for call, name in enumerate(order):
        part = tmp_path / f"set{call}"
        monkeypatch.setattr(os, "fsync", full_from(call))
        code, said, err = mar(*options, part)
        assert (code, said) == (UNWRITABLE, ""), call
        check_line(err, "mar: error: ", (str(part), f"{name}: No space left on device"))
        assert len(calls) == call + 1  # no listing is tried where a slice could not be written
        assert not list(part.rglob("*.partial"))
        monkeypatch.setattr(os, "fsync", fsync)
        assert mar(*options, part)[0] == 0
        assert set_bytes(part) == set_bytes(tmp_path / "straight")


# --- the other commands ---


def test_verify_of_what_is_no_set(mar, tmp_path):
    (tmp_path / "file").write_text("")
    reasons = {".": "no train or test set in it", "absent": "no such folder", "file": "is a file"}
    for name, reason in reasons.items():
        code, said, err = mar("verify", tmp_path / name)
        assert (code, said) == (REFUSED, "")
        check_line(err, "mar: error: ", (f"{tmp_path / name}: {reason}; expected what mar simulate wrote",))


def test_evaluate_of_what_is_no_set_or_no_method(mar, tmp_path, source):
    for data, methods in ((tmp_path / "absent", ["li"]), (tmp_path, ["li"]), (source, ["magic"])):
        code, said, err = mar("evaluate", "--data", data, "--methods", *methods, "--out", tmp_path / "scores")
        assert (code in (REFUSED, USAGE), said) == (True, "")
        check_line(err, "mar: error: ", ())


def test_the_installed_program_shows_no_traceback(tmp_path):
    """Once from the shell's side: the real process, its exit code and its standard error."""
    command = [
        sys.executable,
        "-m",
        "mar_pipeline",
        "simulate",
        "--metal",
        "unobtainium",
        "--out",
        str(tmp_path / "set"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (USAGE, "")
    check_line(done.stderr, "mar: error: ", ("unobtainium",))
