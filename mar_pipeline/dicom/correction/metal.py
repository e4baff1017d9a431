"""Where metal is in a series: a threshold with hysteresis in each slice, connected from slice to slice.

Slices are looked at one by one; of each only its compressed candidates are kept, so that memory does not grow with the
series.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

_HYSTERESIS_HU = 500.0
"""Below the threshold, voxels belong to the metal that they touch: its blurred rim."""


@dataclass(frozen=True)
class PackedMask:
    """A boolean image in some hundred bytes.

    Args:
        shape: rows and columns.
        data: its bits, compressed.
    """

    shape: tuple[int, int]
    data: bytes

    @classmethod
    def of(cls, mask: np.ndarray) -> "PackedMask":
        """Packs Bool["rows columns"]."""
        return cls((mask.shape[0], mask.shape[1]), zlib.compress(np.packbits(mask).tobytes()))

    def unpack(self) -> np.ndarray:
        """Bool["rows columns"]."""
        bits = np.frombuffer(zlib.decompress(self.data), np.uint8)
        return np.unpackbits(bits, count=self.shape[0] * self.shape[1]).astype(bool).reshape(self.shape)


@dataclass(frozen=True)
class Component:
    """One connected piece of candidates in a series, and what was decided about it.

    Args:
        kept: whether it counts as metal.
        reason: why it is metal, or why it is left alone: plain words, complete as a clause.
        first_slice: place of its first slice, from 0.
        last_slice: place of its last slice.
        centre: row and column of its middle in the slice where it is largest.
        area_mm2: its largest area in a slice.
        peak_hu: its brightest voxel.
    """

    kept: bool
    reason: str
    first_slice: int
    last_slice: int
    centre: tuple[int, int]
    area_mm2: float
    peak_hu: float


@dataclass(frozen=True)
class Candidates:
    """What may be metal in one slice.

    Args:
        weak: voxels above the lower threshold.
        strong: voxels above the threshold.
    """

    weak: PackedMask
    strong: PackedMask


def candidates(hu: np.ndarray, threshold_hu: float) -> Candidates:
    """What may be metal in a slice.

    Args:
        hu: Float["rows columns"]; padding is air.
        threshold_hu: of metal; 500 HU less count beside it.
    """
    return Candidates(PackedMask.of(hu >= threshold_hu - _HYSTERESIS_HU), PackedMask.of(hu >= threshold_hu))


def connected(found: Sequence[Candidates], pixel_mm2: float, least_mm2: float) -> list[PackedMask]:
    """The metal of every slice.

    A region above the lower threshold is metal if it holds a voxel above the threshold and is large enough, or if it
    overlaps metal of the slice before or after, whatever its size.

    Args:
        found: candidates of all slices in order.
        pixel_mm2: area of a pixel.
        least_mm2: smallest area of metal in a slice that touches none in its neighbours.
    """
    masks = [PackedMask.of(_seeds(one, pixel_mm2, least_mm2)) for one in found]
    order = range(len(found))
    changed = True
    while changed:
        grown_up = [_grow(masks, found, number, number - 1) for number in order[1:]]
        grown_down = [_grow(masks, found, number, number + 1) for number in order[-2::-1]]
        changed = any(grown_up) or any(grown_down)
    return masks


def _seeds(found: Candidates, pixel_mm2: float, least_mm2: float) -> np.ndarray:
    """Regions that are metal by themselves."""
    labels, count = ndimage.label(found.weak.unpack(), np.ones((3, 3)))
    areas_mm2 = np.bincount(labels.ravel(), minlength=count + 1) * pixel_mm2
    holds_strong = np.bincount(labels[found.strong.unpack()], minlength=count + 1) > 0
    is_metal = holds_strong & (areas_mm2 >= least_mm2)
    is_metal[0] = False
    return is_metal[labels]


def _grow(masks: list[PackedMask], found: Sequence[Candidates], number: int, neighbour: int) -> bool:
    """Adds the regions of a slice that overlap metal of its neighbour; whether there were any."""
    beside, weak = masks[neighbour].unpack(), found[number].weak.unpack()
    if not (beside & weak).any():
        return False
    mask = masks[number].unpack()
    if not (beside & weak & ~mask).any():
        return False
    grown = ndimage.binary_propagation((beside & weak) | mask, np.ones((3, 3)), mask=weak)
    masks[number] = PackedMask.of(grown)
    return True
