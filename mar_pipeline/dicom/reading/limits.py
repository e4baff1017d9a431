"""How large an input may be: a few bytes of DICOM can claim gigabytes."""

import os
from dataclasses import dataclass
from typing import BinaryIO

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


class Metered:
    """A binary file of which no more than so many bytes are read; `left` is negative once more were asked for.

    Args:
        file: that is read.
        most: how many bytes.
    """

    def __init__(self, file: BinaryIO, most: int):
        self._file = file
        self.left = most

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes.

        Raises:
            OSError: they are more than may be read.
        """
        wanted = self.left + 1 if size < 0 else min(size, self.left + 1)
        if wanted > MIB:  # a file that is asked for more than it has takes the memory for it
            here = self.tell()
            wanted = min(wanted, self.seek(0, os.SEEK_END) - here)
            self.seek(here)
        data = self._file.read(wanted)
        self.left -= len(data)
        if self.left < 0:
            raise OSError("more than may be read")
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place in the file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the place in the file."""
        return self._file.tell()
