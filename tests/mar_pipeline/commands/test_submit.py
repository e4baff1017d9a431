"""Jobs: what they run, how they stop, and what cannot be submitted."""

import signal
import sys

import pytest

from mar_pipeline.commands.submit import Command, as_text, submit
from mar_pipeline.options.parser import CommandParser
from simulation.errors import UsageError

DIGITS = ("--task=classification", "--network.name=cnn", "--run=a")


@pytest.fixture
def submitted(tmp_path):
    def submitted(*words):
        parser = CommandParser(prog="mar submit", allow_abbrev=False)
        return submit(parser, ["--cluster=local", f"--folder={tmp_path / 'jobs'}", *words])

    return submitted


def ended(jobs):
    for job in jobs:
        job.wait()
    return jobs


def test_a_job_runs_the_command_and_keeps_what_it_says(submitted, tmp_path):
    jobs = ended(submitted("--tasks=2", "--", "simulate", "--source=phantom", "--out=x", "--dry-run"))
    for part, job in enumerate(jobs):
        assert job.exception() is None
        assert job.stdout().count("would") == 1, job.stdout()
        words = f"mar simulate --part={part}/2 --source=phantom --out=x --dry-run"
        assert as_text([job]) == f"job {job.job_id}: {words}, messages in {job.paths.stderr}"
    assert not (tmp_path / "x").exists()


def test_a_command_that_fails_fails_the_job(submitted):
    (job,) = ended(submitted("evaluate", "--no-such-option"))
    assert "non-zero exit status 2" in str(job.exception())
    assert "mar: error: unknown option --no-such-option" in job.stderr()


def test_a_dry_run_shows_the_script_and_submits_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parser = CommandParser(prog="mar submit", allow_abbrev=False)
    words = ["--gpus=2", "--memory-gb=3", "--partition=fast", "--dry-run", "--", "train", *DIGITS]
    told = as_text(submit(parser, words))
    for line in ("--gpus-per-node=2", "--mem=3GB", "--partition=fast", "--requeue", "--nproc-per-node=2"):
        assert line in told
    assert told.startswith("#!/bin/bash")
    assert told.endswith("# nothing was submitted")
    assert not list(tmp_path.iterdir())


def test_a_dry_run_on_this_machine_shows_the_command_line(submitted, tmp_path):
    (told,) = submitted("--dry-run", "--", "train", *DIGITS)
    assert told == f"{sys.executable} -m mar_pipeline train {' '.join(DIGITS)}\n"
    assert not (tmp_path / "jobs").exists()


class Sleeping(Command):
    """A command whose child would sleep for a minute."""

    patience_s = 0.1
    line = [sys.executable, "-c", "import time; time.sleep(60)"]  # noqa: RUF012


def test_submitits_signal_ends_the_child_and_leaves_the_same_command_to_be_run_again():
    """The signal comes while the job waits for its child, as it does from submitit."""
    command, answers = Sleeping(["train", "--run=a"], 2), []
    before = signal.signal(signal.SIGALRM, lambda *_: answers.append(command.checkpoint()))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(ChildProcessError):  # submitit's handler does not return
            command()
    finally:
        signal.signal(signal.SIGALRM, before)
    (again,) = answers
    assert (again.function.words, again.function.processes) == (["train", "--run=a"], 2)


class Executor:
    """Takes commands and submits nothing."""

    def __init__(self, folder, cluster, **options):
        pass

    def update_parameters(self, **parameters):
        pass

    def submit(self, command):
        return command


@pytest.mark.parametrize(
    ("options", "processes"),
    [(["--gpus=4"], 4), (["--processes=3"], 3), (["--gpus=4", "--processes=1"], 1), ([], 1)],
)
def test_torchrun_starts_a_process_for_each_gpu(monkeypatch, submitted, options, processes):
    monkeypatch.setattr("submitit.AutoExecutor", Executor)
    (command,) = submitted(*options, "--", "train", *DIGITS)
    assert (f"--nproc-per-node={processes}" in command.line) == (processes > 1)
    assert command.line[-5:] == ["mar_pipeline", "train", *DIGITS]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "got no command, expected a command of mar"),
        (["deploy"], "got deploy, expected a command of mar"),
        (["--tasks=2", "train"], "--tasks: got 2 for mar train"),
        (["--tasks=0", "simulate"], "--tasks: got 0, expected 1 or more"),
        (["--time=0", "train"], "--time: got 0, expected 1 or more"),
        (["--processes=2", "simulate"], "--processes: got 2 for mar simulate, but it is for mar train"),
        (["--tasks=2", "--", "simulate", "--out=x", "--part=0/4"], "--part: follows from --tasks"),
        (["--", "train", "--nonsense=3"], "unknown option --nonsense"),
        (["--", "train", "--settings=absent.yaml"], "absent.yaml"),
        (["--", "train", *DIGITS, "--epochs=-1"], "--epochs: got -1"),
        (["--", "simulate", "--sourc=phantom", "--out=x"], "unknown option --sourc"),
        (["--", "simulate", "--out=x", "--masks-per-slice=0"], "--masks-per-slice: got 0"),
        (["--", "simulate", "--help"], "ask mar simulate --help"),
        (["--gpu=2", "train"], "unrecognized arguments: --gpu=2"),
    ],
)
def test_what_cannot_be_submitted_is_refused(submitted, words, message):
    with pytest.raises(UsageError, match=message):
        submitted(*words)


def test_without_submitit_the_extra_is_named(submitted, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UsageError, match=r"install the extra: pip install 'mar-pipeline\[cluster\]'"):
        submitted("train")


def test_without_slurm_it_says_so(mar, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "")
    code, _, error = mar("submit", "--cluster=slurm", f"--folder={tmp_path}", "train", *DIGITS)
    assert code == 2
    assert "--cluster local runs it on this machine" in error
