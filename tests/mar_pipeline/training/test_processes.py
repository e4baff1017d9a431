"""Training in several processes: the same as in one, resumed as if it had not stopped, and ended as one."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mar_pipeline.commands.train import train
from mar_pipeline.training.settings import read_train_settings
from mar_pipeline.weights.files import load_weights
from simulation.errors import UsageError
from simulation.physics.projector_cpu import usable_cores

WORLD = 3
HELPER = Path(__file__).resolve().parents[2] / "helpers" / "training_process.py"

COMMON = (
    "--task=classification", "--data.train_images=36", "--data.val_images=155", "--device=cpu", "--precision=float32",
    "--threads=1",
)  # fmt: skip
TWO = "--epochs=2"
WITHOUT_NORMS = (
    "--network.name=monai.networks.nets.Classifier",
    "--network.arguments={in_shape: [1, 16, 16], classes: 10, channels: [4, 8], strides: [2, 2], norm: null}",
    "--equivariance.enabled", "--equivariance.output_weight=1", "--equivariance.batch_fraction=1",
    "--optimizer.clip_norm=1", "--optimizer.ema_decay=0.9",
)  # fmt: skip
WITH_NORMS = ("--network.name=cnn", "--network.arguments={groups: 2}", "--data.batch_size=4")


def torchrun(world, *arguments):
    """What `torchrun` answers, and what was said."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}", "--"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, HELPER, *arguments], env=environment, capture_output=True, text=True, timeout=180)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs of three processes: `shared`; `straight` of two epochs; `halves`, of one epoch and then one more."""
    root = tmp_path_factory.mktemp("runs")
    runs = [
        [*COMMON, TWO, *WITHOUT_NORMS, "--data.batch_size=4", f"--run={root / 'shared'}"],
        [*COMMON, TWO, *WITH_NORMS, f"--run={root / 'straight'}"],
        [*COMMON, *WITH_NORMS, f"--run={root / 'halves'}", "--epochs=1"],
        [*COMMON, TWO, *WITH_NORMS, f"--run={root / 'halves'}"],
    ]
    (root / "runs.json").write_text(json.dumps(runs))
    code, said = torchrun(WORLD, "runs", root / "runs.json")
    assert code == 0, said
    return root


def last(run):
    return torch.load(run / "checkpoints" / "last.pt", weights_only=True)


def rows(run):
    with (run / "metrics.csv").open() as file:
        read = list(csv.DictReader(file))
    return [{key: float(value) for key, value in row.items() if "seconds" not in key} for row in read]


def test_three_processes_learn_what_one_with_their_batch_learns(folder, tmp_path):
    """Weights, EMA, EQ-Reg, clipping, and means over all that is validated, of which the ranks have unequal parts."""
    alone = tmp_path / "alone"
    train(read_train_settings([*COMMON, TWO, *WITHOUT_NORMS, "--data.batch_size=12", f"--run={alone}"]))
    expected, found = last(alone), last(folder / "shared")
    for state in ("network", "ema"):
        assert expected[state].keys() == found[state].keys()
        for name, own in expected[state].items():
            torch.testing.assert_close(found[state][name], own, rtol=1e-4, atol=1e-6)
    for own, other in zip(rows(alone), rows(folder / "shared"), strict=True):
        assert other == pytest.approx(own, rel=1e-5)
    files = {
        path.relative_to(folder / "shared") for path in (folder / "shared").rglob("*") if "events" not in path.name
    }
    assert files == {path.relative_to(alone) for path in alone.rglob("*") if "events" not in path.name}
    assert len(list((folder / "shared" / "tensorboard").iterdir())) == 1


def test_all_processes_have_the_same_weights_and_statistics(folder):
    first, *others = (torch.load(folder / f"straight.{rank}.pt", weights_only=True) for rank in range(WORLD))
    assert any(name.endswith("running_var") for name in first)
    for other in others:
        assert all(torch.equal(own, other[name]) for name, own in first.items())


def test_one_and_one_epochs_are_two(folder):
    straight, halves = last(folder / "straight"), last(folder / "halves")
    for name, own in straight["network"].items():
        assert torch.equal(own, halves["network"][name]), name
    assert rows(folder / "straight") == rows(folder / "halves")
    weights = [load_weights(folder / run / "checkpoints" / "best.safetensors")[0] for run in ("straight", "halves")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_another_number_of_processes_is_refused(folder, tmp_path):
    settings = [*COMMON, *WITH_NORMS, f"--run={folder / 'straight'}", "--epochs=3"]
    with pytest.raises(UsageError, match=r"3 processes were training, now 1, .* --allow-changed-settings"):
        train(read_train_settings(settings))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("error", "digits: broken"),
        ("killed", "another process of this training ended|train: stopped by SIGTERM"),  # torchrun's, if it is earlier
        ("differs", "the processes of this training differ in the data: 36 images / 37 images; "),
    ],
)
def test_an_error_in_one_process_ends_all_with_one_message(tmp_path, how, message):
    run = tmp_path / "run"
    code, said = torchrun(2, "fails", how, *COMMON, TWO, *WITH_NORMS, f"--run={run}")
    assert code == 1, said  # torchrun's
    assert len(re.findall(f"mar: error: ({message})", said)) == said.count("mar: error:") == 1, said
    assert "[rank" not in said  # no process tells a traceback
    assert not (run / "DONE").exists()


def test_a_signal_to_one_process_stops_all(tmp_path):
    """With that: each draws random numbers of its own, and takes its share of the cores."""
    run = tmp_path / "run"
    settings = [word for word in (*COMMON, TWO, *WITH_NORMS) if "threads" not in word]
    code, said = torchrun(2, "fails", "signalled", *settings, f"--run={run}")
    assert code == 1, said
    told = "mar: error: train: stopped by a signal to another process"  # by the leading one, which got none
    assert said.count(told) == said.count("mar: error:") == 1, said
    assert (run / "STOPPED").exists()
    told = re.findall(r"seed (\d+), threads (\d+)", said)
    assert len({seed for seed, _ in told}) == 2
    assert {int(threads) for _, threads in told} == {max(1, usable_cores() // 2)}
