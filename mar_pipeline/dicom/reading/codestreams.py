"""The size that an encoded frame itself claims, read before a decoder allocates it."""

import re
from dataclasses import dataclass
from itertools import pairwise
from struct import unpack_from

from pydicom.uid import RLELossless

J2K_START = b"\xff\x4f\xff\x51"
END = b"\xff\xd9"
START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
"""JPEG markers that carry the size; F7 is that of JPEG-LS."""
WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
WHOLE = re.compile(rb"\xff\xd9.?[\x00\xff]*\Z", re.DOTALL)
"""An end marker and what pads it to an even length: one byte of any value (scanners' archives have others than zero),
then zeros or fill bytes. Within a code stream FF D9 is nothing but the end."""


@dataclass(frozen=True)
class FrameSize:
    """Rows, columns and components of an encoded frame."""

    rows: int
    columns: int
    components: int


def frame_size(frame: bytes) -> FrameSize | None:
    """Return the size in the header of a JPEG, JPEG-LS or JPEG 2000 frame, None if there is none.

    Args:
        frame: one encoded frame, without the items that encapsulate it.
    """
    try:
        if frame[:2] == b"\xff\xd8":
            return _jpeg_size(frame)
        start = 0 if frame.startswith(J2K_START) else frame.find(J2K_START)  # may be wrapped in a JP2 file
        if start < 0:
            return None
        right, low, left, top = unpack_from(">4I", frame, start + 8)
        (components,) = unpack_from(">H", frame, start + 40)
        return FrameSize(low - top, right - left, components)
    except Exception:  # the frame ends within its header
        return None


def _jpeg_size(frame: bytes) -> FrameSize | None:
    """Walk the segments up to the one that starts the frame."""
    at = 2
    while frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in WITHOUT_LENGTH:
            at += 2
        elif marker in START_OF_FRAME:
            rows, columns, components = unpack_from(">HHB", frame, at + 5)
            return FrameSize(rows, columns, components)
        else:
            at += 2 + unpack_from(">H", frame, at + 2)[0]
    return None


def rle_sizes(frame: bytes) -> list[int]:
    """How many bytes each segment of an RLE frame unpacks to, counted without unpacking it.

    Args:
        frame: one encoded frame (PS3.5 G).

    Raises:
        ValueError: its header is damaged.
    """
    if len(frame) < 64:
        raise ValueError("an RLE frame that ends within its header")
    count, *offsets = unpack_from("<16L", frame)
    bounds = [*offsets[:count], len(frame)]
    if not 0 < count < 16 or bounds != sorted(bounds) or bounds[0] < 64:
        raise ValueError("an RLE frame whose segments do not follow each other")
    return [_unpacked(frame[start:end]) for start, end in pairwise(bounds)]


def _unpacked(segment: bytes) -> int:
    """Return bytes that a segment of literal runs and repetitions unpacks to."""
    at = size = 0
    while at + 1 < len(segment):
        run = segment[at]
        if run > 128:
            size += 257 - run
            at += 2
        elif run < 128:
            size += min(run + 1, len(segment) - at - 1)
            at += run + 2
        else:
            at += 1
    return size


def is_whole(frame: bytes, transfer_syntax: str) -> bool:
    """Whether a frame has its end marker: of a JPEG cut short some decoders make up the rest.

    Args:
        frame: one encoded frame, padded or not.
        transfer_syntax: UID; RLE has no end marker, its size tells.
    """
    return transfer_syntax == RLELossless or WHOLE.search(frame[-1024:]) is not None
