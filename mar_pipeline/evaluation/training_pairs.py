"""Pairs that a run was trained or selected on: scores on them say little about others."""

import json
import logging
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from mar_pipeline.data.pairs import PairFile, Skipped
from mar_pipeline.data.settings import DataSettings
from mar_pipeline.evaluation.methods import Method
from simulation.errors import UsageError

logger = logging.getLogger(__name__)


def without_training_pairs(
    pairs: Sequence[PairFile], methods: Sequence[Method], data: Path, include: bool
) -> tuple[list[PairFile], list[Skipped]]:
    """Leave out the pairs that a run was trained or selected on, and say so.

    What a run was given is known from its folder. Weights alone know a folder by its name: they are warned of only.

    Args:
        pairs: that are to be scored.
        methods: with the facts of their runs.
        data: folder of the pairs.
        include: whether such pairs are scored all the same.

    Returns:
        The pairs that are scored, and the others with the reason.

    Raises:
        UsageError: no pair is left.
    """
    reasons: dict[PairFile, str] = {}
    for method in methods:
        for pair, use in _uses(pairs, method, data).items():
            reasons.setdefault(pair, f"{method.name} was {use} on it (--include-training-pairs scores it)")
    if not reasons:
        return list(pairs), []
    logger.warning(
        "evaluate: %d of %d pairs are such that a run was trained or selected on: %s",
        len(reasons),
        len(pairs),
        "scored all the same" if include else "left out; --include-training-pairs scores them too",
    )
    if include:
        return list(pairs), []
    left = [pair for pair in pairs if pair not in reasons]
    if not left:
        raise UsageError(
            f"--data {data}: no pair is left to score, {next(iter(reasons.values()))}; name data that no run was "
            "trained on"
        )
    return left, [Skipped(pair.name, reason) for pair, reason in reasons.items()]


def _uses(pairs: Sequence[PairFile], method: Method, data: Path) -> dict[PairFile, str]:
    """Return the pairs that a run was given, each with what it was given it for."""
    found = _settings_of(method)
    if found is None:
        return {}
    settings, full = found
    if not full:
        _warn_of_the_same_name(method, settings, data)
        return {}

    def is_data(folder: str | None) -> bool:
        return bool(folder) and Path(str(folder)).resolve() == data.resolve()

    from mar_pipeline.data.split import training_and_validation_files

    used: dict[PairFile, str] = {}
    try:
        if settings.kind != "simulate" and is_data(settings.folder):
            train, validation = training_and_validation_files(settings, [p for p in pairs if p.split == "train"])
            used |= dict.fromkeys(train, "trained") | dict.fromkeys(validation, "selected")
        if settings.val_folder is not None or settings.val_split != "train":
            folder = settings.val_folder or settings.folder
            if is_data(folder):
                own = [p for p in pairs if p.split == settings.val_split]
                used |= dict.fromkeys(own, "selected")
    except UsageError:  # its slices or masks are none of these
        return used
    return used


def _warn_of_the_same_name(method: Method, settings: DataSettings, data: Path) -> None:
    """Warn where weights alone say that they learnt from a folder of this name, which may be another one."""
    if data.resolve().name in {Path(folder).name for folder in (settings.folder, settings.val_folder) if folder}:
        logger.warning(
            "evaluate: %s was trained or selected on a folder called %s; if it is this one, its scores say little",
            method.name,
            data.resolve().name,
        )


def _settings_of(method: Method) -> tuple[DataSettings, bool] | None:
    """Return the data that a run was given, and whether its folders are whole paths; None where nobody knows."""
    weights = method.facts.get("weights")
    if weights is None:
        return None
    file = Path(weights).parents[1] / "settings.yaml" if len(Path(weights).parents) > 1 else None
    try:
        if file is not None and file.is_file():
            return _data(yaml.safe_load(file.read_text())["data"]), True
        return _data(json.loads(method.settings)["data"]), False
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError):
        return None


def _data(plain: dict[str, Any]) -> DataSettings:
    known = {field.name for field in fields(DataSettings)}
    values: dict[str, Any] = {key: tuple(own) if isinstance(own, list) else own for key, own in plain.items()}
    return DataSettings(**{key: own for key, own in values.items() if key in known})
