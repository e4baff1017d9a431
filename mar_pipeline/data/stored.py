"""What sets of stored pairs have in common, whatever the layout of their files."""

from collections.abc import Sequence

from torch.utils.data import Dataset

from mar_pipeline.data.pairs import PairFile, slice_name
from mar_pipeline.sample import Layout, PairArrays, Sample, to_sample


class StoredPairs(Dataset[Sample]):
    """Pairs that lie in files.

    Attributes:
        files: where each is.
        layout: which arrays a pair has.
    """

    files: Sequence[PairFile]
    layout: Layout

    @property
    def names(self) -> list[str]:
        """Return ``split/case/slice/N`` of every pair."""
        return [file.name for file in self.files]

    @property
    def slices(self) -> int:
        """Return the number of slices that have a pair here."""
        return len(set(map(slice_name, self.files)))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        return to_sample(self.pair(index), self.layout)

    def pair(self, index: int, epoch: int = 0, draw: int = 0) -> PairArrays:
        """Return a pair in the order of the layout; always the same one."""
        raise NotImplementedError
