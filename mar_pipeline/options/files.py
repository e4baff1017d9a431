"""Settings files: YAML, merged key by key, each on top of the file that it stands on."""

import itertools
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from simulation.errors import UsageError

OPTION = "--settings"
_BASE = "settings"
"""Key of a settings file: the file that it stands on, whose values hold where it says nothing."""

_UNREADABLE = (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError)
"""What reading a file that holds no settings can raise."""

_EXPECTED = "expected lines of KEY: VALUE as configs/ has them"


def settings_files(arguments: Sequence[str]) -> list[str]:
    """Return the files that the command line names with `--settings`, in order."""
    return list(_given(OPTION, arguments))


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the settings files of a command line, and its other words.

    Raises:
        UsageError: `--settings` is the last word.
    """
    options: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == OPTION:
            if not rest:
                raise UsageError(f"{OPTION}: expected a file after it")
            rest.pop(0)
        elif not word.startswith(f"{OPTION}="):
            options.append(word)
    return settings_files(arguments), options


def value_of(key: str, arguments: Sequence[str]) -> Any:
    """Return what the command line, or else its settings files, say of a key that decides what the others may say.

    Args:
        key: of the top level.
        arguments: the command line after the command's name.

    Returns:
        The value, the last one of several; None where there is none or no file can be read: `read_settings` then
        raises the error.
    """
    value = None
    for file in _with_bases(settings_files(arguments)):
        value = _content(file).get(key, value)
    for word in _given(f"--{key}", arguments):
        value = word
    return value


def merge_files(files: Sequence[str], leaves: Collection[str]) -> str:
    """Merge settings files: a later one wins, key by key.

    Args:
        files: as the user named them; those that they stand on go before them.
        leaves: dotted keys whose value is one, also where it is a mapping.

    Returns:
        One YAML mapping with dotted keys.

    Raises:
        UsageError: a file is missing, holds no options, holds a key twice, or stands on itself.
    """
    merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
    for file in _with_bases(files):
        root = _parsed(file)
        for dotted, value in _flat(root, leaves):
            if dotted != _BASE:
                for other in [key for key in merged if key.startswith(f"{dotted}.")]:
                    del merged[other]
                merged[dotted] = (yaml.ScalarNode("tag:yaml.org,2002:str", dotted), value)
    node = yaml.MappingNode("tag:yaml.org,2002:map", list(merged.values()), flow_style=True)
    return str(yaml.serialize(node, Dumper=yaml.SafeDumper, width=1 << 30))


def _given(option: str, arguments: Sequence[str]) -> Iterator[str]:
    """Yield the values of an option, in the order of the command line."""
    for argument, following in itertools.pairwise([*arguments, ""]):
        name, has_value, word = argument.partition("=")
        if name == option:
            yield word if has_value else following


def _with_bases(files: Sequence[str], above: tuple[Path, ...] = ()) -> Iterator[str]:
    """Yield each file after the one that its key `settings` names, relative to its own folder."""
    for file in files:
        here = Path(file).resolve()
        if here in above:
            raise UsageError(f"{OPTION} {file}: stands on itself, by its key settings; name another file there")
        base = _content(file).get(_BASE)
        if base is not None and not isinstance(base, str):
            raise UsageError(f"{OPTION} {file}: settings: got {base!r}, expected the one file that this one stands on")
        if base is not None:
            yield from _with_bases([str(Path(file).parent / base)], (*above, here))
        yield file


def _content(file: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(Path(file).read_text())
    except _UNREADABLE:
        return {}
    return content if isinstance(content, dict) else {}


def _parsed(file: str) -> yaml.MappingNode:
    """Return a file's content as YAML nodes, whose words stay as they are written."""
    try:
        loader = yaml.SafeLoader(Path(file).read_text())
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            got = {yaml.SequenceNode: "a list", yaml.ScalarNode: "a word"}.get(type(root), "nothing")
            raise UsageError(f"{OPTION} {file}: the file holds no options, but {got}; {_EXPECTED}")
        _refuse_repeated_keys(file, root)
        for node in _nodes(root):
            if isinstance(node, yaml.MappingNode):
                loader.flatten_mapping(node)
    except FileNotFoundError as error:
        raise UsageError(f"{OPTION}: no such file: {file}") from error
    except IsADirectoryError as error:
        raise UsageError(f"{OPTION}: not a file: {file}") from error
    except OSError as error:
        raise UsageError(f"{OPTION} {file}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{OPTION} {file}: not text; {_EXPECTED} ({error})") from error
    except (yaml.YAMLError, RecursionError) as error:
        reason = str(error).replace('in "<unicode string>", ', "") or type(error).__name__
        raise UsageError(f"{OPTION} {file}: not YAML: {' '.join(reason.split())[:300]}") from error
    return root


def _nodes(root: yaml.Node) -> list[yaml.Node]:
    """Return all values of a YAML file; an anchor may stand within itself."""
    found = [root]
    for node in found:  # grows
        children = (
            [value for _, value in node.value]
            if isinstance(node, yaml.MappingNode)
            else node.value
            if isinstance(node, yaml.SequenceNode)
            else []
        )
        found += [child for child in children if not any(child is other for other in found)]
    return found


def _refuse_repeated_keys(file: str, root: yaml.Node) -> None:
    """Refuse what YAML forbids but its readers let pass, to take the last one."""
    for node in _nodes(root):
        lines: dict[str, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines:
                raise UsageError(
                    f"{OPTION} {file}: {name} stands in line {lines[name]} and again in line {line}; keep one"
                )
            lines[name] = line


def _flat(node: yaml.MappingNode, leaves: Collection[str], prefix: str = "") -> Iterator[tuple[str, yaml.Node]]:
    """Yield dotted keys and their values; sections are those mappings below which there are leaves."""
    for key, value in node.value:
        dotted = f"{prefix}{key.value}"
        is_section = any(leaf.startswith(f"{dotted}.") for leaf in leaves)
        if is_section and isinstance(value, yaml.MappingNode):
            yield from _flat(value, leaves, f"{dotted}.")
        else:
            yield dotted, value
