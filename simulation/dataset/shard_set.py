"""A data set of training shards that grows: which shards are done, and its manifest."""

from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from simulation.dataset.manifest import Counts, Identity, SetFolder, manifest_file, read_sidecar
from simulation.dataset.pairs import SliceResult
from simulation.dataset.shard_file import ShardPlan, ShardWriter, Stored, shard_file, shards_folder
from simulation.files import PARTIAL, sha256_of, whole_file, write_json
from simulation.physics.geometry import FanBeam


@dataclass(frozen=True)
class ShardIdentity(Identity):
    """What decides the bytes of a set of shards."""

    stored: Stored
    slices_per_shard: int

    @classmethod
    def of(cls, identity: Identity, stored: Stored, slices_per_shard: int) -> "ShardIdentity":
        """Return the shards of what a set in the other layout holds."""
        return cls(**asdict(identity) | {"compression": 0}, stored=stored, slices_per_shard=slices_per_shard)


class ShardSet(SetFolder):
    """One split of a set of shards in its folder."""

    identity: ShardIdentity
    layout: ClassVar[str] = "shards"

    @property
    def folder(self) -> Path:
        """Where the shards are."""
        return shards_folder(self.root, self.split)

    def path(self, number: int) -> Path:
        """Return the file of a shard."""
        return shard_file(self.folder, number)

    def record(self, number: int) -> dict[str, Any]:
        """Return what is written about a shard; empty if it was not made yet, or if its record is damaged."""
        return read_sidecar(self.path(number))

    def is_done(self, number: int) -> bool:
        """Return whether a shard is there: its file gets its name last. One that lost bytes since then is not."""
        path = self.path(number)
        return path.is_file() and self.record(number).get("bytes") == path.stat().st_size

    @contextmanager
    def writing(self, number: int, plan: ShardPlan, geometry: FanBeam, record: dict[str, Any]) -> Iterator[ShardWriter]:
        """Yield a new shard, which is in the set once the block is through.

        Args:
            number: of the shard.
            plan: what it holds.
            geometry: of the scanner.
            record: what is known of its slices; size and hash of the file are added.

        Raises:
            OSError: it cannot be written.
        """
        path = self.path(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        for left_over in path.parent.glob(f"{path.stem}.*{PARTIAL}"):
            left_over.unlink()
        with whole_file(path) as partial:
            with closing(ShardWriter(partial, plan, geometry, self.identity.stored)) as writer:
                yield writer
            facts = {"bytes": partial.stat().st_size, "sha256": sha256_of(partial)}
            write_json(path.with_suffix(".json"), facts | record)

    def earlier_results(self, number: int) -> list[SliceResult]:
        """Return what could not be done of the slices of a shard when it was made."""
        record = self.record(number)
        results = [SliceResult(name, skipped=reason) for name, reason in record.get("skipped", ())]
        again = f"; delete {self.path(number).name} to try again"
        return results + [SliceResult("", failed=(line + again,)) for line in record.get("failed", ())]

    def collate(self, planned: int, part: Collection[int]) -> Counts:
        """Write the manifest for the shards that are done, whoever made them.

        Args:
            planned: number of shards of the whole set.
            part: the shards of this part of the work.

        Returns:
            Numbers of slices that are done.
        """
        slices, pairs, here = 0, 0, 0
        files = {}
        with self.turn():
            self.check()
            for number in filter(self.is_done, range(planned)):
                path, record = self.path(number), self.record(number)
                slices, pairs = slices + len(record["slices"]), pairs + record["pairs"]
                here += len(record["slices"]) if number in part else 0
                sidecar = path.with_suffix(".json")
                files[str(path.relative_to(self.root))] = record["sha256"]
                files[str(sidecar.relative_to(self.root))] = sha256_of(sidecar)
            self._write_manifest(files, (), shards=planned, slices=slices, pairs=pairs)
        return Counts(here, slices)

    def discard_if_empty(self) -> None:
        """Take away a set of which no shard holds a pair and none is being written, so that others may follow."""
        with self.turn():
            made = list(self.folder.glob("shard_*")) if self.folder.exists() else []
            numbers = [int(path.stem.removeprefix("shard_")) for path in made if path.suffix == ".json"]
            if any(path.name.endswith(PARTIAL) for path in made) or any(self.record(n).get("pairs") for n in numbers):
                return
            for path in made:
                path.unlink()
            if self.folder.exists():
                self.folder.rmdir()
            manifest_file(self.root, self.split).unlink(missing_ok=True)
