"""`mar train`: one run from its settings, or on from where its folder stands."""

import json
import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from mar_pipeline.commands import run_alone
from mar_pipeline.equivariance import EquivarianceRegularizer
from mar_pipeline.networks.own_file import file_of, is_own_file
from mar_pipeline.runtime.processes import cores_share, process_device, processes, refuse_differences, wait_for_all
from mar_pipeline.runtime.signals import noted_signals
from mar_pipeline.tasks.catalogue import TRAININGS
from mar_pipeline.tasks.task import Task, TaskContext
from mar_pipeline.training.engines import Engines, seed_epoch
from mar_pipeline.training.plan import TrainPlan, plan_training
from mar_pipeline.training.precision import autocast_dtype
from mar_pipeline.training.progress import TrainingProgress, score_text
from mar_pipeline.training.regularization import make_regularizer
from mar_pipeline.training.run_folder import RunFolder
from mar_pipeline.training.settings import TrainSettings, as_plain, check_settings
from mar_pipeline.training.state import TrainingState
from simulation.errors import InputError, LimitError, StoppedError, UsageError
from simulation.files import sha256_of, sha256_of_text, whole_file, write_json
from simulation.physics.projector_cpu import usable_cores
from simulation.provenance import library_versions

logger = logging.getLogger(__name__)

_FUTILE_STOPS = 3
"""So many in the same epoch say that it does not fit into the time that the run is given."""


@dataclass(frozen=True)
class TrainReport:
    """What `train` did.

    Args:
        epochs: that the run has now.
        resumed_from: epochs it had before.
        score: name of what decides which weights are the best.
        best_score: of the validation; None if there was none.
        best_epoch: where it was reached.
        run: the folder.
    """

    epochs: int
    resumed_from: int
    score: str
    best_score: float | None
    best_epoch: int
    run: Path

    @property
    def summary(self) -> str:
        """Return one line for people."""
        best = "not validated yet"
        if self.best_score is not None:
            best = f"best validation {score_text(self.score, self.best_score)} in epoch {self.best_epoch}"
        return f"{self.run}: {self.epochs} epochs ({self.epochs - self.resumed_from} now), {best}"


def train(settings: TrainSettings) -> TrainReport:
    """Train to the settings' last epoch, from where the run folder stands.

    Every epoch ends with a checkpoint and draws from (seed, epoch, rank) alone, so that on the CPU a resumed run equals
    a straight one bit for bit. Of several processes (see `processes.joined`) the leading one alone writes.

    Args:
        settings: everything that decides the run.

    Raises:
        UsageError: impossible settings, or a folder that other settings started.
        InputError: the data cannot be used, the loss is not finite or diverges, memory does not suffice.
        ResourceError: the folder cannot be written, or holds something else.
        LimitError: it was stopped too often in the same epoch.
        StoppedError: SIGTERM or SIGUSR1 came; the same call repeats the epoch that was running and goes on.

    Example:
        >>> import tempfile
        >>> from mar_pipeline.training.settings import read_train_settings
        >>> options = ["--task=classification", "--network.name=cnn", "--network.arguments={groups: 2}", "--epochs=1"]
        >>> options += ["--data.train_images=36", "--data.val_images=36", "--data.batch_size=4", "--device=cpu"]
        >>> report = train(read_train_settings([*options, f"--run={tempfile.mkdtemp()}/run"]))
        >>> report.epochs, report.best_epoch
        (1, 1)
    """
    check_settings(settings)
    started, own = time.monotonic(), processes()
    device = process_device(settings.device)
    torch.set_num_threads(settings.threads or cores_share(usable_cores()))
    logging.getLogger("ignite").setLevel(logging.CRITICAL)  # an error reaches the user as one line of our own
    folder = RunFolder(Path(settings.run))
    with noted_signals() as asked_to_stop:
        task = _make_task(settings, device)
        regularizer = make_regularizer(task.network, settings.equivariance)
        with folder.opened(settings) if own.leads else nullcontext():
            wait_for_all()
            place = {"precision": _precision(settings, task, device), "data": _data(task)}
            place |= _network_file(settings.network.name)
            state = TrainingState(task.network.to(device), settings, folder, task.facts, place)
            before = state.epoch
            dtype = autocast_dtype(state.place["precision"], device)
            refuse_differences({**state.place, "epoch of the checkpoint": before})
            if own.leads:
                folder.keep(settings)
            if before > settings.epochs:
                logger.warning("train: %s has %d epochs already, --epochs is %d", folder.root, before, settings.epochs)
            if before < settings.epochs:
                _run(task, state, regularizer, dtype, asked_to_stop)
            best = state.best_score if state.best_epoch else None
            report = TrainReport(state.epoch, before, task.scores[0], best, state.best_epoch, folder.root)
            if own.leads:
                _write_report(report, state, task, dtype, time.monotonic() - started)
                with whole_file(folder.done) as partial:
                    partial.write_text(f"{state.epoch} epochs\n")
    return report


def plan(settings: TrainSettings) -> TrainPlan:
    """Say what `train` would do, and for how long, from a short trial; nothing is written.

    Args:
        settings: of the run.

    Raises:
        UsageError: impossible settings.
        InputError: the data cannot be used.
    """
    check_settings(settings)
    device = process_device(settings.device)
    torch.set_num_threads(settings.threads or cores_share(usable_cores()))
    task = _make_task(settings, device)
    regularizer = make_regularizer(task.network, settings.equivariance)
    task.network.to(device)
    return plan_training(settings, task, regularizer, autocast_dtype(_precision(settings, task, device), device))


def _make_task(settings: TrainSettings, device: torch.device) -> Task:
    """Make the task, with the same fresh weights in every process."""
    seed_epoch(settings.seed, 0)
    network, own = settings.network, processes()
    make = TRAININGS[settings.task].make
    return make(
        TaskContext(network.name, network.arguments, settings.data, settings.seed, device.type, own.rank, own.world)
    )


def _network_file(name: str) -> dict[str, str]:
    """Return what a run stands on whose network is in a file of the user's own."""
    return {"network's file": f"{file_of(name).name}, SHA-256 {sha256_of(file_of(name))}"} if is_own_file(name) else {}


def _precision(settings: TrainSettings, task: Task, device: torch.device) -> str:
    """Return the precision asked for; where it is left open what the device has, or float32 where the loss needs it."""
    if task.full_precision and settings.precision == "bfloat16":
        raise UsageError("--precision: got bfloat16, which this loss cannot bear; give float32 or auto")
    if task.full_precision or autocast_dtype(settings.precision, device) is None:
        return "float32"
    return "bfloat16"


def _data(task: Task) -> str:
    """Return what is trained on and validated with, in words."""
    train, validation = (
        " ".join(f"{name} {value}" for name, value in loader.dataset.facts().items() if name != "left_out")
        for loader in task.loaders
    )
    return f"{train}, to validate {validation}"


def _run(
    task: Task,
    state: TrainingState,
    regularizer: EquivarianceRegularizer | None,
    dtype: torch.dtype | None,
    asked_to_stop: Callable[[], str],
) -> None:
    leads, folder = processes().leads, state.folder
    stop_before: dict[str, Any] = {}
    if leads:
        folder.done.unlink(missing_ok=True)
        stop_before = folder.take_stop()
    try:
        _train_epochs(task, state, regularizer, dtype, asked_to_stop)
    except StoppedError:
        if leads:
            _note_stop(state, stop_before)
        raise


def _train_epochs(
    task: Task,
    state: TrainingState,
    regularizer: EquivarianceRegularizer | None,
    dtype: torch.dtype | None,
    asked_to_stop: Callable[[], str],
) -> None:
    settings, length, leads = state.settings, len(task.loaders.train), processes().leads
    board, first_step = str(state.folder.tensorboard), state.epoch * length + 1
    try:
        with (
            SummaryWriter(board, purge_step=first_step) if leads else nullcontext() as writer,
            TrainingProgress(settings.epochs, length, state.epoch, leads) as progress,
        ):
            Engines(task, state, regularizer, dtype, progress, writer, asked_to_stop).run()
    except (MemoryError, RuntimeError) as error:
        if what := asked_to_stop():  # it may have ended loaders and other processes before this one looked
            raise state.stopped(what) from error
        remedy = _memory_remedy(error, settings)
        if not remedy:
            raise
        raise InputError(f"train: out of memory: {remedy}") from error


def _note_stop(state: TrainingState, stop_before: dict[str, Any]) -> None:
    """Tell who would start the run again that it goes on, unless it never gets through an epoch.

    Raises:
        LimitError: it was stopped too often in the same epoch.
    """
    times = 1 + (int(stop_before["times"]) if stop_before.get("epoch") == state.epoch else 0)
    if times >= _FUTILE_STOPS:
        raise LimitError(
            f"train: stopped {times} times in a row in epoch {state.epoch + 1}, which begins anew each time; give it "
            "more time, or make epochs shorter with --data.batches_per_epoch"
        )
    state.folder.note_stop({"epoch": state.epoch, "times": times, "at": datetime.now(UTC).isoformat()})


def _memory_remedy(error: Exception, settings: TrainSettings) -> str:
    """Return what to do if memory ran out; empty for other errors. torch's CPU allocator has no class of its own."""
    data = vars(settings.data)
    if "DataLoader worker" in str(error):
        return f"a loader was killed; lower {_options(data, 'workers', 'cache_mb')}"
    kinds = (MemoryError, torch.OutOfMemoryError)
    if not isinstance(error, kinds) and "allocate memory" not in str(error) and "enough memory" not in str(error):
        return ""
    return (
        f"lower {_options(data, 'batch_size', 'patch')}, or, where a validation's whole image was too much, make the "
        "network smaller; then start again with --allow-changed-settings"
    )


def _options(data: dict[str, Any], *names: str) -> str:
    """Return those options that the task's data have, with their values."""
    return " or ".join(f"--data.{name} ({data[name]})" for name in names if name in data)


def _write_report(
    report: TrainReport, state: TrainingState, task: Task, dtype: torch.dtype | None, seconds: float
) -> None:
    settings, folder = as_plain(state.settings), state.folder
    parameters = list(state.network.parameters())
    written = (folder.settings, folder.best, folder.last, folder.metrics)
    write_json(
        folder.report,
        {
            "command": "train",
            "versions": library_versions(),
            "settings": settings,
            "settings_sha256": sha256_of_text(json.dumps(settings, sort_keys=True)),
            "device": str(parameters[0].device),
            "precision": "float32" if dtype is None else "bfloat16",
            "processes": processes().world,
            "threads": torch.get_num_threads(),
            "seed": state.settings.seed,
            "parameters": sum(parameter.numel() for parameter in parameters),
            "counts": {"epochs": report.epochs, "resumed_from": report.resumed_from},
            "data": task.loaders.facts(),
            "seconds": round(seconds, 1),
            "best": _best(report, folder),
            "outputs": [str(path.relative_to(folder.root)) for path in written],
        },
    )


def _best(report: TrainReport, folder: RunFolder) -> dict[str, float | int | str] | None:
    if report.best_score is None:
        return None
    return {report.score: report.best_score, "epoch": report.best_epoch, "sha256": sha256_of(folder.best)}


if __name__ == "__main__":
    run_alone("train")
