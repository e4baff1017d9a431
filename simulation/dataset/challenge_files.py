"""The CT-MAR challenge's layout, written: raw files of each case with metal, without, and its mask."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from simulation.dataset.community import CommunityBuilder
from simulation.dataset.community_set import CommunitySet, Named, SliceName
from simulation.dataset.manifest import Counts, manifest_file, read_manifest
from simulation.dataset.pairs import Drawn, PairMaker, SliceResult, case_record, left_out
from simulation.errors import InputError, UsageError
from simulation.files import PARTIAL, sha256_of, whole_file
from simulation.implants.masks import MaskSource
from simulation.physics.protocols import CTMAR
from simulation.sources import SliceRef
from simulation.sources.challenge import FIELD_OF_VIEW_MM, IMAGE_SHAPE, SINOGRAM_SHAPE, ChallengeCase
from simulation.units import MU_WATER_PER_CM, mu_to_hu


class ChallengeSet(CommunitySet):
    """One split of a data set in the challenge's folders: body1, body2 and so on."""

    layout: ClassVar[str] = "ctmar"

    @property
    def folder(self) -> Path:
        """Where the cases are."""
        return self.root

    def outputs(self) -> list[str]:
        """Return the files at the top of the folder."""
        return [manifest_file(self.root, self.split).name]

    def collate(
        self,
        refs: Sequence[Named],
        library: MaskSource,
        masks_per_slice: int,
        part: Sequence[int] | None = None,
        without_pairs: Mapping[str, str] = MappingProxyType({}),
        planned: int | None = None,
    ) -> int:
        """Write the manifest for the slices that are done, whoever made them; see `CommunitySet.collate`."""
        with self.turn():
            self.check()
            done = [number for number, ref in enumerate(refs) if self.is_done(ref)]
            before = (read_manifest(self.root, self.split) or {}).get("left_out", {})
            facts = {"planned": planned or len(refs), "left_out": dict(sorted({**before, **without_pairs}.items()))}
            self._write_manifest({}, self._records(refs, done), **facts)
        return len(done)

    def discard_if_empty(self) -> None:
        """Take away the manifest if no slice was begun, so that other settings may follow."""
        with self.turn():
            if not any(path.is_dir() for path in self.root.glob("[bh]*")):
                manifest_file(self.root, self.split).unlink(missing_ok=True)


class ChallengeBuilder(CommunityBuilder):
    """Builds slices in the challenge's layout: a folder for each slice, in it a case for each mask.

    Args:
        folder: where the folders go.
        refs: the slices of the plan.
        pairs: makes their pairs.
        numbers: places in the plan of the slices to build; None for all.

    Raises:
        UsageError: the scanner's images or sinograms are not of the challenge's size.
    """

    def __init__(
        self, folder: ChallengeSet, refs: list[SliceRef], pairs: PairMaker, numbers: list[int] | None = None
    ) -> None:
        super().__init__(folder, refs, pairs, numbers)
        geometry = pairs.simulator.protocol.geometry
        if (geometry.image_shape, geometry.sinogram_shape) != (IMAGE_SHAPE, SINOGRAM_SHAPE):
            raise UsageError(
                f"--layout ctmar: holds images of {IMAGE_SHAPE} and sinograms of {SINOGRAM_SHAPE}, got "
                f"{geometry.image_shape} and {geometry.sinogram_shape}; use --preset ctmar or clinical"
            )
        side_mm = geometry.pixel_mm * IMAGE_SHAPE[0]
        self._region = min(FIELD_OF_VIEW_MM, key=lambda name: abs(FIELD_OF_VIEW_MM[name] - side_mm))
        self._names = [SliceName(".", f"{self._region}{number + 1}") for number in range(len(refs))]

    def is_done(self, number: int) -> bool:
        """Return whether a slice is there with all its files."""
        return self.folder.is_done(self._names[number])

    def earlier_results(self, number: int) -> list[SliceResult]:
        """Return what an earlier run could not do of a slice."""
        failed = self.folder.record(self._names[number]).get("failed", ())
        return [SliceResult(self._names[number].name, failed=tuple(failed))]

    def collate(self, results: Sequence[SliceResult]) -> Counts:
        """List the slices that are done, whoever built them."""
        masks = self.pairs.masks_per_slice
        in_set = self.folder.collate(self._names, self.pairs.library, masks, self.numbers, left_out(results))
        return Counts(sum(map(self.is_done, self.numbers)), in_set)

    def build(self, number: int) -> list[SliceResult]:
        """Build a slice; what the slice itself is at fault for is in the result, not raised.

        Raises:
            OSError: the folder cannot be written.
            UsageError: the source does not go with the preset.
        """
        drawn = self.pairs.draw(self.refs[number], number)
        if isinstance(drawn, SliceResult):
            return [drawn]
        try:
            self._write_cases(drawn, number)
        except InputError as error:
            return [SliceResult(self._names[number].name, failed=(str(error),))]
        return [SliceResult(self._names[number].name, len(drawn.masks.labels), failed=drawn.failed)]

    def _write_cases(self, drawn: Drawn, number: int) -> None:
        folder = self.folder.case_folder(self._names[number])
        for left_over in folder.rglob(f"*{PARTIAL}"):
            left_over.unlink()
        tissue = self.pairs.simulator.project_tissue(drawn.image_mu)
        scale = np.float32(CTMAR.image_water_mu / MU_WATER_PER_CM)  # its line integrals have water at 0.2 /cm
        sinogram, image = self.pairs.clean_scan(tissue, number)
        labels = drawn.masks.labels
        written: list[Path] = []
        for index, mask, sample in self.pairs.samples(drawn.image_mu, labels, list(labels), number, tissue):
            case = ChallengeCase(folder, self._region, index + 1)
            for part, one, lines in (
                ("Target", mu_to_hu(image), scale * sinogram),
                ("Baseline", mu_to_hu(sample.ma_CT), scale * sample.ma_sinogram),
                ("Mask", mask > 0, sample.metal_trace),
            ):
                written += [_write_raw(case.path(part, "img"), one), _write_raw(case.path(part, "sino"), lines)]
            written.append(_write_json(folder / f"metalinfo{index + 1}.json", drawn.masks.implants[index]))
        record = case_record(number, drawn.clean.origin, drawn.clean.pixel_mm, drawn.masks.implants, list(drawn.failed))
        record["files"] = {path.relative_to(folder).as_posix(): sha256_of(path) for path in sorted(written)}
        self.folder.write_record(self._names[number], record)


def _write_raw(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        partial.write_bytes(np.ascontiguousarray(values, "<f4").tobytes())
    return path


def _write_json(path: Path, content: Mapping[str, Any]) -> Path:
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=1))
    return path
