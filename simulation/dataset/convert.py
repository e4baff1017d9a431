"""`mar simulate --convert`: a finished data set in the other layout; arrays that both hold are copied bit for bit."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from simulation.dataset.build import Builder
from simulation.dataset.challenge import CommunityFromChallenge
from simulation.dataset.community import write_case, write_masks, write_sample
from simulation.dataset.community_set import CommunitySet, SliceName
from simulation.dataset.community_source import CommunitySource
from simulation.dataset.manifest import CASE_MASKS, Counts, Identity, layout_of, read_manifest, scan_of_set
from simulation.dataset.pairs import SliceResult
from simulation.dataset.reader import scan_of
from simulation.dataset.settings import PROCEDURAL, SimulateSettings, units_of_part
from simulation.dataset.shard_file import Shard, ShardWriter
from simulation.dataset.shard_set import ShardIdentity, ShardSet
from simulation.dataset.shards import PlannedSlice, plan_of, shard_record
from simulation.errors import InputError, UsageError
from simulation.files import PARTIAL, sha256_of
from simulation.implants.library import ImplantLibrary
from simulation.implants.masks import STACK_SIZE, MaskSource, MaskStack
from simulation.parallel import check_stopped
from simulation.physics.projector import Projector
from simulation.physics.projector_cpu import usable_cores
from simulation.sources.challenge import find_cases


def plan_conversion(settings: SimulateSettings) -> tuple[Builder, int]:
    """Return the builder of a conversion, and the number of processes for it.

    Raises:
        UsageError: the set is of that layout already, or lacks what the other one needs.
        InputError: it cannot be read, or is not finished.
    """
    root = Path(settings.convert or "")
    if not root.is_dir():
        what = "is a file" if root.exists() else "no such folder"
        raise UsageError(f"--convert: {root}: {what}; expected the folder that mar simulate wrote, or SynDeepLesion")
    if root.resolve() in (Path(settings.out).resolve(), *Path(settings.out).resolve().parents):
        raise UsageError(f"--out: got {settings.out}, which is {root} itself or in it; choose another folder")
    if settings.layout == "ctmar":
        raise UsageError("--layout ctmar: sets are not converted to it; simulate with --layout ctmar")
    layout = layout_of(root, settings.split)
    if layout in (None, "ctmar") and (cases := find_cases(root)):
        if settings.layout != "community":
            raise UsageError(
                f"--convert: {root} holds cases of the CT-MAR challenge, which become a set of the layout community; "
                "convert that to shards afterwards"
            )
        return CommunityFromChallenge(settings, cases), settings.workers or usable_cores()
    if layout is None:
        raise InputError(f"{root}: no {settings.split} set in it; expected a data set (--split chooses the other one)")
    if layout == settings.layout:
        raise UsageError(f"--convert: {root} is of the layout {layout} already; --layout names the one to convert to")
    builder: Builder = (
        _ShardsFromCommunity(settings, root) if settings.layout == "shards" else _CommunityFromShards(settings, root)
    )
    return builder, settings.workers or usable_cores()


class _ShardsFromCommunity:
    """Builds shards from a set in the community layout."""

    unit = "shard"
    device = "cpu"

    def __init__(self, settings: SimulateSettings, root: Path) -> None:
        masks = None if settings.masks == PROCEDURAL else settings.masks
        self._source = CommunitySource(root, settings.split, settings.preset, masks)
        identity = ShardIdentity.of(self._source.identity, settings.store or "images", settings.slices_per_shard)
        self.folder: ShardSet = ShardSet(Path(settings.out), settings.split, identity, self._source.geometry)
        size = settings.slices_per_shard
        if not self._source.numbers:
            raise InputError(
                f"{root}: its {settings.split} set holds no slice yet; finish it with the same mar simulate"
            )
        self.plan = {"shards": max(self._source.numbers) // size + 1}
        self.numbers = units_of_part(settings.part, self.plan["shards"])
        self.slices = sum(len(self._source.within(number * size, size)) for number in self.numbers)

    def is_done(self, number: int) -> bool:
        """Return whether a shard is there, and the source has not grown since it was built."""
        size = self.folder.identity.slices_per_shard
        known = self.folder.record(number).get("planned", 0)
        return self.folder.is_done(number) and known >= len(self._source.within(number * size, size))

    def earlier_results(self, number: int) -> list[SliceResult]:
        return self.folder.earlier_results(number)

    def collate(self, results: Sequence[SliceResult]) -> Counts:
        return self.folder.collate(self.plan["shards"], self.numbers)

    def estimate(self, missing: Sequence[int]) -> tuple[str, dict[str, int]]:
        size = self.folder.identity.slices_per_shard
        slices = sum(len(self._source.within(number * size, size)) for number in missing)
        return f"from {slices} slices", {"slices": slices}

    def build(self, number: int) -> list[SliceResult]:
        size = self.folder.identity.slices_per_shard
        verdicts: dict[int, str] = {}
        planned = [self._source.planned(ref, n, verdicts) for n, ref in self._source.within(number * size, size)]
        slices, results = [own for own, _ in planned if own.masks], [result for _, result in planned]
        record = shard_record(number, slices, results)
        if number == 0:  # which have no place in the plan that is known
            record["left_out"] = self._source.left_out | record["left_out"]
        with self.folder.writing(number, plan_of(slices), self._source.geometry, record) as writer:
            first = 0
            for row, own in enumerate(slices):
                self._copy(writer, own, row, first)
                first += len(own.masks)
        return results

    def _copy(self, writer: ShardWriter, own: PlannedSlice, row: int, first: int) -> None:
        writer.put(row, self._source.truth(own, writer.names))
        for place, index in enumerate(own.masks, start=first):
            check_stopped()
            writer.put(place, self._source.pair(own, index, writer.names))


class _CommunityFromShards:
    """Builds the slices of shard after shard in the community layout."""

    unit = "shard"
    device = "cpu"

    def __init__(self, settings: SimulateSettings, root: Path) -> None:
        manifest = read_manifest(root, settings.split)
        if manifest is None:
            raise InputError(f"{root}: no {settings.split}_manifest.json in it; restore it or simulate anew")
        identity = ShardIdentity(**manifest["identity"])
        if identity.stored == "images":
            raise UsageError(
                f"--convert: {root} holds images only, and the community layout needs sinograms; simulate with "
                "--layout community, or with --store both or sinograms"
            )
        own = {key: value for key, value in asdict(identity).items() if key not in ("stored", "slices_per_shard")}
        scan, compressed = scan_of_set(manifest), Identity(**own | {"compression": settings.compression})
        self.folder: CommunitySet = CommunitySet(Path(settings.out), settings.split, compressed, scan.geometry)
        self._source = ShardSet(root, settings.split, identity)
        shards = range(int(manifest.get("shards", 1)))
        absent = [number for number in shards if not self._source.is_done(number)]
        if absent:
            raise InputError(
                f"{root}: {len(absent)} of {len(shards)} shards are not there, or truncated, the first is "
                f"{self._source.path(absent[0]).name}; finish it with the same mar simulate"
            )
        self.numbers = units_of_part(settings.part, len(shards))
        self._names = _names(self._source, len(shards))
        self._left_out = {number: self._without_pairs(number) for number in shards}
        made = sum(len(self._slices(number)) for number in shards)
        self.plan = {"planned": made + sum(map(len, self._left_out.values()))}
        self._compression = settings.compression
        self._library = self._masks_of_all(len(shards), settings.masks)
        self._projector, self._weighting = (
            Projector(scan.geometry, "cpu", threads=1, kernel=scan.kernel),
            scan.weighting,
        )
        self.slices = sum(len(self._source.record(number)["slices"]) for number in self.numbers)

    def _masks_of_all(self, shards: int, masks: str) -> MaskSource:
        """Return what the mask stack is written from."""
        if self._source.identity.masks == PROCEDURAL:
            return ImplantLibrary()
        if masks != PROCEDURAL:
            stack = ImplantLibrary.from_masks(masks)
            if not isinstance(stack, MaskStack):
                raise UsageError(
                    f"--masks {masks}: holds shapes; --convert takes the stack of masks that the set was made with"
                )
            return stack
        files = [self._source.path(number) for number in range(shards)]
        return _mask_stack(files, self._source.identity.masks_per_slice)

    def is_done(self, number: int) -> bool:
        return all(self.folder.is_done(SliceName(own["case"], own["name"])) for own in self._slices(number))

    def _slices(self, number: int) -> list[dict[str, Any]]:
        return self._source.record(number)["slices"]

    def _without_pairs(self, number: int) -> dict[str, str]:
        record = self._source.record(number)
        return dict(record["left_out"] if "left_out" in record else record["skipped"])

    def earlier_results(self, number: int) -> list[SliceResult]:
        return []  # what could not be done of its slices was reported when the shards were built

    def collate(self, results: Sequence[SliceResult]) -> Counts:
        masks = self.folder.identity.masks_per_slice
        part = [own["number"] for number in self.numbers for own in self._slices(number)]
        left_out = {name: reason for number in self.numbers for name, reason in self._left_out[number].items()}
        in_set = self.folder.collate(self._names, self._library, masks, part, left_out, self.plan["planned"])
        return Counts(sum(self.folder.is_done(self._names[number]) for number in part), in_set)

    def estimate(self, missing: Sequence[int]) -> tuple[str, dict[str, int]]:
        slices = sum(len(self._slices(number)) for number in missing)
        return f"with {slices} slices", {"slices": slices}

    def build(self, number: int) -> list[SliceResult]:
        path, results = self._source.path(number), []
        if sha256_of(path) != self._source.record(number)["sha256"]:
            raise InputError(f"{path}: its bytes are not those that were written; mar verify names all such files")
        shard = Shard(path)
        for row, own in enumerate(self._slices(number)):
            if self.folder.is_done(SliceName(own["case"], own["name"])):
                results.append(SliceResult(f"{own['case']}/{own['name']}"))
            else:
                results.append(self._write(shard, row, own))
        return results

    def _write(self, shard: Shard, row: int, own: dict[str, Any]) -> SliceResult:
        ref = SliceName(own["case"], own["name"])
        folder = self.folder.case_folder(ref)
        for left_over in folder.glob(f"*{PARTIAL}"):
            left_over.unlink()
        sinogram = shard.read("poly_sinogram", row)
        poly_ct = self._projector.fbp(sinogram, self._weighting)
        write_case(folder, shard.read("image", row), sinogram, poly_ct, {}, self._compression)
        names, masks = ["gt.h5"], {}
        for pair in (shard.truth == row).nonzero()[0].tolist():
            check_stopped()
            index = int(shard.masks[pair])
            write_sample(
                folder / f"{index}.h5", scan_of(shard, pair, self._projector, self._weighting), self._compression
            )
            masks[index] = shard.read("mask_512", pair)
            names.append(f"{index}.h5")
        if self.folder.identity.masks == PROCEDURAL:
            write_masks(folder / CASE_MASKS, masks)
            names.append(CASE_MASKS)
        record = {key: value for key, value in own.items() if key not in ("case", "name")}
        self.folder.write_record(ref, record | {"files": {name: sha256_of(folder / name) for name in sorted(names)}})
        return SliceResult(f"{ref.case}/{ref.name}", len(masks))


def _names(source: ShardSet, shards: int) -> list[SliceName]:
    """Return names of the slices by their places in the plan; those that were skipped have none."""
    names = {
        own["number"]: SliceName(own["case"], own["name"]) for k in range(shards) for own in source.record(k)["slices"]
    }
    planned = sum(int(source.record(number)["planned"]) for number in range(shards))
    return [names.get(number, SliceName(".", ".")) for number in range(max(planned, max(names, default=-1) + 1))]


def _mask_stack(files: Sequence[Path], count: int) -> MaskStack:
    """Return the stack of masks that the pairs of shards were made with; empty ones that no pair has.

    Args:
        files: the shards.
        count: number of masks.

    Raises:
        InputError: a shard cannot be read.
    """
    stack = np.zeros((STACK_SIZE, STACK_SIZE, count), np.uint8)
    absent = set(range(count))
    for path in files:
        shard = Shard(path)
        for row, index in enumerate(shard.masks.tolist()):
            if index in absent:
                stack[:, :, index] = shard.read("mask_512", row) > 0
                absent.discard(index)
        if not absent:
            break
    return MaskStack(stack)
