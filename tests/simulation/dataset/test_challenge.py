"""Cases of the CT-MAR challenge become a data set: what is in it, in common units, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from mar_pipeline import PairDataset
from mar_pipeline.cli import main
from simulation import Simulator, verify
from simulation.dataset.reader import read_pair
from simulation.errors import InputError
from simulation.units import MU_WATER_PER_CM, hu_to_mu

SIDE_MM = 400.0


def write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values.astype("<f4").tofile(path)


@pytest.fixture(scope="module")
def challenge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One body with a steel rod as our own `ctmar` scans it, in the challenge's files."""
    root = tmp_path_factory.mktemp("challenge")
    x, y = np.meshgrid(*[(np.arange(512) - 255.5) * SIDE_MM / 512] * 2, indexing="ij")
    body = np.where(np.hypot(x, 0.8 * y) < 110, MU_WATER_PER_CM, 0).astype(np.float32)
    metal = np.hypot(x - 20, y + 40) < 6
    simulator, rng = Simulator("ctmar", "cpu", metal="steel"), np.random.default_rng(0)
    sinogram, image = simulator.clean(body, rng)
    sample = simulator.simulate(body, metal, rng)
    for part, what, one, lines in (
        ("Target", "nometal", image / 0.2 * 1000 - 1000, sinogram),
        ("Baseline", "metalart", sample.ma_CT / 0.2 * 1000 - 1000, sample.ma_sinogram),
        ("Mask", "metalonlymask", metal, sample.metal_trace),
    ):
        write(root / "body1" / part / f"training_body_{what}_img4_512x512x1.raw", one)
        write(root / "body1" / part / f"training_body_{what}_sino4_900x1000.raw", lines)
    return root


@pytest.fixture(scope="module")
def converted(challenge: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("set") / "set"
    assert main(["simulate", "--convert", str(challenge), "--out", str(out), "--workers", "1"]) == 0
    return out


def test_a_case_becomes_a_pair_in_common_units(challenge: Path, converted: Path) -> None:
    """Water has 0.192 /cm in images and in line integrals, which the challenge's scanner states as 0.2."""
    pair = read_pair(converted / "train_640geo" / "body1" / "body4" / "0.h5")
    raw = challenge / "body1"
    image_hu = np.fromfile(raw / "Target" / "training_body_nometal_img4_512x512x1.raw", "<f4").reshape(512, 512)
    lines = np.fromfile(raw / "Baseline" / "training_body_metalart_sino4_900x1000.raw", "<f4").reshape(1000, 900)
    np.testing.assert_allclose(pair.poly_CT, hu_to_mu(image_hu), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pair.ma_sinogram, 0.96 * lines, rtol=1e-5)
    assert pair.image.min() == 0 and pair.metal_trace.any()
    seen = slice(200, 312), slice(300, 380)
    assert float(pair.poly_CT[seen].mean()) == pytest.approx(MU_WATER_PER_CM, rel=0.01)
    assert abs(pair.LI_CT[seen] - pair.poly_CT[seen]).mean() < 0.02


def test_the_set_says_its_scanner_and_can_be_checked_and_read(converted: Path) -> None:
    manifest = json.loads((converted / "train_manifest.json").read_text())
    assert manifest["geometry"]["column_offset"] == -1.25 and manifest["geometry"]["detector"] == "arc"
    assert manifest["identity"]["preset"] == "ctmar"
    assert not verify(converted).problems
    sample = PairDataset(converted)[0]
    assert sample["image"].shape == (1, 512, 512) and sample["metal_mask"].any()


def test_what_is_written_and_read_again_is_the_set_that_is_made_at_once(tmp_path: Path) -> None:
    """The same settings in the challenge's layout, converted, and in the community layout: the same pair."""
    common = [
        "--source",
        "phantom:pelvis",
        "--preset",
        "ctmar",
        "--slices",
        "1",
        "--masks-per-slice",
        "2",
        "--seed",
        "3",
    ]
    for layout in ("ctmar", "community"):
        assert main(["simulate", *common, "--layout", layout, "--out", str(tmp_path / layout)]) == 0
    raw = tmp_path / "ctmar" / "body1"
    assert {path.parent.name for path in raw.rglob("*.raw")} == {"Baseline", "Target", "Mask"}
    assert len(list(raw.rglob("*.raw"))) == 12 and len(list(raw.glob("metalinfo*.json"))) == 2
    assert main(["simulate", "--convert", str(tmp_path / "ctmar"), "--out", str(tmp_path / "back")]) == 0
    direct = tmp_path / "community" / "train_640geo"
    for index in (0, 1):
        (made,) = direct.rglob(f"{index}.h5")
        (back,) = (tmp_path / "back" / "train_640geo").rglob(f"{index}.h5")
        one, two = read_pair(made), read_pair(back)
        np.testing.assert_array_equal(two.metal_trace, one.metal_trace)
        for name in ("ma_sinogram", "LI_sinogram", "poly_sinogram", "ma_CT", "poly_CT", "LI_CT"):
            np.testing.assert_allclose(getattr(two, name), getattr(one, name), rtol=2e-5, atol=2e-5, err_msg=name)
    manifest = json.loads((tmp_path / "back" / "train_manifest.json").read_text())
    assert manifest["geometry"]["column_offset"] == -1.25


def test_a_rerun_makes_only_what_is_missing(tmp_path: Path, capsys) -> None:
    command = ["simulate", "--source", "phantom:pelvis", "--preset", "ctmar", "--slices", "1", "--masks-per-slice", "1"]
    command += ["--layout", "ctmar", "--out", str(tmp_path / "set")]
    assert main(command) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*.raw")}
    assert main(command) == 0 and "0 pairs made" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*.raw")} == before
    found = verify(tmp_path / "set")
    assert (found.slices, found.pairs, found.problems) == (1, 1, ())
    with pytest.raises(InputError, match="mar simulate --convert makes a data set of them"):
        PairDataset(tmp_path / "set")
    target = next(path for path in before if "nometal_img" in path.name)
    target.write_bytes(target.read_bytes()[:-4])
    assert any("its bytes are not those" in problem for problem in verify(tmp_path / "set").problems)
    assert main([*command[:-1], str(tmp_path / "other"), "--scanner.views", "500"]) == 2
    assert "--layout ctmar: holds images of" in capsys.readouterr().err


def test_what_cannot_become_a_set_is_refused(challenge: Path, tmp_path: Path, capsys) -> None:
    assert main(["simulate", "--convert", str(challenge), "--layout", "shards", "--out", str(tmp_path / "a")]) == 2
    assert "become a set of the layout community" in capsys.readouterr().err
    shuffled = tmp_path / "in" / "body1"
    for path in sorted((challenge / "body1").rglob("*.raw")):
        values = np.fromfile(path, "<f4")
        if "nometal_sino" in path.name:
            values = values.reshape(1000, 900)[np.random.default_rng(0).permutation(1000)]
        write(shuffled / path.parent.name / path.name, values)
    assert main(["simulate", "--convert", str(tmp_path / "in"), "--out", str(tmp_path / "b")]) == 5
    assert "views and bins in the order of this scan" in capsys.readouterr().err
    head = tmp_path / "in" / "head1" / "Target" / "training_head_nometal_img1_512x512x1.raw"
    write(head, np.zeros((512, 512)))
    assert main(["simulate", "--convert", str(tmp_path / "in"), "--out", str(tmp_path / "b")]) == 2
    assert "body and head cases, which differ in pixel size" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
