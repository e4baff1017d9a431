"""Why a run over DICOM ends, each with the exit code that the program answers."""

from typing import Any

from simulation.errors import InputError


class NoEligibleCT(InputError):
    """No CT series in the folder that may be processed."""

    exit_code = 3


class NoMetal(InputError):
    """No metal in any series that was asked for.

    Args:
        message: why.
        summary: what summary.json would say of the candidates that were left alone.
    """

    exit_code = 4

    def __init__(self, message: str, summary: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.summary = summary or {}


class RefusedInput(InputError):
    """A series or file that is not processed; the message says why and names the file relative to the input folder."""

    exit_code = 5


class OutputError(InputError):
    """An output folder that exists already or cannot be written."""

    exit_code = 6


class LimitHit(InputError):
    """An input larger than the limits allow."""

    exit_code = 7
