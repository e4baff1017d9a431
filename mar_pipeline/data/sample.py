"""A sample: the arrays of a pair as the tensors that networks and losses see."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch

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
        """What holds these names, and `KEYS`."""
        wanted = {*KEYS, *names}
        return cls(tuple(n for n in IMAGES if n in wanted), tuple(n for n in SINOGRAMS if n in wanted))

    @property
    def without_truth(self) -> "Layout":
        """What remains where nobody knows the slice without metal."""
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
    """A copy of a pair as tensors.

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
    """The random generator of one purpose: the same whatever was drawn before, in whichever process.

    Args:
        seed: of the run.
        key: epoch, number within the epoch, purpose.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


ORDER, PAIR, VALIDATION_PAIR, CROP = range(4)
"""Purposes: third part of a random key, so that no two of them share a stream."""
