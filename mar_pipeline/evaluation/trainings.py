"""The trainings of a comparison: planned and checked together, each run in a process of its own."""

import csv
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from mar_pipeline.evaluation.methods import METHODS
from mar_pipeline.training.settings import TrainSettings, check_settings, read_train_settings
from simulation.errors import UsageError
from simulation.physics.projector_cpu import usable_cores
from simulation.sources.slices import safe_name

Arms = Mapping[str, Mapping[str, Any] | None]
"""Name of each arm -> what it changes, by dotted key."""


@dataclass(frozen=True)
class Run:
    """One training: its arm, its place, the command line that starts it, and what that means."""

    arm: str
    seed: int
    folder: Path
    arguments: tuple[str, ...]
    settings: TrainSettings

    @property
    def new_samples_a_step(self) -> int:
        """Return samples of a batch; with EQ-Reg those of them that are kept, each shown once more, rotated."""
        settings = self.settings
        share = settings.equivariance.batch_fraction if _pairs_samples(settings) else 1.0
        return round(share * settings.data.batch_size)


def plan(base: str, arms: Arms, seeds: Sequence[int], jobs: int, out: Path) -> list[Run]:
    """Return every training, checked as `mar train` would before the first one starts.

    Args:
        base: settings file that all arms start from.
        arms: what each changes.
        seeds: of the trainings.
        jobs: trainings at once.
        out: folder of the runs.

    Raises:
        UsageError: no arms, no seeds, or settings that `mar train` refuses.
    """
    if not arms or not seeds or jobs < 1:
        raise UsageError(
            f"compare: got {len(arms)} arms, {len(seeds)} seeds and --jobs {jobs}; expected at least one of each"
        )
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"--seeds: got {' '.join(map(str, seeds))}; name each seed once")
    if taken := sorted({*arms} & {*METHODS}):
        raise UsageError(f"--arms: {taken[0]!r} is the name of a method that is scored beside the arms; rename it")
    folders: dict[str, str] = {}
    for arm in arms:
        other = folders.setdefault(safe_name(arm), arm)
        if other != arm:
            raise UsageError(f"--arms: {other!r} and {arm!r} would share the folder {safe_name(arm)}; rename one")
    threads = max(1, usable_cores() // jobs)
    runs = []
    for seed in seeds:
        for arm, changes in arms.items():
            folder = out / safe_name(arm) / f"seed_{seed}"
            fixed = {"run": str(folder), "label": arm, "seed": seed, "threads": threads}
            words = [f"--{key}={_word(value)}" for key, value in {**(changes or {}), **fixed}.items()]
            arguments = (f"--settings={base}", *words)
            try:
                training = read_train_settings(list(arguments))
                check_settings(training)
            except UsageError as error:
                raise UsageError(f"arm {arm}: {error}") from error
            runs.append(Run(arm, seed, folder, arguments, training))
    return runs


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def train_all(runs: Sequence[Run], jobs: int, logs: Path) -> Iterator[tuple[Run, str]]:
    """Return the runs as they end, each with the reason of its failure or an empty text.

    Args:
        runs: of `plan`.
        jobs: trainings at once.
        logs: folder for what they say.
    """
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(_train, run, logs / f"{run.folder.parent.name}_{run.seed}.log"): run for run in runs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _train(run: Run, log: Path) -> str:
    """Run `mar train` in a process of its own, so that memory and threads are its own too."""
    command = [sys.executable, "-m", "mar_pipeline", "train", *run.arguments]
    with log.open("a") as file:
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL).returncode
    lines = log.read_text().strip().splitlines()
    return "" if code == 0 else f"exit code {code}: {lines[-1] if lines else 'no message'} (see {log})"


def cost_table(runs: Sequence[Run]) -> str:
    """Return what the trainings of each arm cost, in Markdown: means over the seeds, and the best validation score.

    Args:
        runs: that are finished.
    """
    score = next(name for name in _report(runs[0])["best"] if name not in ("epoch", "sha256"))
    lines = [
        f"| arm | seeds | steps | samples a step | minutes a run | CPU minutes a run | best validation {score} |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for arm in dict.fromkeys(run.arm for run in runs):
        own = [run for run in runs if run.arm == arm]
        rows = [_totals(run.folder / "metrics.csv") for run in own]
        minutes, cpu_minutes = (fmean(row[name] for row in rows) / 60 for name in ("seconds", "cpu_seconds"))
        best = fmean(_report(run)["best"][score] for run in own)
        lines.append(
            f"| {arm} | {len(own)} | {rows[0]['iterations']:.0f} | {_samples(own[0])} | {minutes:.1f} | "
            f"{cpu_minutes:.1f} | {best:.4g} |"
        )
    return "\n".join(lines)


def _pairs_samples(settings: TrainSettings) -> bool:
    """Return whether batches hold samples beside their rotated copies."""
    wanted = settings.equivariance
    return wanted.enabled and bool(wanted.weight or wanted.output_weight)


def _samples(run: Run) -> str:
    count = str(run.new_samples_a_step)
    return f"{count} + {count} rotated" if _pairs_samples(run.settings) else count


def _report(run: Run) -> dict[str, Any]:
    return json.loads((run.folder / "report.json").read_text())


def _totals(metrics: Path) -> dict[str, float]:
    with metrics.open() as file:
        rows = list(csv.DictReader(file))
    sums = {name: sum(float(row[name]) for row in rows) for name in ("seconds", "cpu_seconds")}
    return sums | {"iterations": float(rows[-1]["iterations"])}
