"""Hounsfield units and linear attenuation, as the SynDeepLesion benchmark defines them."""

from typing import TypeVar

MU_WATER_PER_CM = 0.192
"""Linear attenuation of water (1/cm) to which the benchmark's HU scale refers."""

Array = TypeVar("Array")


def hu_to_mu(hu: Array) -> Array:
    """Linear attenuation mu = 0.192 (1 + HU / 1000).

    Args:
        hu: any shape, Hounsfield units (numpy or torch).

    Returns:
        The same shape, 1/cm.
    """
    return hu * (MU_WATER_PER_CM / 1000) + MU_WATER_PER_CM  # type: ignore[operator,return-value]


def mu_to_hu(mu: Array) -> Array:
    """Hounsfield units HU = 1000 (mu - 0.192) / 0.192.

    Args:
        mu: any shape, 1/cm (numpy or torch).

    Returns:
        The same shape, HU.
    """
    return (mu - MU_WATER_PER_CM) * (1000 / MU_WATER_PER_CM)  # type: ignore[operator,return-value]
