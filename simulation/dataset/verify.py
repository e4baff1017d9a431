"""Check a data set: what is missing, altered, unfinished, unreadable, or impossible in a scan."""

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from simulation.dataset.manifest import (
    CASE_MASKS,
    CASE_RECORD,
    SPLITS,
    identity_sha256,
    layout_of,
    listing_file,
    manifest_file,
    mask_file,
    read_manifest,
    read_record,
    read_sidecar,
    split_folder,
)
from simulation.dataset.reader import read_pair
from simulation.dataset.shard_file import Shard, shard_file, shards_folder
from simulation.errors import InputError
from simulation.files import PARTIAL, sha256_of
from simulation.sources.challenge import find_cases
from simulation.sources.community import read_listing

_ALTERED = "its bytes are not those that were written"
_NOT_ZERO = ("image", "metal_mask", "ma_CT", "LI_CT", "ma_sinogram", "poly_sinogram", "metal_trace", "mask_512")


@dataclass(frozen=True)
class Verification:
    """What `verify` found: numbers of slices and pairs, whether there were hashes, and one line a problem."""

    slices: int
    pairs: int
    hashed: bool
    problems: tuple[str, ...]


class Found(NamedTuple):
    """What is in a split: numbers of slices and of pairs, whether all had hashes to compare, and one line a problem."""

    slices: int
    pairs: int
    hashed: bool
    problems: list[str]


def verify(root: str | Path) -> Verification:
    """Check a data set: with a manifest every file against its hash, and in any case every slice or shard by reading.

    Args:
        root: folder of the data set.

    Returns:
        Numbers of slices and pairs, and one line a problem, see `Verification`.

    Raises:
        InputError: there is no data set in the folder, or its manifest cannot be read.

    Example:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from simulation import Sample, verify, write_case
        >>> image_mu, sinogram = np.full((64, 64), 0.2, np.float32), np.ones((90, 96), np.float32)
        >>> sample = Sample(sinogram, sinogram, image_mu, image_mu, sinogram > 0)
        >>> with TemporaryDirectory() as data:
        ...     write_case(Path(data, "train_640geo/a/000"), image_mu, sinogram, image_mu, {0: sample})
        ...     _ = Path(data, "train_640geo_dir.txt").write_text("a/000/gt.h5")
        ...     found = verify(data)
        >>> found.slices, found.pairs, found.problems
        (1, 1, ())
    """
    root = Path(root)
    splits = [split for split in SPLITS if layout_of(root, split)]
    if not splits:
        what = "no train or test set in it" if root.is_dir() else "is a file" if root.exists() else "no such folder"
        raise InputError(f"{root}: {what}; expected what mar simulate wrote, or SynDeepLesion")
    problems: list[str] = []
    found = []
    for split in splits:
        manifest, layout = read_manifest(root, split), layout_of(root, split)
        if layout == "shards":
            own = _check_shards(root, split, manifest)
        else:
            own = _check_raw(root, split) if layout == "ctmar" else _check_community(root, split)
        found.append(own)
        problems += [*_altered_identity(root, split), *own.problems]
    problems += [f"{path.relative_to(root)}: left by an interrupted run" for path in sorted(root.rglob(f"*{PARTIAL}"))]
    slices, pairs = sum(own.slices for own in found), sum(own.pairs for own in found)
    return Verification(slices, pairs, all(own.hashed for own in found), tuple(dict.fromkeys(problems)))


def _altered_identity(root: Path, split: str) -> Iterator[str]:
    manifest = read_manifest(root, split)
    if manifest is None or "schema" not in manifest:
        return
    if identity_sha256(manifest["schema"], manifest["identity"]) != manifest["identity_sha256"]:
        yield f"{manifest_file(root, split).name}: what it says the set was made from is not what was written"


def _check_raw(root: Path, split: str) -> Found:
    """Compare the raw files of the challenge's layout with their hashes, and read them."""
    cases = [case for folder in (read_manifest(root, split) or {})["cases"] for case in find_cases(root / folder)]
    problems = _altered(root, split)
    for case in cases:
        for part in ("Target", "Baseline", "Mask"):
            for kind in ("img", "sino"):
                try:
                    case.read(part, kind)
                except InputError as error:
                    problems.append(str(error).replace(f"{root}/", ""))
    return Found(len((read_manifest(root, split) or {})["cases"]), len(cases), True, problems)


def _check_community(root: Path, split: str) -> Found:
    problems = _altered(root, split)
    hashed = manifest_file(root, split).is_file()
    slices = pairs = 0
    listing = listing_file(root, split)
    if not listing.is_file():
        return Found(0, 0, hashed, [*problems, f"{listing.name}: missing; the same mar simulate writes it"])
    try:
        listed = read_listing(listing)
    except InputError as error:
        return Found(0, 0, hashed, [*problems, str(error)])
    for case, name in listed:
        folder = split_folder(root, split) / case / name
        files = sorted(path for path in folder.glob("*.h5") if path.stem.isdecimal())
        slices, pairs = slices + 1, pairs + len(files)
        if not files:
            problems.append(f"{folder.relative_to(root)}: listed, but no pair is there")
        problems += [problem for path in files for problem in _unreadable(path, root)]
    return Found(slices, pairs, hashed, problems)


def _altered(root: Path, split: str) -> list[str]:
    manifest = read_manifest(root, split)
    if manifest is None:
        return []
    problems = []
    for case, record in manifest["cases"].items():
        for name, expected in record["files"].items():
            path = root / case / name
            if not path.is_file():
                problems.append(f"{case}/{name}: missing")
            elif sha256_of(path) != expected:
                problems.append(f"{case}/{name}: its bytes are not those that were written")
        if read_record(root / case) != record:
            problems.append(f"{case}/{CASE_RECORD}: missing, or not what the manifest says")
        known = {*record["files"], CASE_RECORD}
        foreign = [path.name for path in (root / case).glob("*.h5") if path.name not in known]
        problems += [f"{case}/{name}: not in the manifest" for name in sorted(foreign)]
    made = {str(path.parent.relative_to(root)) for path in split_folder(root, split).glob("*/*/gt.h5")}
    unlisted = sorted(made - set(manifest["cases"]))
    problems += [f"{case}: unfinished; the same mar simulate finishes it" for case in unlisted]
    accounted = len(manifest["cases"]) + len(manifest.get("left_out", ())) + len(unlisted)
    planned = int(manifest.get("planned", 0))
    if accounted < planned:
        problems.append(
            f"{planned - accounted} of {planned} planned slices: not made yet; the same mar simulate makes them, or "
            "says why it cannot"
        )
    for name, expected in manifest["files"].items():
        path = root / name
        if not path.is_file() or sha256_of(path) != expected:
            problems.append(f"{name}: missing, or its bytes are not those that were written")
    if manifest["layout"] == "community" and mask_file(root, split).name not in manifest["files"] and manifest["cases"]:
        problems += _other_masks(root, split, manifest["cases"])
    return problems


def _other_masks(root: Path, split: str, cases: Mapping[str, Any]) -> list[str]:
    """Compare the stack of procedural masks, which has no hash, with those of the slices."""
    path = mask_file(root, split)
    try:
        stack = np.load(path, mmap_mode="r")
        problems = []
        for case in cases:
            with (root / case / CASE_MASKS).open("rb") as file, np.load(file) as own:  # np.load(path) leaks
                same = np.array_equal(stack[:, :, own["indices"]].transpose(2, 0, 1), own["masks"] > 0)
            if not same:
                problems.append(f"{path.name}: its masks of {case} are not those in {case}/{CASE_MASKS}; delete it")
        return problems
    except FileNotFoundError as error:
        return [f"{Path(error.filename).relative_to(root)}: missing"]
    except (ValueError, OSError, KeyError, IndexError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        return [f"{path.name}: cannot be compared with the masks of the slices ({error})"]


def _unreadable(path: Path, root: Path) -> list[str]:
    name = path.relative_to(root)
    try:
        pair = read_pair(path)
    except InputError as error:
        return [str(error).replace(f"{root}/", "")]
    broken = [key for key, array in vars(pair).items() if array.dtype != bool and not np.isfinite(array).all()]
    problems = [f"{name}: {key} holds values that are not finite" for key in broken]
    return problems + ([] if pair.metal_trace.any() else [f"{name}: its metal trace is empty"])


def _check_shards(root: Path, split: str, manifest: Mapping[str, Any] | None) -> Found:
    """Compare every shard with its hash, and read every pair.

    Args:
        root: folder of the data set.
        split: train or test.
        manifest: of the split, if there is one.
    """
    folder = shards_folder(root, split)
    names = {path: str(path.relative_to(root)) for path in sorted(folder.glob("shard_*.h5"))}
    records = {name: read_sidecar(path) for path, name in names.items()}
    listed = dict(manifest["files"]) if manifest else {}
    # A shard's own record knows its hash before the manifest does.
    known = {name: record["sha256"] for name, record in records.items() if "sha256" in record} | listed
    problems = [line for name, expected in known.items() for line in _altered_shard(root, name, expected)]
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


def _unread(name: str, record: Mapping[str, Any]) -> Iterator[str]:
    if unread := record.get("unread"):
        yield (
            f"{name}: {len(unread)} slices could not be read when it was made, the first is {unread[0]}; delete it, "
            "and the same mar simulate tries again"
        )


def _altered_shard(root: Path, name: str, expected: str) -> Iterator[str]:
    path = root / name
    if not path.is_file():
        yield f"{name}: missing"
    elif sha256_of(path) != expected:
        yield f"{name}: {_ALTERED}"


def _impossible(shard: Shard, name: str) -> Iterator[str]:
    """Yield rows that no scan could have: all zero, or not finite."""
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
