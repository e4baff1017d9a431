"""What a shard does not hold of a pair, computed from what it holds."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simulation.correction import linear_interpolation
from simulation.dataset.shard_file import Shard
from simulation.implants.library import STACK_SIZE, MaskStack
from simulation.physics.projector import Projector, Weighting
from simulation.simulator import Sample

SCAN = ("ma_sinogram", "LI_sinogram", "ma_CT", "LI_CT", "metal_trace")


def scan_of(
    shard: Shard, row: int, projector: Projector, weighting: Weighting, names: Collection[str] = SCAN
) -> Sample:
    """The scan with metal of a pair.

    Args:
        shard: holds it.
        row: of the pair.
        projector: of the scan.
        weighting: of its filtered back projection.
        names: the arrays that are needed; the others are None.

    Raises:
        InputError: the shard cannot be read, or holds no sinogram to compute an array from.
    """
    arrays: dict[str, Any] = {name: shard.read(name, row) for name in names if name in shard}
    missing = [name for name in names if name not in arrays]
    if missing:
        sinogram = shard.read("ma_sinogram", row)
        if {"LI_sinogram", "LI_CT"} & set(missing):
            arrays["LI_sinogram"] = linear_interpolation(sinogram, shard.read("metal_trace", row))
        made_from = {"ma_CT": sinogram, "LI_CT": arrays.get("LI_sinogram")}
        wanted = [name for name in made_from if name in missing]
        if wanted:
            images = projector.fbp(np.stack([np.asarray(made_from[name]) for name in wanted]), weighting)
            arrays |= dict(zip(wanted, images, strict=True))
    if "metal_trace" in arrays:
        arrays["metal_trace"] = arrays["metal_trace"] != 0
    return Sample(**{name: arrays.get(name) for name in SCAN})


def mask_stack(files: Sequence[Path], count: int, metal: str) -> MaskStack:
    """The stack of masks that the pairs of shards were made with; empty ones that no pair has.

    Args:
        files: the shards.
        count: number of masks.
        metal: that they are made of.

    Raises:
        InputError: a shard cannot be read.
    """
    stack = np.zeros((STACK_SIZE, STACK_SIZE, count), np.uint8)
    absent = set(range(count))
    for path in files:
        shard = Shard(path)
        for row, index in enumerate(shard.masks.tolist()):
            if index in absent:
                stack[:, :, index] = shard.read("mask_512", row) > 0
                absent.discard(index)
        if not absent:
            break
    return MaskStack(stack=stack, metal=metal)
