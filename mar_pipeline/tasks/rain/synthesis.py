"""Synthetic rain: straight streaks of a common direction, added to a clean image."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.signal import fftconvolve


@dataclass(frozen=True)
class Rain:
    """A kind of rain: from each pair of numbers one is drawn, uniformly, for each layer.

    Args:
        density: share of the pixels in which a streak has its middle.
        length: of the streaks, in pixels.
        angle_deg: largest angle between streaks and the vertical, to either side.
        width: standard deviation of the Gaussian across a streak, in pixels.
        amplitude: brightness of the brightest streaks; 1 is white.
        layers: rain of different directions, one in front of the other.
    """

    density: tuple[float, float]
    length: tuple[float, float]
    angle_deg: float
    width: tuple[float, float]
    amplitude: tuple[float, float]
    layers: int


RAINS = {
    "light": Rain((0.002, 0.004), (15, 35), 20, (0.5, 0.9), (0.20, 0.36), layers=1),
    "heavy": Rain((0.004, 0.008), (20, 45), 35, (0.6, 1.4), (0.19, 0.36), layers=3),
}
"""Light rain is about as strong as that of Rain100L, heavy rain as that of Rain100H."""

_WEAKEST_STREAK = 0.5
"""Brightness of the weakest streaks over that of the brightest."""


def rain_layer(shape: tuple[int, int], rain: Rain, rng: np.random.Generator) -> np.ndarray:
    """Return the light of rain over an image: sparse seeds of brightness U[0.5, 1], each drawn out to a streak.

    Streaks reach in from beyond the border.

    Args:
        shape: rows and columns of the image.
        rain: its kind.
        rng: draws everything.

    Returns:
        Float32["H W"], 0 where no rain is; 1 is white.
    """
    total = np.zeros(shape)
    for _ in range(rain.layers):
        density, length = rng.uniform(*rain.density), rng.uniform(*rain.length)
        angle_deg = rng.uniform(-rain.angle_deg, rain.angle_deg)
        kernel = streak(length, angle_deg, rng.uniform(*rain.width))
        amplitude = rng.uniform(*rain.amplitude)
        field = np.array(shape) + kernel.shape - 1
        seeds = rng.uniform(_WEAKEST_STREAK, 1, field) * (rng.random(field) < density)
        total += amplitude * np.maximum(fftconvolve(seeds, kernel, mode="valid"), 0)  # the FFT rounds below 0
    return total.astype(np.float32)


def streak(length: float, angle_deg: float, width: float) -> np.ndarray:
    """Return a line with a Gaussian cross-section, 1 in its middle, that fades over the outer quarters of its length.

    The fading is a raised cosine. With ends cut off, rain of the same density and amplitude is 2 dB stronger.

    Args:
        length: of the line, in pixels.
        angle_deg: between line and vertical; positive leans to the right at the top.
        width: standard deviation of the cross-section in pixels.

    Returns:
        Float64["size size"] of odd size, the middle of the line in the middle.
    """
    half = math.ceil(length / 2 + 3 * width)
    rows, columns = np.mgrid[-half : half + 1, -half : half + 1]
    angle = math.radians(angle_deg)
    along = columns * math.sin(angle) - rows * math.cos(angle)
    across = columns * math.cos(angle) + rows * math.sin(angle)
    faded = np.clip(4 * np.abs(along) / length - 1, 0, 1)
    return np.exp(-(across**2) / (2 * width**2)) * np.cos(math.pi / 2 * faded) ** 2


def with_rain(clean: np.ndarray, rain: Rain, rng: np.random.Generator) -> np.ndarray:
    """Return a rainy image O = clip(B + R), R the same in all colours, in 8 bit as a file would hold it.

    Args:
        clean: the background B, UInt8["H W 3"].
        rain: its kind.
        rng: draws the rain.

    Returns:
        UInt8["H W 3"].
    """
    light = 255 * rain_layer(clean.shape[:2], rain, rng)
    return np.clip(np.rint(clean + light[..., None]), 0, 255).astype(np.uint8)
