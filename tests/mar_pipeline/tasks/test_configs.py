"""Every configuration of a secondary task is complete, and trains; so does every arm of its comparison."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mar_pipeline.commands.compare import CompareSettings
from mar_pipeline.commands.train import train
from mar_pipeline.options import read_settings
from mar_pipeline.tasks.catalogue import TESTS
from mar_pipeline.tasks.classification.settings import DIGITS
from mar_pipeline.tasks.inpainting.settings import EMBEDDED
from mar_pipeline.tasks.rain.synthesis import RAINS
from mar_pipeline.training.settings import OptimizerSettings, read_train_settings

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
FILES = {path.stem: path for task in TESTS for path in sorted((CONFIGS / "train").glob(f"{task}*.yaml"))}


def comparison(task: str) -> CompareSettings:
    return read_settings("compare", CompareSettings, [f"--settings={CONFIGS / 'compare' / task}.yaml"])


COMPARED = {(task, arm): changes for task in TESTS for arm, changes in comparison(task).arms.items()}
RNG = np.random.default_rng(0)

TINY = {
    "rain": {"network.arguments": "{stages: 2, blocks: 1, maps: 4, dual_channels: 4, kernel_size: 3}"},
    "inpainting": {"network.arguments": "{width: 4, levels: 2}", "data.image_size": 32},
    "classification": {"network.arguments": "{groups: 1}", "data.train_images": 8, "data.val_images": 4},
}
SMALL = {"epochs": 1, "optimizer.milestones": "[]", "threads": 1, "data.batches_per_epoch": 1, "data.workers": 0}
CROPPED = {"data.val_images": 1, "data.patch": 16}


def rain_pairs(folder: Path) -> None:
    for own in ("rain", "norain"):
        (folder / own).mkdir(parents=True)
        for number in range(4):
            pixels = RNG.integers(0, 256, (24, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / own / f"{number}.png")


def images(folder: Path) -> None:
    folder.mkdir()
    for number in range(4):
        Image.fromarray(RNG.integers(0, 256, (40, 44, 3), dtype=np.uint8)).save(folder / f"{number}.png")


def rotated_digits(folder: Path) -> None:
    """A file of 12,000 lines, as MNIST-rot's, of which only the first ones of each part hold something."""
    lines = [""] * 12_000
    for number in [*range(8), *range(10_000, 10_004)]:
        lines[number] = " ".join([*(f"{ink:.3f}" for ink in RNG.random(784)), f"{number % 10}"])
    folder.mkdir()
    (folder / "mnist_all_rotation_normalized_float_train_valid.amat").write_text("\n".join(lines) + "\n")


FOLDERS = {"rain": rain_pairs, "inpainting": images, "classification": rotated_digits}
WITHOUT_FOLDER = {*RAINS, EMBEDDED, DIGITS}


def task_of(name: str) -> str:
    return name.split("_")[0]


def trained_epochs(path: Path, tmp_path: Path, changes: dict[str, object]) -> int:
    task, options = task_of(path.stem), {"run": tmp_path / "run", **SMALL}
    if read_train_settings([f"--settings={path}"]).data.source not in WITHOUT_FOLDER:
        FOLDERS[task](tmp_path / "data")
        options["data.source"] = tmp_path / "data"
    options |= (CROPPED if task != "classification" else {}) | TINY[task] | changes
    words = [f"--{key}={value}" for key, value in options.items()]
    return train(read_train_settings([f"--settings={path}", *words])).epochs


def test_every_task_has_its_configurations() -> None:
    assert set(FILES) == {f"{task}{kind}" for task in TESTS for kind in ("", "_quick", "_small")}
    assert all((arm == "base") == (not changes) for (_, arm), changes in COMPARED.items())


@pytest.mark.parametrize("name", FILES)
def test_each_trains_a_step(name: str, tmp_path: Path) -> None:
    assert trained_epochs(FILES[name], tmp_path, {}) == 1


@pytest.mark.parametrize(("task", "arm"), [own for own, changes in COMPARED.items() if changes])
def test_each_arm_trains_a_step(task: str, arm: str, tmp_path: Path) -> None:
    assert (
        trained_epochs(CONFIGS.parent / comparison(task).base, tmp_path, {"sample_pictures": 0} | COMPARED[task, arm])
        == 1
    )


@pytest.mark.parametrize("name", [name for name in FILES if task_of(name) == "rain"])
def test_rain_compares_no_output_which_rests_on_the_rain_maps(name: str) -> None:
    wanted = read_train_settings([f"--settings={FILES[name]}"]).equivariance
    assert (wanted.output_weight, wanted.weight_space, wanted.layers) == (0, 0, None)


def test_the_published_setting_of_inpainting() -> None:
    settings = read_train_settings([f"--settings={FILES['inpainting']}"])
    assert settings.network.arguments == {}
    assert settings.optimizer == OptimizerSettings(
        lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-8, milestones=(100, 200, 300, 400), gamma=0.1
    )
    assert (settings.epochs, settings.data.batch_size, settings.data.patch) == (500, 1, 0)
    assert (settings.data.crop, settings.data.image_size, settings.data.missing) == (512, 256, 0.3)
    assert settings.data.loss == "robust_equivariant_imaging"
