"""Embedded anatomical CT slices: random, textured, in real sizes; the data source that needs no files."""

import numpy as np

from simulation.errors import UsageError
from simulation.phantoms.abdomen import draw_abdomen
from simulation.phantoms.canvas import Canvas
from simulation.phantoms.head import draw_head
from simulation.phantoms.parts import table
from simulation.phantoms.pelvis import draw_pelvis
from simulation.phantoms.thorax import draw_thorax

REGIONS = ("abdomen", "pelvis", "thorax", "head")
# What draws a region; half its width and the side of a pixel of a 512 image in mm, both from .. to.
_DRAWN = {
    "abdomen": (draw_abdomen, (128, 150), (0.72, 0.88)),
    "pelvis": (draw_pelvis, (160, 184), (0.76, 0.9)),
    "thorax": (draw_thorax, (142, 165), (0.72, 0.88)),
    "head": (draw_head, (74, 84), (0.45, 0.55)),
}
_MARGIN = 1.06
_REFERENCE_SIZE = 512
_MIN_SIZE = 64


def phantom(region: str, rng: np.random.Generator, size: int = 512) -> tuple[np.ndarray, float]:
    """Return one random slice of a region as a CT scanner shows it: row 0 anterior, column 0 patient right.

    Args:
        region: one of `REGIONS`.
        rng: source of everything random; the same state gives the same bytes.
        size: rows and columns; the field of view stays that of 512.

    Returns:
        hu: float32 (size, size), -1000 in air.
        pixel_mm: side of a pixel.

    Raises:
        UsageError: if the region is unknown or the size below 64.
    """
    if region not in REGIONS:
        raise UsageError(f"unknown phantom region {region!r}; expected one of {', '.join(REGIONS)}")
    if size < _MIN_SIZE:
        raise UsageError(f"phantom size {size} is too small to show anatomy; expected at least {_MIN_SIZE} pixels")
    draw, half_width_range_mm, pixel_range_mm = _DRAWN[region]
    half_width_mm = rng.uniform(*half_width_range_mm)
    fat_mm = rng.uniform(8, 30) if region in ("abdomen", "thorax") else 0.0
    needed_mm = 2 * (half_width_mm + fat_mm) * _MARGIN / _REFERENCE_SIZE
    pixel_mm = max(rng.uniform(*pixel_range_mm), needed_mm) * _REFERENCE_SIZE / size
    shift_mm = (rng.uniform(-6, 6), rng.uniform(-14, 2))
    canvas = Canvas(size, pixel_mm, rng, tilt_deg=rng.normal(0, 1.8), shift_mm=shift_mm)
    lowest_mm = draw(canvas, rng, half_width_mm, fat_mm)
    if region != "head" and rng.random() < 0.7:
        table(canvas, rng, lowest_mm, half_width_mm + fat_mm)
    return canvas.image(noise_hu=rng.uniform(9, 15)), pixel_mm
