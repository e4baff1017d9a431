"""What a training has learnt so far: weights, optimiser, history; saved after each epoch and taken up again."""

import json
import logging
from pathlib import PurePath
from typing import Any

import torch
from ignite.handlers import EMAHandler
from torch import nn

from mar_pipeline.networks.build import plain
from mar_pipeline.networks.own_file import absolute_name, file_of, is_own_file
from mar_pipeline.runtime.processes import processes
from mar_pipeline.training.run_folder import RunFolder
from mar_pipeline.training.settings import FREE, OptimizerSettings, TrainSettings, as_plain, flat
from mar_pipeline.weights.files import save_weights
from simulation.errors import InputError, StoppedError, UsageError
from simulation.files import sha256_of, sha256_of_text

logger = logging.getLogger(__name__)

_NOT_LEARNT = ({*FREE} - {"label"}) | {"seed"}
"""Keys in which runs of one group may differ: where and how long they ran, and the seed."""

_PLACES = ("folder", "source", "masks", "val_folder")
"""Keys of the data that may be paths."""


class TrainingState:
    """Network, optimiser, moving average and the history of one run.

    Args:
        network: to be trained, on its device.
        settings: of the run.
        folder: where the run lives; its checkpoint is taken up.
        facts: what the weights file shall say about the data.
        place: name -> what the run stands on beside its settings, in words; a checkpoint of another is refused, but
            where the precision is left open it is that of the checkpoint.

    Raises:
        InputError: the folder's checkpoint is broken or of another network.
        UsageError: it was made in another place, or by another number of processes.
    """

    def __init__(
        self,
        network: nn.Module,
        settings: TrainSettings,
        folder: RunFolder,
        facts: dict[str, str],
        place: dict[str, str],
    ) -> None:
        self.network, self.settings, self.folder, self.facts, self.place = network, settings, folder, facts, place
        options = settings.optimizer
        self.optimizer = _optimizer(network, options)
        self.processes = processes()
        self.ema = None
        if options.ema_decay is not None:  # of batch norms' running statistics too, the noisiest part
            self.ema = EMAHandler(network, momentum=1 - options.ema_decay, handle_buffers="update")
        self.rows: list[dict[str, Any]] = []
        self.best_score, self.best_epoch = float("-inf"), 0
        self._resume()

    @property
    def epoch(self) -> int:
        """Return epochs done."""
        return self.rows[-1]["epoch"] if self.rows else 0

    @property
    def kept(self) -> nn.Module:
        """Return the network that is validated and kept: the moving average where there is one."""
        return self.network if self.ema is None else self.ema.ema_model

    def _resume(self) -> None:
        state = self.folder.load_state()
        if state is None:
            return
        try:
            self.network.load_state_dict(state["network"])
            _load_moments(self.optimizer, state["optimizer"])
            if self.ema is not None:
                self.ema.ema_model.load_state_dict(state["ema"] or state["network"])
            self.rows = list(state["rows"])
            self.best_score, self.best_epoch = state["best_score"], state["best_epoch"]
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{self.folder.last}: is not a checkpoint of this network and optimiser ({reason}); take the settings "
                "it was made with, or another --run"
            ) from error
        before = state.get("place", {})
        if self.settings.precision == "auto" and "precision" in before:
            self.place["precision"] = before["precision"]  # also where another processor would now choose another
        self._compare(state.get("processes", 1), before)
        if self.processes.leads:
            self.folder.write_metrics(self.rows)
        logger.info("train: resumes %s after epoch %d", self.folder.root, self.epoch)

    def _compare(self, processes_before: int, place_before: dict[str, str]) -> None:
        """Refuse what would go on as another run than the one that was stopped."""
        now = self.processes.world
        changes = [
            f"{name} was {before}, now {self.place[name]}"
            for name, before in place_before.items()
            if before != self.place.get(name, before)
        ]
        if processes_before != now:
            changes.append(
                f"{processes_before} processes were training, now {now}, and a batch holds data.batch_size samples of "
                "each"
            )
        if changes and not self.settings.allow_changed_settings:
            raise UsageError(
                f"{self.folder.root}: {'; '.join(changes)}; go on as before, name another --run, or accept it with "
                "--allow-changed-settings"
            )
        for change in changes:
            logger.warning("train: changed: %s", change)

    def set_learning_rate(self, epoch: int) -> None:
        """Give the optimiser the learning rate of an epoch, which follows from the settings alone.

        Args:
            epoch: counted from 1.
        """
        options = self.settings.optimizer
        lowered = sum(milestone < epoch for milestone in options.milestones)
        for group in self.optimizer.param_groups:
            group["lr"] = options.lr * options.gamma**lowered

    def end_epoch(self, row: dict[str, Any], score: str) -> None:
        """Write the epoch down: best weights if they are, checkpoint, metrics.csv; in this order, by one process.

        A run killed in between repeats the epoch and writes the same.

        Args:
            row: line of metrics.csv, with the score where the epoch was validated.
            score: name of what decides which weights are the best, higher is better.

        Raises:
            OSError: the folder cannot be written.
        """
        self.rows.append(row)
        better = row.get(score, float("-inf")) > self.best_score
        if better:
            self.best_score, self.best_epoch = row[score], row["epoch"]
        if not self.processes.leads:
            return
        if better:
            save_weights(self.folder.best, plain(self.kept).state_dict(), self._metadata(score))
        self.folder.save_state(
            {
                "network": self.network.state_dict(),
                "ema": None if self.ema is None else self.ema.ema_model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "rows": self.rows,
                "best_score": self.best_score,
                "best_epoch": self.best_epoch,
                "processes": self.processes.world,
                "place": self.place,
            }
        )
        self.folder.write_metrics(self.rows)

    def stopped(self, what: str) -> StoppedError:
        """Return the error that says where a run stands that was asked to stop.

        Args:
            what: asked.
        """
        if not self.rows:
            return StoppedError(
                f"train: stopped by {what} before the end of the first epoch, with nothing saved; the same command "
                "starts anew"
            )
        return StoppedError(f"train: stopped by {what} after epoch {self.epoch}; the same command goes on from there")

    def _metadata(self, score: str) -> dict[str, str]:
        settings = _without_places(as_plain(self.settings))
        group = {key: value for key, value in flat(settings).items() if key not in _NOT_LEARNT}
        if self.processes.world > 1:  # the batch of all of them together is what is learnt from
            group["processes"] = self.processes.world
        return {
            "task": self.settings.task,
            **_network_facts(self.settings.network.name),
            "arguments": json.dumps(self.settings.network.arguments),
            "label": self.settings.label or self.folder.root.resolve().name,
            "seed": str(self.settings.seed),
            "epoch": str(self.best_epoch),
            score: f"{self.best_score:.4f}",
            "group": sha256_of_text(json.dumps(group, sort_keys=True)),
            "settings": json.dumps(settings),
            **self.facts,
        }


def _network_facts(name: str) -> dict[str, str]:
    """Return what the weights file says of the network; of a file of the user's own also its SHA-256."""
    facts = {"network": absolute_name(name)}
    return facts | {"network_sha256": sha256_of(file_of(name))} if is_own_file(name) else facts


def _without_places(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings that may travel with the weights: folders of the machine shortened to their last part."""
    data = {key: PurePath(value).name if key in _PLACES and value else value for key, value in settings["data"].items()}
    return {**settings, "run": PurePath(settings["run"]).name, "data": data}


def _optimizer(network: nn.Module, wanted: OptimizerSettings) -> torch.optim.Optimizer:
    classes: dict[str, Any] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return classes[wanted.name](
        network.parameters(), lr=wanted.lr, betas=wanted.betas, weight_decay=wanted.weight_decay
    )


def _load_moments(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take up what the optimiser has learnt, but not its options: those are the settings', which may have changed."""
    options = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({**state, "param_groups": options})
