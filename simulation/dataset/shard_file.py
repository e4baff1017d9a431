"""Training shards on disk: the slices of a data set with all their pairs, some dozen slices in one file.

    {split}_shards/shard_00000.h5      slices 0 .. 31 of the plan and their pairs
    {split}_shards/shard_00000.json    SHA-256 and what is known of the slices, written before the file gets its name
    {split}_manifest.json              what the set was made from, and a SHA-256 of every file

A shard holds S slices and P pairs, uncompressed and contiguous:

    case, slice      (S,) text                   names of a slice, as in the community layout
    image            (S, rows, columns) f32      the truth, 1/cm
    truth            (P,) i32                    the row of `image` that a pair belongs to
    mask             (P,) i32                    N of the community layout's N.h5
    metal_mask       (P, rows, columns) u8       0, or the METAL_CODES of the metal there
    ma_CT, LI_CT     (P, rows, columns) f32      1/cm; not in shards of sinograms
    ma_sinogram      (P, views, bins) f32        not in shards of images, as what follows
    poly_sinogram    (S, views, bins) f32        the scan without metal
    metal_trace      (P, views, bins / 8) u8     bits, as numpy.packbits has them
    mask_512         (P, 512, 256) u8            `metal_mask` before it came onto the scanner's grid: codes of two
                                                 neighbours in a byte, the left one in its low half

What is not there follows from what is: LI_sinogram by `linear_interpolation`, CTs by `Projector.fbp`. A pair has the
same numbers in both layouts. HDF5 says where the rows lie; they are written and read without it, as it crashes the
process when a disk is full and cannot be asked for a part of a row as fast.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import h5py
import numpy as np

from simulation.errors import InputError
from simulation.physics.geometry import FanBeam

Stored = Literal["images", "both", "sinograms"]
_STACK_SIDE = 512
_ALIGNMENT = 4096
_ROOM = 1 << 16
"""Bytes that HDF5's own part of a file may take, names and numbers left aside; it takes some thousand."""
_OF_SLICES = ("image", "poly_sinogram")
_WHOLE_NUMBERS = ("metal_mask", "metal_trace", "mask_512")


def shards_folder(root: Path, split: str) -> Path:
    """Return folder of a split's shards."""
    return root / f"{split}_shards"


def shard_file(folder: Path, number: int) -> Path:
    """Return the file of a shard."""
    return folder / f"shard_{number:05d}.h5"


def names_of(stored: Stored) -> tuple[str, ...]:
    """Return the arrays that shards hold.

    Args:
        stored: images, sinograms, or both.
    """
    sinograms = ("ma_sinogram", "poly_sinogram", "metal_trace", "mask_512")
    return (
        "image",
        "metal_mask",
        *(("ma_CT", "LI_CT") if stored != "sinograms" else ()),
        *(sinograms if stored != "images" else ()),
    )


class ShardPlan(NamedTuple):
    """What a shard holds: names (case, slice) of its slices, and (row of the slice, mask index) of each pair."""

    slices: Sequence[tuple[str, str]]
    pairs: Sequence[tuple[int, int]]


class ShardWriter:
    """Fills a new shard, row after row, without keeping any; the same rows give the same bytes.

    Args:
        path: of the file.
        plan: its slices and pairs.
        geometry: of the scanner.
        stored: which arrays it holds.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, plan: ShardPlan, geometry: FanBeam, stored: Stored) -> None:
        self.names = names_of(stored)
        names = {
            own: np.array([pair[place].encode() for pair in plan.slices], "S")
            for place, own in enumerate(("case", "slice"))
        }
        pairs = np.array(plan.pairs, np.int32).reshape(-1, 2)
        own_part = _ROOM + pairs.nbytes + sum(array.nbytes for array in names.values())
        path.write_bytes(bytes(own_part))  # a disk that is full says so here, before HDF5 would come upon it
        with h5py.File(path, "w", alignment_threshold=_ALIGNMENT, alignment_interval=_ALIGNMENT) as file:
            for name, array in names.items():
                file.create_dataset(name, data=array)
            file.create_dataset("truth", data=pairs[:, 0])
            file.create_dataset("mask", data=pairs[:, 1])
            for name in self.names:
                rows = len(plan.slices) if name in _OF_SLICES else len(plan.pairs)
                _allocate(file, name, (rows, *_shape(name, geometry)))
            self._places = {name: _place(file[name]) for name in self.names}
        self._descriptor = os.open(path, os.O_WRONLY)

    def put(self, row: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write a row of some arrays; those that the shard does not hold are passed over.

        Raises:
            OSError: it cannot be written.
        """
        for name in set(arrays) & set(self.names):
            place = self._places[name]
            array = np.ascontiguousarray(_ENCODERS.get(name, np.asarray)(arrays[name]), place.dtype)
            if array.shape != place.shape[1:] or not 0 <= row < place.shape[0]:
                raise ValueError(f"row {row} of {name} {place.shape}: got {array.shape}")
            rest = array.data.cast("B")
            start = place.start(row)
            while rest:
                written = os.pwrite(self._descriptor, rest, start)
                rest, start = rest[written:], start + written

    def close(self) -> None:
        """End the file."""
        os.close(self._descriptor)


def _allocate(file: h5py.File, name: str, shape: tuple[int, ...]) -> None:
    """Allocate an array in the file, with nothing in it."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)  # every row is written
    file.create_dataset(name, shape, np.uint8 if name in _WHOLE_NUMBERS else np.float32, dcpl=properties)


def _shape(name: str, geometry: FanBeam) -> tuple[int, int]:
    """Return the shape of a row as it is stored."""
    views, bins = geometry.sinogram_shape
    shapes = {"mask_512": (_STACK_SIDE, _STACK_SIDE // 2), "metal_trace": (views, -(-bins // 8))}
    return shapes.get(name, (views, bins) if "sinogram" in name else geometry.image_shape)


def _pack_codes(labels: np.ndarray) -> np.ndarray:
    if labels.max(initial=0) > 15:
        raise ValueError(f"metal codes up to 15 fit into a shard, got {labels.max()}")
    return labels[:, ::2] | labels[:, 1::2] << 4


def _unpack_codes(packed: np.ndarray) -> np.ndarray:
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)


_ENCODERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "metal_trace": lambda trace: np.packbits(trace != 0, axis=1),
    "mask_512": _pack_codes,
}


@dataclass(frozen=True)
class _Place:
    """Where the rows of an array lie in a file."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def start(self, row: int, line: int = 0) -> int:
        """Return the first byte of a line of a row."""
        return self.offset + (row * self.shape[1] + line) * self.shape[2] * self.dtype.itemsize


class Shard:
    """A shard to read from, by one process or by those forked from it.

    Args:
        path: of the file.

    Attributes:
        slices: (case, slice) of its slices.
        truth: row of the slice of each pair.
        masks: mask index of each pair.

    Raises:
        InputError: the file is missing, truncated or no shard.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        try:
            with h5py.File(path, "r") as file:
                text = [[own.decode() for own in file[name][()]] for name in ("case", "slice")]
                self.truth, self.masks = (np.asarray(file[name][()]) for name in ("truth", "mask"))
                self._places = {name: _place(file[name]) for name in file if file[name].ndim == 3}
        except (OSError, RuntimeError, ValueError, KeyError, AttributeError) as error:
            raise InputError(
                f"{path}: cannot be read as a shard, missing or truncated ({error}); delete it and start the same "
                "mar simulate again"
            ) from error
        self.slices = list(zip(text[0], text[1], strict=True))
        self._refuse_misfits()

    def _refuse_misfits(self) -> None:
        size, count = self.path.stat().st_size, len(self.masks)
        for name in ("image", "metal_mask"):
            if name not in self._places:
                raise InputError(f"{self.path}: no {name} in it; it has {', '.join(self._places) or 'nothing'}")
        for name, place in self._places.items():
            rows = len(self.slices) if name in _OF_SLICES else count
            if place.shape[0] != rows:
                raise InputError(f"{self.path}: {name} has {place.shape[0]} rows, expected {rows}")
            if place.start(rows) > size:
                raise InputError(f"{self.path}: truncated in {name}; delete it and start the same mar simulate again")
        if len(self.truth) != count or (count and not 0 <= self.truth.min() <= self.truth.max() < len(self.slices)):
            raise InputError(f"{self.path}: pairs of slices that are not in it")

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __len__(self) -> int:
        return len(self.masks)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_descriptor": None}

    def __del__(self) -> None:
        self.close()

    def shape(self, name: str) -> tuple[int, ...]:
        """Return rows and columns of the arrays of a name."""
        return self._places[name].shape[1:]

    @property
    def is_open(self) -> bool:
        """Whether this process holds the file."""
        return self._descriptor is not None

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        if getattr(self, "_descriptor", None) is not None:
            os.close(self._descriptor)  # type: ignore[arg-type]
            self._descriptor = None

    def read(self, name: str, row: int, first: int = 0, count: int | None = None) -> np.ndarray:
        """Return some lines of a row of an array.

        Args:
            name: of the array.
            row: which of its rows.
            first: the first line.
            count: number of lines; None takes all.

        Returns:
            (count, columns), not to be written to.

        Raises:
            InputError: the file is missing or truncated, or has no such array.
        """
        if name not in self._places:
            raise InputError(f"{self.path}: holds no {name}, only {', '.join(self._places)}")
        place = self._places[name]
        count = place.shape[1] if count is None else count
        if not (0 <= row < place.shape[0] and 0 <= first <= first + count <= place.shape[1]):
            raise IndexError(f"lines {first} .. {first + count - 1} of row {row} of {name} {place.shape}")
        start = place.start(row, first)
        wanted = place.start(row, first + count) - start
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self.path, os.O_RDONLY)
            data = os.pread(self._descriptor, wanted, start)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror})") from error
        if len(data) != wanted:
            raise InputError(f"{self.path}: truncated in {name}; delete it and start the same mar simulate again")
        lines = np.frombuffer(data, place.dtype).reshape(count, place.shape[2])
        if name == "metal_trace":
            return np.unpackbits(lines, axis=1, count=self.shape("ma_sinogram")[1])
        return _unpack_codes(lines) if name == "mask_512" else lines


def _place(dataset: h5py.Dataset) -> _Place:
    """Return where an array lies.

    Raises:
        ValueError: it is not contiguous.
    """
    offset = dataset.id.get_offset() if dataset.size else 0
    if offset is None:
        raise ValueError(f"{dataset.name} is not contiguous")
    return _Place(int(offset), tuple(map(int, dataset.shape)), dataset.dtype)
