"""Loaders over the samples of a task, in the order that the seed and the epoch decide."""

from mar_pipeline.data.batches import EpochBatches, Key, KeyedSamples, PairLoader, loader_of
from mar_pipeline.data.loaders import Loaders


def training_loaders(
    train: KeyedSamples,
    validation: KeyedSamples,
    seed: int,
    batch_size: int,
    batches_per_epoch: int | None = None,
    workers: int = 0,
    validation_batch: int = 1,
) -> Loaders:
    """Batches for training and for validation.

    Args:
        train: samples that depend on their `Key`: epoch, number within the epoch, index.
        validation: samples of which only the index counts.
        seed: of the order.
        batch_size: samples in a training batch.
        batches_per_epoch: None is one pass over the samples.
        workers: processes that load; 0 loads in this one.
        validation_batch: samples in a batch of the validation; above 1 they must be of one size.
    """
    batches = EpochBatches(len(train), batch_size, batches_per_epoch, seed=seed)
    return Loaders(loader_of(train, batches, workers), ordered_loader(validation, validation_batch))


def ordered_loader(samples: KeyedSamples, batch_size: int = 1) -> PairLoader:
    """All samples once, in order, loaded in this process.

    Args:
        samples: of which only the index of a key counts.
        batch_size: samples in a batch; above 1 they must be of one size.
    """
    keys: list[Key] = [(0, index, index) for index in range(len(samples))]
    return loader_of(samples, [keys[start : start + batch_size] for start in range(0, len(keys), batch_size)], 0)
