"""Errors that the user can mend: one line that says what, got, expected, remedy."""


class InputError(ValueError):
    """An input that cannot be used: a broken file, a wrong shape, an impossible value."""

    exit_code = 1


class UsageError(InputError):
    """A request that cannot be carried out as asked: an unknown name, a conflicting option."""

    exit_code = 2


class StoppedError(InputError):
    """Work that was asked to stop and goes on when the same command is started again."""

    exit_code = 75
