"""A data set in the community layout that grows: which slices are done, and the files that list them."""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, ClassVar, NamedTuple, Protocol

import numpy as np

from simulation.dataset.manifest import (
    CASE_MASKS,
    CASE_RECORD,
    SetFolder,
    listing_file,
    manifest_file,
    mask_file,
    read_manifest,
    read_record,
    split_folder,
)
from simulation.dataset.reader import read_masks
from simulation.files import sha256_of, whole_file, write_json
from simulation.implants.masks import STACK_SIZE, MaskSource
from simulation.sources.community import read_listing


class Named(Protocol):
    """What tells the folder of a slice."""

    @property
    def case(self) -> str:
        """Name of its case."""

    @property
    def name(self) -> str:
        """Its own name."""


class SliceName(NamedTuple):
    """Names of a slice of which no more is known."""

    case: str
    name: str


class CommunitySet(SetFolder):
    """One split of a data set in its folder."""

    layout: ClassVar[str] = "community"

    @property
    def folder(self) -> Path:
        """Where the cases are."""
        return split_folder(self.root, self.split)

    def case_folder(self, ref: Named) -> Path:
        """Return folder of a slice."""
        return self.folder / ref.case / ref.name

    def is_done(self, ref: Named) -> bool:
        """Return whether a slice is complete: its record is written last, and the files it names are there."""
        folder = self.case_folder(ref)
        hashes = self.hashes(ref)
        return bool(hashes) and all((folder / name).is_file() for name in hashes)

    def record(self, ref: Named) -> dict[str, Any]:
        """Return what is written about a slice; empty if it was not made yet, or if its record is damaged."""
        return read_record(self.case_folder(ref))

    def hashes(self, ref: Named) -> dict[str, str]:
        """Return SHA-256 of every file of a slice by name, as recorded when it was made."""
        files = self.record(ref).get("files", {})
        return dict(files) if isinstance(files, dict) else {}

    def write_record(self, ref: Named, record: dict[str, Any]) -> None:
        """Mark a slice as complete."""
        write_json(self.case_folder(ref) / CASE_RECORD, record)

    def outputs(self) -> list[str]:
        """Return the files at the top of the folder."""
        files = (manifest_file, listing_file, mask_file)
        return [file(self.root, self.split).name for file in files]

    def collate(
        self,
        refs: Sequence[Named],
        library: MaskSource,
        masks_per_slice: int,
        part: Sequence[int] | None = None,
        without_pairs: Mapping[str, str] = MappingProxyType({}),
        planned: int | None = None,
    ) -> int:
        """Write mask stack, listing and manifest for the slices that are done, whoever made them.

        Of the slices of other parts only the records are read, and only masks of slices that were not listed yet are
        written, so that the last of many parts costs no more than the first.

        Args:
            refs: all slices of the plan.
            library: whose masks they have.
            masks_per_slice: how many each has.
            part: places in the plan of the slices of this part; None for all.
            without_pairs: why slices of this part (case/name) have none; the manifest keeps those of other parts.
            planned: number of slices that were asked for; as many as refs if None.

        Returns:
            Number of slices that are done.
        """
        own = set(range(len(refs)) if part is None else part)
        with self.turn():
            done = [
                number for number, ref in enumerate(refs) if (self.is_done(ref) if number in own else self.hashes(ref))
            ]
            self.check()
            listing = listing_file(self.root, self.split)
            files = [listing]
            if library.shared_stack is not None:
                self._write_stack(library.shared_stack, masks_per_slice)
                files.append(mask_file(self.root, self.split))
            else:
                listed = set(read_listing(listing)) if listing.is_file() else set()
                fresh = [number for number in done if (refs[number].case, refs[number].name) not in listed]
                self._update_stack(refs, masks_per_slice, fresh, done)
            with whole_file(listing) as partial, partial.open("w") as file:
                file.writelines(f"{refs[number].case}/{refs[number].name}/gt.h5\n" for number in done)
            left_out = {**(read_manifest(self.root, self.split) or {}).get("left_out", {}), **without_pairs}
            for number in done:
                left_out.pop(f"{refs[number].case}/{refs[number].name}", None)
            facts = {"planned": len(refs) if planned is None else planned, "left_out": dict(sorted(left_out.items()))}
            self._write_manifest({path.name: sha256_of(path) for path in files}, self._records(refs, done), **facts)
        return len(done)

    def discard_if_empty(self) -> None:
        """Take away the files at the top of the folder if no slice was begun, so that other settings may follow."""
        with self.turn():
            if not self.folder.exists():
                for name in self.outputs():
                    (self.root / name).unlink(missing_ok=True)

    def _records(self, refs: Sequence[Named], done: list[int]) -> Iterator[tuple[str, dict[str, Any]]]:
        for number in done:
            yield str(self.case_folder(refs[number]).relative_to(self.root)), self.record(refs[number])

    def _write_stack(self, stack: np.ndarray, masks_per_slice: int) -> None:
        """Write the given stack as far as it is used, mask after mask on disk."""
        with whole_file(mask_file(self.root, self.split)) as partial, partial.open("wb") as file:
            file.write(_stack_header(masks_per_slice))
            file.writelines(stack[:, :, index].astype(np.uint8).tobytes("F") for index in range(masks_per_slice))

    def _update_stack(self, refs: Sequence[Named], masks_per_slice: int, fresh: list[int], done: list[int]) -> None:
        """Update the stack of procedural masks, 0 and 1, a slice's masks together at its place; no hash of it is kept.

        A stack that is there is written into: as a whole it can be gigabytes, and every part of an array job ends here.
        What a run killed in this has written is not listed yet: the next one writes it again.
        """
        path = mask_file(self.root, self.split)
        header = _stack_header(masks_per_slice * len(refs))
        share = masks_per_slice * STACK_SIZE**2
        size = len(header) + share * len(refs)

        def write(file: BinaryIO, numbers: list[int]) -> None:
            for number in numbers:
                file.seek(len(header) + share * number)
                file.write(self._masks_of(refs[number], masks_per_slice))

        if path.is_file() and path.stat().st_size == size:
            with path.open("r+b") as there:
                write(there, fresh)
                there.flush()
                os.fsync(there.fileno())
            return
        with whole_file(path) as partial, partial.open("wb") as file:
            file.write(header)
            file.truncate(size)
            write(file, done)

    def _masks_of(self, ref: Named, masks_per_slice: int) -> bytes:
        """Return a slice's masks of 0 and 1, each (512, 512) in Fortran's order; empty where none could be made."""
        masks = np.zeros((masks_per_slice, STACK_SIZE, STACK_SIZE), np.uint8)
        path = self.case_folder(ref) / CASE_MASKS
        if path.is_file():
            indices, labels = read_masks(path)
            masks[indices % masks_per_slice] = labels > 0
        return masks.transpose(0, 2, 1).tobytes()


def _stack_header(count: int) -> bytes:
    """Return the header of a .npy file of so many masks, mask after mask."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": True, "shape": (STACK_SIZE, STACK_SIZE, count)}
    )
    return header.getvalue()
