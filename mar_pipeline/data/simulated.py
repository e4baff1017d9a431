"""Pairs simulated while training: other implants and fresh noise each time a slice is asked for."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from mar_pipeline.data.measured import pair_arrays
from mar_pipeline.data.memory import SharedPairs, SharedTable
from mar_pipeline.data.pairs import Skipped
from mar_pipeline.sample import (
    IMAGES_ONLY,
    PAIR,
    VALIDATION_PAIR,
    Layout,
    PairArrays,
    Sample,
    generator,
    to_sample,
)
from simulation.errors import InputError
from simulation.implants.anatomy import Anatomy
from simulation.implants.masks import STACK_SIZE, MaskSource, check_mask, resize_mask
from simulation.physics.grid import to_grid
from simulation.physics.projector import Device
from simulation.physics.protocols import protocol
from simulation.simulator import Simulator
from simulation.sources import SliceRef, screen

logger = logging.getLogger(__name__)

_ATTEMPTS = 100
"""Slices and implants tried for one pair. Some slices have no place for some implants; all of them is a mistake."""
_MOST_ANATOMIES = 32
"""Slices whose anatomy a process remembers, 5 MB each; to find it takes three times as long as to draw an implant."""
_USABLE, _METAL, _EMPTY, _BROKEN = range(4)
_REASONS = {_METAL: "it holds metal already", _EMPTY: "it shows no body", _BROKEN: "it cannot be read or used"}


class SimulatedPairs(Dataset[Sample]):
    """Pairs made of clean slices and metal masks, by the scanner of a preset, on one CPU thread or on CUDA.

    A pair depends on the seed, the epoch, the number of the draw and the slice alone. Where the slice turns out to be
    unfit, or an implant finds no place in it, other slices and implants take their turn, in an order that depends on
    these alone too.

    Args:
        refs: the slices.
        preset: the scanner.
        library: procedural implants, or a stack of masks.
        masks: numbers of the masks to take from a stack; None takes all.
        seed: of implants and noise.
        cache_mb: MB of slices, with their projections, kept in memory and shared with forked workers; of pairs, if
            frozen.
        frozen: for validation: the pairs never change, not with the epoch nor with the seed, and are kept in memory.
        count: number of pairs; one for each slice if None.
        layout: which arrays a pair has.
        device: cpu, or cuda: then pairs are made in the process that opened the set and no other.

    Raises:
        UsageError: the slices do not go with the preset, or CUDA is asked for where there is none.
        InputError: no slice can be used.
    """

    def __init__(
        self,
        refs: Sequence[SliceRef],
        preset: str,
        library: MaskSource,
        masks: Sequence[int] | None = None,
        seed: int = 0,
        cache_mb: float = 1024,
        frozen: bool = False,
        count: int | None = None,
        layout: Layout = IMAGES_ONLY,
        device: Device = "cpu",
    ) -> None:
        self._refs, self.preset, self._library, self.layout = list(refs), preset, library, layout
        self._count = len(refs) if count is None else count
        self._masks = masks
        if masks is None and library.shared_stack is not None:
            self._masks = range(library.shared_stack.shape[2])
        self._seed, self._frozen = (0 if frozen else seed), frozen
        self._protocol = protocol(preset)
        geometry = self._protocol.geometry
        self.shape = geometry.image_shape
        self._simulator = Simulator(preset, device, threads=1)
        slice_size = math.prod(self.shape) + STACK_SIZE**2 + 2 * math.prod(geometry.sinogram_shape)
        self._slices = SharedTable(len(refs), (slice_size,), budget_mb=0 if frozen else cache_mb)
        self._pairs = SharedPairs(self._count if frozen else 0, layout, geometry, cache_mb)
        self._states = SharedTable(len(refs), (1,), np.uint8)
        self._anatomies: dict[int, Anatomy | None] = {}
        self._refuse_unusable()

    @property
    def names(self) -> list[str]:
        """Return ``case/slice`` of every pair's first choice."""
        return [_name(self._refs[index % len(self._refs)]) for index in range(len(self))]

    @property
    def slices(self) -> int:
        """Return the number of slices that are not known to be unfit."""
        return len(self._refs) - len(self.left_out)

    @property
    def left_out(self) -> tuple[Skipped, ...]:
        """Return the slices found to be unfit so far, by whichever worker."""
        found = ((ref, self._states.get(place)) for place, ref in enumerate(self._refs))
        codes = ((ref, _USABLE if state is None else int(state[0])) for ref, state in found)
        return tuple(Skipped(_name(ref), _REASONS[code]) for ref, code in codes if code != _USABLE)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        return to_sample(self.pair(index), self.layout)

    def pair(self, index: int, epoch: int = 0, draw: int | None = None) -> PairArrays:
        """Return a pair in the order of the layout, not to be written to.

        Args:
            index: chooses the slice.
            epoch: of the training; a frozen set does not look at it.
            draw: number of the draw within the epoch; the index if None.

        Raises:
            InputError: no implant could be placed in many attempts.
        """
        if self._frozen:
            kept = self._pairs.get(index)
            if kept is None:
                kept = self._simulate(index, 0, index, VALIDATION_PAIR)
                self._pairs.put(index, kept)
            return kept
        return self._simulate(index, epoch, index if draw is None else draw, PAIR)

    def _simulate(self, index: int, epoch: int, draw: int, purpose: int) -> PairArrays:
        place, reason = index % len(self._refs), ""
        for attempt in range(_ATTEMPTS):
            rng = generator(self._seed, epoch, draw, purpose, attempt)
            if attempt:
                place = int(rng.integers(len(self._refs)))
            try:
                return self._pair(place, rng)
            except InputError as error:
                reason = f"{_name(self._refs[place])}: {error}"
        raise InputError(
            f"no pair could be simulated in {_ATTEMPTS} attempts with other slices and implants; choose slices or "
            f"implants that suit each other; the last one, {reason}"
        )

    def _pair(self, place: int, rng: np.random.Generator) -> PairArrays:
        image_mu, large_mu, tissue = self._slice(place)
        mask = self._draw_mask(place, large_mu, rng)
        small = resize_mask(mask, image_mu.shape)
        check_mask(small, image_mu)
        sample = self._simulator.simulate_masks(image_mu, [small], [rng], tissue)[0]
        sample = sample.scaled(self._simulator.common_scale)
        projector, weighting = self._simulator.projector, self._protocol.weighting
        return pair_arrays(self.layout, sample, image_mu, small > 0, projector, weighting)

    def _draw_mask(self, place: int, large_mu: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return labels of 512 x 512."""
        if self._masks is None:
            if place not in self._anatomies:
                if len(self._anatomies) >= _MOST_ANATOMIES:
                    self._anatomies.pop(next(iter(self._anatomies)))
                self._anatomies[place] = self._library.anatomy(large_mu)
            mask, _ = self._library.sample(large_mu, rng, self._anatomies[place])
            return mask
        index = int(self._masks[int(rng.integers(len(self._masks)))])
        return self._library.draw(index, large_mu, rng)[0]

    def _slice(self, place: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return a slice on the scanner's grid and on that of the masks, and its projections.

        Raises:
            InputError: it is unfit; the first time that is logged.
        """
        views, bins = self._protocol.geometry.sinogram_shape
        shapes = (self.shape, (STACK_SIZE, STACK_SIZE), (2, views, bins))
        row = self._slices.get(place)
        if row is None:
            arrays = self._prepare(place)
            self._slices.put(place, np.concatenate([array.ravel() for array in arrays]))
            return arrays
        ends = np.cumsum([math.prod(shape) for shape in shapes])
        image_mu, large_mu, tissue = np.split(row, ends[:-1])
        return image_mu.reshape(shapes[0]), large_mu.reshape(shapes[1]), tissue.reshape(shapes[2])

    def _prepare(self, place: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        state = self._states.get(place)
        if state is not None and state[0] != _USABLE:
            raise InputError(_REASONS[int(state[0])])
        ref = self._refs[place]
        try:
            clean = ref.load()
            reason = screen(clean.image_mu)
            if reason:
                self._leave_out(place, {"metal": _METAL, "empty": _EMPTY}[reason], reason)
                raise InputError(reason)
            image_mu = to_grid(clean.image_mu, clean.pixel_mm, self._protocol)
            large_mu = to_grid(clean.image_mu, clean.pixel_mm, self._protocol, (STACK_SIZE, STACK_SIZE))
            tissue = self._simulator.project_tissue(image_mu)
        except InputError as error:
            if self._states.get(place) is None:
                self._leave_out(place, _BROKEN, str(error))
            raise
        self._states.put(place, _USABLE)
        return image_mu, large_mu, tissue

    def _leave_out(self, place: int, state: int, reason: Any) -> None:
        logger.warning("data: slice %s left out: %s", _name(self._refs[place]), reason)
        self._states.put(place, state)

    def _refuse_unusable(self) -> None:
        """Make one pair, which also compiles the kernels before workers are forked."""
        first = ""
        for attempt in range(max(len(self._refs), _ATTEMPTS) if self._refs else 0):
            place = attempt % len(self._refs)
            try:
                self._pair(place, generator(self._seed, 0, attempt, PAIR))
                return
            except InputError as error:
                first = first or f"{_name(self._refs[place])}: {error}"
        use = "validation" if self._frozen else "training"
        raise InputError(
            f"no slice can be used for {use} ({len(self._refs)} tried), choose others; {first or 'there is none'}"
        )


def _name(ref: SliceRef) -> str:
    return f"{ref.case}/{ref.name}"
