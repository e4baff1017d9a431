"""Memory that a process shares with the loader workers it forks."""

import math
import mmap
import multiprocessing
from typing import Any

import numpy as np

from mar_pipeline.sample import Layout, PairArrays
from simulation.physics.geometry import FanBeam


class SharedTable:
    """Rows of numbers which a process and the workers forked from it fill and read together, each row once.

    Memory is taken as rows are filled. Rows beyond the budget are never kept: where all rows are read equally often,
    keeping some for good serves no less than exchanging them. A pickled table comes back empty.

    Args:
        rows: number of rows there could be.
        shape: of a row.
        dtype: of its numbers.
        budget_mb: the most memory the rows may take.
    """

    def __init__(
        self, rows: int, shape: tuple[int, ...], dtype: type[np.generic] = np.float32, budget_mb: float = math.inf
    ) -> None:
        self._arguments = (rows, shape, dtype, budget_mb)
        row_mb = math.prod(shape) * np.dtype(dtype).itemsize / 1e6
        kept = int(min(rows, budget_mb // row_mb))
        self._rows = _shared_zeros((kept, *shape), dtype)
        self._filled = _shared_zeros((kept,), np.bool_)
        self._lock = multiprocessing.get_context("fork").Lock()

    def get(self, row: int) -> np.ndarray | None:
        """Return a row, not to be written to; None if it was not filled yet."""
        if row >= len(self._rows):
            return None
        with self._lock:  # orders the flag after the row on every processor
            filled = bool(self._filled[row])
        if not filled:
            return None
        view = self._rows[row]
        view.flags.writeable = False
        return view

    def put(self, row: int, values: Any) -> None:
        """Fill a row, if the budget has room for it; whoever fills it must come to the same values."""
        if row >= len(self._rows):
            return
        self._rows[row] = values
        with self._lock:
            self._filled[row] = True

    def __reduce__(self) -> tuple[Any, ...]:
        return SharedTable, self._arguments


class SharedPairs:
    """Pairs in a `SharedTable`.

    Args:
        pairs: number of pairs there could be.
        layout: their arrays.
        geometry: of their scan.
        budget_mb: the most memory they may take.
    """

    def __init__(self, pairs: int, layout: Layout, geometry: FanBeam, budget_mb: float) -> None:
        self._images = (len(layout.images), *geometry.image_shape)
        self._sinograms = (len(layout.sinograms), *geometry.sinogram_shape)
        self._table = SharedTable(pairs, (math.prod(self._images) + math.prod(self._sinograms),), budget_mb=budget_mb)

    def get(self, index: int) -> PairArrays | None:
        """Return a pair, not to be written to; None if it is not kept."""
        row = self._table.get(index)
        if row is None:
            return None
        images, sinograms = np.split(row, [math.prod(self._images)])
        return PairArrays(images.reshape(self._images), sinograms.reshape(self._sinograms))

    def put(self, index: int, pair: PairArrays) -> None:
        """Keep a pair, if the budget has room for it."""
        self._table.put(index, np.concatenate([pair.images.ravel(), pair.sinograms.ravel()]))


def _shared_zeros(shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
    """Return zeros in memory that stays common after a fork."""
    count = math.prod(shape)
    if not count:
        return np.zeros(shape, dtype)
    memory = mmap.mmap(-1, count * np.dtype(dtype).itemsize)
    return np.frombuffer(memory, dtype, count).reshape(shape)
