"""A data set that grows: what it is made of, which slices are done, and the files that list them."""

import json
import re
import zipfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from simulation.errors import InputError, UsageError
from simulation.files import PARTIAL, sha256_of, sha256_of_text, whole_file, write_json
from simulation.implants import STACK_SIZE, ImplantLibrary, MaskStack
from simulation.protocols import protocol
from simulation.provenance import library_versions
from simulation.sources import SliceRef
from simulation.store import (
    CASE_MASKS,
    CASE_RECORD,
    SPLITS,
    listing_file,
    manifest_file,
    mask_file,
    read_manifest,
    read_record,
    split_folder,
)

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
        return sha256_of_text(json.dumps([SCHEMA, asdict(self)], sort_keys=True))


@dataclass(frozen=True)
class DataSet:
    """One split of a data set in its folder."""

    root: Path
    split: str
    identity: Identity

    def case_folder(self, ref: SliceRef) -> Path:
        """Folder of a slice."""
        return split_folder(self.root, self.split) / ref.case / ref.name

    def is_done(self, ref: SliceRef) -> bool:
        """Whether a slice is complete: its record is written last, and the files it names are there."""
        folder = self.case_folder(ref)
        hashes = self.hashes(ref)
        return bool(hashes) and all((folder / name).is_file() for name in hashes)

    def record(self, ref: SliceRef) -> dict[str, Any]:
        """What is written about a slice; empty if it was not made yet, or if its record is damaged."""
        return read_record(self.case_folder(ref))

    def hashes(self, ref: SliceRef) -> dict[str, str]:
        """SHA-256 of every file of a slice by name, as recorded when it was made."""
        files = self.record(ref).get("files", {})
        return dict(files) if isinstance(files, dict) else {}

    def write_record(self, ref: SliceRef, record: dict[str, Any]) -> None:
        """Marks a slice as complete."""
        write_json(self.case_folder(ref) / CASE_RECORD, record)

    def outputs(self) -> list[str]:
        """The files at the top of the folder."""
        files = (manifest_file, listing_file, mask_file)
        return [file(self.root, self.split).name for file in files]

    def open(self) -> None:
        """Starts or continues the set, and clears away what killed runs left at the top of the folder.

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
                self._write_manifest({}, {})

    def check(self) -> None:
        """Whether the folder can hold this set.

        Raises:
            UsageError: it holds a set of other settings.
        """
        manifest = read_manifest(self.root, self.split)
        if manifest is not None and manifest["identity_sha256"] != self.identity.sha256:
            before, now = manifest["identity"], asdict(self.identity)
            changed = ", ".join(_change(key, before.get(key), now[key]) for key in now if before.get(key) != now[key])
            raise UsageError(
                f"{self.root}: holds a {self.split} set of other settings ({changed or 'another version'}); repeat "
                "those settings to continue it, or choose another --out"
            )

    def collate(self, refs: list[SliceRef], library: ImplantLibrary, masks_per_slice: int) -> None:
        """Writes listing, mask stack and manifest for the slices that are done, whoever made them."""
        with self.turn():
            done = [ref for ref in refs if self.is_done(ref)]
            with whole_file(listing_file(self.root, self.split)) as partial:
                partial.write_text("".join(f"{ref.case}/{ref.name}/gt.h5\n" for ref in done))
            self._write_stack(refs, library, masks_per_slice)
            records = {str(self.case_folder(ref).relative_to(self.root)): self.record(ref) for ref in done}
            paths = listing_file(self.root, self.split), mask_file(self.root, self.split)
            self._write_manifest({path.name: sha256_of(path) for path in paths}, records)

    def turn(self) -> filelock.BaseFileLock:
        """Shards that start or end at the same time take turns, so that the last to write has seen all."""
        return filelock.FileLock(self.root / ".dataset.lock")

    def discard_if_empty(self) -> None:
        """Takes away the files at the top of the folder if no slice was begun, so that other settings may follow."""
        with self.turn():
            if not split_folder(self.root, self.split).exists():
                for name in self.outputs():
                    (self.root / name).unlink(missing_ok=True)

    def _write_stack(self, refs: list[SliceRef], library: ImplantLibrary, masks_per_slice: int) -> None:
        """The mask stack, 0 and 1, mask after mask on disk: a slice's masks lie together."""
        count = masks_per_slice * (1 if isinstance(library, MaskStack) else len(refs))
        with whole_file(mask_file(self.root, self.split)) as partial:
            header = {"descr": "|u1", "fortran_order": True, "shape": (STACK_SIZE, STACK_SIZE, count)}
            with partial.open("wb") as file:
                np.lib.format.write_array_header_1_0(file, header)
                if isinstance(library, MaskStack):
                    for index in range(count):
                        file.write(library.mask(index).tobytes("F"))
                else:
                    for ref in refs:
                        file.writelines(mask.tobytes("F") for mask in self._masks_of(ref, masks_per_slice))

    def _masks_of(self, ref: SliceRef, masks_per_slice: int) -> np.ndarray:
        """Masks of 0 and 1 of a slice, (masks_per_slice, 512, 512); empty ones for those that were not made."""
        masks = np.zeros((masks_per_slice, STACK_SIZE, STACK_SIZE), np.uint8)
        path = self.case_folder(ref) / CASE_MASKS
        if path.is_file():
            try:
                with path.open("rb") as file, np.load(file) as stored:  # np.load(path) leaks a broken file
                    masks[stored["indices"] % masks_per_slice] = stored["masks"] > 0
            except (ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                raise InputError(f"{path}: broken ({error}); remove it and start the same command again") from error
        return masks

    def _write_manifest(self, files: dict[str, str], cases: dict[str, Any]) -> None:
        content = {
            "schema": SCHEMA,
            "identity_sha256": self.identity.sha256,
            "identity": asdict(self.identity),
            "geometry": asdict(protocol(self.identity.preset).geometry),
            "versions": library_versions(),
            "files": files,
            "cases": cases,
        }
        write_json(manifest_file(self.root, self.split), content)

    def _refuse_strangers(self) -> None:
        own = {split_folder(self.root, s).name for s in SPLITS}
        own |= {file(self.root, s).name for file in (manifest_file, listing_file, mask_file) for s in SPLITS}
        names = sorted(path.name for path in self.root.iterdir() if path.name not in own)
        strangers = [name for name in names if not re.fullmatch(r"\..*|report(-\d+-of-\d+)?\.json", name)]
        folder = split_folder(self.root, self.split)
        if strangers or folder.exists():
            raise UsageError(
                f"{self.root}: holds {(strangers or [folder.name])[0]}, which mar simulate did not make; "
                "choose a new or empty --out"
            )


def _change(key: str, before: Any, now: Any) -> str:
    """A difference between two identities in words; hashes say nothing to a reader."""
    hashed = {"slices": "the list of slices", "physics": "the physics (spectrum or version)", "masks": "the masks"}
    return f"{hashed[key]} changed" if key in hashed else f"{key} was {before!r}, is {now!r}"
