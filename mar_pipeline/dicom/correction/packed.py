"""Boolean images in some hundred bytes, so that memory does not grow with a series."""

import zlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PackedMask:
    """A boolean image in some hundred bytes.

    Args:
        shape: rows and columns.
        data: its bits, compressed.

    Example:
        >>> mask = np.eye(3, dtype=bool)
        >>> bool((PackedMask.of(mask).unpack() == mask).all())
        True
    """

    shape: tuple[int, int]
    data: bytes

    @classmethod
    def of(cls, mask: np.ndarray) -> "PackedMask":
        """Pack Bool["rows columns"]."""
        return cls((mask.shape[0], mask.shape[1]), zlib.compress(np.packbits(mask).tobytes()))

    def unpack(self) -> np.ndarray:
        """Return Bool["rows columns"]."""
        bits = np.frombuffer(zlib.decompress(self.data), np.uint8)
        return np.unpackbits(bits, count=self.shape[0] * self.shape[1]).astype(bool).reshape(self.shape)

    def union(self, other: "PackedMask") -> "PackedMask":
        """Return what lies in either of two masks of one shape."""
        return PackedMask.of(self.unpack() | other.unpack())
