"""MONAI's supervised trainer and evaluator for one task, EQ-Reg entering through the batch and the loss."""

import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from ignite.engine import Events
from ignite.metrics import Average
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.handlers import TensorBoardStatsHandler, ValidationHandler
from monai.utils import set_determinism
from torch import nn
from torch.utils._pytree import tree_map
from torch.utils.tensorboard import SummaryWriter

from mar_pipeline.equivariance import EquivarianceRegularizer
from mar_pipeline.equivariance.regularizer import OUTPUT
from mar_pipeline.runtime.processes import least_over_processes, mean_over_processes, processes
from mar_pipeline.tasks.task import Task
from mar_pipeline.training.precision import AutocastInferer
from mar_pipeline.training.progress import TrainingProgress, score_text
from mar_pipeline.training.regularization import settings_errors, weights_term
from mar_pipeline.training.sharing import share_statistics, shared
from mar_pipeline.training.state import TrainingState
from simulation.errors import InputError
from simulation.files import sha256_of_text, whole_file

_BASELINE = "baseline"
"""Name of the baseline's first score among those of a validation."""

_DIVERGED, _RECENT_EPOCHS = 10.0, 5
"""A mean loss of so many times the median of so many epochs before is taken for divergence; in the first epoch, of so
many times what an output of zeros would have had."""


def seed_epoch(seed: int, epoch: int, rank: int = 0) -> int:
    """Seed Python, numpy and torch from (seed, epoch, rank) alone, so that a resumed run equals a straight one.

    Returns:
        The seed they got.
    """
    derived = int(sha256_of_text(f"{seed} {epoch} {rank}")[:8], 16)
    set_determinism(seed=derived)
    return derived


class Engines:
    """Trainer and evaluator of one run.

    Args:
        task: data, loss and score.
        state: network, optimiser and history.
        regularizer: EQ-Reg of the network, detached; None trains without.
        dtype: of the autocast in training; validation is in float32.
        progress: is given each step and epoch.
        writer: TensorBoard's; None in processes that do not lead.
        asked_to_stop: looked at after each step and each validation batch; a name of what asked, empty to go on.
    """

    def __init__(
        self,
        task: Task,
        state: TrainingState,
        regularizer: EquivarianceRegularizer | None,
        dtype: torch.dtype | None,
        progress: TrainingProgress,
        writer: SummaryWriter | None,
        asked_to_stop: Callable[[], str],
    ) -> None:
        self.task, self.state, self.settings = task, state, state.settings
        self.progress, self.writer, self.asked_to_stop = progress, writer, asked_to_stop
        self.regularizer, self.processes = regularizer, processes()
        self.device = next(state.network.parameters()).device
        self.evaluator = self._make_evaluator()
        self.trainer = self._make_trainer(dtype)

    def run(self) -> None:
        """Train the epochs that are missing.

        Raises:
            InputError: the loss is not finite or diverges.
            StoppedError: something asked to stop.
        """
        trainer, length = self.trainer, len(self.task.loaders.train)
        trainer.state.epoch, trainer.state.iteration = self.state.epoch, self.state.epoch * length
        with self.regularizer or nullcontext():
            trainer.run()

    def _make_trainer(self, dtype: torch.dtype | None) -> SupervisedTrainer:
        settings, state = self.settings, self.state
        trainer = SupervisedTrainer(
            device=self.device,
            max_epochs=settings.epochs,
            train_data_loader=self.task.loaders.train,
            network=shared(state.network),
            optimizer=state.optimizer,
            loss_function=self._loss,
            epoch_length=len(self.task.loaders.train),
            prepare_batch=self._prepare,
            inferer=AutocastInferer(self.device, dtype),
            decollate=False,
            optim_set_to_none=True,
        )
        if self.writer is not None:
            TensorBoardStatsHandler(self.writer, epoch_log=False, output_transform=lambda _: self.losses[-1]).attach(
                trainer
            )
        trainer.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        trainer.add_event_handler(IterationEvents.LOSS_COMPLETED, self._check_loss)
        if settings.optimizer.clip_norm is not None:
            limit = settings.optimizer.clip_norm
            trainer.add_event_handler(
                IterationEvents.BACKWARD_COMPLETED, lambda: nn.utils.clip_grad_norm_(state.network.parameters(), limit)
            )
        if state.ema is not None:
            state.ema.attach(trainer)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: share_statistics(state.network, state.kept))
        trainer.add_event_handler(
            Events.EPOCH_COMPLETED(event_filter=lambda _, epoch: self._validates(epoch)),
            ValidationHandler(1, self.evaluator),
        )
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)
        return trainer

    def _make_evaluator(self) -> SupervisedEvaluator:
        evaluator = SupervisedEvaluator(
            device=self.device,
            val_data_loader=self.task.loaders.validation,
            network=self.state.kept,
            prepare_batch=self._move,
            inferer=AutocastInferer(self.device, None),
            decollate=False,
        )
        for name in (*self.task.scores, *([_BASELINE] if self.task.baseline else [])):
            Average(output_transform=_score_of(name)).attach(evaluator, name)
        evaluator.add_event_handler(IterationEvents.MODEL_COMPLETED, self._score)
        together = least_over_processes(len(self.task.loaders.validation))  # some processes may have a batch more
        evaluator.add_event_handler(
            Events.ITERATION_COMPLETED(event_filter=lambda _, iteration: iteration <= together),
            lambda: self._stop_if(mean_over_processes([float(bool(self.asked_to_stop()))])[0]),
        )
        return evaluator

    def _validates(self, epoch: int) -> bool:
        return epoch % self.settings.validate_every == 0 or epoch == self.settings.epochs

    def _move(self, batch: dict[str, Any], device: torch.device, non_blocking: bool, **_: Any) -> Any:
        moved = {key: batch[key].to(device, non_blocking=non_blocking) for key in self.task.fields}
        first, *others = self.task.inputs
        return moved[first], moved, tuple(moved[key] for key in others), {}

    def _prepare(self, batch: dict[str, Any], device: torch.device, non_blocking: bool, **_: Any) -> Any:
        """Pair samples with their rotated copies, on steps with EQ-Reg."""
        if self.regularizer is not None:
            with settings_errors():
                turned = self.regularizer.prepare(
                    *(batch[key].to(device) for key in self.task.fields), fields=tuple(self.task.fields.values())
                )
            batch = dict(zip(self.task.fields, turned, strict=True))
        return self._move(batch, device, non_blocking)

    def _loss(self, output: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the task's loss and the regulariser's, which goes first: the task's may call the network again."""
        penalty: torch.Tensor | float = 0.0
        with settings_errors():
            if self.regularizer is not None:
                penalty = self.regularizer.loss(self.task.turning_output(output, batch))
            penalty = penalty + weights_term(self.state.network, self.settings.equivariance)
        loss = self.task.loss(output, batch)
        self.task_losses.append(loss.detach())
        if not self.state.rows:
            with torch.no_grad():
                self.empty_losses.append(self._empty_loss(output, batch))
        return loss + penalty

    def _empty_loss(self, output: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        if self.task.empty_loss is not None:
            return self.task.empty_loss(output, batch)
        return self.task.loss(tree_map(torch.zeros_like, output), batch)

    def _start_epoch(self, engine: SupervisedTrainer) -> None:
        seed_epoch(self.settings.seed, engine.state.epoch, self.processes.rank)
        self.state.set_learning_rate(engine.state.epoch)
        self.task.loaders.train.set_epoch(engine.state.epoch)
        if self.regularizer is not None:
            self.regularizer.reseed(self.settings.seed, engine.state.iteration)
        self.losses: list[float] = []
        self.task_losses: list[torch.Tensor] = []
        self.empty_losses: list[torch.Tensor] = []
        self.started, self.cpu_started = time.monotonic(), time.process_time()

    def _check_loss(self, engine: SupervisedTrainer) -> None:
        own = [float(engine.state.output["loss"].detach()), float(bool(self.asked_to_stop()))]
        loss, stops = mean_over_processes(own)
        if not loss == loss or loss in (float("inf"), float("-inf")):
            raise InputError(f"train: the loss became {loss:g} in epoch {engine.state.epoch}; {self._remedy()}")
        self.losses.append(loss)
        self.progress.step(loss)
        self._stop_if(stops)

    def _stop_if(self, share: float) -> None:
        """Stop where a share of the processes was asked to."""
        if share:
            raise self.state.stopped(self.asked_to_stop() or "a signal to another process")

    def _remedy(self) -> str:
        last = f"the last good checkpoint is {self.state.folder.last}" if self.state.rows else "no checkpoint yet"
        return f"{last}; lower --optimizer.lr or set --optimizer.clip_norm, with --allow-changed-settings to go on"

    def _score(self, engine: SupervisedEvaluator) -> None:
        output, batch = engine.state.output, engine.state.output["label"]
        prediction = self.task.prediction(output["pred"])
        output["scores"] = self.task.score(prediction, batch)
        if self.task.baseline is not None:
            _, answer = self.task.baseline
            output["scores"] |= {_BASELINE: self.task.score(answer(batch), batch)[self.task.scores[0]]}
        number = engine.state.iteration - 1
        if self.writer is not None and number < self.settings.sample_pictures:
            epoch = self.trainer.state.epoch
            figure = self.task.picture(prediction, batch, 0)
            with whole_file(self.state.folder.samples / f"epoch_{epoch:04d}_{number}.png") as partial:
                figure.savefig(partial, format="png")
            self.writer.add_figure(f"validation/{number}", figure, epoch, close=False)

    def _end_epoch(self, engine: SupervisedTrainer) -> None:
        epoch = engine.state.epoch
        task_loss, cpu_seconds = mean_over_processes(
            [torch.stack(self.task_losses).mean().item(), time.process_time() - self.cpu_started]
        )
        row: dict[str, Any] = {
            "epoch": epoch,
            "iterations": engine.state.iteration,
            "seconds": round(time.monotonic() - self.started, 1),
            "cpu_seconds": round(cpu_seconds * self.processes.world, 1),
            "lr": self.state.optimizer.param_groups[0]["lr"],
            "loss": sum(self.losses) / len(self.losses),
            "task_loss": task_loss,
        }
        if self.regularizer is not None:
            row |= _penalties(self.regularizer.values)
        if self._validates(epoch):
            row |= {name: float(self.evaluator.state.metrics[name]) for name in self.task.scores}
        self._refuse_divergence(row)
        self._refuse_broken_weights(epoch)
        self.state.end_epoch(row, self.task.scores[0])
        if self.writer is not None:
            for name, value in row.items():
                self.writer.add_scalar(f"epoch/{name}", value, epoch)
        self.progress.epoch(row, self.task.scores[0], self._baseline() if self._validates(epoch) else "")

    def _baseline(self) -> str:
        """Return what the last validation's line says beside the network's score."""
        if self.task.baseline is None:
            return ""
        value = float(self.evaluator.state.metrics[_BASELINE])
        return f" ({self.task.baseline[0]} {score_text(self.task.scores[0], value).partition(' ')[2]})"

    def _refuse_divergence(self, row: dict[str, Any]) -> None:
        recent = [before["task_loss"] for before in self.state.rows[-_RECENT_EPOCHS:]]
        usual = statistics.median(recent) if recent else self._first_loss()
        if row["task_loss"] > _DIVERGED * abs(usual) > 0:
            words = f"after {usual:.4g} before" if recent else f"where an empty image has {usual:.4g}"
            raise InputError(
                f"train: the loss diverges, {row['task_loss']:.4g} in epoch {row['epoch']} {words}; {self._remedy()}"
            )
        score = row.get(self.task.scores[0], 0.0)
        if score != score:
            raise InputError(f"train: the validation gave NaN in epoch {row['epoch']}; {self._remedy()}")

    def _first_loss(self) -> float:
        """Return what an output of zeros would have had, on the mean over the first epoch."""
        return mean_over_processes([torch.stack(self.empty_losses).mean().item()])[0]

    def _refuse_broken_weights(self, epoch: int) -> None:
        """Refuse weights that are not finite: a bad gradient shows in the next step's loss, after the checkpoint."""
        for module in (self.state.network, self.state.kept):
            if not all(torch.isfinite(own).all() for own in module.state_dict().values() if own.is_floating_point()):
                raise InputError(f"train: the weights are no longer finite after epoch {epoch}; {self._remedy()}")


def _score_of(name: str) -> Callable[[dict[str, Any]], torch.Tensor]:
    return lambda output: torch.tensor(output["scores"][name])[:, None]  # a column: the mean is over samples


def _penalties(values: dict[str, float]) -> dict[str, float]:
    """Return the mean penalty of the layers, and that of the output, in the last regularised step."""
    layers = [value for name, value in values.items() if name != OUTPUT]
    means = {"equivariance_layers": layers, "equivariance_output": [values[OUTPUT]] if OUTPUT in values else []}
    return {name: sum(own) / len(own) for name, own in means.items() if own}
