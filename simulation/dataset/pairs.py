"""Pairs of a slice: its masks, its scans without and with metal; the same numbers in whatever layout."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from simulation.errors import InputError
from simulation.implants.anatomy import find_body
from simulation.implants.masks import STACK_SIZE, MaskSource, check_mask, resize_mask
from simulation.parallel import check_stopped
from simulation.physics.grid import to_grid
from simulation.simulator import Sample, Simulator
from simulation.sources import CleanSlice, SliceRef, screen

_CLEAN, _IMPLANT = 1, 2
"""Third part of a random key, so that no two uses share a stream: the noise of a pair has none, the phantom 3."""
_AT_ONCE = 4
"""Masks simulated together: their eight reconstructions fill one batch of the kernels."""


@dataclass(frozen=True)
class SliceResult:
    """What became of a slice: pairs made now, why it was skipped, and one line for each failure.

    `unread` says that the slice could not be read, as where a disk was away: another run may.
    """

    name: str
    pairs: int = 0
    skipped: str = ""
    failed: tuple[str, ...] = ()
    unread: bool = False


def left_out(results: Iterable[SliceResult]) -> dict[str, str]:
    """Return the slices that cannot have a pair, and why."""
    looked_at = [own for own in results if not own.pairs and not own.unread]
    return {own.name: own.skipped or own.failed[0] for own in looked_at if own.skipped or own.failed}


class Masks(NamedTuple):
    """Masks of a slice.

    Attributes:
        labels: mask index -> uint8 (512, 512), 0 or a metal's code.
        implants: mask index -> description.
        failed: one line for each mask that cannot be used.
    """

    labels: dict[int, np.ndarray]
    implants: dict[int, dict[str, Any]]
    failed: list[str]


class Drawn(NamedTuple):
    """A slice that can have pairs.

    Attributes:
        clean: the slice.
        image_mu: on the scanner's grid.
        masks: one or more.
        failed: one line for each mask that cannot be used.
    """

    clean: CleanSlice
    image_mu: np.ndarray
    masks: Masks
    failed: tuple[str, ...]


@dataclass(frozen=True)
class PairMaker:
    """Makes pairs; deterministic by (seed, slice number, mask), whatever process makes them and where they go.

    Args:
        library: procedural implants or a mask stack.
        masks_per_slice: number of masks a slice gets.
        seed: of implants and noise.
        simulator: the scanner.
    """

    library: MaskSource
    masks_per_slice: int
    seed: int
    simulator: Simulator

    def image(self, clean: CleanSlice) -> np.ndarray:
        """Return the slice on the scanner's grid."""
        return to_grid(clean.image_mu, clean.pixel_mm, self.simulator.protocol)

    def draw(self, ref: SliceRef, number: int) -> Drawn | SliceResult:
        """Read a slice and draws its masks, or tells why it has none; what it is itself at fault for is not raised.

        Args:
            ref: the slice.
            number: its place in the plan.

        Raises:
            UsageError: the source does not go with the preset.
        """
        name, clean = f"{ref.case}/{ref.name}", None
        try:
            clean = ref.load()
            if reason := screen(clean.image_mu):
                return SliceResult(name, skipped=reason)
            image_mu = self.image(clean)
            masks = self._draw_masks(clean, image_mu, number)
        except InputError as error:
            return SliceResult(name, failed=(str(error),), unread=clean is None)
        failed = tuple(f"{name}, {line}" for line in masks.failed)
        return Drawn(clean, image_mu, masks, failed) if masks.labels else SliceResult(name, failed=failed)

    def _draw_masks(self, clean: CleanSlice, image_mu: np.ndarray, number: int) -> Masks:
        drawn, library = Masks({}, {}, []), self.library
        large = to_grid(clean.image_mu, clean.pixel_mm, self.simulator.protocol, (STACK_SIZE, STACK_SIZE))
        anatomy = None if library.shared_stack is not None else library.anatomy(large)
        body: np.ndarray | None = None
        for place in range(self.masks_per_slice):
            # Where every slice has masks of its own, N stays the mask's place in the stack of them all.
            index = place if library.shared_stack is not None else number * self.masks_per_slice + place
            try:
                mask, description = library.draw(index, large, self._rng(number, index, _IMPLANT), anatomy)
                body = find_body(image_mu) if body is None else body
                check_mask(resize_mask(mask, image_mu.shape), image_mu, body)
            except InputError as error:
                drawn.failed.append(f"mask {place}: {error}")
                continue
            drawn.labels[index], drawn.implants[index] = mask, description
        return drawn

    def clean_scan(self, tissue: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return sinogram and image of the slice without metal, from its line integrals."""
        sinogram, image = self.simulator.clean_from_tissue(tissue, self._rng(number, 0, _CLEAN))
        scale = self.simulator.common_scale
        return (sinogram, image) if scale == 1 else (np.float32(scale) * sinogram, np.float32(scale) * image)

    def samples(
        self,
        image_mu: np.ndarray,
        labels: Mapping[int, np.ndarray],
        indices: Sequence[int],
        number: int,
        tissue: np.ndarray,
    ) -> Iterator[tuple[int, np.ndarray, Sample]]:
        """Yield the scans with metal, a few at a time.

        Args:
            image_mu: what `image` gave.
            labels: masks by index, of any size.
            indices: which of them.
            number: the slice's place in the plan.
            tissue: the slice's line integrals.

        Yields:
            Mask index, the mask on the scanner's grid, and the scan.
        """
        for start in range(0, len(indices), _AT_ONCE):
            check_stopped()
            chunk = indices[start : start + _AT_ONCE]
            rngs = [self._rng(number, index) for index in chunk]
            small = [resize_mask(labels[index], image_mu.shape) for index in chunk]
            samples = self.simulator.simulate_masks(image_mu, small, rngs, tissue)
            common = [sample.scaled(self.simulator.common_scale) for sample in samples]
            yield from zip(chunk, small, common, strict=True)

    def estimate(self, slices: int, stored: str) -> tuple[str, dict[str, int]]:
        """Return what so many slices would hold, uncompressed, in words and numbers.

        Args:
            slices: number of slices.
            stored: community, or what shards hold.
        """
        geometry = self.simulator.protocol.geometry
        image, sinogram = (math.prod(shape) / 1e6 for shape in (geometry.image_shape, geometry.sinogram_shape))
        pair_mb = {
            "community": 8 * image + 9 * sinogram,
            "images": 9 * image,
            "both": 9 * image + 4 * sinogram,
            "sinograms": image + 4 * sinogram,
        }[stored]
        pairs = slices * self.masks_per_slice
        words = f"with {self.masks_per_slice} masks each: {pairs} pairs, about {pairs * pair_mb / 1000:.2f} GB"
        return words, {"slices": slices, "pairs": pairs}

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))


def case_record(
    number: int, origin: str, pixel_mm: float | None, implants: dict[int, dict[str, Any]], failed: list[str]
) -> dict[str, Any]:
    """Return what is written about a slice, whatever the layout."""
    described = {str(index): implant for index, implant in implants.items()}
    return {"number": number, "origin": origin, "pixel_mm": pixel_mm, "implants": described, "failed": failed}
