"""Batches of crops in an order that the seed and the epoch decide, whatever number of processes makes them."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from mar_pipeline.data.crops import check_patch, random_crop, random_place, random_turn
from mar_pipeline.data.pairs import Skipped
from mar_pipeline.data.selection import by_reason
from mar_pipeline.runtime.signals import STOP_SIGNALS
from mar_pipeline.sample import CROP, ORDER, Layout, PairArrays, Sample, generator, to_sample
from simulation.errors import MarError
from simulation.files import sha256_of_text

Key = tuple[int, int, int]
"""Epoch, number of the crop within it, index of its pair."""


_LOOKS_FOR_PARENT_S = 5.0


class Pairs(Protocol):
    """What crops are taken from."""

    shape: tuple[int, int]
    preset: str
    layout: Layout

    @property
    def names(self) -> list[str]:
        """Return the names of the pairs."""

    @property
    def slices(self) -> int:
        """Return the number of slices."""

    @property
    def left_out(self) -> tuple[Skipped, ...]:
        """Return what cannot be used, and why."""

    def __len__(self) -> int: ...

    def pair(self, index: int, epoch: int = 0, draw: int = 0) -> PairArrays:
        """Return a pair in the order of the layout."""


@runtime_checkable
class WindowedPairs(Pairs, Protocol):
    """Pairs of which a crop can be had without the rest."""

    gives_windows: bool

    def window(self, index: int, top: int, left: int, shape: tuple[int, int]) -> PairArrays:
        """Return a part of the images of a pair, if ``gives_windows`` is true."""


class KeyedSamples(Dataset[Sample]):
    """Samples by `Key`: the same bytes for the same key, in whichever process."""

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, key: Key) -> Sample:
        raise NotImplementedError

    def __getitems__(self, keys: Sequence[Key]) -> list[Sample | MarError]:
        """Return the samples of a batch. An error travels as a value: torch would wrap its line into a traceback."""
        try:
            return [self[key] for key in keys]
        except MarError as error:
            return [error.with_traceback(None)]

    def facts(self) -> dict[str, Any]:
        """Return what a report says of the samples."""
        raise NotImplementedError


class Crops(KeyedSamples):
    """Crops of pairs.

    Args:
        pairs: the pairs.
        patch: side of the crops in pixels; 0 takes whole images.
        flips: see `random_crop`.
        rotations: see `random_crop`.
        crops_per_pair: so many crops in succession share a pair.
        seed: of places, mirroring and turns.

    Raises:
        MarError: the images cannot give such crops.
    """

    def __init__(
        self,
        pairs: Pairs,
        patch: int = 0,
        flips: bool = False,
        rotations: bool = False,
        crops_per_pair: int = 1,
        seed: int = 0,
    ) -> None:
        check_patch(patch, pairs.shape, rotations)
        self.pairs = pairs
        self._patch, self._flips, self._rotations = patch, flips, rotations
        self._crops_per_pair, self._seed = crops_per_pair, seed
        self._last: tuple[Key, PairArrays] | None = None
        self._windowed = pairs if patch and isinstance(pairs, WindowedPairs) and pairs.gives_windows else None

    def __len__(self) -> int:
        return len(self.pairs) * self._crops_per_pair

    def __getitem__(self, key: Key) -> Sample:
        epoch, number, index = key
        rng = generator(self._seed, epoch, number, CROP)
        if self._windowed is not None:
            window = self._windowed.window(
                index, *random_place(self.pairs.shape, self._patch, rng), (self._patch, self._patch)
            )
            return to_sample(random_turn(window, rng, self._flips, self._rotations), self.pairs.layout)
        pair = epoch, number // self._crops_per_pair, index
        if self._last is None or self._last[0] != pair:
            self._last = pair, self.pairs.pair(index, epoch, pair[1])
        cropped = random_crop(self._last[1], self._patch, rng, self._flips, self._rotations)
        return to_sample(cropped, self.pairs.layout)

    def facts(self) -> dict[str, Any]:
        """Return numbers of slices and pairs, a hash of their names, and what was left out, by reason."""
        return {
            "slices": self.pairs.slices,
            "pairs": len(self.pairs),
            "names": sha256_of_text("\n".join(self.pairs.names))[:16],
            "left_out": [
                {"count": count, "first": first.pair, "reason": first.reason}
                for first, count in by_reason(self.pairs.left_out)
            ],
        }


class EpochBatches(Sampler[list[Key]]):
    """The keys of the batches of an epoch, all full: random permutations of the pairs one after another.

    Ranks take turns pair by pair, so that one process with batches of 2 n sees what two see together with batches of n,
    and the first half of its batch is the first halves of theirs: what EQ-Reg keeps beside rotated copies.

    Args:
        pairs: number of pairs.
        batch_size: of one process.
        batches: of an epoch; None is one pass over the pairs, rounded up.
        crops_per_pair: see `Crops`.
        seed: of the order.
        rank: of this process.
        world: number of processes.
    """

    def __init__(
        self,
        pairs: int,
        batch_size: int,
        batches: int | None = None,
        crops_per_pair: int = 1,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.epoch = 0
        self._pairs, self._batch_size, self._crops_per_pair = pairs, batch_size, crops_per_pair
        self._seed, self._rank, self._world = seed, rank, world
        self._batches = -(-pairs * crops_per_pair // (batch_size * world)) if batches is None else batches

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, size = self.epoch, self._batch_size
        draws = -(-self._batches * self._world * size // self._crops_per_pair)
        rng = generator(self._seed, epoch, 0, ORDER)
        order = np.concatenate([rng.permutation(self._pairs) for _ in range(-(-draws // self._pairs))]).tolist()
        crops = self._crops_per_pair
        for batch in range(self._batches):
            first = batch * self._world * size + self._rank * crops
            own = [
                first + block * self._world * crops + crop for block in range(size // crops) for crop in range(crops)
            ]
            yield [(epoch, number, order[number // crops]) for number in own]


class PairLoader(DataLoader[Sample]):
    """A torch data loader over `KeyedSamples` whose workers' `MarError`s arrive as they were raised."""

    dataset: KeyedSamples

    def set_epoch(self, epoch: int) -> None:
        """Decide the batches of the next iteration; without it every epoch is epoch 0."""
        if isinstance(self.batch_sampler, EpochBatches):
            self.batch_sampler.epoch = epoch

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for batch in super().__iter__():
            if isinstance(batch, MarError):
                try:
                    raise batch
                finally:
                    del batch  # else error and frame hold each other, and workers end only after a timeout
            yield batch


def loader_of(samples: KeyedSamples, batches: EpochBatches | list[list[Key]], workers: int) -> PairLoader:
    """Return a loader of these batches.

    Args:
        samples: where they come from.
        batches: their keys.
        workers: processes that load, which live as long as the loader; 0 loads in this one.
    """
    return PairLoader(
        samples,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        worker_init_fn=_outlive_stop_signals,
        multiprocessing_context="fork" if workers else None,  # shares compiled kernels and memory
        generator=torch.Generator().manual_seed(0),  # else every iteration would draw from torch's own
    )


def _outlive_stop_signals(worker: int) -> None:
    """Ignore a cluster's signal to all processes: the training ends its step, for which it needs its loaders."""
    if hasattr(signal, "sigtimedwait"):  # not on every system, but on those of clusters
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        threading.Thread(target=_obey_parent_alone, args=(os.getppid(),), daemon=True).start()


def _obey_parent_alone(parent: int) -> None:
    """End this process when its parent, which signals it at exit, says so, or is no more."""
    received = None
    while os.getppid() == parent and (received is None or received.si_pid != parent):
        received = signal.sigtimedwait(STOP_SIGNALS, _LOOKS_FOR_PARENT_S)
    os._exit(0)


def _collate(samples: list[Any]) -> Any:
    errors = [sample for sample in samples if isinstance(sample, MarError)]
    return errors[0] if errors else default_collate(samples)
