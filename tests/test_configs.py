"""Every file in configs/ is a complete and valid run of its command."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from mar_pipeline.evaluate import EvaluateSettings, check_settings
from mar_pipeline.options import read_settings
from simulation.generate import SimulateSettings
from simulation.implants import KINDS
from simulation.protocols import PROTOCOLS

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SETTINGS = {"evaluate": EvaluateSettings, "simulate": SimulateSettings}
FILES = sorted(CONFIGS.glob("*/*.yaml"))


def test_every_command_has_a_config():
    assert {path.parent.name for path in FILES} == set(SETTINGS)
    assert len(FILES) == sum(path.is_file() for path in CONFIGS.rglob("*"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_config_is_complete_and_read_as_written(path):
    command = path.parent.name
    written = yaml.safe_load(path.read_text())
    assert list(written) == [field.name for field in dataclasses.fields(SETTINGS[command])]
    settings = read_settings(command, SETTINGS[command], [f"--settings={path}"])
    as_lists = {
        name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(settings).items()
    }
    assert as_lists == written
    assert settings.preset in PROTOCOLS


@pytest.mark.parametrize("path", [path for path in FILES if path.parent.name == "evaluate"], ids=lambda path: path.name)
def test_evaluation_would_start(path):
    check_settings(read_settings("evaluate", EvaluateSettings, [f"--settings={path}"]))


@pytest.mark.parametrize("path", [path for path in FILES if path.parent.name == "simulate"], ids=lambda path: path.name)
@pytest.mark.filterwarnings("ignore:.*nested:UserWarning")
def test_simulation_would_start(path, tmp_path, monkeypatch):
    """With the phantom in place of the real data, as those who have none would try it."""
    import numpy as np

    from simulation.generate import generate

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
