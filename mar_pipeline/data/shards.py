"""Pairs of a set of shards, see `simulation.dataset.shard_file`: crops are read without the rest of their pair."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from mar_pipeline.data.measured import needed, pair_arrays
from mar_pipeline.data.memory import SharedPairs
from mar_pipeline.data.pairs import PairFile, Skipped
from mar_pipeline.data.selection import Selection, spread_pairs
from mar_pipeline.data.stored import StoredPairs
from mar_pipeline.sample import (
    IMAGE,
    KEYS,
    LI,
    METAL_MASK,
    TARGET,
    PairArrays,
    to_network,
)
from simulation.dataset.manifest import read_manifest, scan_in
from simulation.dataset.reader import scan_of
from simulation.dataset.shard_file import Shard, shard_file, shards_folder
from simulation.errors import InputError, UsageError
from simulation.physics.projector import Projector
from simulation.units import check_mu

_MOST_OPEN = 256
"""Shards open at a time in a process; 1024 files is a usual limit."""
_STORED_AS = {IMAGE: "ma_CT", LI: "LI_CT", TARGET: "image", METAL_MASK: "metal_mask"}


class ShardIndex(NamedTuple):
    """The pairs of a split.

    Attributes:
        pairs: in the order of the shards.
        missing: shards that are not there.
        at: where each pair is: shard, row of the pair, row of its slice.
    """

    pairs: list[PairFile]
    missing: list[Skipped]
    at: dict[PairFile, tuple[Shard, int, int]]


def find_shard_pairs(folder: Path, split: str, preset: str) -> ShardIndex:
    """Return what a set of shards holds.

    Args:
        folder: of the set.
        split: train or test.
        preset: the scanner that should have made it.

    Raises:
        UsageError: another scanner made it.
        InputError: a shard is broken, or of images of another size.
    """
    manifest = read_manifest(folder, split)
    recorded = manifest["identity"].get("preset", preset) if manifest else preset
    if recorded != preset:
        raise UsageError(f"--data.preset: got {preset}, but the manifest of {folder} says that {recorded} made the set")
    places = shards_folder(folder, split)
    paths = sorted(places.glob("shard_*.h5"))
    planned = [shard_file(places, number) for number in range(int(manifest.get("shards", 0)))] if manifest else []
    missing = [
        Skipped(f"{split}/{path.name}", "the shard is missing: the same mar simulate makes it")
        for path in planned
        if not path.is_file()
    ]
    index = ShardIndex([], missing, {})
    expected = scan_in(folder, split, preset).geometry.image_shape
    for path in paths:
        shard = Shard(path)
        if len(shard) and shard.shape("image") != expected:
            raise InputError(
                f"{path}: images of {shard.shape('image')} pixels, but those of the preset {preset} have {expected}; "
                "name the preset that made the data with --data.preset"
            )
        for row, (truth, mask) in enumerate(zip(shard.truth.tolist(), shard.masks.tolist(), strict=True)):
            case, name = shard.slices[truth]
            pair = PairFile(split, case, name, mask, path)
            index.pairs.append(pair)
            index.at[pair] = shard, row, truth
    return index


class ShardPairs(StoredPairs):
    """Pairs of a set of shards, whole or as crops, in network units.

    Shards are opened when they are first read, by each process for itself. Where a layout asks for what is not stored,
    it is computed from the sinogram and kept, as far as the cache goes.

    Args:
        selection: which pairs.
        found: what `find_shard_pairs` returns for its folder, split and preset, if that is known already.

    Raises:
        UsageError: another scanner made the set, or the shards hold no sinograms and the layout asks for them.
        InputError: a shard is missing or damaged, or no pair is left.
    """

    def __init__(self, selection: Selection, found: ShardIndex | None = None) -> None:
        folder, split, layout = Path(selection.folder), selection.split, selection.layout
        index = find_shard_pairs(folder, split, selection.preset) if found is None else found
        self.folder, self.preset, self.layout = folder, selection.preset, layout
        self.left_out: tuple[Skipped, ...] = tuple(index.missing)
        chosen = selection.of(index.pairs)
        if not chosen:
            raise InputError(f"{folder}: none of its {len(index.pairs)} {split} pairs has a slice and a mask chosen")
        self.files = spread_pairs(chosen, selection.limit)
        self._at = [index.at[own] for own in self.files]
        scan = scan_in(folder, split, self.preset)
        self.shape, self._weighting = scan.geometry.image_shape, scan.weighting
        self._projector = Projector(scan.geometry, "cpu", threads=1, kernel=scan.kernel)
        self._needed = {"ma_CT", "LI_CT"} | needed(layout)
        self._refuse_what_cannot_be_read()
        images = layout.images == KEYS and not layout.sinograms and all("ma_CT" in shard for shard, *_ in self._at)
        self.gives_windows = images
        self._pairs = SharedPairs(0 if images else len(self.files), layout, scan.geometry, selection.cache_mb)
        self._open: list[Shard] = []

    def _refuse_what_cannot_be_read(self) -> None:
        for shard in {id(own): own for own, *_ in self._at}.values():
            if "ma_sinogram" in shard or self._needed <= {"ma_CT", "LI_CT"}:
                continue
            what = ", ".join(sorted(self._needed - {"ma_CT", "LI_CT"}))
            raise UsageError(
                f"{shard.path}: holds images only, but the network needs {what}; make the set with mar simulate "
                "--store both or sinograms"
            )

    def pair(self, index: int, epoch: int = 0, draw: int = 0) -> PairArrays:
        """Return a pair in the order of the layout, not to be written to; always the same one.

        Raises:
            InputError: its shard is missing or damaged.
        """
        if self.gives_windows:
            return self.window(index, 0, 0, self.shape)
        kept = self._pairs.get(index)
        if kept is None:
            kept = self._computed(index)
            self._pairs.put(index, kept)
        return kept

    def window(self, index: int, top: int, left: int, shape: tuple[int, int]) -> PairArrays:
        """Return a part of the images of a pair; only where ``gives_windows`` is true.

        Args:
            index: of the pair.
            top: first row.
            left: first column.
            shape: rows and columns.

        Raises:
            InputError: the shard is missing or damaged.
        """
        shard, row, truth = self._opened(index)
        rows, columns = shape
        images = np.empty((len(KEYS), rows, columns), np.float32)
        for place, name in enumerate(KEYS):
            own = truth if name == TARGET else row
            part = shard.read(_STORED_AS[name], own, top, rows)[:, left : left + columns]
            if name == METAL_MASK:
                images[place] = part > 0
                continue
            if not np.isfinite(part).all():
                raise InputError(
                    f"{shard.path}: {_STORED_AS[name]} of {self.files[index].name} holds values that are not finite; "
                    "mar verify names all such"
                )
            images[place] = to_network(part)
        return PairArrays(images, np.empty((0, *self._projector.geometry.sinogram_shape), np.float32))

    def _computed(self, index: int) -> PairArrays:
        shard, row, truth = self._opened(index)
        file = self.files[index]
        try:
            scan = scan_of(shard, row, self._projector, self._weighting, self._needed)
            truth_mu, mask = shard.read("image", truth), shard.read("metal_mask", row) > 0
            check_mu(truth_mu, "image")
            return pair_arrays(self.layout, scan, truth_mu, mask, self._projector, self._weighting)
        except InputError as error:
            raise InputError(f"{file.path}: {file.name}: {error}") from error

    def _opened(self, index: int) -> tuple[Shard, int, int]:
        at = self._at[index]
        if not at[0].is_open:
            if len(self._open) >= _MOST_OPEN:
                self._open.pop(0).close()
            self._open.append(at[0])
        return at
