"""Where the files of a data set lie, whatever its layout, and what its manifest says.

    {split}_manifest.json                  what the set was made from, and a SHA-256 of every file

The community layout, that of SynDeepLesion:

    {split}_640geo_dir.txt                 one "case/slice/gt.h5" a line
    {split}mask.npy                        (512, 512, n) uint8, axis 2 = mask
    {split}_640geo/<case>/<slice>/gt.h5    image, poly_CT, poly_sinogram
    {split}_640geo/<case>/<slice>/N.h5     ma_CT, LI_CT, ma_sinogram, LI_sinogram, metal_trace of mask N

Its names are fixed, whatever the geometry: the published loaders look for them. What they do not know (the manifest,
and case.json and masks.npz beside each gt.h5) does not disturb them. Training shards are described in
`simulation.dataset.shard_file`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simulation.dataset.shard_file import shards_folder
from simulation.errors import InputError
from simulation.files import sha256_of_text

SPLITS = ("train", "test")
CASE_RECORD = "case.json"
CASE_MASKS = "masks.npz"


def split_folder(root: Path, split: str) -> Path:
    """Folder of a split's cases."""
    return root / f"{split}_640geo"


def listing_file(root: Path, split: str) -> Path:
    """The text file that lists a split's slices."""
    return root / f"{split}_640geo_dir.txt"


def mask_file(root: Path, split: str) -> Path:
    """The mask stack of a split."""
    return root / f"{split}mask.npy"


def manifest_file(root: Path, split: str) -> Path:
    """The manifest of a split."""
    return root / f"{split}_manifest.json"


def identity_sha256(schema: int, identity: Mapping[str, Any]) -> str:
    """One hash of what decides the bytes of a set."""
    return sha256_of_text(json.dumps([schema, identity], sort_keys=True))


def layout_of(root: Path, split: str) -> str | None:
    """The layout of a split, "community" or "shards"; None if there is no such split."""
    manifest = read_manifest(root, split)
    if manifest is not None:
        return manifest["layout"]
    if shards_folder(root, split).is_dir():
        return "shards"
    return "community" if listing_file(root, split).is_file() or split_folder(root, split).is_dir() else None


def read_manifest(root: Path, split: str) -> dict[str, Any] | None:
    """The manifest of a split, None where it has none.

    Raises:
        InputError: it cannot be read.
    """
    path = manifest_file(root, split)
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
        empty = {"layout": "community", "cases": {}, "files": {}, "identity": {}, "identity_sha256": ""}
        return empty | content
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{path}: cannot be read as JSON ({error}); restore it or simulate into a new folder"
        ) from error


def read_record(folder: Path) -> dict[str, Any]:
    """What is written about a slice in its folder; empty if it was not made yet, or if its record is damaged."""
    try:
        content = json.loads((folder / CASE_RECORD).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
