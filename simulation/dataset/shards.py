"""The layout of shards, written: some dozen slices with all their pairs in a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from simulation.dataset.manifest import Counts
from simulation.dataset.pairs import PairMaker, SliceResult, case_record, left_out
from simulation.dataset.settings import WHOLE, units_of_part
from simulation.dataset.shard_file import ShardPlan, ShardWriter
from simulation.dataset.shard_set import ShardSet
from simulation.implants.masks import PackedMask
from simulation.parallel import check_stopped
from simulation.sources import SliceRef

_AT_ONCE = 16
"""Masks unpacked together."""


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
    masks: dict[int, PackedMask]


def plan_of(slices: list[PlannedSlice]) -> ShardPlan:
    """Return names and pairs in the order in which they are written."""
    pairs = [(row, index) for row, own in enumerate(slices) for index in own.masks]
    return ShardPlan([(own.case, own.name) for own in slices], pairs)


def shard_record(number: int, slices: list[PlannedSlice], results: list[SliceResult]) -> dict[str, Any]:
    """Return what is written about a shard."""
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


class ShardBuilder:
    """Builds shards: the masks of all slices of a shard first, then their pairs, one after another into the file.

    Args:
        folder: where the files go.
        refs: the slices of the plan.
        pairs: makes their pairs.
        part: which shards of how many to build, see `units_of_part`.
    """

    unit = "shard"

    def __init__(self, folder: ShardSet, refs: list[SliceRef], pairs: PairMaker, part: str = WHOLE) -> None:
        self.folder, self._refs, self._pairs = folder, refs, pairs
        self.plan = {"shards": -(-len(refs) // folder.identity.slices_per_shard)}
        self.numbers = units_of_part(part, self.plan["shards"])
        self.slices = sum(len(self._places(number)) for number in self.numbers)
        self.device = folder.identity.device

    def _places(self, number: int) -> range:
        """Return place in the plan of the slices of a shard."""
        size = self.folder.identity.slices_per_shard
        return range(number * size, min((number + 1) * size, len(self._refs)))

    def is_done(self, number: int) -> bool:
        """Return whether a shard is there with all the slices of the plan."""
        planned = self.folder.record(number).get("planned", 0)
        return self.folder.is_done(number) and planned >= len(self._places(number))

    def earlier_results(self, number: int) -> list[SliceResult]:
        """Return what an earlier run could not do of the slices of a shard."""
        return self.folder.earlier_results(number)

    def collate(self, results: Sequence[SliceResult]) -> Counts:
        """List the shards that are done, whoever built them."""
        return self.folder.collate(self.plan["shards"], self.numbers)

    def estimate(self, missing: Sequence[int]) -> tuple[str, dict[str, int]]:
        """Return what these shards would hold, in words and numbers."""
        slices = sum(len(self._places(number)) for number in missing)
        words, counts = self._pairs.estimate(slices, self.folder.identity.stored)
        return f"({slices} slices) {words}", counts

    def build(self, number: int) -> list[SliceResult]:
        """Build a shard; what a slice itself is at fault for is in the results, not raised.

        Args:
            number: of the shard.

        Raises:
            OSError: the folder cannot be written.
            UsageError: the source does not go with the preset.
            InputError: a slice cannot be read any more that could be a moment ago.
        """
        slices: list[PlannedSlice] = []
        results: list[SliceResult] = []
        for place in self._places(number):
            check_stopped()
            planned, result = self._plan(place)
            slices += planned
            results.append(result)
        geometry = self._pairs.simulator.protocol.geometry
        record = shard_record(number, slices, results)
        with self.folder.writing(number, plan_of(slices), geometry, record) as writer:
            first = 0
            for row, planned_slice in enumerate(slices):
                self._write(writer, planned_slice, row, first)
                first += len(planned_slice.masks)
        return results

    def _plan(self, number: int) -> tuple[list[PlannedSlice], SliceResult]:
        ref = self._refs[number]
        drawn = self._pairs.draw(ref, number)
        if isinstance(drawn, SliceResult):
            return [], drawn
        masks = {index: PackedMask.of(labels) for index, labels in drawn.masks.labels.items()}
        clean = drawn.clean
        record = case_record(number, clean.origin, clean.pixel_mm, drawn.masks.implants, list(drawn.failed))
        planned = PlannedSlice(ref.case, ref.name, number, record, masks)
        return [planned], SliceResult(f"{ref.case}/{ref.name}", len(masks), failed=drawn.failed)

    def _write(self, writer: ShardWriter, planned: PlannedSlice, row: int, first: int) -> None:
        image_mu = self._pairs.image(self._refs[planned.number].load())
        tissue = self._pairs.simulator.project_tissue(image_mu)
        truth = {"image": image_mu}
        if "poly_sinogram" in writer.names:
            truth["poly_sinogram"] = self._pairs.clean_scan(tissue, planned.number)[0]
        writer.put(row, truth)
        indices = list(planned.masks)
        for start in range(0, len(indices), _AT_ONCE):
            chunk = indices[start : start + _AT_ONCE]
            labels = {index: planned.masks[index].unpack() for index in chunk}
            samples = self._pairs.samples(image_mu, labels, chunk, planned.number, tissue)
            for place, (index, metal_mask, sample) in enumerate(samples, start=first + start):
                writer.put(place, vars(sample) | {"mask_512": labels[index], "metal_mask": metal_mask})
