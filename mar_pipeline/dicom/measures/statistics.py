"""Mean, spread and range of the HU of some voxels, and of several such groups together."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Statistics:
    """What a group of voxels holds.

    Args:
        count: voxels.
        mean: HU; None without voxels, as are the other values.
        sd: population standard deviation (divided by the count), HU.
        least: HU.
        most: HU.
    """

    count: int
    mean: float | None = None
    sd: float | None = None
    least: float | None = None
    most: float | None = None


NO_VOXELS = Statistics(0)


def statistics_of(values: np.ndarray) -> Statistics:
    """Return the statistics of voxels, computed in double precision.

    Args:
        values: HU, any shape.

    >>> statistics_of(np.array([10.0, 30.0]))
    Statistics(count=2, mean=20.0, sd=10.0, least=10.0, most=30.0)
    """
    if not values.size:
        return NO_VOXELS
    exact = values.astype(np.float64)
    return Statistics(exact.size, float(exact.mean()), float(exact.std()), float(exact.min()), float(exact.max()))


def pooled(groups: Iterable[Statistics]) -> Statistics:
    """Return the statistics of all voxels of several groups together, as if they lay in one array.

    >>> pooled([statistics_of(np.array([10.0])), NO_VOXELS, statistics_of(np.array([30.0, 50.0]))]).mean
    30.0
    """
    filled = [
        (one.count, one.mean, one.sd, one.least, one.most)
        for one in groups
        if one.mean is not None and one.sd is not None and one.least is not None and one.most is not None
    ]
    if not filled:
        return NO_VOXELS
    count = sum(group[0] for group in filled)
    mean = math.fsum(n * group_mean for n, group_mean, *_ in filled) / count
    variance = math.fsum(n * (sd**2 + (group_mean - mean) ** 2) for n, group_mean, sd, *_ in filled) / count
    least, most = min(group[3] for group in filled), max(group[4] for group in filled)
    return Statistics(count, mean, math.sqrt(variance), least, most)
