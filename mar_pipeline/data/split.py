"""The pairs to train on and those to validate on, with no pair in common."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from mar_pipeline.data.batches import Pairs
from mar_pipeline.data.community import CommunityPairs
from mar_pipeline.data.pairs import PairFile, Skipped, find_pairs, slice_name
from mar_pipeline.data.selection import Selection, choose_slices, held_out, spread_pairs
from mar_pipeline.data.settings import DataSettings, is_procedural
from mar_pipeline.data.shards import ShardIndex, ShardPairs, find_shard_pairs
from mar_pipeline.data.simulated import SimulatedPairs
from mar_pipeline.sample import Layout
from simulation.dataset.manifest import layout_of
from simulation.errors import InputError, NothingToProcessError, UsageError
from simulation.implants.library import ImplantLibrary
from simulation.implants.masks import MaskSource
from simulation.physics.protocols import protocol
from simulation.sources import list_slices


def train_and_validation_pairs(settings: DataSettings, seed: int, layout: Layout) -> tuple[Pairs, Pairs]:
    """Return the two sets of pairs.

    Args:
        settings: what is asked for, checked.
        seed: of what is simulated for training; slices of a phantom and what is simulated for validation do not follow
            it, so that trainings compare.
        layout: which arrays a pair has.

    Raises:
        UsageError: the choice of slices or masks leaves nothing, or the slices do not go with the preset.
        InputError: the data cannot be used.
    """
    return _simulated(settings, seed, layout) if settings.kind == "simulate" else _stored(settings, layout)


def training_and_validation_files(
    settings: DataSettings, pairs: Sequence[PairFile]
) -> tuple[list[PairFile], list[PairFile]]:
    """Return which pairs of the settings' own folder a run was trained and validated on; the latter as far as listed.

    Args:
        settings: of the run.
        pairs: of the folder's train split.

    Raises:
        UsageError: the choice leaves nothing.
    """
    if not pairs:
        return [], []
    names, masks = list(dict.fromkeys(map(slice_name, pairs))), sorted({pair.mask for pair in pairs})
    training, held = _choices(settings, names, masks)
    chosen = [Selection("", slices=own.slices, masks=own.masks).of(pairs) for own in (training, held) if own]
    return chosen[0], spread_pairs(chosen[1], settings.val_pairs) if held else []


class _Choice(NamedTuple):
    """Slices (case/slice) and masks of one of the two; no masks where implants have no numbers."""

    slices: list[str]
    masks: list[int] | None


class _Found(NamedTuple):
    """Pairs of a set on disk and what is missing of it; where its pairs are, if they are in shards."""

    pairs: list[PairFile]
    missing: list[Skipped]
    shards: ShardIndex | None = None


def _find(folder: Path, split: str, preset: str) -> _Found:
    if layout_of(folder, split) == "shards":
        index = find_shard_pairs(folder, split, preset)
        return _Found(index.pairs, index.missing, index)
    return _Found(*find_pairs(folder, split))


def _stored(settings: DataSettings, layout: Layout) -> tuple[Pairs, Pairs]:
    folder = Path(settings.folder or "")
    kind = layout_of(folder, "train")
    if kind not in (None, "ctmar", settings.kind):  # find_pairs says what becomes of raw files
        raise UsageError(f"--data.kind: got {settings.kind}, but {folder} is of the kind {kind}; give that")
    if kind is None and settings.kind == "shards":
        raise InputError(f"{folder}: no train_shards in it; expected what mar simulate --layout shards wrote")
    found = _find(folder, "train", settings.preset)
    masks = sorted({file.mask for file in found.pairs})
    try:
        training, held = _choices(settings, _slice_names(folder, found), masks)
    except UsageError as error:
        raise UsageError(f"{error}{_left_out(found.missing)}") from error
    train = _open(settings, folder, "train", training, settings.masks, None, found, layout)
    if held is None:
        return train, _other_set(settings, layout)
    return train, _open(settings, folder, "train", held, settings.masks, settings.val_pairs, found, layout)


def _open(
    settings: DataSettings,
    folder: Path,
    split: str,
    choice: _Choice,
    stack: str | None,
    limit: int | None,
    found: _Found,
    layout: Layout,
) -> Pairs:
    selection = Selection(
        folder=folder,
        split=split,
        slices=choice.slices,
        masks=None if choice.masks is None else set(choice.masks),
        mask_stack=stack,
        cache_mb=settings.cache_mb,
        preset=settings.preset,
        trust_masks=settings.trust_masks,
        limit=limit,
        layout=layout,
    )
    if found.shards is not None:
        return ShardPairs(selection, found.shards)
    return CommunityPairs(selection, (found.pairs, found.missing))


def _slice_names(folder: Path, found: _Found) -> list[str]:
    """Return ``case/slice`` of every slice with a pair."""
    if not found.pairs:
        first = f"; {found.missing[0].pair}: {found.missing[0].reason}" if found.missing else ""
        raise NothingToProcessError(f"{folder}: no pair is there{first}")
    return list(dict.fromkeys(map(slice_name, found.pairs)))


def _left_out(missing: Sequence[Skipped]) -> str:
    """Return what may be the true reason why a choice leaves nothing."""
    return f" ({len(missing)} listed left out; the first, {missing[0].pair}: {missing[0].reason})" if missing else ""


def _simulated(settings: DataSettings, seed: int, layout: Layout) -> tuple[Pairs, Pairs]:
    refs = list_slices(settings.source or "", "train", 0, settings.source_slices, settings.pad_square)
    named = {f"{ref.case}/{ref.name}": ref for ref in refs}
    library = _library(settings)
    masks = None if library.shared_stack is None else list(range(library.shared_stack.shape[2]))
    training, held = _choices(settings, list(named), masks)
    train = SimulatedPairs(
        [named[name] for name in training.slices],
        settings.preset,
        library,
        training.masks,
        seed,
        settings.cache_mb,
        layout=layout,
        device=settings.simulate_device,
    )
    if held is None:
        return train, _other_set(settings, layout)
    return train, SimulatedPairs(
        [named[name] for name in held.slices],
        settings.preset,
        library,
        held.masks,
        cache_mb=settings.cache_mb,
        frozen=True,
        count=settings.val_pairs,
        layout=layout,
        device=settings.simulate_device,
    )


def _library(settings: DataSettings) -> MaskSource:
    if not is_procedural(settings):
        return ImplantLibrary.from_masks(settings.masks or "", settings.metal)
    scan = protocol(settings.preset)
    return ImplantLibrary(
        settings.implants, scan.geometry.pixel_mm if scan.grid == "physical" else None, settings.metal
    )


def _other_set(settings: DataSettings, layout: Layout) -> Pairs:
    """Return validation on a set of its own, with its own mask stack."""
    folder, split = Path(settings.val_folder or settings.folder or ""), settings.val_split
    found = _find(folder, split, settings.preset)
    names = choose_slices(_slice_names(folder, found), settings.val_slices, "--data.val_slices")
    masks = _masks_within(sorted({file.mask for file in found.pairs}), settings.val_mask_range, "--data.val_mask_range")
    return _open(settings, folder, split, _Choice(names, masks), None, settings.val_pairs, found, layout)


def _validates_elsewhere(settings: DataSettings) -> bool:
    if settings.kind == "simulate":
        return settings.val_folder is not None
    same = settings.val_folder is None or Path(settings.val_folder).resolve() == Path(settings.folder or "").resolve()
    return not same or settings.val_split != "train"


def _choices(
    settings: DataSettings, names: Sequence[str], masks: Sequence[int] | None
) -> tuple[_Choice, _Choice | None]:
    """Return what to train on, and what to hold out of the same set, None if validation has a set of its own."""
    used = choose_slices(names, settings.slices, "--data.slices")
    used_masks = _masks_within(masks, settings.mask_range, "--data.mask_range")
    if _validates_elsewhere(settings):
        return _Choice(_some(used, "--data.slices selects no slice"), used_masks), None
    held: list[str] = []
    if settings.val_slices is not None:
        held = _some(
            choose_slices(used, settings.val_slices, "--data.val_slices"), "--data.val_slices selects no slice"
        )
    elif settings.val_mask_range is None:
        held = held_out(used, settings.val_fraction)
    kept_out = set(held)
    training = [name for name in used if name not in kept_out]
    _some(training, "--data.val_slices leaves no slice to train on")
    if masks is None or used_masks is None or settings.val_mask_range is None:
        return _Choice(training, used_masks), _Choice(held, used_masks)
    held_masks = _masks_within(masks, settings.val_mask_range, "--data.val_mask_range")
    free = [mask for mask in used_masks if mask not in _between(settings.val_mask_range)]
    _some(free, "--data.val_mask_range leaves no mask to train on")
    return _Choice(training, free), _Choice(held or used, held_masks)


def _between(first_and_last: tuple[int, int]) -> range:
    return range(first_and_last[0], first_and_last[1] + 1)


def _masks_within(masks: Sequence[int] | None, allowed: tuple[int, int] | None, option: str) -> list[int] | None:
    if masks is None or allowed is None:
        return None if masks is None else list(masks)
    chosen = [mask for mask in masks if mask in _between(allowed)]
    have = f"has masks {masks[0]} to {masks[-1]}" if masks else "has no masks"
    return _some(chosen, f"{option} {allowed[0]} {allowed[1]} selects no mask: the set {have}")


def _some(chosen: Iterable, reason: str) -> list:
    if not (listed := list(chosen)):
        raise UsageError(f"data: {reason}; select more, or give null to select all")
    return listed
