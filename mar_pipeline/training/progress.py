"""How far a training is: a bar with loss, score and time left on a terminal, a line per epoch elsewhere."""

import logging
import sys
import time
from datetime import timedelta
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

logger = logging.getLogger(__name__)

_LOG_EVERY_S = 60.0


class TrainingProgress:
    """Context manager that is given every step and epoch.

    Args:
        epochs: of the whole run.
        length: steps of an epoch.
        first_epoch: epochs done before.
        leads: whether this is the process that tells; others stay silent.
    """

    def __init__(self, epochs: int, length: int, first_epoch: int, leads: bool = True) -> None:
        self.epochs, self.length = epochs, length
        self.terminal = sys.stderr.isatty()
        self.bar = tqdm(
            total=epochs * length,
            initial=first_epoch * length,
            unit="step",
            desc="train",
            disable=not (self.terminal and leads),
        )
        self.steps = first_epoch * length
        self.began, self.logged, self.steps_here = time.monotonic(), time.monotonic(), 0
        self.words = ""

    def __enter__(self) -> "TrainingProgress":
        self._redirect = logging_redirect_tqdm()
        if self.terminal:
            self._redirect.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.close()
        if self.terminal:
            self._redirect.__exit__(*error)

    def step(self, loss: float) -> None:
        """Note that a step was made.

        Args:
            loss: of its batch.
        """
        self.steps += 1
        self.steps_here += 1
        self.bar.update()
        self.bar.set_postfix_str(f"loss {loss:.4g}{self.words}", refresh=False)
        if not self.terminal and time.monotonic() - self.logged > _LOG_EVERY_S:
            self.logged = time.monotonic()
            logger.info("train: step %d of %d, loss %.4g%s", self.steps, self.bar_total, loss, self._left())

    def epoch(self, row: dict[str, Any], score: str, beside: str = "") -> None:
        """Report that an epoch ended.

        Args:
            row: its line of metrics.csv.
            score: name of the validation's score to tell.
            beside: what stands behind it, such as the score of LI.
        """
        said = f", {score_text(score, row[score])}{beside}" if score in row else ""
        self.words = said or self.words
        if not self.terminal:
            self.logged = time.monotonic()
            loss = row["loss"]
            logger.info(
                "train: epoch %d of %d, loss %.4g%s%s%s",
                row["epoch"],
                self.epochs,
                loss,
                _penalties(row),
                said,
                self._left(),
            )

    @property
    def bar_total(self) -> int:
        """Return steps of the whole run."""
        return self.epochs * self.length

    def _left(self) -> str:
        left = (time.monotonic() - self.began) / max(1, self.steps_here) * (self.bar_total - self.steps)
        return f", {timedelta(seconds=int(left))} left" if left >= 1 else ""


def score_text(name: str, value: float) -> str:
    """Return a score in words, such as "PSNR 31.42 dB".

    Args:
        name: of the score.
        value: its mean over the validation.
    """
    return f"PSNR {value:.2f} dB" if name == "psnr" else f"{name} {value:.4f}"


def _penalties(row: dict[str, Any]) -> str:
    """Return EQ-Reg's penalties, where the epoch had any."""
    names = {"equivariance_layers": "layers", "equivariance_output": "output"}
    words = [f"{name} {row[key]:.3g}" for key, name in names.items() if key in row]
    return f" (EQ-Reg: {', '.join(words)})" if words else ""
