"""What a method costs and how equivariant it is: measured while pairs are scored, for a table below the scores."""

import statistics
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mar_pipeline.evaluation.methods import STORED, Method
from mar_pipeline.evaluation.score_tables import deviation, markdown_table, plain_table, with_spread
from simulation.physics.projector_cpu import usable_cores

Result = TypeVar("Result")

ANGLES = (90, 180, 270)
"""Degrees by which slices are turned."""


@dataclass
class Measurements:
    """Seconds and equivariance errors, collected pair by pair.

    Args:
        device: where the methods compute, cpu or cuda.
        seconds: name of the method -> seconds of each pair.
        errors: name of the method -> degrees -> equivariance error, for each pair.
    """

    device: str
    seconds: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, list[dict[int, float]]] = field(default_factory=dict)

    @property
    def pairs(self) -> int:
        """Return on how many pairs the equivariance error was measured."""
        return max(map(len, self.errors.values()), default=0)

    def timed(self, function: Callable[[], Result]) -> tuple[Result, float]:
        """Return a result and its seconds: of all processor threads, or until the GPU was through.

        Args:
            function: without arguments.
        """
        clock = time.process_time
        if self.device == "cuda":
            clock = _after_gpu
        started = clock()
        return function(), clock() - started

    def keep(self, seconds: dict[str, float], errors: dict[str, dict[int, float]]) -> None:
        """Add what was measured on a pair that every method corrected.

        Args:
            seconds: name of the method -> seconds.
            errors: name of the method -> degrees -> equivariance error; empty if it was not measured on this pair.
        """
        for name, value in seconds.items():
            self.seconds.setdefault(name, []).append(value)
        for name, of_pair in errors.items():
            self.errors.setdefault(name, []).append(of_pair)


@dataclass(frozen=True)
class MethodFacts:
    """A line of the table.

    Args:
        method: column of the score tables.
        runs: trained runs behind it, 0 for a method that is not trained.
        parameters: of the network, None where there is none.
        seconds: an image, one value a run; None where nothing is computed.
        errors: degrees -> equivariance error, one value a run; empty where there is none.
    """

    method: str
    runs: int
    parameters: int | None
    seconds: tuple[float, ...] | None
    errors: dict[int, tuple[float, ...]]

    def as_json(self) -> dict[str, Any]:
        """Return the facts for report.json, means over the runs and their sample standard deviation."""
        return {
            "runs": self.runs,
            "parameters": self.parameters,
            "seconds": None if self.seconds is None else statistics.mean(self.seconds),
            "equivariance_error": {str(angle): statistics.mean(values) for angle, values in self.errors.items()},
            "equivariance_error_std": {str(angle): deviation(values) for angle, values in self.errors.items()},
        }


def collect_facts(methods: Sequence[Method], measured: Measurements) -> list[MethodFacts]:
    """Return one entry for each method, in the order of the methods.

    Seconds are the median over the pairs, without the first one where there are more: it also pays for compiling.

    Args:
        methods: what was scored.
        measured: what was measured meanwhile.
    """
    facts = []
    for column in dict.fromkeys(method.column for method in methods):
        runs = [method for method in methods if method.column == column]
        of_pairs = [measured.seconds[run.name] for run in runs]
        seconds = tuple(statistics.median(values[1:] or values) for values in of_pairs)
        errors = [measured.errors[run.name] for run in runs if run.name in measured.errors]
        facts.append(
            MethodFacts(
                method=column,
                runs=sum(run.run != "" for run in runs),
                parameters=runs[0].facts.get("parameters"),
                seconds=None if column in STORED else seconds,
                errors={
                    angle: tuple(statistics.mean(pair[angle] for pair in of_run) for of_run in errors)
                    for angle in ANGLES
                    if errors and all(angle in of_run[0] for of_run in errors)
                },
            )
        )
    return facts


def facts_to_text(facts: Sequence[MethodFacts], measured: Measurements, precision: str) -> str:
    """Return the table for a terminal; empty if there is nothing to tell.

    Args:
        facts: of `collect_facts`.
        measured: says where the seconds were measured.
        precision: of the networks.
    """
    if not _worth_telling(facts):
        return ""
    words = textwrap.fill(f"Methods. {_states(measured, precision)}", 100)
    return f"{words}\n{plain_table(_cells(facts, measured.device))}\n\n"


def facts_to_markdown(facts: Sequence[MethodFacts], measured: Measurements, precision: str) -> str:
    """Return the same in Markdown."""
    if not _worth_telling(facts):
        return ""
    return f"## Methods\n\n{_states(measured, precision)}\n\n{markdown_table(_cells(facts, measured.device))}\n\n"


def machine(device: str) -> dict[str, Any]:
    """Return where it ran: device, its name, threads of torch or else of the projector.

    Args:
        device: cpu or cuda.
    """
    torch = sys.modules.get("torch")  # not imported for methods that do without it
    name = torch.cuda.get_device_name() if torch and device == "cuda" else device
    return {"device": device, "device_name": name, "threads": torch.get_num_threads() if torch else usable_cores()}


def clock_words(device: str) -> str:
    """Return what times were measured in.

    Args:
        device: cpu or cuda.
    """
    facts = machine(device)
    if device == "cuda":
        return f"wall-clock seconds on {facts['device_name']}"
    return f"CPU seconds, all threads added up ({facts['threads']} of them)"


def _worth_telling(facts: Sequence[MethodFacts]) -> bool:
    return any(of_method.seconds is not None for of_method in facts)


def _states(measured: Measurements, precision: str) -> str:
    pairs = measured.pairs
    errors = (
        f" Equivariance error: ||a - b|| / sqrt((||a||^2 + ||b||^2) / 2) outside the metal, a the turned correction, b "
        "the correction of the turned input, each the output less the LI image, which itself turns exactly; mean over "
        f"{pairs} pair{'s' * (pairs != 1)}."
        if pairs
        else ""
    )
    return f"Time an image: {clock_words(measured.device)}, median over the pairs; networks in {precision}.{errors}"


def _cells(facts: Sequence[MethodFacts], device: str) -> list[list[str]]:
    lines = [
        [
            "method",
            "parameters",
            f"{'GPU' if device == 'cuda' else 'CPU'} s",
            *(f"error {a}\N{DEGREE SIGN}" for a in ANGLES),
        ]
    ]
    for of_method in facts:
        errors = [of_method.errors.get(angle) for angle in ANGLES]
        lines.append(
            [
                f"{of_method.method} ({of_method.runs} seeds)" if of_method.runs > 1 else of_method.method,
                "-" if of_method.parameters is None else f"{of_method.parameters:,}",
                "-" if of_method.seconds is None else f"{statistics.mean(of_method.seconds):.3g}",
                *("-" if values is None else with_spread(values, ".2g") for values in errors),
            ]
        )
    return lines


def _after_gpu() -> float:
    import torch

    torch.cuda.synchronize()
    return time.perf_counter()
