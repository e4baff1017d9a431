"""The embedded phantom as a source: endless slices, no data needed."""

import numpy as np

from simulation.errors import UsageError
from simulation.phantoms import REGIONS, phantom
from simulation.sources.slices import SliceRef, image_from_hu

DEFAULT_COUNT = 4


def list_phantom(source: str, seed: int, count: int | None) -> list[SliceRef]:
    """Return phantom slices: slice k shows region k modulo the number of regions, or the one asked for.

    Args:
        source: ``phantom`` or ``phantom:REGION``.
        seed: the seed; slice k is the same whatever the count.
        count: how many slices, None for 4.

    Raises:
        UsageError: if the region is unknown.
    """
    regions = tuple(REGIONS)
    if ":" in source:
        region = source.split(":", 1)[1]
        if region not in regions:
            raise UsageError(f"unknown phantom region {region!r}; expected one of {', '.join(regions)}")
        regions = (region,)
    refs = []
    for number in range(DEFAULT_COUNT if count is None else count):
        region = regions[number % len(regions)]
        case, origin = f"phantom_{number:04d}_{region}", f"phantom:{region} seed {seed} slice {number}"
        refs.append(SliceRef(case, "000", origin, read_phantom, (region, seed, number)))
    return refs


PHANTOM_KEY = 3
"""Third part of the random key, so that anatomy and noise share no stream (see `simulation.dataset.pairs`)."""


def read_phantom(region: str, seed: int, number: int) -> tuple[np.ndarray, float]:
    """Make slice `number` of `seed`: (image_mu float32 (512, 512) in 1/cm, pixel_mm)."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number, 0, PHANTOM_KEY)))
    hu, pixel_mm = phantom(region, rng)
    return image_from_hu(hu), float(pixel_mm)
