"""How an image is measured: y = mask * gamma * Poisson(x / gamma), the inpainting of Robust Equivariant Imaging.

D. Chen, J. Tachella, M. E. Davies, "Robust equivariant imaging: a fully unsupervised framework for learning to image
from noisy and partial measurements", CVPR 2022 (arXiv 2111.12855).
"""

import numpy as np
import torch
from torch import Tensor


def random_mask(size: int, missing: float, rng: np.random.Generator) -> np.ndarray:
    """Return Float32["1 size size"]: 0 where a pixel is dropped in all channels, with the chance ``missing``, else 1.

    Args:
        size: side of the image in pixels.
        missing: chance of a pixel to be dropped.
        rng: draws them.
    """
    return (rng.random((1, size, size)) >= missing).astype(np.float32)


def measure(image: np.ndarray, mask: np.ndarray, gamma: float, rng: np.random.Generator) -> np.ndarray:
    """Return Y = mask * gamma * Poisson(x / gamma): of mean mask * x and variance mask * gamma * x.

    Args:
        image: x, Float["3 H W"], 1 is white.
        mask: Float["1 H W"].
        gamma: of the noise.
        rng: draws it.

    Returns:
        Float32["3 H W"]; bright pixels come out above 1, too.
    """
    counts = rng.poisson(image.astype(np.float64) / gamma)
    return (mask * (gamma * counts)).astype(np.float32)


def measure_again(image: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """Measure a network's answer, which may be negative and counts as black there; torch's generator draws.

    No gradient passes the draw, as in the public code.

    Args:
        image: Float["batch 3 H W"].
        mask: Float["batch 1 H W"].
        gamma: of the noise.
    """
    return mask * (gamma * torch.poisson(image.detach().clamp(min=0) / gamma))
