"""The end of a run over DICOM that no other command knows."""

from typing import Any

from simulation.errors import MarError


class NoMetalError(MarError):
    """No metal in any series that was asked for.

    Args:
        message: why.
        summary: what summary.json would say of the candidates that were left alone.
    """

    exit_code = 4

    def __init__(self, message: str, summary: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.summary = summary or {}
