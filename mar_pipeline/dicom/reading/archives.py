"""Files within zip archives, read where they lie: nothing of a patient is unpacked to a disk."""

import errno
import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, cast

from mar_pipeline.dicom.reading.limits import MIB, Limits, Metered
from simulation.errors import InputError, LimitError

MEMBER_START = b"PK\x03\x04"
EMPTY_START = b"PK\x05\x06"
LOCAL_HEADER = struct.Struct("<4s22xHH")
ENCRYPTED = 1
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
MAX_GROWTH_BYTES = 65536
"""No packer makes a file longer by more than this."""
MAX_RATIO = 100
"""An archive of images unpacks to some three times its size, one of empty images to more than this."""
ENTRY_BYTES = 256
"""What the directory of an archive takes for a file, with a long name."""


@dataclass(frozen=True)
class ZipMember:
    """A file within a zip archive.

    Args:
        archive: the zip file.
        offset: of the member in it.
        deflated: whether it is compressed.
        packed_bytes: its size in the archive.
        size_bytes: its size unpacked, as the archive says; it is never unpacked to more.
        checksum: CRC-32 of what is unpacked.
        content: what is unpacked, of a member that `loaded` made.
    """

    archive: Path
    offset: int
    deflated: bool
    packed_bytes: int
    size_bytes: int
    checksum: int
    content: bytes | None = field(default=None, repr=False, compare=False)

    def open(self, mode: str = "rb") -> BinaryIO:
        """Return the unpacked member as a file in memory.

        Raises:
            OSError: it is damaged, or the archive cannot be read.
        """
        if mode != "rb":
            raise ValueError(f"mode: got {mode!r}; expected 'rb', as archives are only read")
        return BytesIO(self._unpacked() if self.content is None else self.content)

    def loaded(self) -> "ZipMember":
        """Return the member with its content, to be opened several times.

        Raises:
            OSError: it is damaged, or the archive cannot be read.
        """
        return replace(self, content=self._unpacked())

    def _unpacked(self) -> bytes:
        try:
            if self.packed_bytes > self.size_bytes + MAX_GROWTH_BYTES:
                raise ValueError("longer than it can be")
            with self.archive.open("rb") as file:
                file.seek(self.offset)
                start, name_bytes, extra_bytes = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
                file.seek(name_bytes + extra_bytes, os.SEEK_CUR)
                content = file.read(self.packed_bytes)
            if self.deflated:
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, self.size_bytes + 1)
            if start != MEMBER_START or len(content) != self.size_bytes or zlib.crc32(content) != self.checksum:
                raise ValueError("not what the archive's directory says")
        except (ValueError, struct.error, zlib.error):
            raise OSError(errno.EIO, "it is damaged within its zip file") from None
        return content


InputFile = Path | ZipMember


@dataclass(frozen=True)
class Listed:
    """One file of an archive's directory.

    Args:
        name: as the archive has it; no path to write to.
        member: to read it; None if that is not possible.
        fault: why it cannot be read.
    """

    name: str
    member: ZipMember | None
    fault: InputError | LimitError | None


def size_bytes(file: InputFile) -> int:
    """Return the size of a file, without unpacking it.

    Raises:
        OSError: it is not there.
    """
    return file.size_bytes if isinstance(file, ZipMember) else file.stat().st_size


def in_memory(file: InputFile) -> InputFile:
    """Return a file that is unpacked once, to be opened several times; one on a disk stays there.

    Raises:
        OSError: it is damaged, or the archive cannot be read.
    """
    return file.loaded() if isinstance(file, ZipMember) else file


def is_zip(path: InputFile) -> bool:
    """Return whether a file is a zip archive, whatever it is called.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return file.read(4) in (MEMBER_START, EMPTY_START)


def zip_members(archive: Path, name: str, limits: Limits) -> list[Listed]:
    """List the files of a zip archive in the order of their names; nothing is unpacked.

    Args:
        archive: the zip file.
        name: of the archive in messages.
        limits: how many files, and how large, there may be.

    Raises:
        LimitError: it holds more, or unpacks to more than `MAX_RATIO` times its size and than one file may have.
        OSError: it cannot be read.
        InputError: it is damaged.
    """
    entries = _directory(archive, name, limits)
    packed_mib = archive.stat().st_size / MIB
    unpacked_mib = sum(entry.file_size for entry in entries) / MIB
    most_mib = max(limits.max_file_mb, MAX_RATIO * packed_mib)
    if unpacked_mib > most_mib:
        raise LimitError(
            f"{name}: got a zip file of {packed_mib:.1f} MiB that unpacks to {unpacked_mib:.0f} MiB; expected at most "
            f"{most_mib:.0f}; unpack it to a folder"
        )
    files = sorted(
        (entry for entry in entries if not entry.is_dir()), key=lambda one: (one.filename, one.header_offset)
    )
    return [_listed(archive, entry, limits) for entry in files]


def _directory(archive: Path, name: str, limits: Limits) -> Sequence[zipfile.ZipInfo]:
    """Return the entries of an archive whose directory makes sense."""
    with archive.open("rb") as file:
        metered = Metered(file, limits.max_files * ENTRY_BYTES)
        try:
            with zipfile.ZipFile(cast(BinaryIO, metered)) as opened:
                entries = opened.infolist()
        except Exception:  # each kind of damage has its own
            if metered.left < 0:
                raise _too_many(name, limits) from None
            raise InputError(f"{name}: is a damaged zip file; fetch it again") from None
    if len(entries) > limits.max_files:
        raise _too_many(name, limits)
    by_place = sorted(entries, key=lambda entry: entry.header_offset)
    ends = [entry.header_offset + LOCAL_HEADER.size + entry.compress_size for entry in by_place]
    starts = [entry.header_offset for entry in by_place]
    if any(end > start for end, start in zip(ends, [*starts[1:], archive.stat().st_size], strict=False)):
        raise InputError(f"{name}: is a damaged zip file, its files overlap; fetch it again")
    return entries


def _too_many(name: str, limits: Limits) -> LimitError:
    return LimitError(f"{name}: got a zip file with more than {limits.max_files} files; expected at most that")


def _listed(archive: Path, entry: zipfile.ZipInfo, limits: Limits) -> Listed:
    """One file and whether it can be read."""
    if entry.flag_bits & ENCRYPTED:
        return Listed(entry.filename, None, InputError("is encrypted within its zip file; unpack it first"))
    if entry.compress_type not in METHODS:
        return Listed(
            entry.filename, None, InputError("its compression within the zip file is not supported; unpack it first")
        )
    if entry.file_size > limits.max_file_mb * MIB:
        got = f"got {entry.file_size / MIB:.0f} MiB within a zip file; expected at most {limits.max_file_mb}"
        return Listed(entry.filename, None, LimitError(got))
    deflated = entry.compress_type == zipfile.ZIP_DEFLATED
    member = ZipMember(archive, entry.header_offset, deflated, entry.compress_size, entry.file_size, entry.CRC)
    return Listed(entry.filename, member, None)
