"""What a training would do, and for how long: estimated from a short trial, without a folder."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice
from typing import Any

import torch
import yaml
from torch import nn

from mar_pipeline.equivariance import EquivarianceRegularizer
from mar_pipeline.tasks.task import Task
from mar_pipeline.training.regularization import settings_errors, weights_term
from mar_pipeline.training.settings import TrainSettings, as_plain

_TRIAL_STEPS = 3
"""Steps that are timed, after one that is not: it also pays for compiling and for the start of the loaders."""

_UNTOLD = ("left_out", "names")
"""Facts of the data that are for reports only."""


@dataclass(frozen=True)
class TrainPlan:
    """What a training would do.

    Args:
        settings: of the training.
        data: facts of its two sets, and the batches of an epoch.
        parameters: learnable values of the network.
        steps: of the whole training.
        seconds: estimate for the whole training on this machine.
    """

    settings: TrainSettings
    data: dict[str, Any]
    parameters: int
    steps: int
    seconds: float

    @property
    def summary(self) -> str:
        """Return the settings as YAML, then the numbers, for people."""
        plain = as_plain(replace(self.settings, dry_run=False))
        sets = "\n".join(
            f"# {name}: "
            + ", ".join(f"{key} {value}" for key, value in facts.items() if key not in ("left_out", "names"))
            for name, facts in self.data.items()
        )
        return (
            f"{yaml.safe_dump(plain, sort_keys=False)}{sets}\n# network: {self.parameters:,} parameters\n"
            f"# training: {self.steps:,} steps in {self.settings.epochs} epochs, about "
            f"{timedelta(seconds=max(1, round(self.seconds)))} on this machine; nothing was trained or written"
        )


def plan_training(
    settings: TrainSettings, task: Task, regularizer: EquivarianceRegularizer | None, dtype: torch.dtype | None
) -> TrainPlan:
    """Time a few steps and one validation batch, and count what a training would do.

    Args:
        settings: of the training.
        task: data, network and loss; the network's weights change.
        regularizer: EQ-Reg of the network, detached; None trains without.
        dtype: of the autocast in training.

    Raises:
        InputError: a batch cannot be read.
    """
    epochs, length = settings.epochs, len(task.loaders.train)
    validations = -(-epochs // settings.validate_every)
    seconds = epochs * length * _step_seconds(settings, task, regularizer, dtype)
    seconds += validations * len(task.loaders.validation) * _validation_seconds(task)
    parameters = sum(parameter.numel() for parameter in task.network.parameters())
    return TrainPlan(settings, task.loaders.facts(), parameters, epochs * length, seconds)


def _step_seconds(
    settings: TrainSettings, task: Task, regularizer: EquivarianceRegularizer | None, dtype: torch.dtype | None
) -> float:
    network, device = task.network.train(), _device(task.network)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.optimizer.lr)
    task.loaders.train.set_epoch(1)

    def step(batch: dict[str, Any]) -> None:
        given = {key: batch[key].to(device) for key in task.fields}
        with settings_errors():
            if regularizer is not None:
                turned = regularizer.prepare(*given.values(), fields=tuple(task.fields.values()))
                given = dict(zip(task.fields, turned, strict=True))
        with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            output = network(*(given[key] for key in task.inputs))
        with settings_errors():
            penalty = regularizer.loss(task.turning_output(output, given)) if regularizer is not None else 0.0
            penalty = penalty + weights_term(network, settings.equivariance)
        optimizer.zero_grad()
        (task.loss(output, given) + penalty).backward()
        optimizer.step()

    with regularizer or nullcontext():
        return _timed(task.loaders.train, step, device)


def _validation_seconds(task: Task) -> float:
    network, device = task.network.eval(), _device(task.network)

    def validate(batch: dict[str, Any]) -> None:
        given = {key: batch[key].to(device) for key in task.fields}
        with torch.no_grad():
            task.score(task.prediction(network(*(given[key] for key in task.inputs))), given)

    return _timed(task.loaders.validation, validate, device)


def _timed(loader: Any, work: Callable[[dict[str, Any]], None], device: torch.device) -> float:
    """Return the mean seconds of a batch, its reading included; the first one counts only where it is the only one."""
    times = []
    started = time.perf_counter()
    for batch in islice(loader, 1 + _TRIAL_STEPS):
        work(batch)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
        started = time.perf_counter()
    counted = times[1:] or times
    return sum(counted) / len(counted)


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
