"""`mar compare`: several arms of one training over several seeds, scored side by side on the same samples."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mar_pipeline.commands import run_alone
from mar_pipeline.commands.evaluate import EvaluateSettings, TaskEvaluateSettings, evaluate
from mar_pipeline.evaluation.files import make_folder
from mar_pipeline.evaluation.task_tables import ERROR
from mar_pipeline.evaluation.trainings import Run, cost_table, plan, train_all
from mar_pipeline.evaluation.verdicts import Column, verdicts
from mar_pipeline.tasks.catalogue import TESTS
from mar_pipeline.training.settings import TrainSettings, as_plain, flat, read_train_settings
from simulation.errors import InputError, UsageError
from simulation.files import sha256_of_text, whole_file, write_json
from simulation.progress import with_progress
from simulation.provenance import library_versions

logger = logging.getLogger(__name__)

_PROTOCOL = "float"


@dataclass(frozen=True)
class CompareSettings:
    """Train several arms of one run over several seeds and score them side by side.

    Args:
        base: settings file of mar train that all arms start from; its task is theirs.
        out: folder for the runs (ARM/seed_N), their logs, comparison.md, and evaluation/ with tables and pictures.
        data: folder whose pairs the runs are scored on, held out from the training; other tasks than mar hold out
            samples of their own, and take none.
        arms: name of each arm -> what it changes, by dotted key.
        seeds: each arm is trained once with each.
        jobs: trainings at once; they share the CPU's cores.
        split: of data: train or test; null takes what it lists (mar).
        masks: mask stack (.npy) instead of the data's own (mar).
        methods: what stands beside the arms: null takes input, li and nmar, for other tasks input where there is one.
        figures: pictures to draw; null one for every slice, and three for other tasks than mar.
    """

    base: str
    out: str
    data: str | None = None
    arms: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    jobs: int = 1
    split: str | None = None
    masks: str | None = None
    methods: tuple[str, ...] | None = None
    figures: int | None = None


@dataclass(frozen=True)
class CompareReport:
    """What `compare` did.

    Args:
        table: evaluation, differences and cost of the arms as text.
        failed: trainings that failed and pairs that could not be scored, with reasons.
    """

    table: str
    failed: tuple[str, ...]


@dataclass(frozen=True)
class _Results:
    """Scores of the arms.

    Args:
        text: tables for a terminal.
        markdown: the same for the page.
        columns: what differences are taken of.
        failed: samples that could not be scored, with reasons.
    """

    text: str
    markdown: str
    columns: tuple[Column, ...]
    failed: tuple[str, ...] = ()


def compare(settings: CompareSettings) -> CompareReport:
    """Train what is missing, then evaluates every run that is finished.

    Args:
        settings: what to compare.

    Raises:
        UsageError: no arms, no seeds, or settings that `mar train` refuses.
        InputError: every training failed, or the data cannot be used.
        OSError: the folder cannot be written.
    """
    started, out = time.monotonic(), Path(settings.out)
    runs = planned(settings)
    make_folder(out)
    (out / "logs").mkdir(exist_ok=True)
    failed, finished = [], []
    trainings = train_all(runs, settings.jobs, out / "logs")
    for run, reason in with_progress(trainings, len(runs), "compare", "training"):
        if reason:
            failed.append(f"{run.arm}, seed {run.seed}: {reason}")
        else:
            finished.append(run)
    finished.sort(key=runs.index)
    if not finished:
        raise InputError(f"no training came through; the first one: {failed[0]}")
    base = _base(settings)
    if base.task == "mar":
        results = _scored_pairs(settings, finished, out / "evaluation")
    else:
        results = _scored_samples(settings, base, finished, out / "evaluation")
    failed += results.failed
    differences = verdicts(finished, results.columns)
    cost = cost_table(finished)
    _write_page(settings, results.markdown, differences, cost, failed, out / "comparison.md")
    _write_report(settings, base, out, failed, time.monotonic() - started)
    return CompareReport("\n\n".join(part for part in (results.text, differences, cost) if part), tuple(failed))


def planned(settings: CompareSettings) -> list[Run]:
    """Return the trainings of a comparison, and whether their data suit it.

    Args:
        settings: what to compare.

    Raises:
        UsageError: as `plan`, or data that cannot be held out.
    """
    runs = plan(settings.base, settings.arms, settings.seeds, settings.jobs, Path(settings.out))
    tasks = {run.settings.task for run in runs}
    if len(tasks) > 1:
        raise UsageError(f"--arms: are of the tasks {', '.join(sorted(tasks))}; take one")
    if tasks != {"mar"}:
        _check_samples(settings, runs)
        return runs
    if settings.data is None:
        raise UsageError("--data: not given; name a folder whose pairs the runs are scored on")
    for run in runs:
        _refuse_training_pairs(settings, run)
    return runs


def _check_samples(settings: CompareSettings, runs: Sequence[Run]) -> None:
    """Refuse what no secondary task could be scored on, before anything is trained."""
    base = _base(settings)
    for name in ("data", "split", "masks"):
        if getattr(settings, name) is not None:
            raise UsageError(
                f"--{name}: only for metal artifact reduction; {base.task} scores the samples that its own data hold "
                "out: leave it out"
            )
    for run in runs:
        if _held_out(run.settings) != _held_out(base):
            raise UsageError(
                f"arm {run.arm}: changes what all arms are scored on, {_held_out(base)}; compare them apart"
            )
    unknown = {*(settings.methods or ())} - {*TESTS[base.task].make(_held_out(base)).baselines}
    if unknown:
        raise UsageError(f"--methods: got {min(unknown)!r}, which the task {base.task} has not; give null")
    if settings.figures is not None and settings.figures < 0:
        raise UsageError(f"--figures: got {settings.figures}, expected 0 or more")


def _base(settings: CompareSettings) -> TrainSettings:
    """Return the training that all arms start from."""
    return read_train_settings([f"--settings={settings.base}", "--run=unused"])


def _held_out(training: TrainSettings) -> Any:
    """Return what the runs of a secondary task are scored on."""
    testing = TESTS[training.task]
    return testing.data(**{one.name: getattr(training.data, one.name) for one in fields(testing.data)})


def _refuse_training_pairs(settings: CompareSettings, run: Run) -> None:
    folder = getattr(run.settings.data, "folder", None)
    if folder and Path(folder).resolve() == Path(settings.data or "").resolve() and settings.split != "test":
        raise UsageError(
            f"arm {run.arm}: --data: {settings.data} is what the runs are trained on; score them on another folder, or "
            "with --split test on its test pairs"
        )


def _scored_pairs(settings: CompareSettings, runs: Sequence[Run], out: Path) -> _Results:
    """Score metal artifact reduction on pairs in the community layout."""
    methods = ("input", "li", "nmar") if settings.methods is None else settings.methods
    evaluation = evaluate(
        EvaluateSettings(
            data=str(settings.data),
            out=str(out),
            methods=(*methods, *(str(run.folder) for run in runs)),
            split=settings.split,  # type: ignore[arg-type]
            masks=settings.masks,
            overwrite=True,
            figures=settings.figures,
        )
    )
    columns = []
    for name, label, digits in (("psnr", "PSNR (dB)", 2), ("ssim", "SSIM", 4)):
        sums: dict[str, dict[int, list[float]]] = {}
        for row in evaluation.rows:
            if row.protocol == _PROTOCOL and row.seed is not None:
                sums.setdefault(row.method, {}).setdefault(row.seed, []).append(row.scores[name])
        means = {arm: {seed: sum(own) / len(own) for seed, own in seeds.items()} for arm, seeds in sums.items()}
        columns.append(Column(label, digits, False, means))
    failed = tuple(f"{item.pair}: {item.reason}" for item in evaluation.failed)
    return _Results(evaluation.table, (out / "table.md").read_text(), tuple(columns), failed)


def _scored_samples(settings: CompareSettings, base: TrainSettings, runs: Sequence[Run], out: Path) -> _Results:
    """Score a secondary task on the samples that the base's data hold out."""
    data = _held_out(base)
    baselines = tuple(TESTS[base.task].make(data).baselines) if settings.methods is None else settings.methods
    report = evaluate(
        TaskEvaluateSettings(
            task=base.task,  # type: ignore[arg-type]
            data=data,
            out=str(out),
            methods=(*baselines, *(str(run.folder) for run in runs)),
            overwrite=True,
            figures=3 if settings.figures is None else settings.figures,
        )
    )
    columns = tuple(
        Column(
            label=column.label,
            digits=column.digits,
            lower_is_better=name == ERROR,
            values={
                result.method: dict(zip(map(int, result.seeds), result.values[name], strict=True))
                for result in report.results
                if result.seeds and name in result.values
            },
        )
        for name, column in report.columns.items()
    )
    pictures = "\n\n".join(f"![{name}](evaluation/{name})" for name in report.pictures)
    return _Results(report.table, f"## Results: {base.task}\n\n{report.markdown}\n{pictures}\n", columns)


def _write_page(
    settings: CompareSettings, scores: str, differences: str, cost: str, failed: Sequence[str], path: Path
) -> None:
    """Write the page of results."""
    brings = (
        "\n## What EQ-Reg brings\n\nDifferences between arms that are the same but for EQ-Reg and show the network as "
        "many new samples a step, or as many images, seed by seed; the interval is Student's t of the paired "
        f"differences.\n\n{differences}\n"
        if differences
        else ""
    )
    missing = "".join(f"- {reason}\n" for reason in failed)
    missing = f"\n## Failed\n\n{missing}" if missing else ""
    with whole_file(path) as partial:
        partial.write_text(
            f"# Comparison of arms\n\n{_arms_text(settings)}\n{scores}{brings}\n## Training\n\n{cost}\n{missing}"
        )


def _arms_text(settings: CompareSettings) -> str:
    def words(changes: Mapping[str, Any] | None) -> str:
        return ", ".join(f"`{key}: {value}`" for key, value in (changes or {}).items()) or "as it is"

    arms = "\n".join(f"- **{arm}**: {words(changes)}" for arm, changes in settings.arms.items())
    return f"Every arm starts from `{settings.base}` and changes:\n\n{arms}\n"


def _write_report(
    settings: CompareSettings, base: TrainSettings, out: Path, failed: Sequence[str], seconds: float
) -> None:
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
            "failed": list(failed),
            "outputs": ["comparison.md", "evaluation/table.md"],
        },
    )


if __name__ == "__main__":
    run_alone("compare")
