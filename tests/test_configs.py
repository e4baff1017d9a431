"""Every file in configs/, alone or on top of another, is a valid run of its command."""

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml
from training_set import write_training_set

from mar_pipeline.commands.compare import CompareSettings, planned
from mar_pipeline.commands.train import train
from mar_pipeline.data import DataSettings
from mar_pipeline.evaluation.settings import EvaluateSettings, check_settings
from mar_pipeline.networks.build import networks_for
from mar_pipeline.options import read_settings
from mar_pipeline.training.settings import TrainSettings, as_plain, flat, read_train_settings
from simulation.dataset.generate import SimulateSettings
from simulation.implants.library import KINDS

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SETTINGS = {
    "compare": CompareSettings,
    "evaluate": EvaluateSettings,
    "simulate": SimulateSettings,
    "train": TrainSettings,
}
SMALL_NETWORKS = {
    "unet": {"width": 4, "poolings": 2},
    "dicdnet": {"stages": 2, "blocks": 1, "maps": 4, "dual_channels": 4},
    "oscnet": {"stages": 2, "blocks": 1, "dual_channels": 4},
    "oscnet_plus": {"stages": 2, "blocks": 1, "dual_channels": 4},
    "acdnet": {"stages": 2, "blocks": 1, "dual_channels": 4},
    "indudonet": {"stages": 2, "blocks": 1, "dual_channels": 4, "prior_width": 4, "prior_poolings": 2},
    "indudonet_plus": {"stages": 2, "blocks": 1, "dual_channels": 4, "prior_width": 4},
    "dudonet": {"sinogram_width": 4, "image_width": 4, "poolings": 2},
    "cnnmar": {"width": 4},
}
REDUCED = {"quick", "indudonet_plus_small", "indudonet_plus_small_eq"}
"""Runs of networks made smaller; all others are the published configurations."""
OVERLAYS = {"base", "eq", "eq_whole"}
"""What networks' files stand on, and what goes on top of them."""
RESOLVED = json.loads(Path(__file__).with_name("resolved_settings.json").read_text())
"""Every shipped combination of settings files -> what it means, by dotted key."""
SECONDARY = {f"{task}{kind}" for task in ("rain", "inpainting", "classification") for kind in ("", "_small", "_quick")}
"""Runs of other tasks, see `tests/mar_pipeline/tasks`."""
FILES = sorted(CONFIGS.glob("*/*.yaml"))
OF_OTHERS = {CONFIGS / "dicom" / "orthanc.json"}
"""Configurations of other programs, with tests of their own."""


def test_every_command_has_a_config():
    assert {path.parent.name for path in FILES} == set(SETTINGS)
    assert {*FILES} | OF_OTHERS == {path for path in CONFIGS.rglob("*") if path.is_file()}


def files_of(command):
    paths = [path for path in FILES if path.parent.name == command]
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.name)


trainings = pytest.mark.parametrize("names", [names for names in RESOLVED if names not in SECONDARY])


def train_files(names):
    return [f"--settings={CONFIGS / 'train' / name}.yaml" for name in names.split()]


def keys(settings_class, **sections):
    """Names of the fields, those of a section with theirs."""
    hints = get_type_hints(settings_class) | sections
    return {
        field.name: keys(hints[field.name]) if dataclasses.is_dataclass(hints[field.name]) else None
        for field in dataclasses.fields(settings_class)
    }


def complete(written, expected):
    """Whether a file has every key of the settings, section by section."""
    return set(written) == set(expected) and all(
        complete(written[name], inner) for name, inner in expected.items() if inner is not None
    )


@pytest.mark.parametrize("names", RESOLVED)
def test_a_shipped_combination_means_what_it_always_did(names):
    settings = read_train_settings(train_files(names))
    assert settings.run == f"runs/train/{names.replace(' ', '_')}"
    now = flat(as_plain(settings))
    assert {key: now[key] for key in RESOLVED[names]} == RESOLVED[names]


def test_the_base_holds_every_key_once():
    written = yaml.safe_load((CONFIGS / "train" / "base.yaml").read_text())
    assert complete(written | {"run": ""}, keys(TrainSettings, data=DataSettings))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_file_says_nothing_that_it_stands_on_says_already(path):
    written = yaml.safe_load(path.read_text())
    if "settings" not in written or path.stem in OVERLAYS:
        return
    command, base = path.parent.name, path.parent / written.pop("settings")
    read = read_train_settings if command == "train" else partial(read_settings, command, SETTINGS[command])
    below, here = (flat(as_plain(read([f"--settings={file}"]))) for file in (base, path))
    said = [key for key in flat(written) if not key.startswith("arms.")]  # the arms are one value
    assert [key for key in said if below[key] == here[key]] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_file_that_stands_on_no_other_is_complete_and_read_as_written(path):
    command, written = path.parent.name, yaml.safe_load(path.read_text())
    if "settings" in written or command == "train":
        return
    assert complete(written, keys(SETTINGS[command]))
    assert as_plain(read_settings(command, SETTINGS[command], [f"--settings={path}"])) == written


@files_of("evaluate")
def test_evaluation_would_start(path):
    check_settings(read_settings("evaluate", EvaluateSettings, [f"--settings={path}"]))


@files_of("simulate")
@pytest.mark.filterwarnings("ignore:.*nested:UserWarning")
def test_simulation_would_start(path, tmp_path, monkeypatch):
    """With the phantom in place of the real data, as those who have none would try it."""
    import numpy as np

    from simulation.dataset.generate import generate

    settings = read_settings("simulate", SimulateSettings, [f"--settings={path}"])
    np.save(tmp_path / "masks.npy", np.ones((512, 512, settings.masks_per_slice), np.uint8))
    masks = settings.masks if settings.masks == "procedural" else str(tmp_path / "masks.npy")
    plan = dataclasses.replace(
        settings, source="phantom", slices=2, masks=masks, out=str(tmp_path / "out"), dry_run=True
    )
    report = generate(plan)
    assert report["counts"] == {"slices": 2, "pairs": 2 * settings.masks_per_slice}
    assert not (tmp_path / "out").exists()
    assert set(settings.implants or ()) <= set(KINDS)


@trainings
def test_training_runs_one_step(names, small_scanner, tmp_path):
    """With the network made small and two crops a batch, on a data set made here."""
    data = write_training_set(tmp_path / "data")
    meant = read_train_settings(train_files(names))
    assert meant.network.arguments == {} or names in REDUCED
    report = train(
        read_train_settings(
            [
                *train_files(names),
                f"--run={tmp_path / 'run'}",
                f"--data.folder={data}",
                f"--network.arguments={json.dumps(SMALL_NETWORKS[meant.network.name])}",
                "--epochs=1",
                "--threads=1",
                "--sample-pictures=0",
                "--data.val_mask_range=null",
                "--data.val_pairs=1",
                "--data.batches_per_epoch=1",
                "--data.batch_size=2",
                f"--data.patch={min(32, meant.data.patch)}",
                "--data.workers=0",
            ]
        )
    )
    assert report.epochs == 1


def test_every_network_has_a_file_and_every_file_a_combination():
    files = {path.stem for path in FILES if path.parent.name == "train"}
    assert files == {*networks_for("mar"), *OVERLAYS, *REDUCED, *SECONDARY}
    assert files - {"base"} == {name for names in RESOLVED for name in names.split()}
    for names in RESOLVED:
        assert read_train_settings(train_files(names)).network.name in networks_for(RESOLVED[names]["task"])


@files_of("compare")
def test_arms_are_trainings(path, tmp_path):
    settings = read_settings("compare", CompareSettings, [f"--settings={path}", f"--out={tmp_path}"])
    base = CONFIGS.parent / settings.base
    runs = planned(dataclasses.replace(settings, base=str(base)))
    assert len(runs) == len(settings.arms) * len(settings.seeds)
    assert not list(tmp_path.iterdir())
