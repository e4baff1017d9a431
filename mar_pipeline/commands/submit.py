"""`mar submit`: another command of this program as a job of a cluster, by submitit.

The job runs the command as a child. Submitit's signal, which Slurm sends before the time is over, stops the child and
queues the job again; a training and a simulation then go on where they stood.
"""

import argparse
import importlib.util
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from mar_pipeline.commands import run_alone
from mar_pipeline.options import read_settings
from mar_pipeline.runtime.signals import STOP_SIGNALS
from simulation.errors import StoppedError, UsageError

_NOTICE_S = 300
"""Slurm's notice before the time is over: enough for the step that is running and for what is written."""


class Command:
    """What a job calls: a child process with a command of this program.

    Args:
        words: the command line after `mar`.
        processes: above 1, torchrun starts so many.

    Attributes:
        patience_s: how long a child that Slurm has told as well may take to end; a second signal would end torchrun
            before the processes that it started.
    """

    patience_s = 30.0

    def __init__(self, words: list[str], processes: int = 1) -> None:
        self.words, self.processes = words, processes
        self._child = 0

    @property
    def line(self) -> list[str]:
        """Return the command line of the child."""
        if self.processes == 1:
            return [sys.executable, "-m", "mar_pipeline", *self.words]
        options = ["--standalone", f"--nproc-per-node={self.processes}", "--shutdown-timeout=240"]
        options += ["--signals-to-handle=SIGTERM,SIGINT,SIGUSR1,SIGUSR2", "-m", "--"]
        return [sys.executable, "-m", "torch.distributed.run", *options, "mar_pipeline", *self.words]

    def __call__(self) -> None:
        """Run it to its end.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        self._child = os.posix_spawn(sys.executable, self.line, os.environ)
        code = os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])
        # Stopped by a signal that Slurm sent to all: what it wants of the job comes next.
        if code == StoppedError.exit_code or -code in STOP_SIGNALS:
            time.sleep(_NOTICE_S)
        if code:
            raise subprocess.CalledProcessError(code, self.line)

    def checkpoint(self) -> Any:
        """Stop the child on submitit's signal, and return what the job calls when it starts again.

        It interrupts `__call__` while that waits; a `subprocess.Popen` would hold a lock there.
        """
        from submitit.helpers import DelayedSubmission

        patience = time.monotonic() + self.patience_s
        with suppress(ProcessLookupError, ChildProcessError):  # it has ended
            while not os.waitpid(self._child, os.WNOHANG)[0]:
                if time.monotonic() > patience:
                    os.kill(self._child, signal.SIGTERM)
                    os.waitpid(self._child, 0)
                time.sleep(0.1)
        return DelayedSubmission(Command(self.words, self.processes))


def submit(parser: argparse.ArgumentParser, arguments: list[str]) -> list[Any]:
    """Submit what the command line asks for.

    Args:
        parser: without options.
        arguments: the command line after `mar submit`.

    Returns:
        Submitit's jobs; with `--dry-run` the scripts that would be submitted, as text.

    Raises:
        UsageError: a command that cannot be run so, or submitit or Slurm is missing.
    """
    asked = _parsed(parser, arguments)
    if asked.folder.exists() and not asked.folder.is_dir():
        raise UsageError(f"--folder: {asked.folder} is a file; expected a folder for messages")
    commands = _commands(asked)
    if importlib.util.find_spec("submitit") is None:
        raise UsageError("mar submit: needs submitit; install the extra: pip install 'mar-pipeline[cluster]'")
    import submitit

    _check(asked.command)
    parameters = {
        "name": f"mar-{asked.command[0]}",
        "timeout_min": asked.time,
        "cpus_per_task": asked.cpus,
        "gpus_per_node": asked.gpus,
        "mem_gb": asked.memory_gb,
        "slurm_partition": asked.partition,
        "slurm_signal_delay_s": _NOTICE_S,
        "slurm_additional_parameters": {"requeue": True},
    }
    if asked.dry_run:
        return [_script(command, asked, parameters) for command in commands]
    try:
        executor = submitit.AutoExecutor(asked.folder, asked.cluster, slurm_max_num_timeout=asked.restarts)
        executor.update_parameters(**{name: value for name, value in parameters.items() if value is not None})
        return [executor.submit(command) for command in commands]
    except RuntimeError as error:  # submitit's own for no Slurm here, and for what Slurm refuses
        raise UsageError(f"mar submit: {error}; --cluster local runs it on this machine") from error


def _script(command: Command, asked: argparse.Namespace, parameters: dict[str, Any]) -> str:
    """Return what would be submitted: Slurm's script around the command line, or that line alone on this machine."""
    line = shlex.join(command.line)
    if asked.cluster == "local":
        return f"{line}\n"
    from submitit.slurm.slurm import _make_sbatch_string

    names = {
        "name": "job_name",
        "timeout_min": "time",
        "mem_gb": "mem",
        "slurm_partition": "partition",
        "slurm_signal_delay_s": "signal_delay_s",
        "slurm_additional_parameters": "additional_parameters",
    }
    given = {names.get(name, name): value for name, value in parameters.items() if value is not None}
    if "mem" in given:
        given["mem"] = f"{given['mem']:g}GB"
    return str(_make_sbatch_string(command=line, folder=asked.folder, **given))


def _check(words: list[str]) -> None:
    """Refuse here what a training or a simulation would refuse when its job begins.

    Raises:
        UsageError: an unknown option, a wrong type, an impossible value, a file of settings that is not there.
    """
    name, *options = words
    if {"-h", "--help"} & set(options):
        raise UsageError(f"mar submit: got a question for help; ask mar {name} --help")
    if name == "train":
        from mar_pipeline.training.settings import check_settings as check_training
        from mar_pipeline.training.settings import read_train_settings

        check_training(read_train_settings(options))
    elif name == "simulate":
        from simulation.dataset.settings import SimulateSettings
        from simulation.dataset.settings import check_settings as check_simulation

        check_simulation(read_settings("simulate", SimulateSettings, options))


def as_text(jobs: list[Any]) -> str:
    """Return a line for each job: its number, its command and where its messages go; of a dry run the scripts."""
    return "\n".join(
        f"{job}# nothing was submitted"
        if isinstance(job, str)
        else f"job {job.job_id}: mar {shlex.join(job.submission().function.words)}, messages in {job.paths.stderr}"
        for job in jobs
    )


def _parsed(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    add = parser.add_argument
    add("command", nargs=argparse.REMAINDER, help="the command line after mar, such as train --run runs/a")
    add("--cluster", choices=["slurm", "local"], help="local is this machine (default: Slurm where there is one)")
    add("--folder", default="submitted", type=Path, help="for messages and submitit's files (default: submitted)")
    add("--tasks", default=1, type=int, help="jobs of simulate, each with a part of the data set")
    add("--gpus", default=0, type=int, help="GPUs of one node; train starts a process for each")
    add("--processes", type=int, help="processes of train, where they are not as many as GPUs")
    add("--cpus", default=1, type=int, help="cores (default: 1)")
    add("--memory-gb", type=float, help="main memory")
    add("--time", default=60, type=int, help="minutes until it is stopped and queued again (default: 60)")
    add("--restarts", default=10, type=int, help="how often it is queued again for that (default: 10)")
    add("--partition", help="of Slurm")
    add("--dry-run", action="store_true", help="show the script and submit nothing")
    asked = parser.parse_args(arguments)
    asked.command = asked.command[asked.command[:1] == ["--"] :]
    return asked


def _commands(asked: argparse.Namespace) -> list[Command]:
    name, *options = asked.command or [""]
    if name not in ("simulate", "train", "compare", "evaluate", "equivariance", "dicom"):
        raise UsageError(f"mar submit: got {name or 'no command'}, expected a command of mar, such as train")
    for option, number in (("--tasks", asked.tasks), ("--processes", asked.processes), ("--time", asked.time)):
        if number is not None and number < 1:
            raise UsageError(f"{option}: got {number}, expected 1 or more")
    for option, number, command in (("--tasks", asked.tasks, "simulate"), ("--processes", asked.processes, "train")):
        if number not in (None, 1) and name != command:
            raise UsageError(f"{option}: got {number} for mar {name}, but it is for mar {command}")
    if asked.tasks > 1 and any(word.startswith("--part") for word in options):
        raise UsageError("--part: follows from --tasks; leave it out")
    if asked.tasks > 1:
        return [Command([name, f"--part={part}/{asked.tasks}", *options]) for part in range(asked.tasks)]
    return [Command(asked.command, asked.processes or max(1, asked.gpus if name == "train" else 1))]


if __name__ == "__main__":
    run_alone("submit")
