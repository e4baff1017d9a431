"""`mar evaluate --task TASK`: networks scored on the held-out samples of a secondary task; a table and pictures."""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from mar_pipeline.device import torch_device
from mar_pipeline.evaluation.files import make_folder
from mar_pipeline.evaluation.method_facts import Measurements, machine
from mar_pipeline.evaluation.run_columns import columns_of, distinct_names, refuse_twins
from mar_pipeline.evaluation.task_scores import Contender, TaskRow, TaskScores, measure, network_answer
from mar_pipeline.evaluation.task_settings import TaskEvaluateSettings, check_task_settings
from mar_pipeline.evaluation.task_tables import (
    MethodResult,
    results_of,
    states,
    table_columns,
    to_csv,
    to_markdown,
    to_text,
)
from mar_pipeline.tasks.catalogue import TESTS
from mar_pipeline.tasks.task import Batch, HeldOutSet, Score, Shown
from mar_pipeline.weights.trained import load_trained
from simulation.errors import UsageError
from simulation.files import sha256_of, sha256_of_text, whole_file, write_json
from simulation.provenance import library_versions
from simulation.sources.slices import evenly_spaced, safe_name

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskReport:
    """What `evaluate_task` did.

    Args:
        results: one per method.
        table: the table as aligned text.
        markdown: the table, and what its numbers are.
        pictures: files written, relative to the output folder.
        columns: of the table, by the names of the results' values.
    """

    results: tuple[MethodResult, ...]
    table: str
    markdown: str
    pictures: tuple[str, ...]
    columns: dict[str, Score]


def evaluate_task(settings: TaskEvaluateSettings) -> TaskReport:
    """Score every sample and write results.csv, table.md, report.json and the pictures.

    Args:
        settings: what to score.

    Raises:
        UsageError: unknown methods, or impossible settings.
        InputError: the data or a run cannot be used, or the output folder cannot be written.
        OSError: a file cannot be written.
    """
    check_task_settings(settings)
    started, out = time.monotonic(), Path(settings.out)
    device = torch_device(settings.device).type
    test = TESTS[settings.task].make(settings.data)
    contenders = _contenders(settings, test, device)
    make_folder(out)
    scores = measure(test, contenders, Measurements(device), settings.equivariance_samples)
    results, columns = results_of(contenders, scores, test), table_columns(test)
    pictures = [*_angle_picture(test, scores.rows, out), *_pictures(settings.figures, test, contenders, scores, out)]
    words = states(test, scores, device, settings.precision)
    shown = "\n\n".join(f"![{name}]({name})" for name in pictures)
    markdown = f"{to_markdown(results, test)}\n\n{words}\n"
    for name, text in {"results.csv": to_csv(scores.rows, test), "table.md": f"{markdown}\n{shown}\n"}.items():
        with whole_file(out / name) as unfinished:
            unfinished.write_text(text)
    plain = json.loads(json.dumps(asdict(settings)))
    write_json(
        out / "report.json",
        {
            "command": "evaluate",
            "versions": library_versions(),
            "settings": plain,
            "settings_sha256": sha256_of_text(json.dumps(plain, sort_keys=True)),
            **machine(device),
            "counts": {"samples": len(test.samples), "equivariance_samples": scores.samples},
            "results": {result.method: result.as_json() for result in results},
            "runs": [_run_facts(one) for one in contenders if one.trained],
            "seconds": round(time.monotonic() - started, 1),
            "outputs": ["results.csv", "table.md", *pictures],
        },
    )
    return TaskReport(tuple(results), f"{words}\n\n{to_text(results, test)}", markdown, tuple(pictures), columns)


def _contenders(settings: TaskEvaluateSettings, test: HeldOutSet, device: str) -> list[Contender]:
    """What is scored, in the order of the settings' methods."""
    paths = [word for word in settings.methods if word not in test.baselines]
    for path in paths:
        if not Path(path).exists():
            known = "".join(f"{name}, or " for name in test.baselines)
            raise UsageError(
                f"unknown method {path!r}; expected {known}the path of a run folder or weights file (there is no such "
                "file)"
            )
    runs = [load_trained(path, device, settings.task) for path in paths]
    refuse_twins(paths, runs)
    names = distinct_names(runs, test.baselines)
    columns = columns_of(runs, names, test.baselines)
    trained = {
        path: Contender(column, name, network_answer(run, test, device, settings.precision), run)
        for path, column, name, run in zip(paths, columns, names, runs, strict=True)
    }
    return [trained.get(word) or Contender(word, word, test.baselines[word]) for word in settings.methods]


def _pictures(
    count: int, test: HeldOutSet, contenders: Sequence[Contender], scores: TaskScores, out: Path
) -> list[str]:
    """Pictures of some samples, of several seeds the first; their names."""
    if test.figure is None or not count:
        return []
    draw = partial(_draw, test.figure, scores.rows, out)
    shown = _first_seeds(contenders)
    chosen = set(evenly_spaced(range(len(test.samples)), min(count, len(test.samples))))
    names, place = [], 0
    for batch in test.loader:
        for index in range(len(next(iter(batch.values())))):
            if place in chosen:
                sample = {key: x[index : index + 1] for key, x in batch.items()}
                names.append(draw(sample, test.samples[place], shown))
            place += 1
    return names


def _draw(
    figure: Callable[[Batch, Sequence[Shown], str], Any],
    rows: Sequence[TaskRow],
    out: Path,
    sample: Batch,
    name: str,
    contenders: Mapping[str, Contender],
) -> str:
    own = {row.run or row.method: row.scores for row in rows if row.sample == name and not row.angle_deg}
    shown = [Shown(label, contender.answer(sample)[0], own[contender.name]) for label, contender in contenders.items()]
    file = f"{safe_name(name)}.png"
    with whole_file(out / file) as unfinished:
        figure(sample, shown, name).savefig(unfinished, format="png")
    return file


def _first_seeds(contenders: Sequence[Contender]) -> dict[str, Contender]:
    """What a picture calls it -> the first run of each method."""
    runs: dict[str, list[Contender]] = {}
    for contender in contenders:
        runs.setdefault(contender.method, []).append(contender)
    shown = {}
    for method, own in runs.items():
        trained = own[0].trained
        seed = f", seed {trained.seed}" if trained and len(own) > 1 else ""
        shown["Input" if method == "input" else f"{method}{seed}"] = own[0]
    return shown


def _angle_picture(test: HeldOutSet, rows: Sequence[TaskRow], out: Path) -> list[str]:
    """The first score against the angle, where the task asks for it."""
    if test.angle_figure is None:
        return []
    first = next(iter(test.scores))
    sums: dict[str, dict[float, dict[str, list[float]]]] = {}
    for row in rows:
        of_run = sums.setdefault(row.method, {}).setdefault(row.angle_deg, {}).setdefault(row.run, [])
        of_run.append(row.scores[first])
    curves = {
        method: {angle: [fmean(values) for values in runs.values()] for angle, runs in sorted(angles.items())}
        for method, angles in sums.items()
    }
    name = f"{first}_per_angle.png"
    with whole_file(out / name) as unfinished:
        test.angle_figure(curves).savefig(unfinished, format="png")
    return [name]


def _run_facts(contender: Contender) -> dict[str, Any]:
    trained = contender.trained
    if trained is None:
        return {}
    return {
        "method": contender.method,
        "name": contender.name,
        "network": trained.name,
        "arguments": trained.arguments,
        "seed": trained.seed,
        "parameters": trained.parameters,
        "weights": str(trained.source),
        "weights_sha256": sha256_of(trained.source),
    }
