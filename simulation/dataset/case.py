"""One slice of a data set in the community layout: its masks, its metal-free scan, its pairs, its record."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simulation.dataset.community import DataSet
from simulation.dataset.layout import CASE_MASKS
from simulation.dataset.pairs import Drawn, PairMaker, SliceResult
from simulation.dataset.store import write_case, write_sample
from simulation.errors import InputError
from simulation.files import PARTIAL, sha256_of, whole_file
from simulation.implants.library import MaskStack
from simulation.sources import SliceRef


@dataclass(frozen=True)
class CaseMaker:
    """Makes slices of a data set.

    Args:
        data_set: where the files go.
        refs: the slices of the plan.
        pairs: makes their pairs.
        compression: gzip level of the files.
    """

    data_set: DataSet
    refs: list[SliceRef]
    pairs: PairMaker
    compression: int = 4

    def make(self, number: int) -> list[SliceResult]:
        """Makes what is missing of a slice; what the slice itself is at fault for is told, not raised.

        Args:
            number: its place in the plan.

        Raises:
            OSError: the folder cannot be written.
            UsageError: the source does not go with the preset.
        """
        ref = self.refs[number]
        drawn = self.pairs.draw(ref, number)
        if isinstance(drawn, SliceResult):
            return [drawn]
        name = f"{ref.case}/{ref.name}"
        try:
            pairs = self._make_pairs(drawn, ref, number)
        except InputError as error:
            return [SliceResult(name, failed=(str(error),))]
        return [SliceResult(name, pairs, failed=drawn.told)]

    def _make_pairs(self, drawn: Drawn, ref: SliceRef, number: int) -> int:
        """Writes what is missing of a slice; answers the number of pairs made."""
        clean, masks = drawn.clean, drawn.masks.labels
        folder = self.data_set.case_folder(ref)
        for left_over in folder.glob(f"*{PARTIAL}"):
            left_over.unlink()
        written = self._write(folder, drawn.image_mu, number, masks)
        # A file that an earlier run recorded keeps its hash: damage done since then must not pass for good.
        known = {file: value for file, value in self.data_set.hashes(ref).items() if file not in written}
        names = {"gt.h5", *(f"{index}.h5" for index in masks), *written}
        record = case_record(number, clean.origin, clean.pixel_mm, drawn.masks.implants, list(drawn.told))
        record["files"] = {file: known.get(file) or sha256_of(folder / file) for file in sorted(names)}
        self.data_set.write_record(ref, record)
        return len(written - {"gt.h5", CASE_MASKS})

    def _write(self, folder: Path, image_mu: np.ndarray, number: int, masks: dict[int, np.ndarray]) -> set[str]:
        """Simulates and writes the files of a slice that are not there yet; answers their names."""
        written = set()
        tissue = self.pairs.simulator.project_tissue(image_mu)
        if not (folder / "gt.h5").is_file():
            sinogram, ct = self.pairs.clean_scan(tissue, number)
            write_case(folder, image_mu, sinogram, ct, {}, self.compression)
            written.add("gt.h5")
        missing = [index for index in masks if not (folder / f"{index}.h5").is_file()]
        for index, _, sample in self.pairs.samples(image_mu, masks, missing, number, tissue):
            write_sample(folder / f"{index}.h5", sample, self.compression)
            written.add(f"{index}.h5")
        if not isinstance(self.pairs.library, MaskStack):
            write_masks(folder / CASE_MASKS, masks)
            written.add(CASE_MASKS)
        return written


def case_record(
    number: int, origin: str, pixel_mm: float | None, implants: dict[int, dict[str, Any]], failed: list[str]
) -> dict[str, Any]:
    """What is written about a slice, whatever the layout."""
    described = {str(index): implant for index, implant in implants.items()}
    return {"number": number, "origin": origin, "pixel_mm": pixel_mm, "implants": described, "failed": failed}


def write_masks(path: Path, masks: dict[int, np.ndarray]) -> None:
    """Writes masks.npz: the label masks of a slice and their indices."""
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, indices=np.array(list(masks)), masks=np.stack(list(masks.values())))
