"""The pairs of a data set in the community layout, each with its mask or the reason why it has none."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simulation.correction import why_other_mask as why_other_mask
from simulation.dataset.manifest import SPLITS, layout_of, listing_file, mask_file, split_folder
from simulation.dataset.reader import Pair, read_pair
from simulation.errors import InputError
from simulation.implants.masks import open_stack, resize_mask
from simulation.physics.projector import Projector
from simulation.sources.challenge import find_cases
from simulation.sources.community import read_listing


@dataclass(frozen=True)
class PairFile:
    """Where a pair lies: ``data/{split}_640geo/<case>/<slice>/N.h5``.

    Args:
        split: train or test.
        case: such as 000321_03_01.
        slice: such as 011.
        mask: mask index N.
        path: the file N.h5.
    """

    split: str
    case: str
    slice: str
    mask: int
    path: Path

    @property
    def name(self) -> str:
        """Return ``split/case/slice/N``."""
        return f"{self.split}/{self.case}/{self.slice}/{self.mask}"


@dataclass(frozen=True)
class Skipped:
    """A pair without scores.

    Args:
        pair: ``split/case/slice`` and the mask index, where there is one.
        reason: what is wrong, in one line.
    """

    pair: str
    reason: str


def slice_name(file: PairFile) -> str:
    """Return ``case/slice`` of a pair."""
    return f"{file.case}/{file.slice}"


def find_pairs(data: Path, split: str | None = None) -> tuple[list[PairFile], list[Skipped]]:
    """Return the pairs of every listed slice, and the listed slices that are not there.

    Args:
        data: folder with ``{split}_640geo_dir.txt``.
        split: train or test; None takes both where they are.

    Raises:
        InputError: the folder or its listing is missing, empty or malformed.
    """
    listings = {name: listing_file(data, name) for name in SPLITS if split in (None, name)}
    if not data.is_dir():
        raise InputError(
            f"{data}: no such folder; expected a data set with {' or '.join(path.name for path in listings.values())}"
        )
    present = {name: path for name, path in listings.items() if path.is_file()}
    if not present:
        expected = [path.name for path in listings.values()]
        inner = next((path.parent for name in expected for path in sorted(data.glob(f"*/{name}"))), None)
        hint = f"; did you mean {inner}?" if inner else ""
        if any(layout_of(data, name) == "shards" for name in listings):
            hint = (
                "; it holds shards, which are to train from; mar simulate --convert gives those with sinograms this "
                "layout, images alone cannot have it"
            )
        if any(layout_of(data, name) == "ctmar" for name in listings) or find_cases(data):
            hint = (
                "; it holds raw files as the CT-MAR challenge has them; mar simulate --convert makes a data set of them"
            )
        raise InputError(f"{data}: no {' or '.join(expected)} in it{hint}")
    pairs: list[PairFile] = []
    missing: list[Skipped] = []
    for name, path in present.items():
        slices = read_listing(path)
        if not slices:
            raise InputError(f"{path}: lists no slice; expected lines such as 000321_03_01/011/gt.h5")
        for case, slice_name in slices:
            found, reason = _pairs_of_slice(split_folder(data, name) / case / slice_name, name, case, slice_name)
            pairs += found
            if reason:
                missing.append(Skipped(f"{name}/{case}/{slice_name}", reason))
    return pairs, missing


def _pairs_of_slice(folder: Path, split: str, case: str, slice_name: str) -> tuple[list[PairFile], str]:
    if not (folder / "gt.h5").is_file():
        return [], f"listed, but {folder / 'gt.h5'} is missing"
    masks = sorted(int(path.stem) for path in folder.glob("*.h5") if path.stem.isdecimal())
    pairs = [PairFile(split, case, slice_name, mask, folder / f"{mask}.h5") for mask in masks]
    return pairs, "" if pairs else f"no pair N.h5 in {folder}"


def load_masks(data: Path, masks: str | None = None) -> dict[str, np.ndarray]:
    """Return the mask stack of every split: ``data/{split}mask.npy``, or one file for all.

    Args:
        data: the data folder.
        masks: path of the stack to use instead.

    Returns:
        Split -> (rows, columns, n), not 0 where metal is; splits without a stack are left out.

    Raises:
        InputError: a file cannot be read or is not a stack of masks.
    """
    if masks is not None:
        return dict.fromkeys(SPLITS, open_stack(Path(masks)))
    paths = {split: mask_file(data, split) for split in SPLITS}
    return {split: open_stack(path) for split, path in paths.items() if path.exists()}


def why_no_mask(pair: PairFile, stacks: Mapping[str, np.ndarray]) -> str:
    """Return the reason why no stack holds the pair's mask; empty if one does.

    Args:
        pair: the pair.
        stacks: from `load_masks`.
    """
    if pair.split not in stacks:
        return f"no mask stack: {mask_file(Path(), pair.split)} is not in the data folder; name one with --masks"
    count = stacks[pair.split].shape[2]
    return "" if pair.mask < count else f"the mask stack ends at mask {count - 1}"


def load_pair(file: PairFile, stacks: Mapping[str, np.ndarray], projector: Projector) -> tuple[Pair, np.ndarray]:
    """Return a pair and its mask, at the size of the image and true where metal is.

    Args:
        file: a pair whose mask is in ``stacks``.
        stacks: from `load_masks`.
        projector: the scan that made the pair.

    Raises:
        InputError: a file is truncated, a data set missing or of another shape than the scan's, or the mask empty.
    """
    pair, geometry = read_pair(file.path), projector.geometry
    got, expected = (pair.image.shape, pair.ma_sinogram.shape), (geometry.image_shape, geometry.sinogram_shape)
    if got != expected:
        raise InputError(
            f"{file.path}: image {got[0]} and sinogram {got[1]}, but the preset's are {expected[0]} and {expected[1]}; "
            "name the preset that made the data with --preset"
        )
    metal_mask = resize_mask(stacks[file.split][:, :, file.mask] != 0, geometry.image_shape) > 0
    if not metal_mask.any():
        raise InputError(f"mask {file.mask} of the stack is empty; expected at least one metal pixel")
    return pair, metal_mask
