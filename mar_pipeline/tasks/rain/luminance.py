"""Scores of rain removal: PSNR and SSIM of the luminance of 8-bit images, as the field reports them."""

import numpy as np
from skimage.color import rgb2ycbcr

from mar_pipeline.tasks.metrics import gaussian_ssim, psnr
from simulation.errors import InputError

PEAK = 255.0

SMALLEST = 11
"""Side of an image that can be scored: that of the SSIM's window."""

STATES = (
    "Images: 8 bit, clipped to 0..255 and rounded. Scored is Y of Matlab's rgb2ycbcr (16..235, rounded) over all "
    "pixels. PSNR peak 255; SSIM with a Gaussian window of 11 x 11, sigma 1.5, where it fits."
)
"""Value range and metric, for the head of every table."""


def to_8bit(image: np.ndarray) -> np.ndarray:
    """Return grey levels as a file holds them: clipped and rounded.

    Args:
        image: numbers of any range, 0..255 meant.
    """
    return np.clip(np.rint(image), 0, PEAK).astype(np.uint8)


def luminance(image: np.ndarray) -> np.ndarray:
    """Return Y of Matlab's rgb2ycbcr: round(16 + (65.481 R + 128.553 G + 24.966 B) / 255).

    Args:
        image: UInt8["H W 3"].

    Returns:
        Float64["H W"], whole numbers from 16 to 235.
    """
    return np.rint(rgb2ycbcr(image)[..., 0])


def score(output: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return PSNR in dB, infinite for equal images, and SSIM.

    Args:
        output: Float["H W 3"], 0..255 meant, both sides at least 11.
        truth: the same shape.

    Raises:
        InputError: a side is smaller.
    """
    if min(truth.shape[:2]) < SMALLEST:
        raise InputError(
            f"SSIM: got an image of {truth.shape[0]} x {truth.shape[1]} pixels, expected {SMALLEST} or more a side; "
            "take larger images"
        )
    own, true = (luminance(to_8bit(image)) for image in (output, truth))
    return {"psnr": psnr(own, true, PEAK), "ssim": gaussian_ssim(own, true, PEAK)}
