"""The pairs of a data set in the community layout, each with its mask or the reason why it has none."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
from PIL import Image

from simulation.errors import InputError

if TYPE_CHECKING:
    from simulation.projector import Projector

_SPLITS = ("train", "test")
_SAME_TRACE = 0.8
"""Least overlap (intersection over union) of a mask's own trace with the stored one. On the public files the right
mask reaches 0.9997 and the best wrong one 0.56; one edge bin of difference per side still leaves the smallest 0.8."""


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
        """``split/case/slice/N``."""
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


@dataclass(frozen=True)
class Pair:
    """What scoring needs of a pair; the names are those of `simulation.store.read_pair`.

    Args:
        image: truth, (H, W), 1/cm.
        ma_CT: metal-corrupted image, (H, W), 1/cm.
        LI_CT: image after linear interpolation, (H, W), 1/cm.
        ma_sinogram: metal-corrupted line integrals, (views, bins).
        metal_trace: (views, bins), true where metal is.
        metal_mask: (H, W), true where metal is.
    """

    image: np.ndarray
    ma_CT: np.ndarray
    LI_CT: np.ndarray
    ma_sinogram: np.ndarray
    metal_trace: np.ndarray
    metal_mask: np.ndarray


def find_pairs(data: Path, split: str | None = None) -> tuple[list[PairFile], list[Skipped]]:
    """The pairs of every listed slice, and the listed slices that are not there.

    Args:
        data: folder with ``{split}_640geo_dir.txt``.
        split: train or test; None takes both where they are.

    Raises:
        InputError: the folder or its listing is missing, empty or malformed.
    """
    if not data.is_dir():
        raise InputError(
            f"{data}: no such folder; expected a data set with train_640geo_dir.txt or test_640geo_dir.txt"
        )
    splits = [name for name in _SPLITS if split in (None, name) and (data / f"{name}_640geo_dir.txt").is_file()]
    if not splits:
        expected = " or ".join(f"{name}_640geo_dir.txt" for name in _SPLITS if split in (None, name))
        inner = next((path.parent for path in sorted(data.glob("*/*_640geo_dir.txt"))), None)
        raise InputError(f"{data}: no {expected} in it" + (f"; did you mean {inner}?" if inner else ""))
    pairs: list[PairFile] = []
    missing: list[Skipped] = []
    for name in splits:
        for case, slice_name in _listed_slices(data / f"{name}_640geo_dir.txt"):
            found, reason = _pairs_of_slice(data / f"{name}_640geo" / case / slice_name, name, case, slice_name)
            pairs += found
            if reason:
                missing.append(Skipped(f"{name}/{case}/{slice_name}", reason))
    return pairs, missing


def _listed_slices(listing: Path) -> list[tuple[str, str]]:
    try:
        lines = [line.strip() for line in listing.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{listing}: cannot be read as text ({error})") from error
    if not lines:
        raise InputError(f"{listing}: lists no slice; expected lines such as 000321_03_01/011/gt.h5")
    slices = []
    for line in lines:
        parts = line.split("/")
        if len(parts) != 3 or parts[2] != "gt.h5" or not {"", ".", ".."}.isdisjoint(parts):
            raise InputError(f"{listing}: got the line {line!r}, expected case/slice/gt.h5")
        slices.append((parts[0], parts[1]))
    return slices


def _pairs_of_slice(folder: Path, split: str, case: str, slice_name: str) -> tuple[list[PairFile], str]:
    if not (folder / "gt.h5").is_file():
        return [], f"listed, but {folder / 'gt.h5'} is missing"
    masks = sorted(int(path.stem) for path in folder.glob("*.h5") if path.stem.isdecimal())
    pairs = [PairFile(split, case, slice_name, mask, folder / f"{mask}.h5") for mask in masks]
    return pairs, "" if pairs else f"no pair N.h5 in {folder}"


def load_masks(data: Path, masks: str | None = None) -> dict[str, np.ndarray]:
    """The mask stack of every split: ``data/{split}mask.npy``, or one file for all.

    Args:
        data: the data folder.
        masks: path of the stack to use instead.

    Returns:
        Split -> (rows, columns, n), not 0 where metal is; splits without a stack are left out.

    Raises:
        InputError: a file cannot be read or is not a stack of masks.
    """
    if masks is not None:
        return dict.fromkeys(_SPLITS, _load_stack(Path(masks)))
    paths = {split: data / f"{split}mask.npy" for split in _SPLITS}
    return {split: _load_stack(path) for split, path in paths.items() if path.exists()}


def _load_stack(path: Path) -> np.ndarray:
    try:
        stack = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as a mask stack (.npy) ({error})") from error
    if not isinstance(stack, np.ndarray) or stack.ndim != 3 or stack.dtype.kind not in "bui":
        got = f"{stack.dtype} {stack.shape}" if isinstance(stack, np.ndarray) else "an archive"
        raise InputError(f"{path}: got {got}, expected a mask stack (rows, columns, n) of bool or integers")
    return stack


def why_no_mask(pair: PairFile, stacks: Mapping[str, np.ndarray]) -> str:
    """The reason why no stack holds the pair's mask; empty if one does.

    Args:
        pair: the pair.
        stacks: from `load_masks`.
    """
    if pair.split not in stacks:
        return f"no mask stack: {pair.split}mask.npy is not in the data folder; name one with --masks"
    count = stacks[pair.split].shape[2]
    return "" if pair.mask < count else f"the mask stack ends at mask {count - 1}"


def read_pair(pair: PairFile, stacks: Mapping[str, np.ndarray]) -> Pair:
    """Read a pair and its mask, which is resized to the image as the published loaders do (PIL, bilinear).

    Args:
        pair: a pair whose mask is in ``stacks``.
        stacks: from `load_masks`.

    Raises:
        InputError: a file is truncated, a data set missing or of another shape, or the mask empty.
    """
    truth = _read(pair.path.with_name("gt.h5"), ("image",))
    stored = _read(pair.path, ("ma_CT", "LI_CT", "ma_sinogram", "metal_trace"))
    shape = truth["image"].shape
    for first, second in (("ma_CT", shape), ("LI_CT", shape), ("metal_trace", stored["ma_sinogram"].shape)):
        if stored[first].shape != second or len(second) != 2:
            raise InputError(f"{pair.path}: {first} has shape {stored[first].shape}, expected {second}")
    mask = np.asarray(stacks[pair.split][:, :, pair.mask] != 0).astype(np.uint8)
    resized = np.asarray(Image.fromarray(mask).resize(shape[::-1], Image.Resampling.BILINEAR)) > 0
    if not resized.any():
        raise InputError(f"mask {pair.mask} has no metal at {shape[0]} x {shape[1]} pixels")
    stored["metal_trace"] = stored["metal_trace"] != 0
    return Pair(image=truth["image"], **stored, metal_mask=resized)


def _read(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    try:
        with h5py.File(path, "r") as file:
            missing = [name for name in names if not isinstance(file.get(name), h5py.Dataset)]
            if missing:
                raise InputError(f"{path}: no {', '.join(missing)} in it; it has {', '.join(file) or 'nothing'}")
            return {name: file[name][()] for name in names}
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be read as h5, truncated? ({error})") from error


def why_other_mask(pair: Pair, projector: "Projector") -> str:
    """The reason why the mask cannot be the one of the pair: it throws another metal trace; empty if it is the one.

    Stacks of one layout are easily mixed up: test masks 2 to 9 are not train masks 2 to 9.

    Args:
        pair: the pair with its mask.
        projector: the scan that made the pair.
    """
    from simulation.correction import metal_trace

    own = np.asarray(metal_trace(projector, pair.metal_mask))
    if own.shape != pair.metal_trace.shape:
        return f"its sinogram is {pair.metal_trace.shape}, that of the geometry {own.shape}: name another --geometry"
    overlap = np.count_nonzero(own & pair.metal_trace) / max(1, int(np.count_nonzero(own | pair.metal_trace)))
    if overlap >= _SAME_TRACE:
        return ""
    return f"the mask is another one: its trace and the stored metal_trace overlap by {100 * overlap:.0f} % only"
