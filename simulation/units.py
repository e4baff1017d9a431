"""Hounsfield units, linear attenuation as the SynDeepLesion benchmark defines it, and proton stopping power."""

from typing import Any, TypeVar

import numpy as np

from simulation.errors import InputError

MM_PER_CM = 10.0
MU_WATER_PER_CM = 0.192
"""Linear attenuation of water (1/cm) to which the benchmark's HU scale refers."""

_PLAUSIBLE_MU = (-1.0, 10.0)
"""1/cm; a clean slice holds 0 to about 0.8, and filtered back projection undershoots a little."""

_STOPPING_POWER = np.array(
    [
        *((-1000, 0), (-200, 0.788), (-120, 0.897), (-20, 1.003), (50, 1.038)),
        *((100, 1.084), (140, 1.097), (2990, 2.732), (2995, 3.2)),
    ]
)
"""HU and proton stopping power relative to water, between which it is linear; that of the AAPM CT-MAR challenge."""

Array = TypeVar("Array")


def hu_to_mu(hu: Array) -> Array:
    """Return linear attenuation mu = 0.192 (1 + HU / 1000).

    Args:
        hu: any shape, Hounsfield units (numpy or torch).

    Returns:
        The same shape, 1/cm.
    """
    return hu * (MU_WATER_PER_CM / 1000) + MU_WATER_PER_CM  # type: ignore[operator,return-value]


def mu_to_hu(mu: Array) -> Array:
    """Return Hounsfield units HU = 1000 (mu - 0.192) / 0.192.

    Args:
        mu: any shape, 1/cm (numpy or torch).

    Returns:
        The same shape, HU.
    """
    return (mu - MU_WATER_PER_CM) * (1000 / MU_WATER_PER_CM)  # type: ignore[operator,return-value]


def stopping_power(hu: np.ndarray) -> np.ndarray:
    """Return the proton stopping power relative to water; the curve's ends go on level.

    >>> stopping_power(np.array([-1000.0, 100.0, 4000.0]))
    array([0.   , 1.084, 3.2  ])
    """
    return np.interp(hu, _STOPPING_POWER[:, 0], _STOPPING_POWER[:, 1])


def check_mu(image_mu: Any, what: str) -> None:
    """Refuse an image that cannot be the linear attenuation of a body: HU given in its place, or values not finite.

    Args:
        image_mu: any shape, meant to be 1/cm (numpy).
        what: the image's name, for the message.

    Raises:
        InputError: if a value is not finite or lies outside -1 .. 10 1/cm.
    """
    bad = int(np.count_nonzero(~np.isfinite(image_mu)))
    if bad:
        raise InputError(f"{what}: {bad} values are not finite; expected attenuation in 1/cm; repair the image first")
    low, high = float(np.min(image_mu)), float(np.max(image_mu))
    if low < _PLAUSIBLE_MU[0] or high > _PLAUSIBLE_MU[1]:
        raise InputError(
            f"{what}: got values from {low:g} to {high:g}; expected attenuation in 1/cm (water is {MU_WATER_PER_CM}); "
            "convert HU with simulation.units.hu_to_mu"
        )
