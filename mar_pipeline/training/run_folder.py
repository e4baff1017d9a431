"""The folder that is a training run: settings, checkpoints, metrics, pictures; each file whole or absent."""

import csv
import io
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import torch
import yaml

from mar_pipeline.training.settings import FREE, SETTINGS_FILE, TrainSettings, as_plain, flat
from simulation.errors import InputError, ResourceError, UsageError
from simulation.files import whole_file, write_json

logger = logging.getLogger(__name__)

_LOCK = ".lock"


class RunFolder:
    """Where a run lives.

    Args:
        root: the folder; made when opened.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.settings = root / SETTINGS_FILE
        self.last = root / "checkpoints" / "last.pt"
        self.best = root / "checkpoints" / "best.safetensors"
        self.metrics = root / "metrics.csv"
        self.tensorboard = root / "tensorboard"
        self.samples = root / "samples"
        self.report = root / "report.json"
        self.done = root / "DONE"
        self.stopped = root / "STOPPED"

    @contextmanager
    def opened(self, settings: TrainSettings) -> Iterator[None]:
        """Make the folder, hold it, and compare the settings with those it was started with.

        Args:
            settings: of this run.

        Raises:
            ResourceError: the folder cannot be written, or holds something else.
            UsageError: other settings started it, or another process is training in it.
        """
        self._claim()
        lock = filelock.FileLock(self.root / _LOCK)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise UsageError(f"{self.root}: another process is training there; wait for it or name another") from error
        try:
            self._compare(settings)
            yield
        finally:
            lock.release()

    def keep(self, settings: TrainSettings) -> None:
        """Write the settings down, once they are known to fit the folder's checkpoint.

        The permission to change them holds for one call and is not kept.

        Raises:
            OSError: the folder cannot be written.
        """
        with whole_file(self.settings) as partial:
            plain = as_plain(replace(settings, allow_changed_settings=False))
            partial.write_text(yaml.safe_dump(plain, sort_keys=False))
        for folder in (self.last.parent, self.samples):
            folder.mkdir(exist_ok=True)

    def _claim(self) -> None:
        if self.root.is_dir() and not self.settings.is_file() and {path.name for path in self.root.iterdir()} - {_LOCK}:
            raise ResourceError(f"{self.root}: is not empty and no training run; name another folder with --run")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            (self.root / _LOCK).touch()
        except OSError as error:
            raise ResourceError(f"{self.root}: cannot be written to ({error.strerror}); name another --run") from error

    def _compare(self, settings: TrainSettings) -> None:
        changes = []
        if self.settings.is_file():
            before, now = flat(self.read_settings()), flat(as_plain(settings))
            changes = [
                f"{key} was {before.get(key)}, now {now.get(key)}"
                for key in dict.fromkeys([*before, *now])
                if key not in FREE and before.get(key) != now.get(key)
            ]
        if changes and not settings.allow_changed_settings:
            raise UsageError(
                f"{self.root}: was started with other settings ({'; '.join(changes[:3])}); take them, name another "
                "--run, or go on with --allow-changed-settings"
            )
        for change in changes:
            logger.warning("train: settings changed: %s", change)

    def read_settings(self) -> dict[str, Any]:
        """Return the settings the run was started with.

        Raises:
            InputError: the file is missing or broken.
        """
        try:
            settings = yaml.safe_load(self.settings.read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(f"{self.settings}: cannot be read ({error}); is {self.root} a training run?") from error
        if not isinstance(settings, dict):
            raise InputError(f"{self.settings}: got no settings; is {self.root} a training run?")
        return settings

    def save_state(self, state: dict[str, Any]) -> None:
        """Write everything that resuming needs.

        Raises:
            OSError: it cannot be written; the former checkpoint stays.
        """
        content = io.BytesIO()  # torch.save tells a full disk as a RuntimeError
        torch.save(state, content)
        with whole_file(self.last) as partial:
            partial.write_bytes(content.getbuffer())

    def load_state(self) -> dict[str, Any] | None:
        """Return the last checkpoint, None where there is none yet.

        Raises:
            InputError: it is broken.
        """
        if not self.last.is_file():
            return None
        try:
            return torch.load(self.last, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a broken file
            reason = str(error).strip().partition("\n")[0]
            raise InputError(
                f"{self.last}: cannot be read ({reason}); delete it to start the run anew, or restore it"
            ) from error

    def take_stop(self) -> dict[str, Any]:
        """Return what `note_stop` wrote, which then is no longer there; empty if nothing did."""
        try:
            noted = json.loads(self.stopped.read_text())
        except (OSError, ValueError):
            noted = {}
        self.stopped.unlink(missing_ok=True)
        return noted if isinstance(noted, dict) else {}

    def note_stop(self, noted: dict[str, Any]) -> None:
        """Write down that the run was asked to stop and goes on when it is started again.

        Raises:
            OSError: it cannot be written.
        """
        write_json(self.stopped, noted)

    def write_metrics(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write metrics.csv, one line per epoch.

        Raises:
            OSError: it cannot be written.
        """
        text = io.StringIO()
        columns = list(dict.fromkeys(key for row in rows for key in row))
        writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows({key: _short(value) for key, value in row.items()} for row in rows)
        with whole_file(self.metrics) as partial:
            partial.write_text(text.getvalue())


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
