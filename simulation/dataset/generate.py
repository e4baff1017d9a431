"""`mar simulate`: a plan of slices and masks becomes a data set, by one process or many, in one run or several."""

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from simulation.dataset.build import Counts, Work, numbers_of_part, only_run, outlook, run
from simulation.dataset.case import CaseMaker
from simulation.dataset.community import DataSet
from simulation.dataset.convert import conversion
from simulation.dataset.manifest import Identity
from simulation.dataset.pairs import PairMaker, SliceResult, left_out
from simulation.dataset.settings import (
    SimulateSettings,
    build_simulator,
    check_settings,
    implant_library,
    worker_count,
)
from simulation.dataset.shard_case import ShardMaker
from simulation.dataset.shard_set import ShardIdentity, ShardSet
from simulation.dataset.workers import interrupts_noticed
from simulation.files import sha256_of_text
from simulation.implants.library import ImplantLibrary, MaskStack
from simulation.simulator import Simulator
from simulation.sources import SliceRef, list_slices


def generate(settings: SimulateSettings) -> dict[str, Any]:
    """Makes what is missing of a data set.

    Args:
        settings: what to make.

    Returns:
        The report, as in report.json: "summary" in words, "counts", "failed" and "skipped" with reasons.

    Raises:
        UsageError: unknown names, impossible numbers, a folder that holds a set of other settings or is in use.
        InputError: source, masks or spectrum cannot be used, or nothing could be made.
        OSError: the folder cannot be written.
        KeyboardInterrupt: interrupted; what is finished stays, nothing is half written.
    """
    check_settings(settings)
    planned = _planned if settings.convert is None else conversion
    with interrupts_noticed() as check_interrupt:
        work, workers = planned(settings, check_interrupt)
        if settings.dry_run:
            return outlook(work)
        with only_run(work.folder.root, settings.part):
            return run(work, settings, workers, check_interrupt)


def _planned(settings: SimulateSettings, check_interrupt: Callable[[], None]) -> tuple[Work, int]:
    """The work that is asked for, and the number of processes for it."""
    library, masks_per_slice = implant_library(settings)
    refs = list_slices(settings.source, settings.split, settings.seed, settings.slices, settings.pad_square)
    simulator = build_simulator(settings)
    workers = worker_count(settings, simulator.projector.device)
    identity = _identity(settings, refs, library, masks_per_slice, simulator)
    pairs = PairMaker(library, masks_per_slice, settings.seed, simulator, check_interrupt)
    work = _CommunityWork if settings.layout == "community" else _ShardWork
    return work(settings, identity, refs, pairs), workers


class _CommunityWork(Work):
    """Slice after slice, see `CaseMaker`."""

    unit = "slice"

    def __init__(self, settings: SimulateSettings, identity: Identity, refs: list[SliceRef], pairs: PairMaker) -> None:
        self.folder: DataSet = DataSet(Path(settings.out), settings.split, identity)
        self.numbers = numbers_of_part(settings.part, len(refs))
        self.slices = len(self.numbers)
        self.plan = {"planned": len(refs)}
        self.device = identity.device
        self._maker = CaseMaker(self.folder, refs, pairs, settings.compression)

    def is_done(self, number: int) -> bool:
        return self.folder.is_done(self._maker.refs[number])

    def make(self, number: int) -> list[SliceResult]:
        return self._maker.make(number)

    def told_again(self, number: int) -> list[SliceResult]:
        ref = self._maker.refs[number]
        return [SliceResult(f"{ref.case}/{ref.name}", failed=tuple(self.folder.record(ref).get("failed", ())))]

    def collate(self, results: Sequence[SliceResult]) -> Counts:
        maker, pairs = self._maker, self._maker.pairs
        in_set = self.folder.collate(maker.refs, pairs.library, pairs.masks_per_slice, self.numbers, left_out(results))
        return Counts(sum(map(self.is_done, self.numbers)), in_set)

    def outlook(self, missing: Sequence[int]) -> tuple[str, dict[str, int]]:
        masks = self._maker.pairs.masks_per_slice
        return _outlook(len(missing), masks, pair_mb(self._maker.pairs.simulator, "community"))


class _ShardWork(Work):
    """Shard after shard, see `ShardMaker`."""

    unit = "shard"

    def __init__(self, settings: SimulateSettings, identity: Identity, refs: list[SliceRef], pairs: PairMaker) -> None:
        stored, size = settings.store or "images", settings.slices_per_shard
        of_shards = ShardIdentity.of(identity, stored, size)
        self.folder: ShardSet = ShardSet(Path(settings.out), settings.split, of_shards)
        self.plan = {"shards": -(-len(refs) // size)}
        self.numbers = numbers_of_part(settings.part, self.plan["shards"])
        self.slices = self._slices_of(self.numbers, len(refs))
        self.device = identity.device
        self._maker = ShardMaker(self.folder, refs, pairs)

    def _slices_of(self, numbers: Sequence[int], count: int) -> int:
        size = self.folder.identity.slices_per_shard
        return sum(min(size, count - number * size) for number in numbers)

    def is_done(self, number: int) -> bool:
        return self.folder.is_done(number)

    def make(self, number: int) -> list[SliceResult]:
        return self._maker.make(number)

    def told_again(self, number: int) -> list[SliceResult]:
        return self.folder.told_again(number)

    def collate(self, results: Sequence[SliceResult]) -> Counts:
        return self.folder.collate(self.plan["shards"], self.numbers)

    def outlook(self, missing: Sequence[int]) -> tuple[str, dict[str, int]]:
        masks = self._maker.pairs.masks_per_slice
        slices = self._slices_of(missing, len(self._maker.refs))
        mb = pair_mb(self._maker.pairs.simulator, self.folder.identity.stored)
        words, counts = _outlook(slices, masks, mb)
        return f"({slices} slices) {words}", counts


def _outlook(slices: int, masks_per_slice: int, mb: float) -> tuple[str, dict[str, int]]:
    pairs = slices * masks_per_slice
    words = f"with {masks_per_slice} masks each: {pairs} pairs, about {pairs * mb / 1000:.2f} GB"
    return words, {"slices": slices, "pairs": pairs}


def pair_mb(simulator: Simulator, stored: str) -> float:
    """MB of a pair on disk, uncompressed.

    Args:
        simulator: gives the sizes.
        stored: community, or what shards hold.
    """
    image, sinogram = (
        math.prod(shape) / 1e6
        for shape in (simulator.protocol.geometry.image_shape, simulator.protocol.geometry.sinogram_shape)
    )
    return {
        "community": 8 * image + 9 * sinogram,
        "images": 9 * image,
        "both": 9 * image + 4 * sinogram,
        "sinograms": image + 4 * sinogram,
    }[stored]


def _identity(
    settings: SimulateSettings,
    refs: list[SliceRef],
    library: ImplantLibrary,
    masks_per_slice: int,
    simulator: Simulator,
) -> Identity:
    """What decides the bytes of every file of the set."""
    masks = settings.masks
    if isinstance(library, MaskStack):
        masks = hashlib.sha256(library.stack[:, :, :masks_per_slice].tobytes()).hexdigest()
    return Identity(
        preset=settings.preset,
        physics=simulator.physics_sha256,
        slices=sha256_of_text("\n".join(f"{ref.case}/{ref.name} {ref.origin}" for ref in refs)),
        masks=masks,
        metal=str(library.metal),
        implants=" ".join(settings.implants or ()),
        masks_per_slice=masks_per_slice,
        seed=settings.seed,
        device=simulator.projector.device,
        pad_square=settings.pad_square,
        compression=settings.compression,
    )
