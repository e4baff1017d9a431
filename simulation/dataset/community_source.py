"""A set in the community layout as it is read to be converted: its slices, pairs and masks."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simulation.correction import why_other_mask
from simulation.dataset.community_set import SliceName
from simulation.dataset.manifest import (
    CASE_MASKS,
    Identity,
    mask_file,
    read_manifest,
    read_record,
    scan_of_set,
    split_folder,
)
from simulation.dataset.pairs import SliceResult, case_record
from simulation.dataset.reader import read_h5, read_masks
from simulation.dataset.shards import PlannedSlice
from simulation.errors import InputError
from simulation.files import sha256_of, sha256_of_text
from simulation.implants.masks import PackedMask, open_stack, resize_mask
from simulation.physics.materials import METAL_CODES
from simulation.physics.projector import Projector
from simulation.physics.protocols import protocol
from simulation.sources.community import find_gt

_NO_MASK = np.zeros((0, 0), np.uint8)
_OF_PAIR = ("ma_CT", "LI_CT", "ma_sinogram", "metal_trace")


class CommunitySource:
    """A data set to copy from.

    Args:
        root: its folder.
        split: train or test.
        preset: the scanner that made it, if it has no manifest.
        masks: a mask stack instead of its own.

    Attributes:
        identity: what it was made from, as far as that is known.
        geometry: of its scanner.
        numbers: places of its slices in the plan.
        left_out: why other slices of its plan have no pair.

    Raises:
        InputError: there is no such set, or its listing or manifest is broken.
        UsageError: unknown preset.
    """

    def __init__(self, root: Path, split: str, preset: str, masks: str | None = None) -> None:
        self._folder = split_folder(root, split)
        self._stack_path = Path(masks) if masks else mask_file(root, split)
        has_masks = self._stack_path.is_file() or any(self._folder.glob(f"*/*/{CASE_MASKS}"))
        if not has_masks:
            raise InputError(f"{self._stack_path}: no such mask stack; name that of the set with --masks")
        lines = find_gt(root, split) or ()
        names = [SliceName(*Path(line).parts[-3:-1]) for line in lines]
        records = [read_record(self._case(ref)) for ref in names]
        self._refs = {int(own.get("number", n)): ref for n, (own, ref) in enumerate(zip(records, names, strict=True))}
        if len(self._refs) != len(names):
            raise InputError(f"{root}: two slices have one number in their case.json; simulate it anew")
        self.numbers = sorted(self._refs)
        manifest = read_manifest(root, split)
        self.left_out: dict[str, str] = manifest.get("left_out", {}) if manifest else {}
        if manifest is None:
            self.identity = _unknown_identity(names, preset, self._stack_path)
        else:
            self.identity = Identity(**manifest["identity"])
        self.geometry = (scan_of_set(manifest) if manifest else protocol(self.identity.preset)).geometry

    def within(self, first: int, count: int) -> list[tuple[int, SliceName]]:
        """Return slices in a part of the plan, with their places in it."""
        return [(number, self._refs[number]) for number in range(first, first + count) if number in self._refs]

    def planned(self, ref: SliceName, number: int, verdicts: dict[int, str]) -> tuple[PlannedSlice, SliceResult]:
        """Return a slice and its masks, and the pairs whose mask is not known, which its record lists as well.

        Args:
            ref: the slice.
            number: its place in the plan.
            verdicts: why masks of the stack are not those of their pairs, as far as that was looked at; one pair of
                each is, and added.

        Raises:
            InputError: a file is missing, or not what was written.
        """
        folder = self._case(ref)
        record = read_record(folder)
        for name, expected in record.get("files", {}).items():
            if not (folder / name).is_file() or sha256_of(folder / name) != expected:
                raise InputError(
                    f"{folder / name}: missing, or its bytes are not those that were written; mar verify names all "
                    "such files"
                )
        indices = sorted(int(path.stem) for path in folder.glob("*.h5") if path.stem.isdecimal())
        masks: dict[int, PackedMask] = {}
        failed = []
        implants = record.get("implants") or {str(i): {"kind": "mask", "metal": self.identity.metal} for i in indices}
        for index, labels, reason in self._labels(folder, indices, implants, verdicts):
            if reason:
                failed.append(f"{ref.case}/{ref.name}, mask {index}: {reason}; left out (--masks names another stack)")
            else:
                masks[index] = PackedMask.of(labels)
        known = {index: implants[str(index)] for index in masks if str(index) in implants}
        origin = record.get("origin", f"{ref.case}/{ref.name}/gt.h5")
        own = case_record(number, origin, record.get("pixel_mm"), known, [*record.get("failed", ()), *failed])
        result = SliceResult(f"{ref.case}/{ref.name}", len(masks), failed=tuple(failed))
        return PlannedSlice(ref.case, ref.name, number, own, masks), result

    def truth(self, own: PlannedSlice, names: Collection[str]) -> dict[str, np.ndarray]:
        """Return the arrays of a slice without metal."""
        path = self._case(SliceName(own.case, own.name)) / "gt.h5"
        wanted = tuple(name for name in ("image", "poly_sinogram") if name in names)
        return {name: self._checked(path, name, array) for name, array in read_h5(path, wanted).items()}

    def pair(self, own: PlannedSlice, index: int, names: Collection[str]) -> dict[str, np.ndarray]:
        """Return the arrays of a pair."""
        path = self._case(SliceName(own.case, own.name)) / f"{index}.h5"
        stored = read_h5(path, tuple(name for name in _OF_PAIR if name in names))
        arrays = {name: self._checked(path, name, array) for name, array in stored.items()}
        labels = own.masks[index].unpack()
        return arrays | {"mask_512": labels, "metal_mask": resize_mask(labels, self.geometry.image_shape)}

    def _case(self, ref: SliceName) -> Path:
        return self._folder / ref.case / ref.name

    def _labels(
        self, folder: Path, indices: list[int], implants: Mapping[str, Any], verdicts: dict[int, str]
    ) -> Iterator[tuple[int, np.ndarray, str]]:
        """Yield number and labels of the mask of each pair, and why it cannot be used."""
        if (folder / CASE_MASKS).is_file():
            own, labels = read_masks(folder / CASE_MASKS)
            known = dict(zip(own.tolist(), labels, strict=True))
            for index in indices:
                yield index, known.get(index, _NO_MASK), "" if index in known else f"not in {CASE_MASKS}"
            return
        stack = open_stack(self._stack_path)
        for index in indices:
            if index >= stack.shape[2]:
                yield index, _NO_MASK, f"the mask stack ends at mask {stack.shape[2] - 1}"
                continue
            code = METAL_CODES[implants[str(index)]["metal"] if str(index) in implants else self.identity.metal]
            mask = (stack[:, :, index] != 0) * np.uint8(code)
            if index not in verdicts:
                verdicts[index] = self._why_other_mask(folder / f"{index}.h5", mask)
            yield index, mask, verdicts[index]

    def _why_other_mask(self, path: Path, mask: np.ndarray) -> str:
        trace = self._checked(path, "metal_trace", read_h5(path, ("metal_trace",))["metal_trace"])
        small = resize_mask(mask, self.geometry.image_shape) > 0
        return why_other_mask(trace != 0, small, Projector(self.geometry, "cpu", threads=1))

    def _checked(self, path: Path, name: str, array: np.ndarray) -> np.ndarray:
        geometry = self.geometry
        shape = geometry.sinogram_shape if "sinogram" in name or name == "metal_trace" else geometry.image_shape
        if array.shape != shape:
            raise InputError(
                f"{path}: {name} has shape {array.shape}, but the preset {self.identity.preset} has {shape}; name the "
                "preset that made the data with --preset"
            )
        return array


def _unknown_identity(names: Sequence[SliceName], preset: str, stack: Path) -> Identity:
    """Return what is known of a set that mar simulate did not make."""
    known: dict[str, Any] = {"preset": preset, "metal": "titanium", "physics": "", "implants": "", "device": "unknown"}
    slices = sha256_of_text("\n".join("/".join(name) for name in names))
    masks_per_slice = open_stack(stack).shape[2]
    return Identity(
        **known,
        slices=slices,
        masks=sha256_of(stack),
        masks_per_slice=masks_per_slice,
        seed=0,
        pad_square=False,
        compression=0,
    )
