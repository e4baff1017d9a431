"""Checks that the settings of several tasks share."""

from typing import Any

from simulation.errors import UsageError


def check_least(data: Any, **least: int) -> None:
    """Refuse numbers that are too small; those that are not given are right.

    Args:
        data: the section ``data`` of the settings.
        least: key -> its smallest value.

    Raises:
        UsageError: names the key.
    """
    for name, lowest in least.items():
        value = getattr(data, name)
        if value is not None and value < lowest:
            raise UsageError(f"--data.{name}: got {value}, expected {lowest} or more")
