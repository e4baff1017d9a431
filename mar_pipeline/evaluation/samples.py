"""Scores of networks on the held-out samples of a secondary task, as a table and pictures."""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from mar_pipeline.evaluation.files import EvaluateReport, make_folder, write_report
from mar_pipeline.evaluation.method_facts import Measurements
from mar_pipeline.evaluation.methods import Method, first_seeds
from mar_pipeline.evaluation.run_columns import load_runs, run_facts
from mar_pipeline.evaluation.score_tables import ScoreRow, to_csv
from mar_pipeline.evaluation.task_scores import TaskScores, measure, network_answer
from mar_pipeline.evaluation.task_settings import TaskEvaluateSettings, check_task_settings
from mar_pipeline.evaluation.task_tables import results_of, states, table_columns, to_markdown, to_text
from mar_pipeline.runtime.device import torch_device
from mar_pipeline.tasks.catalogue import TESTS
from mar_pipeline.tasks.task import Batch, HeldOutSet, Shown
from simulation.files import whole_file
from simulation.sources.slices import evenly_spaced, safe_name

logger = logging.getLogger(__name__)


def evaluate_samples(settings: TaskEvaluateSettings) -> EvaluateReport:
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
    methods = _methods(settings, test, device)
    make_folder(out, settings.overwrite)
    scores = measure(test, methods, Measurements(device), settings.equivariance_samples)
    results, columns = results_of(methods, scores, test), table_columns(test)
    pictures = [*_angle_picture(test, scores.rows, out), *_pictures(settings.figures, test, methods, scores, out)]
    words = states(test, scores, device, settings.precision)
    shown = "\n\n".join(f"![{name}]({name})" for name in pictures)
    markdown = f"{to_markdown(results, test)}\n\n{words}\n"
    for name, text in {"results.csv": to_csv(scores.rows, {}), "table.md": f"{markdown}\n{shown}\n"}.items():
        with whole_file(out / name) as unfinished:
            unfinished.write_text(text)
    outputs = ["results.csv", "table.md", *pictures]
    write_report(
        out,
        "evaluate",
        json.loads(json.dumps(asdict(settings))),
        device,
        time.monotonic() - started,
        counts={"samples": len(test.samples), "equivariance_samples": scores.samples},
        results={result.method: result.as_json() for result in results},
        runs=[dict(method.facts) | {"method": method.column} for method in methods if method.run],
        outputs=outputs,
    )
    return EvaluateReport(
        rows=tuple(scores.rows),
        table=f"{words}\n\n{to_text(results, test)}",
        markdown=markdown,
        outputs=(*outputs, "report.json"),
        device=device,
        results=tuple(results),
        columns=columns,
    )


def _methods(settings: TaskEvaluateSettings, test: HeldOutSet, device: str) -> list[Method]:
    """Return what is scored, in the order of the settings' methods."""
    paths = [word for word in settings.methods if word not in test.baselines]
    known = "".join(f"{name}, or " for name in test.baselines)
    networks = {
        path: Method(
            column,
            network_answer(run, test, device, settings.precision),
            name,
            run.seed,
            facts=run_facts(run, name),
        )
        for path, (column, name, run) in load_runs(paths, test.baselines, device, settings.task, known).items()
    }
    return [networks.get(word) or Method(word, test.baselines[word]) for word in settings.methods]


def _pictures(count: int, test: HeldOutSet, methods: Sequence[Method], scores: TaskScores, out: Path) -> list[str]:
    """Draw some samples, of several seeds the first; return the pictures' names."""
    if test.figure is None or not count:
        return []
    draw = partial(_draw, test.figure, scores.rows, out)
    shown = _shown(methods)
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
    rows: Sequence[ScoreRow],
    out: Path,
    sample: Batch,
    name: str,
    methods: Mapping[str, Method],
) -> str:
    own = {row.run or row.method: row.scores for row in rows if row.sample["sample"] == name and not row.angle_deg}
    shown = [Shown(label, method.answer(sample)[0], own[method.name]) for label, method in methods.items()]
    file = f"{safe_name(name)}.png"
    with whole_file(out / file) as unfinished:
        figure(sample, shown, name).savefig(unfinished, format="png")
    return file


def _shown(methods: Sequence[Method]) -> dict[str, Method]:
    """Return what a picture calls it -> the first run of each column."""
    shown = {}
    for first in first_seeds(methods):
        several = first.run and sum(method.column == first.column for method in methods) > 1
        label = "Input" if first.column == "input" else first.column
        shown[f"{label}, seed {first.seed}" if several else label] = first
    return shown


def _angle_picture(test: HeldOutSet, rows: Sequence[ScoreRow], out: Path) -> list[str]:
    """Draw the first score against the angle, where the task asks for it."""
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
