"""Rainy images and their clean partners on disk, in the layouts of the public data sets."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from mar_pipeline.tasks.images.files import list_images, read_image
from mar_pipeline.tasks.rain.settings import Layout
from simulation.errors import InputError

Split = Literal["train", "test"]

_SPLIT_FOLDERS = {
    "train": ("train/small", "train", "training"),
    "test": ("test/small", "test", "testing"),
}
_TWO_FOLDERS = (
    ("rain/X2", "norain"),
    ("rain", "norain"),
    ("rainy", "norain"),
    ("rainy_image", "ground_truth"),
    ("input", "target"),
)
"""Rainy and clean folder, first match wins: Rain200H/L, Rain100H/L and 1400, PReNet's copies, DDN's own, MPRNet's."""

_CLEAN_FILE = re.compile(r"norain-.*|.*_GT", re.IGNORECASE)
"""Stem of a clean file that lies beside its rainy one: Rain100H/L and Rain12."""

_TEST_ONLY = re.compile(r".*_GT", re.IGNORECASE)

_AROUND_KEY = re.compile(r"^(?:no)?rain-|x2$|_(?:in|GT)$", re.IGNORECASE)
_SMALLEST = 11
"""Side of the window of the SSIM."""

_VERSION = re.compile(r"_\d+$")
"""Rain1400 has 14 versions of a clean image: 1_1.jpg to 1_14.jpg of 1.jpg."""


@dataclass(frozen=True)
class RainPair:
    """A rainy image and its clean partner, not read yet.

    Args:
        name: of the rainy file, without its ending.
        rainy: its path.
        clean: the partner's path.
    """

    name: str
    rainy: Path
    clean: Path

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """The rainy image and the clean one, UInt8["H W 3"] each.

        Raises:
            InputError: a file cannot be used, or their sizes differ.
        """
        rainy, clean = read_image(self.rainy), read_image(self.clean)
        if rainy.shape != clean.shape:
            sizes = " and ".join(f"{image.shape[0]} x {image.shape[1]}" for image in (rainy, clean))
            raise InputError(
                f"{self.rainy} and {self.clean}: got {sizes} pixels, expected one size; fetch them again, or take the "
                "pair out"
            )
        if min(rainy.shape[:2]) < _SMALLEST:
            raise InputError(
                f"{self.rainy}: got {rainy.shape[0]} x {rainy.shape[1]} pixels, expected {_SMALLEST} or more a side; "
                "take the pair out"
            )
        return rainy, clean


def find_pairs(folder: Path, split: Split, layout: Layout = "auto") -> list[RainPair]:
    """The pairs of a data set, naturally sorted by the rainy files.

    Where the set has no folder of its own for the split, all its pairs are taken; Rain12 is for tests alone.

    Args:
        folder: of the data set.
        split: which part of it.
        layout: see `RainSet`.

    Raises:
        InputError: there is no such folder, no layout fits it, a partner is missing, or Rain12 is to be trained on.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; expected light, heavy, or a folder of rainy images")
    root = next((folder / name for name in _SPLIT_FOLDERS[split] if (folder / name).is_dir()), folder)
    folders = _two_folders(root)
    if layout == "two_folders" or (layout == "auto" and folders):
        if folders is None:
            known = ", ".join(f"{rainy} and {clean}" for rainy, clean in _TWO_FOLDERS)
            raise InputError(f"{root}: has no pair of folders with rain and without; expected {known}; rename them")
        return _partners(root, list_images(folders[0]), list_images(folders[1]))
    lists = sorted(root.glob("*.txt"))
    if layout == "list" or (layout == "auto" and lists):
        return _listed(root, lists)
    files = list_images(root)
    clean = [path for path in files if _CLEAN_FILE.fullmatch(path.stem)]
    if split == "train" and any(_TEST_ONLY.fullmatch(path.stem) for path in clean):
        raise InputError(f"{root}: has the names of Rain12, whose 12 pairs are for tests; train on another set")
    if not clean:
        raise InputError(
            f"{root}: got {len(files)} images, but none with a name such as norain-1.png or 1_GT.png; expected clean "
            "images beside the rainy ones, folders rain and norain, or a list; name the --data.layout, or rename them"
        )
    return _partners(root, [path for path in files if path not in set(clean)], clean)


def _two_folders(root: Path) -> tuple[Path, Path] | None:
    found = ((root / rainy, root / clean) for rainy, clean in _TWO_FOLDERS)
    return next(((rainy, clean) for rainy, clean in found if rainy.is_dir() and clean.is_dir()), None)


def _partners(root: Path, rainy_files: Iterable[Path], clean_files: Iterable[Path]) -> list[RainPair]:
    """The rainy files with their clean partners, every one of which must have a rainy file."""
    clean: dict[str, Path] = {}
    for path in clean_files:
        other = clean.setdefault(_key(path), path)
        if other != path:
            raise InputError(f"{root}: got the clean images {other.name} and {path.name}, expected one; take one out")
    pairs = []
    for path in rainy_files:
        keys = (_key(path), _VERSION.sub("", _key(path)))
        partner = next((clean[key] for key in keys if key in clean), None)
        if partner is None:
            raise InputError(
                f"{path}: its clean image is missing; expected one named {keys[0]}; add it, or take it out"
            )
        pairs.append(RainPair(path.stem, path, partner))
    if alone := sorted({*clean.values()} - {pair.clean for pair in pairs}):
        raise InputError(f"{alone[0]}: its rainy image is missing; add it, or take the file out")
    return pairs


def _key(path: Path) -> str:
    """What the names of partners have in common: 001 of rain-001, norain-001x2, 001_in and 001_GT."""
    return re.sub(r"^0+(?=\d)", "", _AROUND_KEY.sub("", path.stem))


def _listed(root: Path, lists: list[Path]) -> list[RainPair]:
    """Pairs of a text file, as SPA-Data has it: paths below the folder, with or without a leading slash."""
    if len(lists) != 1:
        found = ", ".join(path.name for path in lists) or "none"
        raise InputError(f"{root}: got {found} as lists, expected one text file; take the others out, or add it")
    pairs = []
    for number, line in enumerate(lists[0].read_text(errors="replace").splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2:
            raise InputError(
                f"{lists[0]}, line {number}: got {line[:80]!r}, expected a rainy and a clean path; mend it"
            )
        rainy, clean = (root / word.lstrip("/") for word in words)
        for path in (rainy, clean):
            if not path.is_file():
                raise InputError(f"{lists[0]}, line {number}: there is no {path}; add the file, or take the line out")
        pairs.append(RainPair(rainy.stem, rainy, clean))
    if not pairs:
        raise InputError(f"{lists[0]}: got an empty list, expected a rainy and a clean path on each line")
    return pairs
