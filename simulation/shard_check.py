"""Checks a set of shards: what is missing, altered, unfinished, unreadable, or holds zeros where a scan should be."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from simulation.errors import InputError
from simulation.files import sha256_of
from simulation.shards import Shard, shard_file, shards_folder

_ALTERED = "its bytes are not those that were written"
_NOT_ZERO = ("image", "metal_mask", "ma_CT", "LI_CT", "ma_sinogram", "poly_sinogram", "metal_trace", "mask_512")


def check_shards(root: Path, split: str, manifest: Mapping[str, Any] | None) -> tuple[int, int, list[str]]:
    """Every shard against its hash, and every pair by reading it.

    Args:
        root: folder of the data set.
        split: train or test.
        manifest: of the split, if there is one.

    Returns:
        Numbers of slices and of pairs, and one line a problem.
    """
    folder = shards_folder(root, split)
    known = dict(manifest["files"]) if manifest else {}
    for sidecar in sorted(folder.glob("shard_*.json")):  # knows the hash before the manifest does
        name = str(sidecar.with_suffix(".h5").relative_to(root))
        if name not in known and sidecar.with_suffix(".h5").is_file():
            known |= _recorded(name, sidecar)
    listed = set(manifest["files"]) if manifest else set()
    problems = [line for name, expected in known.items() for line in _altered(root, name, expected)]
    planned = int(manifest.get("shards", 0)) if manifest else 0
    for number in range(planned):
        path = shard_file(folder, number)
        if not path.is_file() and str(path.relative_to(root)) not in listed:
            problems.append(f"{path.relative_to(root)}: not made yet; the same mar simulate makes it")
    slices = pairs = 0
    for path in sorted(folder.glob("shard_*.h5")):
        name = str(path.relative_to(root))
        if manifest and name not in listed:
            problems.append(f"{name}: unfinished, not in the manifest; the same mar simulate finishes it")
        try:
            shard = Shard(path)
            pairs += len(shard)
            slices += len(shard.slices)
            problems += _impossible(shard, name)
        except InputError as error:
            problems.append(str(error).replace(f"{root}/", ""))
    return slices, pairs, problems


def _recorded(name: str, sidecar: Path) -> dict[str, str]:
    """The hash of a shard as it was when it was made; nothing where that cannot be read."""
    try:
        return {name: str(json.loads(sidecar.read_text())["sha256"])}
    except (ValueError, TypeError, KeyError):
        return {}


def _altered(root: Path, name: str, expected: str) -> Iterator[str]:
    path = root / name
    if not path.is_file():
        yield f"{name}: missing"
    elif sha256_of(path) != expected:
        yield f"{name}: {_ALTERED}"


def _impossible(shard: Shard, name: str) -> Iterator[str]:
    """Rows that no scan could have: all zero, or not finite."""
    for own in _NOT_ZERO:
        if own not in shard:
            continue
        rows = len(shard.slices) if own in ("image", "poly_sinogram") else len(shard)
        for row in range(rows):
            array = shard.read(own, row)
            what = f"{name}: {own} of {_row_name(shard, own, row)}"
            if not array.any():
                yield f"{what} is all zeros"
            elif array.dtype == np.float32 and not np.isfinite(array).all():
                yield f"{what} holds values that are not finite"


def _row_name(shard: Shard, own: str, row: int) -> str:
    if own in ("image", "poly_sinogram"):
        return "/".join(shard.slices[row])
    return "/".join((*shard.slices[shard.truth[row]], str(shard.masks[row])))
