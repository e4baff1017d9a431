"""`mar simulate`: a plan of slices and masks becomes a data set, by one process or many, in one run or several."""

import hashlib
import signal
from pathlib import Path
from typing import Any

from simulation.dataset.build import Builder, build_missing, dry_run, only_run
from simulation.dataset.challenge_files import ChallengeBuilder, ChallengeSet
from simulation.dataset.community import CommunityBuilder
from simulation.dataset.community_set import CommunitySet
from simulation.dataset.convert import plan_conversion
from simulation.dataset.manifest import Identity, earlier_counts, listing_sha256
from simulation.dataset.pairs import PairMaker
from simulation.dataset.settings import (
    PROCEDURAL,
    SimulateSettings,
    build_simulator,
    check_settings,
    mask_source,
    units_of_part,
    worker_count,
)
from simulation.dataset.shard_set import ShardIdentity, ShardSet
from simulation.dataset.shards import ShardBuilder
from simulation.errors import StoppedError
from simulation.files import sha256_of
from simulation.implants.masks import metals_of
from simulation.parallel import stop_noticed
from simulation.sources import is_evenly_spaced, list_slices


def generate(settings: SimulateSettings) -> dict[str, Any]:
    """Build what is missing of a data set.

    Args:
        settings: what to build.

    Returns:
        The report, as in report.json: "summary" in words, "counts", "failed" and "skipped" with reasons.

    Raises:
        UsageError: unknown names, impossible numbers, a folder that holds a set of other settings or is in use.
        InputError: source, masks or spectrum cannot be used, or nothing could be built.
        StoppedError: stopped by SIGTERM; what is finished stays, nothing is half written.
        OSError: the folder cannot be written.
        KeyboardInterrupt: interrupted; likewise.
    """
    check_settings(settings)
    plan = plan_simulation if settings.convert is None else plan_conversion
    with stop_noticed() as seen:
        try:
            builder, workers = plan(settings)
            if settings.dry_run:
                return dry_run(builder)
            with only_run(builder.folder.root, settings.part):
                return build_missing(builder, settings, workers)
        except KeyboardInterrupt:
            if signal.SIGTERM not in seen:
                raise
            raise StoppedError(
                f"stopped by SIGTERM: what is finished in {settings.out} is kept; start the same command again to go on"
            ) from None


def plan_simulation(settings: SimulateSettings) -> tuple[Builder, int]:
    """Return the builder of what is asked for, and the number of processes for it."""
    library, masks_per_slice = mask_source(settings)
    out, before = Path(settings.out), earlier_counts(Path(settings.out), settings.split)
    refs = list_slices(settings.source, settings.split, settings.seed, settings.slices, settings.pad_square, before)
    counts = tuple(sorted({*before, len(refs)})) if is_evenly_spaced(refs) else ()
    simulator = build_simulator(settings)
    workers = worker_count(settings, simulator.projector.device)
    pairs = PairMaker(library, masks_per_slice, settings.seed, simulator)
    slices, shorter = listing_sha256(f"{ref.case}/{ref.name} {ref.origin}" for ref in refs)
    identity = _identity(settings, slices, pairs)
    geometry = simulator.protocol.geometry
    if settings.layout == "community":
        numbers = units_of_part(settings.part, len(refs))
        folder = CommunitySet(out, settings.split, identity, geometry, shorter, counts)
        return CommunityBuilder(folder, refs, pairs, numbers, settings.compression), workers
    if settings.layout == "ctmar":
        raw = ChallengeSet(out, settings.split, identity, geometry, shorter, counts)
        return ChallengeBuilder(raw, refs, pairs, units_of_part(settings.part, len(refs))), workers
    of_shards = ShardIdentity.of(identity, settings.store or "images", settings.slices_per_shard)
    return ShardBuilder(
        ShardSet(out, settings.split, of_shards, geometry, shorter, counts), refs, pairs, settings.part
    ), workers


def _identity(settings: SimulateSettings, slices: str, pairs: PairMaker) -> Identity:
    """Return what decides the bytes of every file of the set."""
    masks, stack = settings.masks, pairs.library.shared_stack
    if stack is not None:
        masks = hashlib.sha256(stack[:, :, : pairs.masks_per_slice].tobytes()).hexdigest()
    elif masks != PROCEDURAL:
        masks = sha256_of(Path(masks))
    return Identity(
        preset=settings.preset,
        physics=pairs.simulator.physics_sha256,
        slices=slices,
        masks=masks,
        metal=" ".join(metals_of(pairs.library.metal)) or "None",
        implants=" ".join(settings.implants or ()),
        masks_per_slice=pairs.masks_per_slice,
        seed=settings.seed,
        device=pairs.simulator.projector.device,
        pad_square=bool(settings.pad_square),
        compression=settings.compression,
    )
