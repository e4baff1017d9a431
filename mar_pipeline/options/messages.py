"""What a parser complains about, in words that a user of the program understands."""

import difflib
import re
import types
from collections.abc import Collection, Mapping
from typing import Any, Literal, Union, get_args, get_origin

_PLAINER = (
    (r"the following arguments are required: (.*)", r"required, but not given: --\1"),
    (r"Option '([\w.]+)' is not accepted", r"unknown key '\1'"),
    (r"unrecognized arguments: (.*)", r"unknown option \1"),
)
"""What jsonargparse says, and what is said instead."""

_MEANT = {
    "learning_rate": "lr",
    "rate": "lr",
    "num_epochs": "epochs",
    "n_epochs": "epochs",
    "max_epochs": "epochs",
    "iterations": "batches_per_epoch",
    "steps_per_epoch": "batches_per_epoch",
    "batch": "batch_size",
    "bs": "batch_size",
    "crop": "patch",
    "crop_size": "patch",
    "patch_size": "patch",
    "num_workers": "workers",
    "jobs": "workers",
    "processes": "workers",
    "model": "network.name",
    "network": "network.name",
    "arch": "network.name",
    "architecture": "network.name",
    "dataset": "data.folder",
    "data_dir": "data.folder",
    "root": "data.folder",
    "data": "data.folder",
    "input": "source",
    "augment": "rotations",
    "augmentation": "rotations",
    "output": "out",
    "output_dir": "out",
    "save_dir": "run",
    "run_dir": "run",
    "random_seed": "seed",
    "gpu": "device",
    "cuda": "device",
    "amp": "precision",
    "fp16": "precision",
    "schedule": "milestones",
    "decay": "weight_decay",
    "grad_clip": "clip_norm",
    "ema": "ema_decay",
    "eq": "equivariance.enabled",
    "eq_reg": "equivariance.enabled",
    "lambda": "equivariance.weight",
    "n_slices": "slices",
    "metrics": "protocol",
    "metric": "protocol",
    "models": "methods",
    "method": "methods",
    "config": "settings",
}
"""Words that other programs have for an option -> its name here, without or with its section."""


def near_name(word: str, keys: Collection[str]) -> str | None:
    """Return the key that a user most likely means by a word.

    Args:
        word: what was given, without dashes before it.
        keys: the dotted keys that there are.

    >>> near_name("learning_rate", ["seed", "optimizer.lr"])
    'optimizer.lr'
    >>> near_name("sed", ["seed", "optimizer.lr"])
    'seed'
    """
    name = word.replace("-", "_").lower()
    last = name.rpartition(".")[2]
    meant = _MEANT.get(last)
    for wanted in (name, last, meant):
        if wanted is not None and (found := _key_named(wanted, keys)):
            return found
    if near := difflib.get_close_matches(name, keys, 1):
        return near[0]
    near = difflib.get_close_matches(last, [key.rpartition(".")[2] for key in keys], 1)
    return _key_named(near[0], keys) if near else None


def _key_named(name: str, keys: Collection[str]) -> str | None:
    """Return the key of a name, with or without its section."""
    if name in keys:
        return name
    return next((key for key in keys if key.endswith(f".{name}")), None)


def option_of(key: str) -> str:
    """Return the option of a key: `--masks-per-slice`, but `--data.batch_size` as in the file."""
    return f"--{key if '.' in key else key.replace('_', '-')}"


def item_type(hint: Any) -> Any:
    """Return the type of the items of a tuple or list, also of an optional one; None for other types."""
    for member in members(hint):
        if get_origin(member) in (tuple, list):
            return get_args(member)[0]
    return None


def plain_message(message: str, hints: Mapping[str, Any]) -> str:
    """Return the parser's complaint in terms of what the user can write.

    Args:
        message: what jsonargparse says.
        hints: key -> its type.
    """
    for pattern, plain in _PLAINER:
        message = re.sub(pattern, plain, message, flags=re.DOTALL)
    if unknown := re.match(r"unknown (?:key '|option --)([\w.-]+)", message):
        near = near_name(unknown[1], [*hints, "settings"])
        return f"{message}; did you mean {option_of(near)}?" if near else message
    found = re.match(r'Parser key "([\w.]+)".*?(?:Got value|Given value): ([^\n]*)', message, re.DOTALL)
    if found is None or found[1] not in hints:
        return message
    return f"{option_of(found[1])}: expected {_describe(hints[found[1]])}, got {found[2].strip()!r}"


def members(hint: Any) -> tuple[Any, ...]:
    """Return the types that a type hint allows."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _describe(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " | ".join(map(str, get_args(hint)))
    if len(members(hint)) > 1:
        return " or ".join(map(_describe, members(hint)))
    if get_origin(hint) is tuple and get_args(hint)[-1] is not Ellipsis:
        return f"{len(get_args(hint))} values, each {_describe(item_type(hint))}"
    if item_type(hint):
        return f"a list, each item {_describe(item_type(hint))}"
    if get_origin(hint) is dict:
        return "{key: value}"
    plain_names = {type(None): "null", str: "text", bool: "true or false", int: "a whole number", float: "a number"}
    return str(plain_names.get(hint) or getattr(hint, "__name__", hint))
