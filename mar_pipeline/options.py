"""A command's options: a frozen settings dataclass read from a YAML file and the command line."""

import dataclasses
import difflib
import inspect
import itertools
import json
import re
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from simulation.errors import UsageError

Settings = TypeVar("Settings")

_PLAINER = (
    (r"the following arguments are required: (.*)", r"required, but not given: --\1"),
    (r'Parser key "settings": File does not exist: (.*)', r"--settings: no such file: \1"),
    (r"Unexpected config: .*", "--settings: the file holds no options; expected lines of KEY: VALUE"),
    (r"Problems parsing config:(.*)", r"--settings: not YAML:\1"),
    (r'in "<unicode string>", ', ""),
    (r"Option '([\w.]+)' is not accepted", r"unknown key '\1'"),
    (r"unrecognized arguments: (.*)", r"unknown option \1"),
    (r'Parser key "settings": Path is not a file: (.*)', r"--settings: not a file: \1"),
)
"""What jsonargparse says, and what a user of the program understands."""

_UNREADABLE = (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError)
"""What a file of settings that is none can raise."""


def read_settings(
    command: str,
    settings_class: type[Settings],
    arguments: list[str],
    sections: Mapping[str, type] = MappingProxyType({}),
) -> Settings:
    """A command's settings from `--settings FILE.yaml` and its options, which win wherever they stand.

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
    for file in _settings_files(arguments):
        _refuse_repeated_keys(file)
    leaves = _leaves(settings_class, sections=sections)
    summary = (inspect.getdoc(settings_class) or "").partition("\n")[0]
    parser = ArgumentParser(prog=f"mar {command}", description=summary, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--settings", action=ActionConfigFile, metavar="FILE.yaml", help="options from a file")
    for key, leaf in leaves.items():
        keywords = dict(leaf.default)
        if bool in _members(leaf.hint):
            keywords |= {"nargs": "?", "const": True}
        if _item_type(leaf.hint):
            keywords["metavar"] = f"{leaf.name.upper()} ..."
        parser.add_argument(_option(key), type=leaf.hint, help=leaf.help, **keywords)
    hints = {key: leaf.hint for key, leaf in leaves.items()}
    try:
        values = parser.instantiate(parser.parse_args(_files_first(_fold_words(arguments, hints))))
    except ArgumentError as error:
        raise UsageError(f"{_plain(str(error), hints)} (mar {command} --help lists the options)") from error
    except (UnicodeDecodeError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UsageError(f"--settings: expected lines of KEY: VALUE as configs/ has them ({reason})") from error
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
    """Options of a dataclass and of those nested in it, by dotted key."""
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


def value_of(key: str, arguments: list[str]) -> Any:
    """What the command line, or else its settings file, says of a key that decides what the others may say.

    Args:
        key: of the top level.
        arguments: the command line after the command's name.

    Returns:
        The value, the last one of several; None where there is none or no file can be read: `read_settings` then
        tells.
    """
    value = None
    for file in _settings_files(arguments):
        value = _content(file).get(key, value)
    for word in _given(f"--{key}", arguments):
        value = word
    return value


def _given(option: str, arguments: list[str]) -> Iterator[str]:
    """The values of an option, in the order of the command line."""
    for argument, following in itertools.pairwise([*arguments, ""]):
        name, has_value, word = argument.partition("=")
        if name == option:
            yield word if has_value else following


def _settings_files(arguments: list[str]) -> list[str]:
    return list(_given("--settings", arguments))


def _content(file: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(Path(file).read_text())
    except _UNREADABLE:
        return {}
    return content if isinstance(content, dict) else {}


def _refuse_repeated_options(command: str, arguments: list[str]) -> None:
    """Of two values the last would win without a word; files of settings go on top of each other, as they stand.

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


def _refuse_repeated_keys(file: str) -> None:
    """YAML forbids what its readers let pass, and then take the last one."""
    try:
        open_nodes = [yaml.compose(Path(file).read_text(), yaml.SafeLoader)]
    except _UNREADABLE:  # the parser tells
        return
    for node in open_nodes:  # grows
        lines: dict[str, int] = {}
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines:
                raise UsageError(
                    f"--settings {file}: {name} stands in line {lines[name]} and again in line {line}; keep one"
                )
            lines[name] = line
            if value not in open_nodes:  # an anchor may stand within itself
                open_nodes.append(value)


def _option(key: str) -> str:
    """`--masks-per-slice`, but `--data.batch_size` as in the file; either spelling is read."""
    return f"--{key if '.' in key else key.replace('_', '-')}"


def _default(field: dataclasses.Field[Any]) -> dict[str, Any]:
    if field.default is not dataclasses.MISSING:
        return {"default": field.default}
    if field.default_factory is not dataclasses.MISSING:
        return {"default": field.default_factory()}
    return {"required": True}


def _argument_help(settings_class: type) -> dict[str, str]:
    """Text of each entry in the `Args:` sections of a dataclass' docstring and its bases', by name."""
    entries: list[tuple[str, str]] = []
    for base in reversed(settings_class.__mro__[:-1]):
        section = re.search(r"^Args:\n((?: +.*\n?|\n)+)", inspect.getdoc(base) or "", re.MULTILINE)
        entries += re.findall(r"^    (\w+):(.*(?:\n {5,}.*)*)", section[1], re.MULTILINE) if section else []
    return {name: " ".join(text.split()).rstrip(".").replace("`", "") for name, text in entries}


def _fold_words(arguments: list[str], hints: dict[str, Any]) -> list[str]:
    """Turns `--methods li nmar` into `--methods=["li", "nmar"]` for each option that takes a tuple."""
    item_types = {_option(name): _item_type(hint) for name, hint in hints.items() if _item_type(hint)}
    spelled = {_option(name).replace("_", "-"): _option(name) for name in hints}
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


def _files_first(arguments: list[str]) -> list[str]:
    """Settings files before the options that override them."""
    files: list[str] = []
    options: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "--settings" and rest:
            files += [argument, rest.pop(0)]
        else:
            (files if argument.startswith("--settings=") else options).append(argument)
    return files + options


def _item_type(hint: Any) -> Any:
    """Type of the items of a tuple or list, also of an optional one; None for other types."""
    for member in _members(hint):
        if get_origin(member) in (tuple, list):
            return get_args(member)[0]
    return None


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _plain(message: str, hints: dict[str, Any]) -> str:
    """The parser's report of a value of a wrong type, in terms of what the user can write."""
    for pattern, plain in _PLAINER:
        message = re.sub(pattern, plain, message, flags=re.DOTALL)
    if unknown := re.match(r"unknown (?:key '|option --)([\w.-]+)", message):
        near = difflib.get_close_matches(unknown[1].replace("-", "_"), hints, 1)
        return f"{message}; did you mean {_option(near[0])}?" if near else message
    found = re.match(r'Parser key "([\w.]+)".*?(?:Got value|Given value): ([^\n]*)', message, re.DOTALL)
    if found is None or found[1] not in hints:
        return message
    return f"{_option(found[1])}: expected {_describe(hints[found[1]])}, got {found[2].strip()!r}"


def _describe(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " | ".join(map(str, get_args(hint)))
    if len(_members(hint)) > 1:
        return " or ".join(map(_describe, _members(hint)))
    if get_origin(hint) is tuple and get_args(hint)[-1] is not Ellipsis:
        return f"{len(get_args(hint))} values, each {_describe(_item_type(hint))}"
    if _item_type(hint):
        return f"a list, each item {_describe(_item_type(hint))}"
    if get_origin(hint) is dict:
        return "{key: value}"
    plain_names = {type(None): "null", str: "text", bool: "true or false", int: "a whole number", float: "a number"}
    return str(plain_names.get(hint) or getattr(hint, "__name__", hint))
