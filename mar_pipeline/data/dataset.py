"""Data sets on disk as one `torch.utils.data.Dataset`, for training loops of one's own."""

from collections.abc import Collection
from pathlib import Path
from typing import cast

from torch.utils.data import ConcatDataset

from mar_pipeline.data.community import CommunityPairs
from mar_pipeline.data.selection import Selection
from mar_pipeline.data.shards import ShardPairs
from mar_pipeline.data.stored import StoredPairs
from mar_pipeline.sample import KEYS, Layout, Sample
from simulation.dataset.manifest import layout_of, read_manifest
from simulation.errors import InputError, UsageError


class PairDataset(ConcatDataset[Sample]):
    """The pairs of one folder or several, whatever their layout.

    A sample is a dictionary of float32 tensors. Images are [1, rows, columns] in network units, 255 clip(mu, 0, 1) with
    mu in 1/cm: ``image`` (with metal), ``li`` (after linear interpolation), ``target`` (the clean slice), and
    ``metal_mask`` (1 where metal is). Sinograms are [1, views, bins], line integrals. Samples of the same scanner can
    be batched by any `DataLoader`, also with forked workers.

    Args:
        folders: what `mar simulate` wrote, or SynDeepLesion.
        split: train or test.
        names: which arrays a sample has; any of `mar_pipeline.sample.IMAGES` and `SINOGRAMS`.
        preset: the scanner; None takes the one that the manifest names, without a manifest syndeeplesion.
        mask_stack: a stack of masks (.npy) instead of the folder's own (community layout).
        cache_mb: MB of pairs of each folder that are kept in memory once they are read.

    Raises:
        InputError: a folder is missing, empty or damaged.
        UsageError: no folder is given, or the manifest names another preset.

    Example:
        >>> import tempfile
        >>> from simulation.dataset.generate import generate
        >>> from simulation.dataset.settings import SimulateSettings
        >>> folder = tempfile.mkdtemp()
        >>> _ = generate(SimulateSettings(folder, slices=1, masks_per_slice=1))
        >>> pairs = PairDataset(folder)
        >>> len(pairs), sorted(pairs[0]), pairs[0]["image"].shape
        (1, ['image', 'li', 'metal_mask', 'target'], torch.Size([1, 416, 416]))
    """

    def __init__(
        self,
        *folders: str | Path,
        split: str = "train",
        names: Collection[str] = KEYS,
        preset: str | None = None,
        mask_stack: str | None = None,
        cache_mb: float = 1024,
    ) -> None:
        if not folders:
            raise UsageError("PairDataset: got no folder; expected what mar simulate wrote")
        layout = Layout.of(names)
        super().__init__(
            [
                _opened(
                    Selection(
                        folder=folder,
                        split=split,
                        mask_stack=mask_stack,
                        cache_mb=cache_mb,
                        preset=preset or _preset_of(Path(folder), split),
                        layout=layout,
                    )
                )
                for folder in folders
            ]
        )

    @property
    def names(self) -> list[str]:
        """Return ``split/case/slice/N`` of every pair, in order."""
        return [name for pairs in self.datasets for name in cast(StoredPairs, pairs).names]


def _preset_of(folder: Path, split: str) -> str:
    manifest = read_manifest(folder, split)
    return str(manifest["identity"].get("preset", "syndeeplesion")) if manifest else "syndeeplesion"


def _opened(selection: Selection) -> StoredPairs:
    layout = layout_of(Path(selection.folder), selection.split)
    if layout is None:
        raise InputError(f"{selection.folder}: no {selection.split} set in it; expected what mar simulate wrote")
    return ShardPairs(selection) if layout == "shards" else CommunityPairs(selection)
