"""Command lines that tests make of defaults and what they want otherwise: no option may be given twice."""

from collections.abc import Sequence
from typing import Any


def replaced(defaults: Sequence[Any], more: Sequence[Any]) -> list[Any]:
    """The defaults, `--option value` each, but those that `more` gives, and `more`."""
    given = {str(word).partition("=")[0].replace("_", "-") for word in more}
    pairs = zip(defaults[::2], defaults[1::2], strict=True)
    return [*(word for pair in pairs if pair[0] not in given for word in pair), *more]
