"""Rainy images and their clean partners on disk, in the layouts of the public data sets."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from mar_pipeline.tasks.images.files import SUFFIXES, list_images, natural_key, read_image
from mar_pipeline.tasks.images.split import training_count
from mar_pipeline.tasks.rain.luminance import SMALLEST
from mar_pipeline.tasks.rain.settings import Layout
from simulation.errors import InputError

Split = Literal["train", "test"]

_SPLIT_FOLDERS: dict[Split, tuple[str, ...]] = {
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
        """Return the rainy image and the clean one, UInt8["H W 3"] each.

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
        if min(rainy.shape[:2]) < SMALLEST:
            raise InputError(
                f"{self.rainy}: got {rainy.shape[0]} x {rainy.shape[1]} pixels, expected {SMALLEST} or more a side; "
                "take the pair out"
            )
        return rainy, clean


def find_pairs(folder: Path, split: Split, layout: Layout = "auto") -> list[RainPair]:
    """Return the pairs of a part of a data set, naturally sorted by the rainy files, or in the order of their list.

    A set that has no split of its own is split here, see `RainSet`.

    Args:
        folder: of the data set.
        split: which part of it.
        layout: see `RainSet`.

    Raises:
        InputError: there is no such folder or part, no layout fits it, a partner is missing, or Rain12 is to be trained
            on.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; expected light, heavy, or a folder of rainy images")
    root = _root(folder, split)
    found = _found_layout(root) if layout == "auto" else layout
    is_split = root != folder
    if found == "list":
        lists = _lists(root)
        pairs = _listed(root, lists[split])
        is_split |= lists["train"] != lists["test"]
    elif found == "two_folders":
        pairs = _in_two_folders(root)
    else:
        pairs = _in_one_folder(root)
        if any(_TEST_ONLY.fullmatch(pair.clean.stem) for pair in pairs):
            if split == "train":
                raise InputError(f"{root}: has the names of Rain12, whose 12 pairs are for tests; train on another set")
            return pairs
    return pairs if is_split else _part(folder, pairs, split)


def _root(folder: Path, split: Split) -> Path:
    """Return the set's own folder for the split; the set itself where it has none for either."""
    found = {
        part: next((folder / name for name in names if (folder / name).is_dir()), None)
        for part, names in _SPLIT_FOLDERS.items()
    }
    if not any(found.values()):
        return folder
    root = found[split]
    if root is None:
        raise InputError(f"{folder}: has only one of the folders train and test; add the folder {split}")
    return root


def _part(folder: Path, pairs: list[RainPair], split: Split) -> list[RainPair]:
    """Return nine tenths of the clean images with all their rainy versions, or the last tenth."""
    scenes = sorted({pair.clean for pair in pairs}, key=lambda path: natural_key(str(path)))
    kept = training_count(str(folder), len(scenes))
    chosen = set(scenes[:kept] if split == "train" else scenes[kept:])
    return [pair for pair in pairs if pair.clean in chosen]


def _found_layout(root: Path) -> Layout:
    """Return the first layout of which there are files: names decide before text files, which may be about anything."""
    if _two_folders(root):
        return "two_folders"
    images = (path for path in root.glob("[!.]*") if path.suffix.lower() in SUFFIXES)
    if any(_CLEAN_FILE.fullmatch(path.stem) for path in images):
        return "one_folder"
    if any(_starts_with_a_pair(root, path) for path in root.glob("*.txt")):
        return "list"
    raise InputError(
        f"{root}: no layout fits: got no folders such as rain and norain, no image with a name such as norain-1.png or "
        "1_GT.png, and no list whose first pair is there; rename them, or name the --data.layout to hear more"
    )


def _in_two_folders(root: Path) -> list[RainPair]:
    folders = _two_folders(root)
    if folders is None:
        known = ", ".join(f"{rainy} and {clean}" for rainy, clean in _TWO_FOLDERS)
        raise InputError(f"{root}: has no pair of folders with rain and without; expected {known}; rename them")
    return _partners(root, *map(list_images, folders))


def _in_one_folder(root: Path) -> list[RainPair]:
    files = list_images(root)
    clean = [path for path in files if _CLEAN_FILE.fullmatch(path.stem)]
    if not clean:
        raise InputError(
            f"{root}: got {len(files)} images, but none with a name such as norain-1.png or 1_GT.png; expected clean "
            "images beside the rainy ones; rename them, or name another --data.layout"
        )
    return _partners(root, [path for path in files if path not in set(clean)], clean)


def _two_folders(root: Path) -> tuple[Path, Path] | None:
    found = ((root / rainy, root / clean) for rainy, clean in _TWO_FOLDERS)
    return next(((rainy, clean) for rainy, clean in found if rainy.is_dir() and clean.is_dir()), None)


def _partners(root: Path, rainy_files: Iterable[Path], clean_files: Iterable[Path]) -> list[RainPair]:
    """Return the rainy files with their clean partners, every one of which must have a rainy file."""
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
    """Return what the names of partners have in common: 001 of rain-001, norain-001x2, 001_in and 001_GT."""
    return re.sub(r"^0+(?=\d)", "", _AROUND_KEY.sub("", path.stem))


def _lists(root: Path) -> dict[Split, Path]:
    """Return the lists of the parts by name, or one list of both; text files that are none do not count."""
    files = sorted(root.glob("*.txt"))
    train, test = ([path for path in files if part in path.name.lower()] for part in ("train", "test"))
    if len(train) == len(test) == 1 and train != test:
        return {"train": train[0], "test": test[0]}
    lists = [path for path in files if _starts_with_a_pair(root, path)] or files
    if len(lists) != 1:
        found = ", ".join(path.name for path in lists) or "none"
        raise InputError(
            f"{root}: got {found} as lists, expected one text file, or one with train and one with test in its name; "
            "take the others out, or add it"
        )
    return {"train": lists[0], "test": lists[0]}


def _starts_with_a_pair(root: Path, path: Path) -> bool:
    """Return whether the first line of a text file that is not empty names two files."""
    with path.open(errors="replace") as file:
        words = next((line.split() for line in file if line.split()), [])
    return len(words) == 2 and all((root / word.lstrip("/")).is_file() for word in words)


def _listed(root: Path, path: Path) -> list[RainPair]:
    """Return pairs of a text file, as SPA-Data has it: paths below the folder, with or without a leading slash."""
    pairs = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2:
            raise InputError(f"{path}, line {number}: got {line[:80]!r}, expected a rainy and a clean path; mend it")
        rainy, clean = (root / word.lstrip("/") for word in words)
        for own in (rainy, clean):
            if not own.is_file():
                raise InputError(f"{path}, line {number}: there is no {own}; add the file, or take the line out")
        pairs.append(RainPair(rainy.stem, rainy, clean))
    if not pairs:
        raise InputError(f"{path}: got an empty list, expected a rainy and a clean path on each line; add them")
    return pairs
