"""One slice of a data set: its masks, its metal-free scan, its pairs, its record."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simulation.dataset import DataSet
from simulation.errors import InputError, UsageError
from simulation.files import PARTIAL, sha256_of, whole_file
from simulation.grid import to_grid
from simulation.implants import STACK_SIZE, ImplantLibrary, MaskStack, check_mask, resize_mask
from simulation.materials import METAL_CODES
from simulation.sources import CleanSlice, SliceRef, screen
from simulation.store import CASE_MASKS, write_case, write_sample
from simulation.synthesize import Simulator

_CLEAN, _IMPLANT = 1, 2
"""Third part of a random key, so that no two uses share a stream: the noise of a pair has none, the phantom 3."""
_AT_ONCE = 4
"""Masks simulated together: their eight reconstructions fill one batch of the kernels."""


@dataclass(frozen=True)
class CaseResult:
    """What became of a slice: pairs made now, why it was skipped, and one line for each failure."""

    name: str
    pairs: int = 0
    skipped: str = ""
    failed: tuple[str, ...] = ()


@dataclass
class CaseMaker:
    """Makes slices of a data set; deterministic by (seed, slice number, mask), whatever process runs it.

    Args:
        data_set: where the files go.
        library: procedural implants or a mask stack.
        masks_per_slice: number of masks a slice gets.
        seed: of implants and noise.
        simulator: the scanner.
        compression: gzip level of the files.
        check_interrupt: called now and then; it raises what ends the work.
    """

    data_set: DataSet
    library: ImplantLibrary
    masks_per_slice: int
    seed: int
    simulator: Simulator
    compression: int = 4
    check_interrupt: Callable[[], None] = lambda: None

    def make(self, ref: SliceRef, number: int) -> CaseResult:
        """Makes what is missing of a slice; what the slice itself is at fault for is told, not raised.

        Args:
            ref: the slice.
            number: its place in the plan.

        Raises:
            OSError: the folder cannot be written.
            UsageError: the source does not go with the preset.
        """
        name = f"{ref.case}/{ref.name}"
        try:
            clean = ref.load()
            reason = screen(clean.image_mu)
            if reason:
                return CaseResult(name, skipped=reason)
            return self._make_pairs(clean, ref, number, name)
        except UsageError:
            raise
        except InputError as error:
            return CaseResult(name, failed=(str(error),))

    def _make_pairs(self, clean: CleanSlice, ref: SliceRef, number: int, name: str) -> CaseResult:
        protocol = self.simulator.protocol
        image_mu = to_grid(clean.image_mu, clean.pixel_mm, protocol)
        large = to_grid(clean.image_mu, clean.pixel_mm, protocol, (STACK_SIZE, STACK_SIZE))
        masks, implants, failed = self._draw_masks(image_mu, large, number)
        told = tuple(f"{name}, {line}" for line in failed)
        if not masks:
            return CaseResult(name, failed=told)
        folder = self.data_set.case_folder(ref)
        for left_over in folder.glob(f"*{PARTIAL}"):
            left_over.unlink()
        written = self._write(folder, image_mu, number, masks)
        # A file that an earlier run recorded keeps its hash: damage done since then must not pass for good.
        known = {file: value for file, value in self.data_set.hashes(ref).items() if file not in written}
        names = {"gt.h5", *(f"{index}.h5" for index in masks), *written}
        record = {
            "number": number,
            "origin": clean.origin,
            "pixel_mm": clean.pixel_mm,
            "implants": {str(index): implants[index] for index in masks},
            "failed": list(told),
            "files": {file: known.get(file) or sha256_of(folder / file) for file in sorted(names)},
        }
        self.data_set.write_record(ref, record)
        return CaseResult(name, len(written - {"gt.h5", CASE_MASKS}), failed=told)

    def _write(self, folder: Path, image_mu: np.ndarray, number: int, masks: dict[int, np.ndarray]) -> set[str]:
        """Simulates and writes the files of a slice that are not there yet; answers their names."""
        written = set()
        tissue = self.simulator.project_tissue(image_mu)
        if not (folder / "gt.h5").is_file():
            sinogram, ct = self.simulator.clean_from_tissue(tissue, self._rng(number, 0, _CLEAN))
            write_case(folder, image_mu, sinogram, ct, {}, self.compression)
            written.add("gt.h5")
        missing = [index for index in masks if not (folder / f"{index}.h5").is_file()]
        for indices in _chunks(missing, _AT_ONCE):
            self.check_interrupt()
            rngs = [self._rng(number, index) for index in indices]
            small = [resize_mask(masks[index], image_mu.shape) for index in indices]
            samples = self.simulator.simulate_masks(image_mu, small, rngs, tissue)
            for index, sample in zip(indices, samples, strict=True):
                write_sample(folder / f"{index}.h5", sample, self.compression)
                written.add(f"{index}.h5")
        if not isinstance(self.library, MaskStack):
            _write_masks(folder / CASE_MASKS, masks)
            written.add(CASE_MASKS)
        return written

    def _draw_masks(
        self, image_mu: np.ndarray, large: np.ndarray, number: int
    ) -> tuple[dict[int, np.ndarray], dict[int, dict[str, Any]], list[str]]:
        """Label masks of 512 x 512 by mask index, their descriptions, and one line for each that cannot be used."""
        masks, implants, failed = {}, {}, []
        for place in range(self.masks_per_slice):
            try:
                if isinstance(self.library, MaskStack):
                    index = place
                    mask = self.library.mask(index) * np.uint8(METAL_CODES[self.library.metal])
                    description = {"kind": "mask", "metal": self.library.metal}
                else:
                    # Every slice has masks of its own: N stays the mask's place in the stack.
                    index = number * self.masks_per_slice + place
                    mask, description = self.library.sample(large, self._rng(number, index, _IMPLANT))
                check_mask(resize_mask(mask, image_mu.shape), image_mu)
            except InputError as error:
                failed.append(f"mask {place}: {error}")
                continue
            masks[index], implants[index] = mask, description
        return masks, implants, failed

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))


def _chunks(items: list[int], size: int) -> Iterable[list[int]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _write_masks(path: Path, masks: dict[int, np.ndarray]) -> None:
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, indices=np.array(list(masks)), masks=np.stack(list(masks.values())))
