"""The loaders of a training."""

import logging
from typing import Any, NamedTuple

from mar_pipeline.data.batches import Crops, EpochBatches, Key, PairLoader, Pairs, loader_of
from mar_pipeline.data.selection import by_reason
from mar_pipeline.data.settings import DataSettings, check_data_settings
from mar_pipeline.data.split import train_and_validation_pairs
from mar_pipeline.sample import IMAGES_ONLY, Layout
from simulation.errors import UsageError

logger = logging.getLogger(__name__)

_VALIDATION_WORKERS = 2


class Loaders(NamedTuple):
    """Batches for training and for validation."""

    train: PairLoader
    validation: PairLoader

    def facts(self) -> dict[str, Any]:
        """Return what a report says of the data, and the number of batches."""
        return {name: loader.dataset.facts() | {"batches": len(loader)} for name, loader in self._asdict().items()}


def make_loaders(
    settings: DataSettings, seed: int, rank: int = 0, world: int = 1, layout: Layout = IMAGES_ONLY
) -> Loaders:
    """Return loaders of a training.

    Batches for training follow (seed, epoch, rank) alone: call ``train.set_epoch(epoch)`` before each epoch. Validation
    has whole images, one at a time, always the same ones; ranks share them out. Neither depends on the number of
    workers.

    Args:
        settings: what is asked for.
        seed: of the training.
        rank: of this process.
        world: number of processes.
        layout: which arrays a sample has; with sinograms among them there are whole images only.

    Raises:
        UsageError: impossible settings.
        InputError: the data cannot be used, or no pair is left for training or validation.
    """
    check_data_settings(settings)
    if layout.sinograms and settings.patch:
        raise UsageError(
            f"--data.patch: got {settings.patch}, but a network that sees sinograms needs whole images; give 0"
        )
    train, validation = train_and_validation_pairs(settings, seed, layout)
    _log_pairs(train, "training")
    _log_pairs(validation, "validation")
    if len(validation) < world:
        raise UsageError(
            f"validation: got {len(validation)} pairs for {world} processes; start fewer, or hold out one for each "
            "(--data.val_pairs, --data.val_slices, --data.val_mask_range or --data.val_fraction)"
        )
    crops = Crops(train, settings.patch, settings.flips, settings.rotations, settings.crops_per_pair, seed)
    batches = EpochBatches(
        len(train), settings.batch_size, settings.batches_per_epoch, settings.crops_per_pair, seed, rank, world
    )
    images: list[list[Key]] = [[(0, index, index)] for index in range(rank, len(validation), world)]
    return Loaders(
        loader_of(crops, batches, settings.workers),
        loader_of(Crops(validation), images, min(settings.workers, _VALIDATION_WORKERS)),
    )


def counted(count: int, word: str) -> str:
    """Return a number and its word: "1 pair", "3 pairs"."""
    return f"{count} {word}{'s' * (count != 1)}"


def _log_pairs(pairs: Pairs, purpose: str) -> None:
    logger.info("data: %s: %s of %s", purpose, counted(len(pairs), "pair"), counted(pairs.slices, "slice"))
    for first, count in by_reason(pairs.left_out):
        logger.warning("data: %s: %d left out; the first, %s: %s", purpose, count, first.pair, first.reason)
