"""A sample: the arrays of a pair as the tensors that networks and losses see, and the units that they are in.

Networks see images and sinograms in network units, as the published MAR networks were trained: 255 for 1/cm.
"""

from collections.abc import Iterable
from typing import NamedTuple, TypeVar

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
    """Return attenuation in network units: x = 255 clip(mu, 0, 1).

    H. Wang et al., "DICDNet: Deep Interpretable Convolutional Dictionary Network for Metal Artifact Reduction in CT
    Images", IEEE TMI 2022, whose public code scales images so.

    Args:
        image_mu: any shape, 1/cm.

    Returns:
        The same shape and type, 0 to 255.
    """
    return image_mu.clip(0.0, MAX_MU_PER_CM) * UNITS_PER_MU


def to_mu(image: Image) -> Image:
    """Return attenuation of an image in network units: mu = x / 255, not clipped.

    Args:
        image: any shape, network units.

    Returns:
        The same shape and type, 1/cm.
    """
    return image / UNITS_PER_MU


def sinogram_to_network(sinogram: Image) -> Image:
    """Return line integrals in network units: s = 255 clip(p, 0, 4) / 4.

    H. Wang et al., "InDuDoNet: An Interpretable Dual Domain Network for CT Metal Artifact Reduction", MICCAI 2021,
    whose public code scales sinograms so.

    Args:
        sinogram: any shape, line integrals.

    Returns:
        The same shape and type, 0 to 255.
    """
    return sinogram.clip(0.0, MAX_LINE_INTEGRAL) * UNITS_PER_LINE_INTEGRAL


IMAGE = "image"
"""The metal-corrupted image, network units."""

LI = "li"
"""The image corrected by linear interpolation, network units."""

TARGET = "target"
"""The truth, network units."""

METAL_MASK = "metal_mask"
"""1.0 where metal is, 0.0 elsewhere."""

PRIOR = "prior"
"""The prior image of NMAR, network units."""

NMAR = "nmar"
"""The image corrected by NMAR, network units."""

HARDENING = "hardening_corrected"
"""The image after correction of the metal's beam hardening, network units."""

MA_SINOGRAM = "ma_sinogram"
"""The measured sinogram, network units."""

LI_SINOGRAM = "li_sinogram"
"""Its linear interpolation, network units."""

NMAR_SINOGRAM = "nmar_sinogram"
"""The sinogram corrected by NMAR, network units."""

METAL_TRACE = "metal_trace"
"""1.0 in the bins whose ray meets metal, 0.0 elsewhere."""

TARGET_SINOGRAM = "target_sinogram"
"""The projection of the truth, network units."""

IMAGES = (IMAGE, LI, TARGET, METAL_MASK, PRIOR, NMAR, HARDENING)
"""Names of all images, in the order in which a pair holds them."""

SINOGRAMS = (MA_SINOGRAM, LI_SINOGRAM, NMAR_SINOGRAM, METAL_TRACE, TARGET_SINOGRAM)
"""Names of all sinograms, in the order in which a pair holds them."""

KEYS = (IMAGE, LI, TARGET, METAL_MASK)
"""What a sample has at the least, in order."""

Sample = dict[str, torch.Tensor]


class Layout(NamedTuple):
    """The arrays of a pair.

    Attributes:
        images: names of the images.
        sinograms: names of the sinograms.
    """

    images: tuple[str, ...] = KEYS
    sinograms: tuple[str, ...] = ()

    @classmethod
    def of(cls, names: Iterable[str]) -> "Layout":
        """Return what holds these names, and `KEYS`."""
        wanted = {*KEYS, *names}
        return cls(tuple(n for n in IMAGES if n in wanted), tuple(n for n in SINOGRAMS if n in wanted))

    @property
    def without_truth(self) -> "Layout":
        """Return what remains where nobody knows the slice without metal."""
        images = tuple(name for name in self.images if name != TARGET)
        return Layout(images, tuple(name for name in self.sinograms if name != TARGET_SINOGRAM))


IMAGES_ONLY = Layout()


class PairArrays(NamedTuple):
    """A pair as float32, not to be written to.

    Attributes:
        images: Float["images rows columns"], in the order of the layout.
        sinograms: Float["sinograms views bins"], likewise.
    """

    images: np.ndarray
    sinograms: np.ndarray


def to_sample(arrays: PairArrays, layout: Layout) -> Sample:
    """Return a copy of a pair as tensors.

    Args:
        arrays: the pair.
        layout: its names.

    Returns:
        Each name -> Float["1 rows columns"] or Float["1 views bins"], float32.
    """
    sample: Sample = {}
    for names, stack in zip(layout, arrays, strict=True):
        tensor = torch.from_numpy(np.array(stack, np.float32, order="C"))
        sample |= {name: tensor[place : place + 1] for place, name in enumerate(names)}
    return sample


def generator(seed: int, *key: int) -> np.random.Generator:
    """Return the random generator of one purpose: the same whatever was drawn before, in whichever process.

    Args:
        seed: of the run.
        key: epoch, number within the epoch, purpose.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


ORDER, PAIR, VALIDATION_PAIR, CROP = range(4)
"""Purposes: third part of a random key, so that no two of them share a stream."""
