"""Checks a set of shards: what is missing, altered, unfinished, unreadable, or holds zeros where a scan should be."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from simulation.dataset.shard_file import Shard, shard_file, shards_folder
from simulation.errors import InputError
from simulation.files import sha256_of

_ALTERED = "its bytes are not those that were written"
_NOT_ZERO = ("image", "metal_mask", "ma_CT", "LI_CT", "ma_sinogram", "poly_sinogram", "metal_trace", "mask_512")


class Found(NamedTuple):
    """What is in a split: numbers of slices and of pairs, whether all had hashes to compare, and one line a problem."""

    slices: int
    pairs: int
    hashed: bool
    problems: list[str]


def check_shards(root: Path, split: str, manifest: Mapping[str, Any] | None) -> Found:
    """Every shard against its hash, and every pair by reading it.

    Args:
        root: folder of the data set.
        split: train or test.
        manifest: of the split, if there is one.
    """
    folder = shards_folder(root, split)
    names = {path: str(path.relative_to(root)) for path in sorted(folder.glob("shard_*.h5"))}
    records = {name: _record(path.with_suffix(".json")) for path, name in names.items()}
    listed = dict(manifest["files"]) if manifest else {}
    # A shard's own record knows its hash before the manifest does.
    known = {name: record["sha256"] for name, record in records.items() if "sha256" in record} | listed
    problems = [line for name, expected in known.items() for line in _altered(root, name, expected)]
    for number in range(int(manifest.get("shards", 0)) if manifest else 0):
        name = str(shard_file(folder, number).relative_to(root))
        if name not in {*records, *listed}:
            problems.append(f"{name}: not made yet; the same mar simulate makes it")
    slices = pairs = 0
    for path, name in names.items():
        if manifest and name not in listed:
            problems.append(f"{name}: unfinished, not in the manifest; the same mar simulate finishes it")
        problems += _unread(name, records[name])
        try:
            shard = Shard(path)
            pairs += len(shard)
            slices += len(shard.slices)
            problems += _impossible(shard, name)
        except InputError as error:
            problems.append(str(error).replace(f"{root}/", ""))
    return Found(slices, pairs, set(records) <= set(known), problems)


def _record(sidecar: Path) -> dict[str, Any]:
    """What was written about a shard; nothing where that cannot be read."""
    try:
        content = json.loads(sidecar.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _unread(name: str, record: Mapping[str, Any]) -> Iterator[str]:
    if unread := record.get("unread"):
        yield (
            f"{name}: {len(unread)} slices could not be read when it was made, the first is {unread[0]}; delete it, "
            "and the same mar simulate tries again"
        )


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
