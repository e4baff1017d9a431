"""Trained runs in a table: which share a column, and names that tell them apart."""

import os
import re
from collections.abc import Collection, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from mar_pipeline.weights.shipped import shipped_or_path
from mar_pipeline.weights.trained import BEST, Trained, load_trained
from simulation.errors import UsageError
from simulation.files import sha256_of

_SEED_WORDS = re.compile(r"((^|[-_. ]+)(seed|s)?[-_. ]*\d*|seed\d*)$")
"""What the common beginning of "unet_seed1" and "unet_seed10", or of "unet-0" and "unet-1", has behind the name."""


class Named(NamedTuple):
    """A trained run with its place in the tables.

    Attributes:
        column: that it stands in.
        name: of its own.
        trained: the run.
    """

    column: str
    name: str
    trained: Trained


def load_runs(paths: Sequence[str], taken: Collection[str], device: str, task: str, known: str) -> dict[str, Named]:
    """Load the trained networks of run folders or weights files, those that differ by seed only in one column.

    Args:
        paths: what the user named.
        taken: names of the other methods.
        device: cpu or cuda.
        task: what they are scored on.
        known: the other methods in words, for the message.

    Returns:
        Path -> run, in the order of the paths.

    Raises:
        UsageError: a path is not there, or two of them are the same weights.
        InputError: a run or file cannot be used.
    """
    for path in paths:
        if not shipped_or_path(path).exists():
            raise UsageError(
                f"unknown method {path!r}; expected {known}the path of a run folder or weights file (there is no such "
                "file)"
            )
    runs = [load_trained(path, device, task) for path in paths]
    refuse_twins(paths, runs)
    names = distinct_names(runs, taken)
    columns = columns_of(runs, names, taken)
    return {path: Named(*own) for path, own in zip(paths, zip(columns, names, runs, strict=True), strict=True)}


def run_facts(trained: Trained, name: str) -> dict[str, Any]:
    """Return what a report says of a trained run.

    Args:
        trained: the run.
        name: what the user reads of it.
    """
    return {
        "name": name,
        "network": trained.name,
        "arguments": trained.arguments,
        "seed": trained.seed,
        "parameters": trained.parameters,
        "weights": str(trained.source),
        "weights_sha256": sha256_of(trained.source),
    }


def refuse_twins(paths: Sequence[str], runs: Sequence[Trained]) -> None:
    """Refuse the same weights named twice.

    Args:
        paths: what the user named.
        runs: what is there.

    Raises:
        UsageError: names both.
    """
    seen: dict[str, str] = {}
    for path, run in zip(paths, runs, strict=True):
        first = seen.setdefault(sha256_of(run.source), path)
        if first != path:
            raise UsageError(f"methods: {first} and {path} are the same weights; name each run once")


def _place(run: Trained) -> Path:
    """Return the run's folder, or a weights file that lies in none."""
    source = run.source.resolve()
    return source.parents[1] if source.parent.name == BEST.parent.name else source


def distinct_names(runs: Sequence[Trained], taken: Collection[str]) -> list[str]:
    """Return the runs' labels, with their seed or as much of their path as tells them apart.

    Args:
        runs: in the order of the names.
        taken: names of the other methods.
    """
    parts = [_place(run).parts for run in runs]
    longer = [[f"{run.label} seed {run.seed}" for run in runs]]
    longer += [["/".join(part[-depth:]) for part in parts] for depth in range(2, max(map(len, parts), default=0) + 1)]
    names = [run.label for run in runs]
    for others in longer:
        clashing = {name for name in names if name in taken or names.count(name) > 1}
        names = [other if name in clashing else name for name, other in zip(names, others, strict=True)]
    return names


def columns_of(runs: Sequence[Trained], names: Sequence[str], taken: Collection[str]) -> list[str]:
    """Return the column of every run: its own, or the one of its group if that has several runs and each another seed.

    Args:
        runs: in the order of the columns.
        names: of `distinct_names`.
        taken: names of the other methods.
    """
    columns = list(names)
    for group in dict.fromkeys(run.group for run in runs):
        members = [index for index, run in enumerate(runs) if run.group == group]
        seeds = {runs[index].seed for index in members}
        if len(members) > 1 and len(seeds) == len(members) and None not in seeds:
            used = {*taken, *(columns[index] for index in range(len(runs)) if index not in members)}
            column = _shared_name([runs[index] for index in members])
            while column in used:
                column += "*"
            for index in members:
                columns[index] = column
    return columns


def _shared_name(runs: Sequence[Trained]) -> str:
    """Return the common beginning of several labels without the word for their seeds, or their folder's name."""
    labels = [run.label for run in runs]
    if len(set(labels)) == 1:
        return labels[0]
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*labels, strict=False))
    beginning = _SEED_WORDS.sub("", "".join(letters[0] for letters in same))
    return beginning or Path(os.path.commonpath([_place(run) for run in runs])).name or runs[0].name
