"""Loaders over the samples of a task, in the order that the seed and the epoch decide."""

from mar_pipeline.data.batches import EpochBatches, Key, KeyedSamples, PairLoader, loader_of
from mar_pipeline.data.loaders import Loaders
from simulation.errors import UsageError


def training_loaders(
    train: KeyedSamples,
    validation: KeyedSamples,
    seed: int,
    batch_size: int,
    batches_per_epoch: int | None = None,
    workers: int = 0,
    validation_batch: int = 1,
    rank: int = 0,
    world: int = 1,
) -> Loaders:
    """Return batches for training and for validation.

    Args:
        train: samples that depend on their `Key`: epoch, number within the epoch, index.
        validation: samples of which only the index counts.
        seed: of the order.
        batch_size: samples in a training batch of one process.
        batches_per_epoch: None is one pass over the samples.
        workers: processes that load; 0 loads in this one.
        validation_batch: samples in a batch of the validation; above 1 they must be of one size.
        rank: of this process.
        world: number of processes, which share out what is trained on and validated with.

    Raises:
        UsageError: a process would have nothing to validate with.
    """
    batches = EpochBatches(len(train), batch_size, batches_per_epoch, seed=seed, rank=rank, world=world)
    held_out = _in_order(len(validation), validation_batch)
    if len(held_out) < world:
        raise UsageError(
            f"validation: got {len(held_out)} batches of {validation_batch} samples for {world} processes; start fewer"
        )
    return Loaders(loader_of(train, batches, workers), loader_of(validation, held_out[rank::world], 0))


def ordered_loader(samples: KeyedSamples, batch_size: int = 1) -> PairLoader:
    """Return all samples once, in order, loaded in this process.

    Args:
        samples: of which only the index of a key counts.
        batch_size: samples in a batch; above 1 they must be of one size.
    """
    return loader_of(samples, _in_order(len(samples), batch_size), 0)


def _in_order(samples: int, batch_size: int) -> list[list[Key]]:
    keys: list[Key] = [(0, index, index) for index in range(samples)]
    return [keys[start : start + batch_size] for start in range(0, samples, batch_size)]
