"""`mar train`: one run from its settings, or on from where its folder stands."""

import json
import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from mar_pipeline.device import torch_device
from mar_pipeline.equivariance import EquivarianceRegularizer
from mar_pipeline.tasks.catalogue import TRAININGS
from mar_pipeline.tasks.task import Task
from mar_pipeline.training.engines import Engines, autocast_dtype, seed_epoch
from mar_pipeline.training.progress import TrainingProgress, score_text
from mar_pipeline.training.regularization import make_regularizer
from mar_pipeline.training.run_folder import RunFolder
from mar_pipeline.training.settings import TrainSettings, as_plain, check_settings
from mar_pipeline.training.state import TrainingState
from simulation.errors import InputError, UsageError
from simulation.files import sha256_of, sha256_of_text, whole_file, write_json
from simulation.projector_cpu import usable_cores
from simulation.provenance import library_versions

logger = logging.getLogger(__name__)


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
        """One line for people."""
        best = "not validated yet"
        if self.best_score is not None:
            best = f"best validation {score_text(self.score, self.best_score)} in epoch {self.best_epoch}"
        return f"{self.run}: {self.epochs} epochs ({self.epochs - self.resumed_from} now), {best}"


def train(settings: TrainSettings) -> TrainReport:
    """Trains to the settings' last epoch, from where the run folder stands.

    Every epoch ends with a checkpoint and draws from (seed, epoch) alone, so that on the CPU a resumed run equals a
    straight one bit for bit.

    Args:
        settings: everything that decides the run.

    Raises:
        UsageError: impossible settings, or a folder that other settings started.
        InputError: the data cannot be used, the loss is not finite or diverges, memory does not suffice.
        OSError: the folder cannot be written.
        StoppedError: SIGTERM came; the same call goes on.
    """
    check_settings(settings)
    started = time.monotonic()
    device = torch_device(settings.device)
    torch.set_num_threads(settings.threads or usable_cores())
    logging.getLogger("ignite").setLevel(logging.CRITICAL)  # an error reaches the user as one line of our own
    seed_epoch(settings.seed, 0)
    network = settings.network
    task = TRAININGS[settings.task].make(network.name, network.arguments, settings.data, settings.seed, device.type)
    regularizer = make_regularizer(task.network, settings.equivariance)
    folder = RunFolder(Path(settings.run))
    with folder.opened(settings):
        state = TrainingState(task.network.to(device), settings, folder, task.facts)
        folder.keep(settings)
        before = state.epoch
        if before > settings.epochs:
            logger.warning("train: %s has %d epochs already, --epochs is %d", folder.root, before, settings.epochs)
        dtype = autocast_dtype(_precision(settings, task), device)
        if before < settings.epochs:
            folder.done.unlink(missing_ok=True)
            _run(task, state, regularizer, dtype)
        best = state.best_score if state.best_epoch else None
        report = TrainReport(state.epoch, before, task.scores[0], best, state.best_epoch, folder.root)
        _write_report(report, state, task, dtype, time.monotonic() - started)
        with whole_file(folder.done) as partial:
            partial.write_text(f"{state.epoch} epochs\n")
    return report


def _precision(settings: TrainSettings, task: Task) -> str:
    """What the settings ask for, float32 where the loss needs it and they leave it open."""
    if task.full_precision and settings.precision == "bfloat16":
        raise UsageError("--precision: got bfloat16, which this loss cannot bear; give float32 or auto")
    return "float32" if task.full_precision else settings.precision


def _run(
    task: Task, state: TrainingState, regularizer: EquivarianceRegularizer | None, dtype: torch.dtype | None
) -> None:
    settings, length = state.settings, len(task.loaders.train)
    try:
        with (
            _termination() as asked_to_stop,
            SummaryWriter(str(state.folder.tensorboard), purge_step=state.epoch * length + 1) as writer,
            TrainingProgress(settings.epochs, length, state.epoch) as progress,
        ):
            Engines(task, state, regularizer, dtype, progress, writer, asked_to_stop).run()
    except (MemoryError, RuntimeError) as error:
        remedy = _memory_remedy(error, settings)
        if not remedy:
            raise
        raise InputError(f"train: out of memory: {remedy}") from error


@contextmanager
def _termination() -> Iterator[Callable[[], str]]:
    """Notes SIGTERM, which clusters send before they kill, and answers its name once it came."""
    names: list[str] = []
    try:
        before = signal.signal(signal.SIGTERM, lambda number, frame: names.append(signal.Signals(number).name))
    except ValueError:  # not the main thread: whoever started it decides
        yield lambda: ""
        return
    try:
        yield lambda: names[0] if names else ""
    finally:
        signal.signal(signal.SIGTERM, before)


def _memory_remedy(error: Exception, settings: TrainSettings) -> str:
    """What to do if memory ran out; empty for other errors. torch's CPU allocator has no class of its own."""
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
    """Those options that the task's data have, with their values."""
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
