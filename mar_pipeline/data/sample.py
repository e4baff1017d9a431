"""A sample: the arrays of a pair as the tensors that networks and losses see."""

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

KEYS = (IMAGE, LI, TARGET, METAL_MASK)
"""The names of a sample, in the order of a pair's planes."""

Sample = dict[str, torch.Tensor]


def to_sample(planes: np.ndarray) -> Sample:
    """A copy of a pair's planes as tensors.

    Args:
        planes: Float["4 rows columns"], in the order of `KEYS`.

    Returns:
        Each of `KEYS` -> Float["1 rows columns"], float32.
    """
    tensor = torch.from_numpy(np.array(planes, np.float32, order="C"))
    return {key: tensor[place : place + 1] for place, key in enumerate(KEYS)}


def generator(seed: int, *key: int) -> np.random.Generator:
    """The random generator of one purpose: the same whatever was drawn before, in whichever process.

    Args:
        seed: of the run.
        key: epoch, number within the epoch, purpose.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


ORDER, PAIR, VALIDATION_PAIR, CROP = range(4)
"""Purposes: third part of a random key, so that no two of them share a stream."""
