"""The batch scripts under a real Slurm: an array that simulates, a training that is preempted, one that fails."""

import csv
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from slurm import PROGRAMS, running, until

from simulation.files import sha256_of

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

SIMULATED = ("--source=phantom", "--slices=4", "--masks-per-slice=1", "--metal=titanium")
SHARDS = ("--layout=shards", "--slices-per-shard=1", "--store=both")

TRAINED = (
    "--task=classification", "--network.name=cnn", "--network.arguments={groups: 2}", "--data.train_images=60",
    "--data.val_images=100", "--data.batch_size=10", "--data.batches_per_epoch=40", "--epochs=4", "--device=cpu",
    "--precision=float32", "--threads=1", "--sample_pictures=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def slurm(tool, tmp_path_factory):
    for program in PROGRAMS:
        tool(program)
    if os.geteuid() != 0:
        end = pytest.fail if "tools" in os.environ.get("MAR_REQUIRE", "") else pytest.skip
        end("only root can start Slurm")
    with running(tmp_path_factory.mktemp("slurm"), str(Path(sys.executable).parent)) as cluster:
        yield cluster


@pytest.fixture
def submit(slurm, tmp_path):
    """Submits a script from the test's folder: the job's number."""

    def submit(options, script, *arguments, processes=1):
        return slurm.sbatch(
            "--chdir", tmp_path, "--output", tmp_path / "%j-%a.log", "--export", f"ALL,PROCESSES={processes}", *options,
            SCRIPTS / script, *arguments,
        )  # fmt: skip

    return submit


def logs(folder):
    return "".join(path.read_text() for path in sorted(folder.glob("*.log")))


def hashes(folder):
    """Of all samples, and of the manifest, which holds hashes of its own."""
    kept = [path for path in folder.rglob("*") if path.suffix in (".h5", ".npy", ".npz", ".txt")]
    assert len(kept) >= 4
    manifest = json.loads((folder / "train_manifest.json").read_text())
    return {str(path.relative_to(folder)): sha256_of(path) for path in kept}, manifest


@pytest.mark.parametrize(
    ("layout", "begun"), [((), ".simulate-2-of-4.lock"), (SHARDS, "train_shards/shard_00002.*.partial")]
)
def test_an_array_with_a_killed_task_run_again_makes_what_one_process_makes(
    slurm, submit, tmp_path, mar, layout, begun
):
    arguments = ["simulate.sbatch", *SIMULATED, *layout, "--out=parts"]
    first = submit(["--array=0-3"], *arguments)
    until(lambda: list((tmp_path / "parts").glob(begun)), "the third task to write", 60, slurm.describe)
    slurm.call("scancel", "--full", "--signal=KILL", f"{first}_2")
    code, _, error = mar("simulate", *SIMULATED, *layout, f"--out={tmp_path / 'whole'}")
    assert code == 0, error
    assert sorted(state == "COMPLETED" for state in slurm.wait(first)) == [False, True, True, True], logs(tmp_path)
    assert not (tmp_path / "parts" / "train_shards" / "shard_00002.h5").exists()  # ended in the middle of a shard
    assert mar("verify", tmp_path / "parts")[0] == 8

    again = submit(["--array=0-3"], *arguments)
    assert slurm.wait(again) == ["COMPLETED"] * 4, logs(tmp_path)
    assert hashes(tmp_path / "parts") == hashes(tmp_path / "whole")
    code, _, error = mar("verify", tmp_path / "parts")
    assert code == 0, error


def weights(run):
    return torch.load(run / "checkpoints" / "last.pt", weights_only=True)["network"]


def losses(run):
    with (run / "metrics.csv").open() as file:
        return [(row["epoch"], row["loss"], row["task_loss"], row["accuracy"]) for row in csv.DictReader(file)]


def test_a_preempted_training_of_two_processes_ends_as_an_undisturbed_one(slurm, submit, tmp_path):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    arguments = ("train.sbatch", *TRAINED, "--data.workers=1")
    jobs = [submit([], *arguments, f"--run={run.name}", processes=2) for run in (straight, stopped)]
    until((stopped / "metrics.csv").exists, "the end of an epoch", 90, lambda: slurm.describe() + logs(tmp_path))
    slurm.call("scancel", "--signal=TERM", jobs[1])
    until(lambda: slurm.restarts(jobs[1]), "the job to be queued again", 60, lambda: logs(tmp_path))
    noted = json.loads((stopped / "STOPPED").read_text())
    assert 0 < noted["epoch"] < 4
    assert not (stopped / "DONE").exists()

    assert [slurm.wait(job) for job in jobs] == [["COMPLETED"], ["COMPLETED"]], logs(tmp_path)
    assert [slurm.restarts(job) for job in jobs] == [0, 1]
    assert f"stopped by SIGTERM after epoch {noted['epoch']}" in logs(tmp_path)
    assert f"resumes stopped after epoch {noted['epoch']}" in logs(tmp_path)
    assert (stopped / "DONE").read_text() == (straight / "DONE").read_text() == "4 epochs\n"
    assert not (stopped / "STOPPED").exists()
    expected, found = weights(straight), weights(stopped)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert losses(straight) == losses(stopped)


def test_a_training_that_fails_is_not_queued_again(slurm, submit, tmp_path, mar):
    """It fails after it has resumed and taken note of the stop before."""
    run = tmp_path / "run"
    shorter = [word for word in TRAINED if not word.startswith(("--epochs", "--data.batches_per_epoch"))]
    code, _, error = mar("train", *shorter, "--epochs=1", "--data.batches_per_epoch=1", f"--run={run}")
    assert code == 0, error
    (run / "STOPPED").write_text("{}")
    hot = ("--allow-changed-settings", "--optimizer.lr=1e38")
    job = submit([], "train.sbatch", *TRAINED, f"--run={run}", *hot, processes=2)
    assert slurm.wait(job) == ["FAILED"], logs(tmp_path)
    assert slurm.restarts(job) == 0
    assert logs(tmp_path).count("mar: error: train: the") == 1
    assert not (run / "STOPPED").exists()
