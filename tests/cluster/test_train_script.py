"""What `train.sbatch` makes of the end of a training: programs of Slurm are stood in for by scripts."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "train.sbatch"


@pytest.fixture
def ends(tmp_path):
    """Runs the script with a training that does something and a job in a state: exit code, and whether it is queued."""
    run = tmp_path / "run with blanks"
    run.mkdir()

    def end(training, state="RUNNING", before=(), restarts=0):
        for name in before:
            (run / name).write_text("before")
            os.utime(run / name, (1, 1))
        stand_ins = {
            "srun": f'cd "{run}"\n{training}',
            "scontrol": f'[ $1 = show ] && echo node1 || echo "$@" >> "{tmp_path}/told"',
            "squeue": f"echo {state}",
            "sleep": "",
        }
        for name, body in stand_ins.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
            (tmp_path / name).chmod(0o755)
        environment = {
            **os.environ,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "7",
            "SLURM_RESTART_COUNT": str(restarts),
            "SLURM_JOB_NODELIST": "node1",
            "SLURM_JOB_NUM_NODES": "1",
        }
        done = subprocess.run(["bash", SCRIPT, "--run", run], env=environment, capture_output=True, text=True)
        told = tmp_path / "told"
        return done.returncode, told.read_text() if told.exists() else ""

    return end


@pytest.mark.parametrize("code", [0, 1, 143])
def test_a_training_that_is_through_is_a_success_whatever_the_code(ends, code):
    """A signal may come when all is written: torchrun then answers 1."""
    assert ends(f"echo > DONE; exit {code}", before=["DONE"]) == (0, "")


@pytest.mark.parametrize(("code", "told"), [(0, 1), (1, 1), (2, 2)])
def test_one_that_fails_is_not_queued_whatever_lies_there(ends, code, told):
    assert ends(f"exit {code}", before=["DONE", "STOPPED"]) == (told, "")
    assert ends(f"rm STOPPED DONE; exit {code}", before=["DONE", "STOPPED"]) == (told, "")


@pytest.mark.parametrize("before", [[], ["STOPPED"], ["STOPPED", "DONE"]])
def test_one_that_was_stopped_is_queued_again(ends, before):
    assert ends("echo > STOPPED; exit 1", before=before) == (1, "requeue 7\n")


def test_one_that_got_the_signal_before_it_could_note_it_is_queued_again(ends):
    assert ends("exit 143", restarts=9) == (143, "requeue 7\n")


def test_but_not_for_ever(ends):
    assert ends("exit 143", restarts=10) == (143, "")


def test_a_job_that_slurm_queues_itself_or_that_is_cancelled_is_left_to_it(ends):
    assert ends("echo > STOPPED; exit 1", state="COMPLETING") == (1, "")
