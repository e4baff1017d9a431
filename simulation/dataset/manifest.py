"""The folder of a data set, whatever its layout: where its files lie, what it is made of, and its manifest.

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

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import filelock

from simulation.dataset.shard_file import shard_file, shards_folder
from simulation.errors import InputError, UsageError
from simulation.files import PARTIAL, sha256_of_text, whole_file, write_json
from simulation.physics.geometry import FanBeam
from simulation.physics.protocols import AnyProtocol, protocol
from simulation.provenance import library_versions

SCHEMA = 1
"""Raised whenever the same settings begin to give other files."""
SPLITS = ("train", "test")
CASE_RECORD = "case.json"
CASE_MASKS = "masks.npz"


def split_folder(root: Path, split: str) -> Path:
    """Return folder of a split's cases."""
    return root / f"{split}_640geo"


def listing_file(root: Path, split: str) -> Path:
    """Return the text file that lists a split's slices."""
    return root / f"{split}_640geo_dir.txt"


def mask_file(root: Path, split: str) -> Path:
    """Return the mask stack of a split."""
    return root / f"{split}mask.npy"


def manifest_file(root: Path, split: str) -> Path:
    """Return the manifest of a split."""
    return root / f"{split}_manifest.json"


def listing_sha256(slices: Iterable[str]) -> tuple[str, frozenset[str]]:
    """Return one hash of a list of slices, and those of its beginnings.

    Args:
        slices: one line a slice.
    """
    hashed, beginnings = hashlib.sha256(), []
    for number, line in enumerate(slices):
        hashed.update(f"\n{line}".encode() if number else line.encode())
        beginnings.append(hashed.hexdigest())
    return hashed.hexdigest(), frozenset(beginnings[:-1])


def identity_sha256(schema: int, identity: Mapping[str, Any]) -> str:
    """Return one hash of what decides the bytes of a set."""
    return sha256_of_text(json.dumps([schema, identity], sort_keys=True))


def layout_of(root: Path, split: str) -> str | None:
    """Return the layout of a split: "community", "shards" or "ctmar"; None if there is no such split."""
    manifest = read_manifest(root, split)
    if manifest is not None:
        return str(manifest["layout"])
    if shards_folder(root, split).is_dir():
        return "shards"
    return "community" if listing_file(root, split).is_file() or split_folder(root, split).is_dir() else None


def read_manifest(root: Path, split: str) -> dict[str, Any] | None:
    """Return the manifest of a split, None where it has none.

    Raises:
        InputError: it cannot be read.
    """
    path = manifest_file(root, split)
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        empty: dict[str, Any] = {"layout": "community", "cases": {}, "files": {}, "identity": {}, "identity_sha256": ""}
        return empty | content
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{path}: cannot be read as JSON ({error}); restore it or simulate into a new folder"
        ) from error


def scan_of_set(manifest: Mapping[str, Any]) -> AnyProtocol:
    """Return the scan that a set was made with: the preset with the geometry that the manifest holds.

    Raises:
        UsageError: unknown preset.
    """
    scan = protocol(manifest["identity"]["preset"])
    if "geometry" not in manifest:
        return scan
    geometry = dict(manifest["geometry"])
    return replace(scan, geometry=FanBeam(**geometry | {"image_shape": tuple(geometry["image_shape"])}))


def scan_in(root: Path, split: str, preset: str) -> AnyProtocol:
    """Return the scan that made a split of a preset: its manifest's, or the preset's where there is none.

    Raises:
        UsageError: unknown preset.
        InputError: the manifest cannot be read.
    """
    manifest = read_manifest(root, split)
    known = manifest is not None and manifest["identity"].get("preset") == preset
    return scan_of_set(manifest) if manifest is not None and known else protocol(preset)


def earlier_counts(root: Path, split: str) -> tuple[int, ...]:
    """Return how many slices a set was asked for before, one number after the other; empty where that is not known."""
    manifest = read_manifest(root, split)
    if manifest is None:
        return ()
    if "counts" in manifest:
        return tuple(manifest["counts"])
    if "planned" in manifest:
        return (int(manifest["planned"]),)
    records = [read_sidecar(shard_file(shards_folder(root, split), n)) for n in range(int(manifest.get("shards", 0)))]
    return (sum(record["planned"] for record in records),) if all("planned" in record for record in records) else ()


def read_sidecar(shard: Path) -> dict[str, Any]:
    """Return what is written about a shard beside it; empty if it was not made yet, or if its record is damaged."""
    try:
        content = json.loads(shard.with_suffix(".json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def read_record(folder: Path) -> dict[str, Any]:
    """Return what is written about a slice in its folder; empty if it was not made yet, or if its record is damaged."""
    try:
        content = json.loads((folder / CASE_RECORD).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


@dataclass(frozen=True)
class Identity:
    """What decides the bytes of a data set; `slices` and `masks` may be hashes."""

    preset: str
    physics: str
    slices: str
    masks: str
    metal: str
    implants: str
    masks_per_slice: int
    seed: int
    device: str
    pad_square: bool
    compression: int

    @property
    def sha256(self) -> str:
        """One hash of it all."""
        return identity_sha256(SCHEMA, asdict(self))


class Counts(NamedTuple):
    """Slices that are done: of one part of the work, and of the whole set."""

    here: int
    in_set: int


@dataclass(frozen=True)
class SetFolder:
    """One split of a data set in its folder."""

    root: Path
    split: str
    identity: Identity
    geometry: FanBeam | None = None
    """Of the scanner; None for the preset's."""
    shorter: frozenset[str] = frozenset()
    """What `Identity.slices` is of every beginning of the list of slices: a set of one of them may grow."""
    counts: tuple[int, ...] = ()
    """Numbers of slices that the set was asked for, one after the other, if the choice of slices depends on them."""
    layout: ClassVar[str]

    @property
    def folder(self) -> Path:
        """Where the split's own files are."""
        raise NotImplementedError

    def discard_if_empty(self) -> None:
        """Take away a set of which nothing was made, so that other settings may follow."""
        raise NotImplementedError

    def outputs(self) -> list[str]:
        """Return the files at the top of the folder."""
        return [manifest_file(self.root, self.split).name]

    def open(self, **plan: int) -> None:
        """Start or continue the set, and clear away what killed runs left at the top of the folder.

        Args:
            plan: what the manifest tells of the whole work, so that `verify` knows what was never begun.

        Raises:
            UsageError: the folder holds a set of other settings, or files that are not of a data set.
            OSError: it cannot be written.
        """
        with self.turn():
            for path in self.root.glob(f"*{PARTIAL}"):
                path.unlink()
            self.check()
            manifest = read_manifest(self.root, self.split)
            if manifest is None:
                self._refuse_foreign_files()
                self._write_manifest({}, (), **plan)
            elif manifest["identity_sha256"] != self.identity.sha256:
                own: dict[str, Any] = {"counts": list(self.counts)} if len(self.counts) > 1 else {}
                own |= {"identity_sha256": self.identity.sha256, "identity": asdict(self.identity)}
                write_json(manifest_file(self.root, self.split), manifest | own | plan)

    def check(self) -> None:
        """Refuse a folder that cannot hold this set; it may hold the beginning of it, which then grows.

        Raises:
            UsageError: it holds a set of other settings.
        """
        manifest = read_manifest(self.root, self.split)
        if manifest is None or manifest["identity_sha256"] == self.identity.sha256:
            return
        if manifest["layout"] != self.layout:
            raise UsageError(
                f"{self.root}: holds a {self.split} set of the layout {manifest['layout']}, not {self.layout}; choose "
                f"another --out, or convert it: mar simulate --convert {self.root} --layout {self.layout} --out OTHER"
            )
        before, now = manifest["identity"], asdict(self.identity)
        changed = [key for key in now if before.get(key) != now[key]]
        if changed == ["slices"] and before["slices"] in self.shorter:
            return
        words = ", ".join(_change(key, before.get(key), now[key]) for key in changed)
        growth = "; a set can grow, but keeps the slices it was planned with" if "slices" in changed else ""
        raise UsageError(
            f"{self.root}: holds a {self.split} set of other settings ({words or 'another version'}); repeat "
            f"those settings to continue it, or choose another --out{growth}"
        )

    def turn(self) -> filelock.BaseFileLock:
        """Return a lock by which parts that start or end together take turns: the last to write has seen all."""
        return filelock.FileLock(self.root / ".dataset.lock")

    def _write_manifest(self, files: dict[str, str], cases: Iterable[tuple[str, Any]], **facts: Any) -> None:
        """Write the manifest, slice after slice, so that it never lies in memory as a whole.

        Args:
            files: hashes of files by name.
            cases: folder and record of each slice.
            facts: what else is to be said.
        """
        head = {
            "schema": SCHEMA,
            "layout": self.layout,
            "identity_sha256": self.identity.sha256,
            "identity": asdict(self.identity),
            "geometry": (self.geometry or protocol(self.identity.preset).geometry).facts,
            "versions": library_versions(),
            **({"counts": list(self.counts)} if len(self.counts) > 1 else {}),
            **facts,
            "files": files,
        }
        with whole_file(manifest_file(self.root, self.split)) as partial, partial.open("w") as file:
            file.write(json.dumps(head, indent=1, allow_nan=False).removesuffix("\n}"))
            file.write(',\n "cases": {')
            file.writelines(_lines(cases))
            file.write("\n }\n}\n")

    def _refuse_foreign_files(self) -> None:
        places = manifest_file, listing_file, mask_file, split_folder, shards_folder
        own = {place(self.root, split).name for place in places for split in SPLITS}
        names = sorted(path.name for path in self.root.iterdir() if path.name not in own)
        foreign = [name for name in names if not re.fullmatch(r"\..*|report(-\d+-of-\d+)?\.json", name)]
        begun = [place(self.root, self.split).name for place in (split_folder, shards_folder)]
        if foreign:
            raise UsageError(
                f"{self.root}: holds {foreign[0]}, which mar simulate did not make; choose a new or empty --out"
            )
        if orphans := [name for name in begun if (self.root / name).exists()]:
            raise UsageError(
                f"{self.root}: holds {orphans[0]}, but no {manifest_file(self.root, self.split).name}; restore that, "
                "or choose a new or empty --out"
            )


def _lines(cases: Iterable[tuple[str, Any]]) -> Iterator[str]:
    for number, (name, record) in enumerate(cases):
        yield f"{',' if number else ''}\n  {json.dumps(name)}: {json.dumps(record, allow_nan=False)}"


def _change(key: str, before: Any, now: Any) -> str:
    """Return a difference between two identities in words; hashes say nothing to a reader."""
    hashed = {"slices": "the list of slices", "physics": "the physics (spectrum or version)", "masks": "the masks"}
    return f"{hashed[key]} changed" if key in hashed else f"{key} was {before!r}, is {now!r}"
