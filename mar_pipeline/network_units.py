"""The units in which networks see images and sinograms, as the published MAR networks were trained: 255 for 1/cm."""

from typing import TypeVar

import numpy as np
import torch

UNITS_PER_MU = 255.0
"""Network units of an attenuation of 1/cm."""

MAX_MU_PER_CM = 1.0
"""Attenuation from which on all is the same to a network; cortical bone has about 0.6."""

MAX_LINE_INTEGRAL = 4.0
"""Line integral from which on all is the same to a network."""

UNITS_PER_LINE_INTEGRAL = UNITS_PER_MU / MAX_LINE_INTEGRAL
"""Network units of a line integral of 1."""

Image = TypeVar("Image", np.ndarray, torch.Tensor)


def to_network(image_mu: Image) -> Image:
    """Attenuation in network units: x = 255 clip(mu, 0, 1).

    H. Wang et al., "DICDNet: Deep Interpretable Convolutional Dictionary Network for Metal Artifact Reduction in CT
    Images", IEEE TMI 2022, whose public code scales images so.

    Args:
        image_mu: any shape, 1/cm.

    Returns:
        The same shape and type, 0 to 255.
    """
    return image_mu.clip(0.0, MAX_MU_PER_CM) * UNITS_PER_MU


def to_mu(image: Image) -> Image:
    """Attenuation of an image in network units: mu = x / 255, not clipped.

    Args:
        image: any shape, network units.

    Returns:
        The same shape and type, 1/cm.
    """
    return image / UNITS_PER_MU


def sinogram_to_network(sinogram: Image) -> Image:
    """Line integrals in network units: s = 255 clip(p, 0, 4) / 4.

    H. Wang et al., "InDuDoNet: An Interpretable Dual Domain Network for CT Metal Artifact Reduction", MICCAI 2021,
    whose public code scales sinograms so.

    Args:
        sinogram: any shape, line integrals.

    Returns:
        The same shape and type, 0 to 255.
    """
    return sinogram.clip(0.0, MAX_LINE_INTEGRAL) * UNITS_PER_LINE_INTEGRAL
