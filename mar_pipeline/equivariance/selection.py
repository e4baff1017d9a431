"""Which layers of a network are meant: by type, by name, by pattern."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeAlias, TypeVar

from torch import nn
from torch.nn.parallel import DistributedDataParallel

Selector: TypeAlias = str | type[nn.Module]
Value = TypeVar("Value")


def unwrap(model: nn.Module) -> nn.Module:
    """Return the network inside `DistributedDataParallel` and `torch.compile`.

    Raises:
        ValueError: `nn.DataParallel`, which cuts the two halves of a batch apart.
    """
    while True:
        if isinstance(model, nn.DataParallel):
            raise ValueError("nn.DataParallel divides the batch between devices; use DistributedDataParallel")
        inner = model.module if isinstance(model, DistributedDataParallel) else getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def select_layers(
    model: nn.Module,
    layers: Selector | Sequence[Selector] | None = None,
    exclude: str | Iterable[str] = (),
    default: tuple[type[nn.Module], ...] = (nn.Conv2d,),
) -> dict[str, nn.Module]:
    """Return layers by name, in the order of the network.

    Args:
        model: the network, wrapped or not; names are those of the network inside.
        layers: module types, exact names of modules (of any type), and patterns with * ? [ ] over the names of the
            default types; None takes all of the default types.
        exclude: exact names, of which everything inside goes too, and patterns.
        default: types meant where none is named.

    Returns:
        Name to module; empty if nothing is chosen.

    Raises:
        ValueError: a name or pattern that fits no module.
    """
    modules = {name.replace("_orig_mod.", ""): module for name, module in unwrap(model).named_modules()}
    selectors = default if layers is None else [layers] if isinstance(layers, str | type) else layers
    chosen: set[str] = set()
    for selector in selectors:
        chosen |= _matches(selector, modules, default)
    left_out: set[str] = set()
    for name in [exclude] if isinstance(exclude, str) else exclude:
        inside = {other for other in modules if other.startswith(f"{name}.")}
        left_out |= inside | _matches(name, modules, (nn.Module,))
    return {name: module for name, module in modules.items() if name in chosen - left_out}


def lookup(table: Mapping[str, Value], name: str) -> Value | None:
    """Return the entry of a layer: under its name, else under the first pattern that fits; None where there is none."""
    if name in table:
        return table[name]
    return next((value for pattern, value in table.items() if fnmatchcase(name, pattern)), None)


def check_keys(keys: Iterable[str], names: Iterable[str], what: str) -> None:
    """Refuse names and patterns that fit none of the layers.

    Raises:
        ValueError: so it is, with the names that are near.
    """
    known = list(names)
    for key in keys:
        if not any(key == name or fnmatchcase(name, key) for name in known):
            raise ValueError(f"{what}: {key!r} fits none of the {len(known)} layers{_near(key, known)}")


def _matches(selector: Any, modules: Mapping[str, nn.Module], default: tuple[type[nn.Module], ...]) -> set[str]:
    if isinstance(selector, type) and issubclass(selector, nn.Module):
        return {name for name, module in modules.items() if isinstance(module, selector)}
    if not isinstance(selector, str):
        raise ValueError(f"layers: got {selector!r}, expected a module type, a name or a pattern")
    if selector in modules:
        return {selector}
    found = {name for name, module in modules.items() if isinstance(module, default) and fnmatchcase(name, selector)}
    if not found:
        raise ValueError(f"layers: {selector!r} fits no module of the network{_near(selector, list(modules))}")
    return found


def _near(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3) or [other for other in names if other][:3]
    return f"; there are for example {', '.join(near)}" if near else ""
