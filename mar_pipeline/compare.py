"""`mar compare`: several arms of one training over several seeds, scored side by side on the same pairs."""

import csv
import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mar_pipeline.evaluate import EvaluateSettings, evaluate
from mar_pipeline.evaluation.files import make_folder
from mar_pipeline.training.settings import TrainSettings, as_plain, check_settings, flat, read_train_settings
from simulation.errors import InputError, UsageError
from simulation.files import sha256_of_text, whole_file, write_json
from simulation.progress import with_progress
from simulation.projector_cpu import usable_cores
from simulation.provenance import library_versions
from simulation.sources.slices import safe_name

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CompareSettings:
    """Train several arms of one run over several seeds and score them side by side.

    Args:
        base: settings file of mar train that all arms start from.
        out: folder for the runs (ARM/seed_N), their logs, and evaluation/ with the tables and pictures.
        arms: name of each arm -> what it changes, by dotted key.
        seeds: each arm is trained once with each.
        jobs: trainings at once; they share the CPU's cores.
        data: folder whose pairs the runs are scored on; held out from the training.
        split: of data: train or test; null takes what it lists.
        masks: mask stack (.npy) instead of the data's own.
        methods: what stands beside the arms: input, li, nmar.
        figures: pictures to draw; null one for every slice.
    """

    base: str
    out: str
    data: str
    arms: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    jobs: int = 1
    split: str | None = None
    masks: str | None = None
    methods: tuple[str, ...] = ("input", "li", "nmar")
    figures: int | None = None


@dataclass(frozen=True)
class CompareReport:
    """What `compare` did.

    Args:
        table: evaluation and cost of the arms as text.
        failed: trainings that failed and pairs that could not be scored, with reasons.
    """

    table: str
    failed: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """One training: its arm, its place, and the command line that starts it."""

    arm: str
    seed: int
    folder: Path
    arguments: tuple[str, ...]


def compare(settings: CompareSettings) -> CompareReport:
    """Trains what is missing, then evaluates every run that is finished.

    Args:
        settings: what to compare.

    Raises:
        UsageError: no arms, no seeds, or settings that `mar train` refuses.
        InputError: every training failed, or the data cannot be used.
        OSError: the folder cannot be written.
    """
    started = time.monotonic()
    runs = plan(settings)
    out = Path(settings.out)
    make_folder(out)
    (out / "logs").mkdir(exist_ok=True)
    failed, finished = [], []
    for run, reason in with_progress(_train_all(runs, settings, out / "logs"), len(runs), "compare", "training"):
        if reason:
            failed.append(f"{run.arm}, seed {run.seed}: {reason}")
        else:
            finished.append(run)
    finished.sort(key=runs.index)
    if not finished:
        raise InputError(f"no training came through; the first one: {failed[0]}")
    evaluation = evaluate(
        EvaluateSettings(
            data=settings.data,
            out=str(out / "evaluation"),
            methods=(*settings.methods, *(str(run.folder) for run in finished)),
            split=settings.split,  # type: ignore[arg-type]
            masks=settings.masks,
            figures=settings.figures,
        )
    )
    failed += [f"{item.pair}: {item.reason}" for item in evaluation.failed]
    cost = _cost_table(finished)
    missing = "".join(f"- {reason}\n" for reason in failed)
    missing = f"\n## Failed\n\n{missing}" if missing else ""
    with whole_file(out / "comparison.md") as partial:
        scores = (out / "evaluation" / "table.md").read_text()
        partial.write_text(
            f"# Comparison of arms\n\n{_arms_text(settings)}\n{scores}\n## Training\n\n{cost}\n{missing}"
        )
    _write_report(settings, out, failed, time.monotonic() - started)
    return CompareReport(f"{evaluation.table}\n\n{cost}", tuple(failed))


def plan(settings: CompareSettings) -> list[Run]:
    """Every training, checked as `mar train` would before the first one starts.

    Args:
        settings: what to compare.

    Raises:
        UsageError: no arms, no seeds, or settings that `mar train` refuses.
    """
    if not settings.arms or not settings.seeds or settings.jobs < 1:
        raise UsageError(
            f"compare: got {len(settings.arms)} arms, {len(settings.seeds)} seeds and --jobs {settings.jobs}; expected "
            "at least one of each"
        )
    if len(set(settings.seeds)) < len(settings.seeds):
        raise UsageError(f"--seeds: got {' '.join(map(str, settings.seeds))}; name each seed once")
    folders: dict[str, str] = {}
    for arm in settings.arms:
        other = folders.setdefault(safe_name(arm), arm)
        if other != arm:
            raise UsageError(f"--arms: {other!r} and {arm!r} would share the folder {safe_name(arm)}; rename one")
    threads = max(1, usable_cores() // settings.jobs)
    runs = []
    for seed in settings.seeds:
        for arm, changes in settings.arms.items():
            folder = Path(settings.out) / safe_name(arm) / f"seed_{seed}"
            fixed = {"run": str(folder), "label": arm, "seed": seed, "threads": threads}
            words = [f"--{key}={_word(value)}" for key, value in {**(changes or {}), **fixed}.items()]
            arguments = (f"--settings={settings.base}", *words)
            try:
                training = read_train_settings(list(arguments))
                check_settings(training)
                _refuse_training_pairs(settings, training)
            except UsageError as error:
                raise UsageError(f"arm {arm}: {error}") from error
            runs.append(Run(arm, seed, folder, arguments))
    return runs


def _refuse_training_pairs(settings: CompareSettings, training: TrainSettings) -> None:
    folder = training.data.folder
    if folder and Path(folder).resolve() == Path(settings.data).resolve() and settings.split != "test":
        raise UsageError(
            f"--data: {settings.data} is what the runs are trained on; score them on another folder, or with --split "
            "test on its test pairs"
        )


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _train_all(runs: list[Run], settings: CompareSettings, logs: Path) -> Iterator[tuple[Run, str]]:
    """The runs as they end, each with the reason of its failure or an empty text."""
    with ThreadPoolExecutor(settings.jobs) as pool:
        futures = {pool.submit(_train, run, logs / f"{run.folder.parent.name}_{run.seed}.log"): run for run in runs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _train(run: Run, log: Path) -> str:
    """Runs `mar train` in a process of its own, so that memory and threads are its own too."""
    command = [sys.executable, "-m", "mar_pipeline", "train", *run.arguments]
    with log.open("a") as file:
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL).returncode
    lines = log.read_text().strip().splitlines()
    return "" if code == 0 else f"exit code {code}: {lines[-1] if lines else 'no message'} (see {log})"


def _cost_table(runs: list[Run]) -> str:
    """Mean training time, steps and validation PSNR of each arm, in Markdown."""
    lines = ["| arm | seeds | steps | minutes a run | best validation PSNR (dB) |", "|---|---:|---:|---:|---:|"]
    for arm in dict.fromkeys(run.arm for run in runs):
        reports = [json.loads((run.folder / "report.json").read_text()) for run in runs if run.arm == arm]
        rows = [_last_row(run.folder / "metrics.csv") for run in runs if run.arm == arm]
        minutes = sum(row["minutes"] for row in rows) / len(rows)
        psnr = sum(report["best"]["psnr"] for report in reports) / len(reports)
        lines.append(f"| {arm} | {len(rows)} | {rows[0]['iterations']:.0f} | {minutes:.1f} | {psnr:.2f} |")
    return "\n".join(lines)


def _last_row(metrics: Path) -> dict[str, float]:
    with metrics.open() as file:
        rows = list(csv.DictReader(file))
    return {
        "iterations": float(rows[-1]["iterations"]),
        "minutes": sum(float(row["seconds"]) for row in rows) / 60,
    }


def _arms_text(settings: CompareSettings) -> str:
    def words(changes: Mapping[str, Any] | None) -> str:
        return ", ".join(f"`{key}: {value}`" for key, value in (changes or {}).items()) or "as it is"

    arms = "\n".join(f"- **{arm}**: {words(changes)}" for arm, changes in settings.arms.items())
    return f"Every arm starts from `{settings.base}` and changes:\n\n{arms}\n"


def _write_report(settings: CompareSettings, out: Path, failed: list[str], seconds: float) -> None:
    base: TrainSettings = read_train_settings([f"--settings={settings.base}", "--run=unused"])
    plain = asdict(settings)
    write_json(
        out / "report.json",
        {
            "command": "compare",
            "versions": library_versions(),
            "settings": plain,
            "settings_sha256": sha256_of_text(json.dumps(plain, sort_keys=True)),
            "base": flat(as_plain(base)),
            "seconds": round(seconds, 1),
            "counts": {"arms": len(settings.arms), "seeds": len(settings.seeds), "failed": len(failed)},
            "failed": failed,
            "outputs": ["comparison.md", "evaluation/table.md"],
        },
    )
