"""Which slices and pairs of a set are taken: patterns, held-out patients, a few that span the set."""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from mar_pipeline.data.pairs import PairFile, Skipped, slice_name
from mar_pipeline.sample import IMAGES_ONLY, Layout
from simulation.errors import UsageError
from simulation.sources.slices import evenly_spaced


@dataclass(frozen=True)
class Selection:
    """Which pairs of a data set are taken, and how they are read.

    Args:
        folder: with ``{split}_640geo_dir.txt`` or ``{split}_shards``.
        split: train or test.
        slices: ``case/slice`` of those to take; None takes all.
        masks: mask numbers to take; None takes all.
        mask_stack: a stack (.npy) instead of the folder's own (community).
        cache_mb: MB of pairs kept in memory once they are read or computed, shared with forked workers; crops of stored
            images of shards are left to the system's own cache.
        preset: the scanner that made the set.
        trust_masks: do not compare metal traces (community).
        limit: take so many pairs only, spread over slices and masks.
        layout: which arrays a pair has.
    """

    folder: str | Path
    split: str = "train"
    slices: Collection[str] | None = None
    masks: Collection[int] | None = None
    mask_stack: str | None = None
    cache_mb: float = 1024
    preset: str = "syndeeplesion"
    trust_masks: bool = False
    limit: int | None = None
    layout: Layout = IMAGES_ONLY

    def of(self, pairs: Iterable[PairFile]) -> list[PairFile]:
        """Return those of the pairs whose slice and mask are taken; the limit is not looked at."""
        slices = None if self.slices is None else set(self.slices)
        return [
            pair
            for pair in pairs
            if (slices is None or slice_name(pair) in slices) and (self.masks is None or pair.mask in self.masks)
        ]


_DEEPLESION = re.compile(r"(\d{6})_\d{2}_\d{2}")
"""A case of DeepLesion: patient, study, series."""


def choose_slices(names: Sequence[str], patterns: Sequence[str] | None, option: str) -> list[str]:
    """Return the slices that a list of patterns means.

    Args:
        names: ``case/slice`` of every slice.
        patterns: shell patterns of a case or of ``case/slice``; those with ``!`` before them leave slices out. None
            takes all.
        option: where the patterns come from, for the message.

    Returns:
        Names, in order.

    Raises:
        UsageError: a pattern matches nothing.
    """
    chosen = list(names)
    if patterns is None:
        return chosen
    for pattern in patterns:
        if not any(_matches(name, pattern.removeprefix("!")) for name in names):
            raise UsageError(
                f"{option}: {pattern!r} matches none of {len(names)} slices; the first one is {next(iter(names), None)}"
            )
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")]
    unwanted = [pattern.removeprefix("!") for pattern in patterns if pattern.startswith("!")]
    if wanted:
        chosen = [name for name in chosen if any(_matches(name, pattern) for pattern in wanted)]
    return [name for name in chosen if not any(_matches(name, pattern) for pattern in unwanted)]


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name.partition("/")[0], pattern)


def held_out(names: Sequence[str], fraction: float) -> list[str]:
    """Return a share of the patients for validation, evenly spaced; of the slices, if there is one patient.

    Patients are the cases; those of DeepLesion (patient_study_series) with one patient number are one.

    Args:
        names: ``case/slice`` of every slice.
        fraction: share wanted, at least one and never all.

    Returns:
        Names, in order.

    Raises:
        UsageError: there are not two slices.
    """
    patients = {name: _patient(name) for name in names}
    if len(set(patients.values())) < 2:
        patients = {name: name for name in names}
    groups = list(dict.fromkeys(patients.values()))
    if len(groups) < 2:
        raise UsageError(
            f"validation: got {len(groups)} slice, of which none can be held out; take more slices, or choose with "
            "--data.val_mask_range or --data.val_folder"
        )
    count = min(len(groups) - 1, max(1, round(fraction * len(groups))))
    chosen = set(evenly_spaced(groups, count))
    return [name for name in names if patients[name] in chosen]


def _patient(name: str) -> str:
    case = name.partition("/")[0]
    found = _DEEPLESION.fullmatch(case)
    return found[1] if found else case


def spread_pairs(files: Sequence[PairFile], count: int | None) -> list[PairFile]:
    """Return some pairs that span the slices, masks taking turns.

    Args:
        files: the candidates.
        count: how many; None takes all.

    Returns:
        In the order of the candidates.
    """
    if count is None or count >= len(files):
        return list(files)
    slices: dict[str, list[PairFile]] = {}
    for file in files:
        slices.setdefault(f"{file.case}/{file.slice}", []).append(file)
    spanned = evenly_spaced(list(slices.values()), count)
    rounds = range(max(map(len, spanned)))
    turns = [own[(turn + place) % len(own)] for turn in rounds for place, own in enumerate(spanned) if turn < len(own)]
    kept = set(turns[:count])
    return [file for file in files if file in kept]


def by_reason(left_out: Sequence[Skipped]) -> list[tuple[Skipped, int]]:
    """Return what was left out, by the first words of the reasons: the first one, and how many there are."""
    groups: dict[str, list[Skipped]] = {}
    for skipped in left_out:
        groups.setdefault(skipped.reason.partition(":")[0], []).append(skipped)
    return [(group[0], len(group)) for group in groups.values()]
