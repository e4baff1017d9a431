"""A dry run says what a training would do and leaves nothing behind; a validation's line has LI beside the network."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from training_set import write_settings, write_training_set

from mar_pipeline.commands.train import plan, train
from mar_pipeline.data import LI, METAL_MASK, TARGET, make_loaders
from mar_pipeline.sample import to_mu
from mar_pipeline.tasks.metrics import score
from mar_pipeline.training.settings import as_plain, read_train_settings
from simulation.errors import InputError

Mar = Callable[..., tuple[int, str, str]]


@pytest.fixture
def data(small_scanner: None, tmp_path: Path) -> Path:
    return write_training_set(tmp_path / "data")


def test_a_dry_run_tells_settings_numbers_and_a_time_and_writes_nothing(data: Path, tmp_path: Path, mar: Mar) -> None:
    file = write_settings(tmp_path / "s.yaml", data)
    before = sorted(tmp_path.rglob("*"))
    code, told, _ = mar("train", f"--settings={file}", f"--run={tmp_path / 'run'}", "--dry-run")
    assert (code, sorted(tmp_path.rglob("*"))) == (0, before)
    settings = read_train_settings([f"--settings={file}", f"--run={tmp_path / 'run'}"])
    assert yaml.safe_load(told) == as_plain(settings)
    planned = plan(settings)
    assert f"# network: {planned.parameters:,} parameters" in told
    assert "# training: 12 steps in 4 epochs, about 0:00:" in told
    assert "# validation: slices 1, pairs 2, batches 2" in told
    assert planned.steps == 12
    assert planned.seconds > 0


def test_a_dry_run_refuses_what_the_training_would(data: Path, tmp_path: Path) -> None:
    file = write_settings(tmp_path / "s.yaml", data)
    with pytest.raises(InputError, match="no such folder"):
        plan(read_train_settings([f"--settings={file}", "--run=r", f"--data.folder={tmp_path / 'absent'}"]))


def test_a_validation_tells_the_score_of_li_beside_the_networks(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_settings(tmp_path / "s.yaml", data, epochs=1)
    settings = read_train_settings([f"--settings={file}", f"--run={tmp_path / 'run'}"])
    with caplog.at_level(logging.INFO, logger="mar_pipeline"):
        train(settings)
    loader = make_loaders(settings.data, 0).validation
    images = [{name: own[0, 0].numpy() for name, own in batch.items()} for batch in loader]
    li = np.mean([score(to_mu(own[LI]), to_mu(own[TARGET]), own[METAL_MASK] > 0)["psnr"] for own in images])
    assert f" dB (LI {li:.2f} dB)" in caplog.text
