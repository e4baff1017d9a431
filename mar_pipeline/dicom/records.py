"""Frozen dataclasses as JSON and back, by their annotations: what a run notes down for the one that goes on with it."""

import base64
import dataclasses
import types
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

Record = TypeVar("Record")


def to_plain(value: Any, leave_out: tuple[str, ...] = ()) -> Any:
    """Return what JSON can hold of a dataclass, and of all that stands in it.

    Args:
        value: dataclasses, tuples, lists, dictionaries, bytes, times, paths, enumerations, numbers, texts and None.
        leave_out: fields of the outermost dataclass.

    Raises:
        TypeError: something else stands in it.

    >>> to_plain((1, b"ab", None))
    [1, 'YWI=', None]
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.init and field.name not in leave_out]
        return {name: to_plain(getattr(value, name)) for name in names}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return [[to_plain(key), to_plain(item)] for key, item in value.items()]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"got {type(value).__name__}, which has no place in a record; expected plain values")


def from_plain(kind: type[Record], plain: Mapping[str, Any], given: Mapping[str, Any]) -> Record:
    """Return the dataclass that `to_plain` made plain.

    Args:
        kind: of the dataclass.
        plain: what JSON held.
        given: the fields that were left out.

    Raises:
        TypeError: it is of another dataclass, or a field's annotation is none that can be restored.
        ValueError: a value is none of its field's.
        KeyError: a field is missing.

    >>> from mar_pipeline.dicom.reading.series import Skipped
    >>> from_plain(Skipped, to_plain(Skipped("notes.txt", "no image")), {})
    Skipped(name='notes.txt', reason='no image', limit_hit=False)
    """
    hints = get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind) if field.init and field.name not in given]  # type: ignore[arg-type]
    return kind(**{name: _restored(hints[name], plain[name]) for name in names}, **given)


def _restored(hint: Any, plain: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _one_of(arguments, plain)
    if origin is tuple and arguments[-1:] == (Ellipsis,):
        return tuple(_restored(arguments[0], item) for item in plain)
    if origin is tuple:
        return tuple(_restored(item_hint, item) for item_hint, item in zip(arguments, plain, strict=True))
    if origin is list:
        return [_restored(arguments[0], item) for item in plain]
    if origin in (dict, Mapping):
        return {_restored(arguments[0], key): _restored(arguments[1], item) for key, item in plain}
    if origin is Literal:
        return plain
    if dataclasses.is_dataclass(hint):
        return from_plain(hint, plain, {})  # type: ignore[arg-type]
    if hint is bytes:
        return base64.b64decode(plain, validate=True)
    if hint is datetime:
        return datetime.fromisoformat(plain)
    if hint in (str, bool, int, float, Path, type(None)) or (isinstance(hint, type) and issubclass(hint, Enum)):
        return None if hint is type(None) else hint(plain)
    raise TypeError(f"got the annotation {hint}, of which no record can be restored")


def _one_of(hints: tuple[Any, ...], plain: Any) -> Any:
    """Return a value that may be None, or else is of one kind or plain."""
    others = [hint for hint in hints if hint is not type(None)]
    if plain is None and len(others) < len(hints):
        return None
    if len(others) == 1:
        return _restored(others[0], plain)
    if all(hint in (str, bool, int, float) for hint in others):
        return plain
    raise TypeError(f"got the annotation {hints}, of which no record can be restored")
