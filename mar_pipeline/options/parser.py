"""The parser of commands whose options are no settings file's: it complains with one line and takes no option twice."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from simulation.errors import UsageError


class CommandParser(argparse.ArgumentParser):
    """A parser that raises `UsageError` instead of ending the process, also for an option that is given twice.

    Of two values the last would win without a word, and of `--html --no-html` too. An option with `action="append"`
    is a list and may be repeated.

    Args:
        arguments: those of `argparse.ArgumentParser`; abbreviations of options are never taken.

    >>> parser = CommandParser(prog="mar example")
    >>> _ = parser.add_argument("--method")
    >>> parser.parse_args(["--method", "li", "--method", "nmar"])
    Traceback (most recent call last):
    ...
    simulation.errors.UsageError: --method: is given twice; leave one of them out (mar example --help tells more)
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**({"allow_abbrev": False} | arguments))
        self._given: dict[str, str] = {}
        for name, action in _ONCE.items():
            self.register("action", name, action)

    def error(self, message: str) -> NoReturn:
        """Complain.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{message} ({self.prog} --help tells more)")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, each time anew."""
        self._given = {}
        return super().parse_known_args(args, namespace)

    def note(self, dest: str, option: str) -> None:
        """Note an option that is given.

        Args:
            dest: what it sets.
            option: as it was written.

        Raises:
            UsageError: it was given before, perhaps as its opposite or by another name.
        """
        if dest in self._given:
            before = self._given[dest]
            what = "is given twice" if before == option else f"is given beside {before}"
            self.error(f"{option}: {what}; leave one of them out")
        self._given[dest] = option


class _Once(argparse.Action):
    """An action that its parser notes."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        if option_string is not None and isinstance(parser, CommandParser):  # else a positional argument
            parser.note(self.dest, option_string)
        super().__call__(parser, namespace, values, option_string)


def _once(action: Any) -> type[argparse.Action]:
    return type(action.__name__, (_Once, action), {})


_STORE = argparse.ArgumentParser(add_help=False)
_ONCE = {
    name: _once(_STORE._registry_get("action", name))
    for name in (None, "store", "store_const", "store_true", "store_false")
} | {argparse.BooleanOptionalAction: _once(argparse.BooleanOptionalAction)}
"""argparse's actions that set one value, by the names that `add_argument` takes."""
