"""A data set on disk: slices and pairs of the community layout written and read, and any set checked."""

import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from simulation.dataset.layout import (
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
    split_folder,
)
from simulation.dataset.shard_check import Found, check_shards
from simulation.errors import InputError
from simulation.files import PARTIAL, sha256_of, whole_file
from simulation.simulator import Sample

_GT = ("image", "poly_CT", "poly_sinogram")
_PAIR = ("ma_CT", "LI_CT", "ma_sinogram", "LI_sinogram", "metal_trace")


@dataclass(frozen=True)
class Pair:
    """A stored pair: images (rows, columns) in 1/cm, sinograms (views, bins), bool trace."""

    image: np.ndarray
    poly_CT: np.ndarray
    poly_sinogram: np.ndarray
    ma_CT: np.ndarray
    LI_CT: np.ndarray
    ma_sinogram: np.ndarray
    LI_sinogram: np.ndarray
    metal_trace: np.ndarray


def write_case(
    folder: Path,
    image_mu: np.ndarray,
    poly_sinogram: np.ndarray,
    poly_CT: np.ndarray,
    samples: Mapping[int, Sample],
    compression: int = 4,
) -> None:
    """Writes gt.h5 and one N.h5 for each sample, each whole or not at all; the same content gives the same bytes.

    Args:
        folder: of the slice; made if need be.
        image_mu: Float["rows columns"], 1/cm.
        poly_sinogram: Float["views bins"], metal free.
        poly_CT: Float["rows columns"], 1/cm.
        samples: by mask index.
        compression: gzip level, 0 for none.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    truth = {"image": image_mu, "poly_CT": poly_CT, "poly_sinogram": poly_sinogram}
    write_h5(folder / "gt.h5", truth, compression)
    for index, sample in samples.items():
        write_sample(folder / f"{index}.h5", sample, compression)


def write_sample(path: Path, sample: Sample, compression: int = 4) -> None:
    """Writes one N.h5, whole or not at all."""
    arrays = {name: np.asarray(getattr(sample, name)) for name in _PAIR}
    write_h5(path, arrays | {"metal_trace": arrays["metal_trace"].astype(np.uint8)}, compression)


def write_h5(path: Path, arrays: Mapping[str, np.ndarray], compression: int) -> None:
    """Writes arrays as float32 or uint8 datasets, whole or not at all."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, array in arrays.items():
            kept = array if array.dtype == np.uint8 else np.asarray(array, np.float32)
            options = {"compression": "gzip", "compression_opts": compression} if compression else {}
            file.create_dataset(name, data=kept, **options)
    with whole_file(path) as partial:
        partial.write_bytes(buffer.getbuffer())


def read_pair(path: str | Path) -> Pair:
    """Reads N.h5 and the gt.h5 beside it.

    Args:
        path: of N.h5.

    Raises:
        InputError: a file is missing or truncated, or a dataset is missing or of another shape.
    """
    path = Path(path)
    arrays = read_h5(path.with_name("gt.h5"), _GT) | read_h5(path, _PAIR)
    for name, array in arrays.items():
        expected = arrays["ma_sinogram"] if "sinogram" in name or name == "metal_trace" else arrays["image"]
        if array.ndim != 2 or array.shape != expected.shape:
            raise InputError(f"{path}: {name} has shape {array.shape}, expected {expected.shape}")
    arrays["metal_trace"] = arrays["metal_trace"] != 0
    return Pair(**arrays)


def read_h5(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The named datasets of a file.

    Raises:
        InputError: the file is missing or truncated, or lacks one of them.
    """
    try:
        with h5py.File(path, "r") as file:
            missing = [name for name in names if not isinstance(file.get(name), h5py.Dataset)]
            if missing:
                raise InputError(f"{path}: no {', '.join(missing)} in it; it has {', '.join(file) or 'nothing'}")
            return {name: file[name][()] for name in names}
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be read as h5, missing or truncated ({error})") from error


@dataclass(frozen=True)
class Verification:
    """What `verify` found: numbers of slices and pairs, whether there were hashes, and one line a problem."""

    slices: int
    pairs: int
    hashed: bool
    problems: tuple[str, ...]


def verify(root: str | Path) -> Verification:
    """Checks a data set: with a manifest every file against its hash, and in any case every slice or shard by reading.

    Args:
        root: folder of the data set.

    Raises:
        InputError: there is no data set in the folder, or its manifest or listing cannot be read.
    """
    root = Path(root)
    splits = [split for split in SPLITS if layout_of(root, split)]
    if not splits:
        what = "no train or test set in it" if root.is_dir() else "is a file" if root.exists() else "no such folder"
        raise InputError(f"{root}: {what}; expected what mar simulate wrote, or SynDeepLesion")
    problems: list[str] = []
    found = []
    for split in splits:
        sharded = layout_of(root, split) == "shards"
        own = check_shards(root, split, read_manifest(root, split)) if sharded else _check_community(root, split)
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


def _check_community(root: Path, split: str) -> Found:
    problems = _altered(root, split)
    hashed = manifest_file(root, split).is_file()
    slices = pairs = 0
    listing = listing_file(root, split)
    if not listing.is_file():
        return Found(0, 0, hashed, [*problems, f"{listing.name}: missing; the same mar simulate writes it"])
    for line in listing.read_text().split():
        folder = (split_folder(root, split) / line).parent
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
        strangers = [path.name for path in (root / case).glob("*.h5") if path.name not in known]
        problems += [f"{case}/{name}: not in the manifest" for name in sorted(strangers)]
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
    if mask_file(root, split).name not in manifest["files"] and manifest["cases"]:
        problems += _other_masks(root, split, manifest["cases"])
    return problems


def _other_masks(root: Path, split: str, cases: Mapping[str, Any]) -> list[str]:
    """Whether the stack of procedural masks, which has no hash, holds those of the slices."""
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
