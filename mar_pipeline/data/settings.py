"""What training and validation pairs are asked for."""

from dataclasses import dataclass
from typing import Literal

from simulation.errors import UsageError
from simulation.physics.projector import why_no_cuda
from simulation.physics.protocols import protocol


@dataclass(frozen=True)
class DataSettings:
    """Where the pairs for training and validation come from, and how they are cropped and batched.

    Validation holds out what is chosen: slices, masks, or both; what is held out is never trained on.

    Args:
        kind: community (a data set on disk, as mar simulate or SynDeepLesion has it), shards (one that is made to train
            from: mar simulate --layout shards) or simulate (new implants and noise in every epoch, nothing on disk).
        folder: the data set, with train_640geo_dir.txt (community) or train_shards (shards).
        source: phantom, phantom:REGION, or a folder or file of clean slices (simulate).
        source_slices: number of slices; all of the source if not given, phantom 4 (simulate).
        pad_square: pad slices that are not square with air, or refuse them; null pads those of NIfTI (simulate).
        implants: kinds the procedural masks are drawn from; all if not given (simulate).
        metal: what all metal is made of; if not given titanium for a stack, and what is usual for procedural implants
            (simulate).
        preset: the scanner that made the data, or that simulates: syndeeplesion, clinical or ctmar.
        simulate_device: what simulates: cpu (in the workers) or cuda (in the training process, on its GPU; workers must
            be 0). Projections on CUDA differ from those on the CPU in the last digits (simulate).
        masks: mask stack (.npy); if not given the data set's own, and procedural implants to simulate. Shards hold
            their masks.
        trust_masks: do not check that a pair's mask has the metal trace stored with the pair (community).
        slices: patterns of the slices to use, such as 000321_* or 000321_03_01/011; ! before a pattern leaves those
            out; all if not given.
        mask_range: first and last mask to use; all if not given.
        val_slices: patterns of the slices held out for validation.
        val_mask_range: first and last mask held out for validation, such as 80 and 89 of the benchmark.
        val_fraction: share of the patients (of the slices, if there is one patient) held out for validation where no
            other choice is made.
        val_folder: another data set to validate on; val_slices and val_mask_range then choose from it.
        val_split: which of its splits validation takes.
        val_pairs: number of validation pairs, spread over slices and masks; if not given all (community), or one for
            each slice (simulate).
        patch: side of the square crops in pixels; 0 trains on whole images. Validation always has whole images.
        batch_size: crops in a batch, for each process.
        batches_per_epoch: batches of an epoch; one pass over the pairs if not given.
        crops_per_pair: crops taken from a pair each time it is read or simulated; divides batch_size.
        flips: mirror crops at random, up-down and left-right.
        rotations: turn crops by a random multiple of 90 degrees.
        workers: processes that load; 0 loads in the training process. Batches do not depend on it.
        cache_mb: MB of training pairs kept in memory, for each training process; the same for validation pairs. Crops
            from shards are left to the system's cache.
    """

    kind: Literal["community", "shards", "simulate"] = "community"
    folder: str | None = None
    source: str | None = None
    source_slices: int | None = None
    pad_square: bool | None = None
    implants: tuple[str, ...] | None = None
    metal: str | None = None
    preset: str = "syndeeplesion"
    simulate_device: Literal["cpu", "cuda"] = "cpu"
    masks: str | None = None
    trust_masks: bool = False
    slices: tuple[str, ...] | None = None
    mask_range: tuple[int, int] | None = None
    val_slices: tuple[str, ...] | None = None
    val_mask_range: tuple[int, int] | None = None
    val_fraction: float = 0.1
    val_folder: str | None = None
    val_split: Literal["train", "test"] = "train"
    val_pairs: int | None = None
    patch: int = 64
    batch_size: int = 16
    batches_per_epoch: int | None = None
    crops_per_pair: int = 1
    flips: bool = True
    rotations: bool = False
    workers: int = 2
    cache_mb: int = 1024


PROCEDURAL = "procedural"
"""What `masks` says of implants that suit each slice, as mar simulate has it."""


def is_procedural(settings: DataSettings) -> bool:
    """Return whether pairs are simulated with implants of the library's own."""
    return settings.kind == "simulate" and settings.masks in (None, PROCEDURAL)


def check_data_settings(settings: DataSettings) -> None:
    """Refuse what no data could satisfy.

    Raises:
        UsageError: a name is unknown, a number impossible, or two settings exclude each other.
    """
    protocol(settings.preset)
    needed = "source" if settings.kind == "simulate" else "folder"
    if getattr(settings, needed) is None:
        raise UsageError(f"--data.{needed}: not given, but data of the kind {settings.kind} needs it")
    least = {"patch": 0, "batch_size": 1, "crops_per_pair": 1, "workers": 0, "cache_mb": 0}
    least |= {"batches_per_epoch": 1, "val_pairs": 1, "source_slices": 1}
    for name, lowest in least.items():
        value = getattr(settings, name)
        if value is not None and value < lowest:
            raise UsageError(f"--data.{name}: got {value}, expected {lowest} or more")
    if settings.batch_size % settings.crops_per_pair:
        raise UsageError(
            f"--data.crops_per_pair: got {settings.crops_per_pair}, which does not divide a batch of "
            f"{settings.batch_size}; choose a divisor"
        )
    if not 0 < settings.val_fraction < 1:
        raise UsageError(f"--data.val_fraction: got {settings.val_fraction:g}, expected a share between 0 and 1")
    if settings.kind == "simulate" and settings.val_split != "train" and settings.val_folder is None:
        raise UsageError(
            f"--data.val_split: got {settings.val_split} without a --data.val_folder that has such a split"
        )
    if settings.simulate_device == "cuda" and settings.kind != "simulate":
        raise UsageError(f"--data.simulate_device: only for data.kind simulate, got {settings.kind}; give cpu")
    if settings.simulate_device == "cuda" and settings.workers:
        raise UsageError(
            f"--data.workers: got {settings.workers}, but pairs simulated on CUDA are made in the training process; "
            "give 0, or --data.simulate_device cpu"
        )
    if settings.simulate_device == "cuda" and (reason := why_no_cuda()):
        raise UsageError(f"--data.simulate_device: got cuda, but {reason}; give cpu")
    _check_masks(settings)


def _check_masks(settings: DataSettings) -> None:
    for name in ("mask_range", "val_mask_range"):
        value = getattr(settings, name)
        if value is not None and not 0 <= value[0] <= value[1]:
            raise UsageError(f"--data.{name}: got {value[0]} {value[1]}, expected the first and the last mask")
    if settings.implants is not None and not is_procedural(settings):
        raise UsageError("--data.implants: only for simulated pairs without a mask stack, which has its own shapes")
    if settings.metal is not None and settings.kind != "simulate":
        raise UsageError("--data.metal: only for simulated pairs; a data set on disk is made of what it is made of")
    if is_procedural(settings) and (settings.mask_range or (settings.val_mask_range and not settings.val_folder)):
        raise UsageError(
            "--data.mask_range and val_mask_range: procedural implants have no numbers; give a stack as --data.masks"
        )
    if settings.masks is not None and settings.kind == "shards":
        raise UsageError(f"--data.masks: got {settings.masks}, but shards hold their masks; give null")
    if settings.masks == PROCEDURAL and settings.kind == "community":
        raise UsageError("--data.masks: got procedural for a data set on disk; expected a stack FILE.npy or null")
