"""The community layout, written: a file for each pair, a folder for each slice."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from simulation.dataset.community_set import CommunitySet
from simulation.dataset.manifest import CASE_MASKS, Counts
from simulation.dataset.pairs import Drawn, PairMaker, SliceResult, case_record, left_out
from simulation.dataset.reader import PAIR
from simulation.errors import InputError
from simulation.files import PARTIAL, sha256_of, whole_file
from simulation.simulator import Sample
from simulation.sources import SliceRef


class CommunityBuilder:
    """Builds slices of a data set in the community layout, each with its pairs in a folder of its own.

    Args:
        folder: where the files go.
        refs: the slices of the plan.
        pairs: makes their pairs.
        numbers: places in the plan of the slices to build; None for all.
        compression: gzip level of the files.
    """

    unit = "slice"

    def __init__(
        self,
        folder: CommunitySet,
        refs: list[SliceRef],
        pairs: PairMaker,
        numbers: list[int] | None = None,
        compression: int = 4,
    ) -> None:
        self.folder, self.refs, self.pairs, self.compression = folder, refs, pairs, compression
        self.numbers = list(range(len(refs))) if numbers is None else numbers
        self.slices, self.plan = len(self.numbers), {"planned": len(refs)}
        self.device = folder.identity.device

    def is_done(self, number: int) -> bool:
        """Return whether a slice is there with all its files."""
        return self.folder.is_done(self.refs[number])

    def build(self, number: int) -> list[SliceResult]:
        """Build what is missing of a slice; what the slice itself is at fault for is in the result, not raised.

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
            pairs = self._build_pairs(drawn, ref, number)
        except InputError as error:
            return [SliceResult(name, failed=(str(error),))]
        return [SliceResult(name, pairs, failed=drawn.failed)]

    def earlier_results(self, number: int) -> list[SliceResult]:
        """Return what an earlier run could not do of a slice."""
        ref = self.refs[number]
        return [SliceResult(f"{ref.case}/{ref.name}", failed=tuple(self.folder.record(ref).get("failed", ())))]

    def collate(self, results: Sequence[SliceResult]) -> Counts:
        """List the slices that are done, whoever built them."""
        in_set = self.folder.collate(
            self.refs, self.pairs.library, self.pairs.masks_per_slice, self.numbers, left_out(results)
        )
        return Counts(sum(map(self.is_done, self.numbers)), in_set)

    def estimate(self, missing: Sequence[int]) -> tuple[str, dict[str, int]]:
        """Return what these slices would hold, in words and numbers."""
        return self.pairs.estimate(len(missing), "community")

    def _build_pairs(self, drawn: Drawn, ref: SliceRef, number: int) -> int:
        """Write what is missing of a slice and return the number of pairs built."""
        clean, masks = drawn.clean, drawn.masks.labels
        folder = self.folder.case_folder(ref)
        for left_over in folder.glob(f"*{PARTIAL}"):
            left_over.unlink()
        written = self._write(folder, drawn.image_mu, number, masks)
        # A file that an earlier run recorded keeps its hash: damage done since then must not pass for good.
        known = {file: value for file, value in self.folder.hashes(ref).items() if file not in written}
        names = {"gt.h5", *(f"{index}.h5" for index in masks), *written}
        record = case_record(number, clean.origin, clean.pixel_mm, drawn.masks.implants, list(drawn.failed))
        record["files"] = {file: known.get(file) or sha256_of(folder / file) for file in sorted(names)}
        self.folder.write_record(ref, record)
        return len(written - {"gt.h5", CASE_MASKS})

    def _write(self, folder: Path, image_mu: np.ndarray, number: int, masks: dict[int, np.ndarray]) -> set[str]:
        """Simulate and write the files of a slice that are not there yet and return their names."""
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
        if self.pairs.library.shared_stack is None:
            write_masks(folder / CASE_MASKS, masks)
            written.add(CASE_MASKS)
        return written


def write_case(
    folder: Path,
    image_mu: np.ndarray,
    poly_sinogram: np.ndarray,
    poly_CT: np.ndarray,
    samples: Mapping[int, Sample],
    compression: int = 4,
) -> None:
    """Write gt.h5 and one N.h5 for each sample, each whole or not at all; the same content gives the same bytes.

    Args:
        folder: of the slice; made if need be.
        image_mu: Float["rows columns"], 1/cm.
        poly_sinogram: Float["views bins"], metal free.
        poly_CT: Float["rows columns"], 1/cm.
        samples: by mask index.
        compression: gzip level, 0 for none.

    Raises:
        OSError: the folder cannot be written.

    Example:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from simulation import Sample, read_pair, write_case
        >>> image_mu, sinogram = np.full((64, 64), 0.2, np.float32), np.ones((90, 96), np.float32)
        >>> sample = Sample(sinogram, sinogram, image_mu, image_mu, sinogram > 0)
        >>> with TemporaryDirectory() as folder:
        ...     write_case(Path(folder), image_mu, sinogram, image_mu, {0: sample})
        ...     sorted(path.name for path in Path(folder).iterdir()), read_pair(Path(folder, "0.h5")).ma_CT.shape
        (['0.h5', 'gt.h5'], (64, 64))
    """
    folder.mkdir(parents=True, exist_ok=True)
    truth = {"image": image_mu, "poly_CT": poly_CT, "poly_sinogram": poly_sinogram}
    write_h5(folder / "gt.h5", truth, compression)
    for index, sample in samples.items():
        write_sample(folder / f"{index}.h5", sample, compression)


def write_sample(path: Path, sample: Sample, compression: int = 4) -> None:
    """Write one N.h5, whole or not at all."""
    arrays = {name: np.asarray(getattr(sample, name)) for name in PAIR}
    write_h5(path, arrays | {"metal_trace": arrays["metal_trace"].astype(np.uint8)}, compression)


def write_h5(path: Path, arrays: Mapping[str, np.ndarray], compression: int) -> None:
    """Write arrays as float32 or uint8 datasets, whole or not at all."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, array in arrays.items():
            kept = array if array.dtype == np.uint8 else np.asarray(array, np.float32)
            options = {"compression": "gzip", "compression_opts": compression} if compression else {}
            file.create_dataset(name, data=kept, **options)
    with whole_file(path) as partial:
        partial.write_bytes(buffer.getbuffer())


def write_masks(path: Path, masks: dict[int, np.ndarray]) -> None:
    """Write masks.npz: the label masks of a slice and their indices."""
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, indices=np.array(list(masks)), masks=np.stack(list(masks.values())))
