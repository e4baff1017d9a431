"""How large an input may be: a few bytes of DICOM can claim gigabytes."""

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds that are checked before anything is decoded.

    Args:
        max_side: rows and columns of a slice.
        max_file_mb: size of one file on disk, in MiB.
        max_header_mb: what is read of one file before its pixels, in MiB; parsed, it takes some 80 times as much.
        max_series_mb: decoded pixels of one series, in MiB at two bytes each.
        max_files: files under the input folder.
    """

    max_side: int = 4096
    max_file_mb: int = 256
    max_header_mb: int = 8
    max_series_mb: int = 8192
    max_files: int = 100_000

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name}: got {value}; expected at least 1")


DEFAULT_LIMITS = Limits()
