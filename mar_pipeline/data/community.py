"""Pairs of a data set in the community layout, as `mar simulate` writes it and SynDeepLesion is distributed."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mar_pipeline.data.measured import needed, pair_arrays, refuse_long_rays
from mar_pipeline.data.memory import SharedPairs, SharedTable
from mar_pipeline.data.pairs import (
    PairFile,
    Skipped,
    find_pairs,
    load_masks,
    why_no_mask,
    why_other_mask,
)
from mar_pipeline.data.selection import Selection, spread_pairs
from mar_pipeline.data.stored import StoredPairs
from mar_pipeline.sample import PairArrays
from simulation.dataset.manifest import manifest_file, read_manifest, scan_in
from simulation.dataset.reader import read_h5
from simulation.errors import InputError, NothingToProcessError, UsageError
from simulation.implants.masks import resize_mask
from simulation.physics.projector import Projector
from simulation.simulator import Sample as Scan
from simulation.units import check_mu

_CHECKED_AT_START = 100
"""Pairs read before training begins, those of different masks first: 90 masks of the benchmark take 7 seconds."""
_MASKS_MB = 64
_REPAIR = "; repair it or take its slice out of the listing (mar verify finds every such file)"


class CommunityPairs(StoredPairs):
    """Pairs of gt.h5 and N.h5 with mask N of the stack, whole and in network units.

    A pair without a mask, or whose mask has another metal trace than the stored one, is left out. Up to 100 pairs
    are looked at for that when the set is opened, those of different masks first; the others when they are first read,
    where it is an error. Every read opens and closes its files, so that forked workers share none.

    Args:
        selection: which pairs.
        found: what `find_pairs` returns for its folder and split, if that is known already.

    Raises:
        UsageError: the manifest names another preset.
        InputError: the set is missing, empty or damaged, of another image size than the preset's, or no pair is left.
    """

    def __init__(self, selection: Selection, found: tuple[list[PairFile], list[Skipped]] | None = None) -> None:
        self.folder, self.preset, self.layout = Path(selection.folder), selection.preset, selection.layout
        self._trusted, split, layout = selection.trust_masks, selection.split, selection.layout
        _check_preset(self.folder, split, self.preset)
        scan = scan_in(self.folder, split, self.preset)
        geometry, self._weighting = scan.geometry, scan.weighting
        self.shape = geometry.image_shape
        self._projector = Projector(geometry, "cpu", threads=1, kernel=scan.kernel)
        self._stored_names = tuple(sorted({"ma_CT", "LI_CT"} | needed(layout)))
        pairs, missing = find_pairs(self.folder, split) if found is None else found
        chosen = selection.of(pairs)
        self._stacks = load_masks(self.folder, selection.mask_stack)
        self._mask_rows = {mask: row for row, mask in enumerate(sorted({file.mask for file in chosen}))}
        self._masks = SharedTable(len(self._mask_rows), self.shape, np.uint8, _MASKS_MB)
        known, no_mask = self._with_known_masks(chosen)
        self.left_out: tuple[Skipped, ...] = (*missing, *no_mask)
        if not known:
            raise NothingToProcessError(_nothing_left(self.folder, split, pairs, chosen, no_mask))
        self.files = spread_pairs(known, selection.limit)
        self._pairs = SharedPairs(len(self.files), layout, geometry, selection.cache_mb)
        self._checked = SharedTable(len(self.files), (1,), np.bool_)

    def pair(self, index: int, epoch: int = 0, draw: int = 0) -> PairArrays:
        """Return a pair in the order of the layout, not to be written to; always the same one.

        Raises:
            InputError: a file is missing or damaged, or the mask is not the pair's.
        """
        kept = self._pairs.get(index)
        if kept is None:
            file = self.files[index]
            if self._checked.get(index) is None:
                reason = self._why_other_mask(file)
                if reason:
                    raise InputError(f"{file.name}: {reason}; name the stack of this set with --data.masks")
                self._checked.put(index, True)
            kept = self._read(file)
            self._pairs.put(index, kept)
        return kept

    def _read(self, file: PairFile) -> PairArrays:
        scan, truth_mu = self._stored(file)
        with _named(file):
            return pair_arrays(self.layout, scan, truth_mu, self._mask(file) > 0, self._projector, self._weighting)

    def _stored(self, file: PairFile) -> tuple[Scan, np.ndarray]:
        """Return what the files hold, checked: the scan with metal and the truth."""
        truth_file = file.path.with_name("gt.h5")
        truth_mu = read_h5(truth_file, ("image",))["image"]
        stored = read_h5(file.path, self._stored_names)
        if "metal_trace" in stored:
            stored["metal_trace"] = stored["metal_trace"].astype(np.float32)  # stored as whole numbers
        self._check_image(truth_mu, f"{truth_file}: image")
        check_mu(truth_mu, f"{truth_file}: image")
        for name, array in stored.items():
            self._check_image(array, f"{file.path}: {name}", not name.endswith("_CT"))
        return Scan(**dict.fromkeys(("ma_sinogram", "LI_sinogram", "metal_trace")) | stored), truth_mu

    def _check_image(self, array: np.ndarray, what: str, is_sinogram: bool = False) -> None:
        geometry = self._projector.geometry
        expected = geometry.sinogram_shape if is_sinogram else geometry.image_shape
        if array.shape != expected:
            raise InputError(
                f"{what} has shape {array.shape}, but {'sinograms' if is_sinogram else 'images'} of the preset "
                f"{self.preset} have {expected}; name the preset that made the data with --data.preset"
            )
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise InputError(f"{what} holds values that are not finite numbers{_REPAIR}")

    def _mask(self, file: PairFile) -> np.ndarray:
        """Return the pair's mask at the size of its images, 1 where metal is."""
        row = self._mask_rows[file.mask]
        mask = self._masks.get(row)
        if mask is None:
            mask = resize_mask(self._stacks[file.split][:, :, file.mask] != 0, self.shape)
            if not mask.any():
                raise InputError(f"mask {file.mask} of the stack is empty")
            self._masks.put(row, mask)
        return mask

    def _why_other_mask(self, file: PairFile) -> str:
        if self._trusted:
            return ""
        trace = read_h5(file.path, ("metal_trace",))["metal_trace"] != 0
        if trace.shape != self._projector.geometry.sinogram_shape:
            raise InputError(
                f"{file.path}: metal_trace has shape {trace.shape}, but sinograms of the preset {self.preset} have "
                f"{self._projector.geometry.sinogram_shape}; name the preset that made the data with --data.preset"
            )
        return why_other_mask(trace, self._mask(file) > 0, self._projector)

    def _with_known_masks(self, chosen: Sequence[PairFile]) -> tuple[list[PairFile], list[Skipped]]:
        """Return the pairs whose masks are known, and the others; what one pair shows of a mask goes for all."""
        reasons = {file: why_no_mask(file, self._stacks).replace("--masks", "--data.masks") for file in chosen}
        wrong: dict[int, str] = {}
        for file in _new_masks_first([file for file in chosen if not reasons[file]])[:_CHECKED_AT_START]:
            if file.mask in wrong:
                continue
            try:
                self._mask(file)
            except InputError as error:
                wrong[file.mask] = str(error)
                continue
            if reason := self._why_other_mask(file):
                wrong[file.mask] = reason
            scan, _ = self._stored(file)
            if self.layout.sinograms:
                with _named(file):
                    refuse_long_rays(scan)
        reasons = {file: reason or wrong.get(file.mask, "") for file, reason in reasons.items()}
        known = [file for file in chosen if not reasons[file]]
        return known, [Skipped(file.name, reasons[file]) for file in chosen if reasons[file]]


@contextmanager
def _named(file: PairFile) -> Iterator[None]:
    """Say which file an error is about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{file.path}: {error}") from error


def _new_masks_first(files: Sequence[PairFile]) -> list[PairFile]:
    """Return the first pair of every mask, then the second ones, and so on."""
    seen: Counter[int] = Counter()
    rounds = []
    for file in files:
        rounds.append(seen[file.mask])
        seen[file.mask] += 1
    return [files[place] for place in sorted(range(len(files)), key=lambda place: rounds[place])]


def _check_preset(folder: Path, split: str, preset: str) -> None:
    manifest = read_manifest(folder, split)
    recorded = manifest["identity"].get("preset") if manifest else None
    if recorded and recorded != preset:
        raise UsageError(
            f"--data.preset: got {preset}, but {manifest_file(folder, split)} says that {recorded} made the set; give "
            "that preset"
        )


def _nothing_left(
    folder: Path, split: str, pairs: Sequence[PairFile], chosen: Sequence[PairFile], left_out: Sequence[Skipped]
) -> str:
    if not pairs:
        return f"{folder}: no pair of the {split} listing is there; expected {split}_640geo/<case>/<slice>/N.h5"
    if not chosen:
        masks = sorted({file.mask for file in pairs})
        return (
            f"{folder}: none of its {len(pairs)} {split} pairs has a slice and a mask that were chosen; it has masks "
            f"{masks[0]} .. {masks[-1]}"
        )
    first = left_out[0]
    return f"{folder}: no {split} pair is left, {len(left_out)} of them have no mask; {first.pair}: {first.reason}"
