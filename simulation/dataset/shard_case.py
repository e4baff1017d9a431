"""One shard of a data set: the masks of all its slices first, then their pairs, one after another into the file."""

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulation.dataset.case import case_record
from simulation.dataset.pairs import PairMaker, SliceResult, left_out
from simulation.dataset.shard_file import ShardPlan, ShardWriter
from simulation.dataset.shard_set import ShardSet
from simulation.implants.library import STACK_SIZE
from simulation.sources import SliceRef

_AT_ONCE = 16
"""Masks unpacked together."""


class PackedMasks(dict[int, bytes]):
    """Masks of 512 x 512 by mask index, compressed: a shard can have thousands."""

    def add(self, index: int, labels: np.ndarray) -> None:
        """Keeps a mask, uint8 (512, 512)."""
        self[index] = zlib.compress(np.ascontiguousarray(labels, np.uint8).tobytes(), 1)

    def unpacked(self, index: int) -> np.ndarray:
        """A mask as it was added."""
        return np.frombuffer(zlib.decompress(self[index]), np.uint8).reshape(STACK_SIZE, STACK_SIZE)


@dataclass(frozen=True)
class PlannedSlice:
    """A slice of a shard, without its images.

    Args:
        case: see `SliceRef`.
        name: see `SliceRef`.
        number: its place in the plan.
        record: what is to be written about it.
        masks: of its pairs.
    """

    case: str
    name: str
    number: int
    record: dict[str, Any]
    masks: PackedMasks


def plan_of(slices: list[PlannedSlice]) -> ShardPlan:
    """Names and pairs in the order in which they are written."""
    pairs = [(row, index) for row, own in enumerate(slices) for index in own.masks]
    return ShardPlan([(own.case, own.name) for own in slices], pairs)


def shard_record(number: int, slices: list[PlannedSlice], results: list[SliceResult]) -> dict[str, Any]:
    """What is written about a shard."""
    return {
        "shard": number,
        "planned": len(results),
        "pairs": sum(len(own.masks) for own in slices),
        "slices": [{"case": own.case, "name": own.name} | own.record for own in slices],
        "left_out": left_out(results),
        "unread": [own.name for own in results if own.unread],
        "skipped": [[own.name, own.skipped] for own in results if own.skipped],
        "failed": [line for own in results for line in own.failed],
    }


@dataclass(frozen=True)
class ShardMaker:
    """Makes shards.

    Args:
        shard_set: where the files go.
        refs: the slices of the plan.
        pairs: makes their pairs.
    """

    shard_set: ShardSet
    refs: list[SliceRef]
    pairs: PairMaker

    def make(self, number: int) -> list[SliceResult]:
        """Makes a shard; what a slice itself is at fault for is told, not raised.

        Args:
            number: of the shard.

        Raises:
            OSError: the folder cannot be written.
            UsageError: the source does not go with the preset.
            InputError: a slice cannot be read any more that could be a moment ago.
        """
        size = self.shard_set.identity.slices_per_shard
        slices: list[PlannedSlice] = []
        results: list[SliceResult] = []
        for place in range(number * size, min((number + 1) * size, len(self.refs))):
            self.pairs.check_interrupt()
            planned, result = self._plan(place)
            slices += planned
            results.append(result)
        geometry = self.pairs.simulator.protocol.geometry
        record = shard_record(number, slices, results)
        with self.shard_set.writing(number, plan_of(slices), geometry, record) as writer:
            first = 0
            for row, planned_slice in enumerate(slices):
                self._write(writer, planned_slice, row, first)
                first += len(planned_slice.masks)
        return results

    def _plan(self, number: int) -> tuple[list[PlannedSlice], SliceResult]:
        ref = self.refs[number]
        drawn = self.pairs.draw(ref, number)
        if isinstance(drawn, SliceResult):
            return [], drawn
        masks = PackedMasks()
        for index, labels in drawn.masks.labels.items():
            masks.add(index, labels)
        clean = drawn.clean
        record = case_record(number, clean.origin, clean.pixel_mm, drawn.masks.implants, list(drawn.told))
        planned = PlannedSlice(ref.case, ref.name, number, record, masks)
        return [planned], SliceResult(f"{ref.case}/{ref.name}", len(masks), failed=drawn.told)

    def _write(self, writer: ShardWriter, planned: PlannedSlice, row: int, first: int) -> None:
        image_mu = self.pairs.image(self.refs[planned.number].load())
        tissue = self.pairs.simulator.project_tissue(image_mu)
        truth = {"image": image_mu}
        if "poly_sinogram" in writer.names:
            truth["poly_sinogram"] = self.pairs.clean_scan(tissue, planned.number)[0]
        writer.put(row, truth)
        indices = list(planned.masks)
        for start in range(0, len(indices), _AT_ONCE):
            chunk = indices[start : start + _AT_ONCE]
            labels = {index: planned.masks.unpacked(index) for index in chunk}
            samples = self.pairs.samples(image_mu, labels, chunk, planned.number, tissue)
            for place, (index, metal_mask, sample) in enumerate(samples, start=first + start):
                writer.put(place, vars(sample) | {"mask_512": labels[index], "metal_mask": metal_mask})
