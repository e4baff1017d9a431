"""The folder of a data set, whatever its layout: what the set is made of, who may write, and its manifest."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import filelock

from simulation.dataset.layout import (
    SPLITS,
    identity_sha256,
    listing_file,
    manifest_file,
    mask_file,
    read_manifest,
    split_folder,
)
from simulation.dataset.shard_file import shards_folder
from simulation.errors import UsageError
from simulation.files import PARTIAL, whole_file
from simulation.physics.protocols import protocol
from simulation.provenance import library_versions

SCHEMA = 1
"""Raised whenever the same settings begin to give other files."""


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
    layout: ClassVar[str]

    @property
    def folder(self) -> Path:
        """Where the split's own files are."""
        raise NotImplementedError

    def discard_if_empty(self) -> None:
        """Takes away a set of which nothing was made, so that other settings may follow."""
        raise NotImplementedError

    def outputs(self) -> list[str]:
        """The files at the top of the folder."""
        return [manifest_file(self.root, self.split).name]

    def open(self, **plan: int) -> None:
        """Starts or continues the set, and clears away what killed runs left at the top of the folder.

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
            if read_manifest(self.root, self.split) is None:
                self._refuse_strangers()
                self._write_manifest({}, (), **plan)

    def check(self) -> None:
        """Whether the folder can hold this set.

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
        changed = ", ".join(_change(key, before.get(key), now[key]) for key in now if before.get(key) != now[key])
        raise UsageError(
            f"{self.root}: holds a {self.split} set of other settings ({changed or 'another version'}); repeat "
            "those settings to continue it, or choose another --out"
        )

    def turn(self) -> filelock.BaseFileLock:
        """Parts that start or end at the same time take turns, so that the last to write has seen all."""
        return filelock.FileLock(self.root / ".dataset.lock")

    def _write_manifest(self, files: dict[str, str], cases: Iterable[tuple[str, Any]], **facts: Any) -> None:
        """Writes the manifest, slice after slice, so that it never lies in memory as a whole.

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
            "geometry": asdict(protocol(self.identity.preset).geometry),
            "versions": library_versions(),
            **facts,
            "files": files,
        }
        with whole_file(manifest_file(self.root, self.split)) as partial, partial.open("w") as file:
            file.write(json.dumps(head, indent=1, allow_nan=False).removesuffix("\n}"))
            file.write(',\n "cases": {')
            file.writelines(_lines(cases))
            file.write("\n }\n}\n")

    def _refuse_strangers(self) -> None:
        places = manifest_file, listing_file, mask_file, split_folder, shards_folder
        own = {place(self.root, split).name for place in places for split in SPLITS}
        names = sorted(path.name for path in self.root.iterdir() if path.name not in own)
        strangers = [name for name in names if not re.fullmatch(r"\..*|report(-\d+-of-\d+)?\.json", name)]
        begun = [place(self.root, self.split).name for place in (split_folder, shards_folder)]
        if strangers:
            raise UsageError(
                f"{self.root}: holds {strangers[0]}, which mar simulate did not make; choose a new or empty --out"
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
    """A difference between two identities in words; hashes say nothing to a reader."""
    hashed = {"slices": "the list of slices", "physics": "the physics (spectrum or version)", "masks": "the masks"}
    return f"{hashed[key]} changed" if key in hashed else f"{key} was {before!r}, is {now!r}"
