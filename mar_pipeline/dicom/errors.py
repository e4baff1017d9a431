"""Why a run over DICOM ends, each with the exit code that the program answers."""

from simulation.errors import InputError


class NoEligibleCT(InputError):
    """No CT series in the folder that may be processed."""

    exit_code = 3


class NoMetal(InputError):
    """No metal in any series that was asked for."""

    exit_code = 4


class RefusedInput(InputError):
    """A series or file that is not processed; the message says why and names the file relative to the input folder."""

    exit_code = 5


class OutputError(InputError):
    """An output folder that exists already or cannot be written."""

    exit_code = 6


class LimitHit(InputError):
    """An input larger than the limits allow."""

    exit_code = 7
