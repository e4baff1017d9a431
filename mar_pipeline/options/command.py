"""A command's options: a frozen settings dataclass read from YAML files and the command line."""

import dataclasses
import inspect
import itertools
import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar, get_type_hints

from mar_pipeline.options.files import OPTION, merge_files, split_arguments
from mar_pipeline.options.messages import item_type, members, option_of, plain_message
from simulation.errors import UsageError

Settings = TypeVar("Settings")


def read_settings(
    command: str,
    settings_class: type[Settings],
    arguments: list[str],
    sections: Mapping[str, type] = MappingProxyType({}),
) -> Settings:
    """Return a command's settings from files (`--settings FILE.yaml`) and options, which win wherever they stand.

    Of several files a later one wins, key by key. A file may stand on another: its key `settings` names it, relative to
    its own folder. `--print_config` prints the merged whole.

    Fields become options: `masks_per_slice: int` is `--masks-per-slice N`, a bool is a switch, a tuple takes several
    words, a field of a nested dataclass is `--section.key`. Their help is the `Args:` section of the class's docstring.

    Args:
        command: name of the command, for its help and errors.
        settings_class: a dataclass.
        arguments: the command line after the command's name.
        sections: fields that are of another dataclass here than their annotation says.

    Raises:
        UsageError: for an unknown key, a wrong type or a missing value, by name.
    """
    from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser

    _refuse_repeated_options(command, arguments)
    leaves = _leaves(settings_class, sections=sections)
    summary = (inspect.getdoc(settings_class) or "").partition("\n")[0]
    parser = ArgumentParser(prog=f"mar {command}", description=summary, exit_on_error=False, allow_abbrev=False)
    parser.add_argument(
        "--settings",
        action=ActionConfigFile,
        metavar="FILE.yaml",
        help="options from a file; of several files the later one wins",
    )
    for key, leaf in leaves.items():
        keywords = dict(leaf.default)
        if bool in members(leaf.hint):
            keywords |= {"nargs": "?", "const": True}
        if item_type(leaf.hint):
            keywords["metavar"] = f"{leaf.name.upper()} ..."
        parser.add_argument(option_of(key), type=leaf.hint, help=leaf.help, **keywords)
    hints = {key: leaf.hint for key, leaf in leaves.items()}
    files, options = split_arguments(arguments)
    try:
        merged = [f"{OPTION}={merge_files(files, hints)}"] if files else []
        values = parser.instantiate(parser.parse_args([*merged, *_fold_words(options, hints)]))
    except ArgumentError as error:
        raise UsageError(f"{plain_message(str(error), hints)} (mar {command} --help lists the options)") from error
    except RecursionError as error:
        raise UsageError(
            f"{OPTION}: a value holds itself; expected lines of KEY: VALUE as configs/ has them"
        ) from error
    return _build(settings_class, values, sections=sections)


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """An option: a field that is no dataclass itself."""

    name: str
    hint: Any
    default: dict[str, Any]
    help: str


def _leaves(
    settings_class: type, prefix: str = "", sections: Mapping[str, type] = MappingProxyType({})
) -> dict[str, _Leaf]:
    """Return options of a dataclass and of those nested in it, by dotted key."""
    hints: dict[str, Any] = {**get_type_hints(settings_class), **sections}
    helps = _argument_help(settings_class)
    leaves: dict[str, _Leaf] = {}
    for field in dataclasses.fields(settings_class):
        hint, key = hints[field.name], prefix + field.name
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            leaves |= _leaves(hint, f"{key}.")
        else:
            leaves[key] = _Leaf(field.name, hint, _default(field), helps.get(field.name, field.name))
    return leaves


def _build(
    settings_class: type[Settings],
    values: Any,
    section: str = "",
    sections: Mapping[str, type] = MappingProxyType({}),
) -> Settings:
    hints: dict[str, Any] = {**get_type_hints(settings_class), **sections}
    if not hasattr(values, "keys"):
        raise UsageError(f"--settings: {section}: got {values!r}, expected keys of its own below it")
    return settings_class(
        **{
            name: _build(hint, values[name], name)
            if isinstance(hint, type) and dataclasses.is_dataclass(hint)
            else values[name]
            for name, hint in hints.items()
        }
    )


def _refuse_repeated_options(command: str, arguments: list[str]) -> None:
    """Refuse an option given twice, of which the last would win silently; only settings files go on top of each other.

    `--key+` appends to a list.
    """
    seen: set[str] = set()
    for argument in itertools.takewhile(lambda word: word != "--", arguments):
        option = argument.partition("=")[0].replace("_", "-")
        if not option.startswith("--") or option.endswith("+") or option == "--settings":
            continue
        if option in seen:
            raise UsageError(
                f"{option}: is given twice; leave one of them out (mar {command} --help lists the options)"
            )
        seen.add(option)


def _default(field: dataclasses.Field[Any]) -> dict[str, Any]:
    if field.default is not dataclasses.MISSING:
        return {"default": field.default}
    if field.default_factory is not dataclasses.MISSING:
        return {"default": field.default_factory()}
    return {"required": True}


def _argument_help(settings_class: type) -> dict[str, str]:
    """Return text of each entry in the `Args:` sections of a dataclass' docstring and its bases', by name."""
    entries: list[tuple[str, str]] = []
    for base in reversed(settings_class.__mro__[:-1]):
        section = re.search(r"^Args:\n((?: +.*\n?|\n)+)", inspect.getdoc(base) or "", re.MULTILINE)
        entries += re.findall(r"^    (\w+):(.*(?:\n {5,}.*)*)", section[1], re.MULTILINE) if section else []
    return {name: " ".join(text.split()).rstrip(".").replace("`", "") for name, text in entries}


def _fold_words(arguments: list[str], hints: dict[str, Any]) -> list[str]:
    """Turn `--methods li nmar` into `--methods=["li", "nmar"]` for each option that takes a tuple."""
    item_types = {option_of(name): item_type(hint) for name, hint in hints.items() if item_type(hint)}
    spelled = {option_of(name).replace("_", "-"): option_of(name) for name in hints}
    folded, rest = [], list(arguments)
    while rest:
        argument = rest.pop(0)
        option, has_value, value = argument.partition("=")
        option = spelled.get(option.replace("_", "-"), option) if option.startswith("--") else option
        argument = option + has_value + value
        if option not in item_types or value.startswith("["):
            folded.append(argument)
            continue
        words = [value] if has_value else []
        while rest and not rest[0].startswith("--"):
            words.append(rest.pop(0))
        is_list = len(words) == 1 and (words[0].startswith("[") or words[0] == "null")
        if not is_list and item_types[option] not in (int, float):
            words = [json.dumps(word) for word in words]
        folded.append(f"{option}={words[0] if is_list else '[' + ', '.join(words) + ']'}")
    return folded
