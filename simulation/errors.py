"""Errors that the user can mend, each with the exit code that every command ends with because of it.

A message is one line: what, what was got, what was expected, and the remedy.
"""

EXIT_CODES = {
    0: "ok",
    1: "unexpected failure",
    2: "usage: an unknown name, a wrong type, a conflicting option",
    3: "nothing to process",
    4: "no metal",
    5: "an input was refused",
    6: "the output exists or cannot be written",
    7: "a limit was reached",
    8: "some items failed; they are listed",
    75: "stopped; the same command goes on",
    130: "interrupted",
}
"""What each exit code means, for all commands."""


def exit_codes_text() -> str:
    """Return the table of exit codes, as every command's help shows it."""
    return "exit codes:\n" + "".join(f"  {code:<4} {meaning}\n" for code, meaning in EXIT_CODES.items())


class MarError(ValueError):
    """Anything that the user can mend.

    Example:
        >>> EXIT_CODES[InputError("scan.nii: got 2 axes; expected 3").exit_code]
        'an input was refused'
    """

    exit_code = 1


class UsageError(MarError):
    """A request that cannot be carried out as asked: an unknown name, a conflicting option."""

    exit_code = 2


class NothingToProcessError(MarError):
    """No item that could be worked on: no slice in a source, no pair in a data set."""

    exit_code = 3


class InputError(MarError):
    """An input that cannot be used: a broken file, a wrong shape, an impossible value."""

    exit_code = 5


class ResourceError(MarError):
    """An output that exists already or cannot be written."""

    exit_code = 6


class LimitError(MarError):
    """An input larger than the limits allow."""

    exit_code = 7


class StoppedError(MarError):
    """Work that was asked to stop and goes on when the same command is started again."""

    exit_code = 75
