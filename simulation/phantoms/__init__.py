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
_PIXEL_MM = {"abdomen": (0.72, 0.95), "pelvis": (0.76, 0.95), "thorax": (0.72, 0.95), "head": (0.45, 0.55)}
_REFERENCE_SIZE = 512
_MIN_SIZE = 64


def phantom(region: str, rng: np.random.Generator, size: int = 512) -> tuple[np.ndarray, float]:
    """One random slice of a region as a CT scanner shows it: row 0 anterior, column 0 patient right.

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
    half_width_mm, draw = {
        "abdomen": (rng.uniform(128, 150), draw_abdomen),
        "pelvis": (rng.uniform(160, 184), draw_pelvis),
        "thorax": (rng.uniform(142, 165), draw_thorax),
        "head": (rng.uniform(74, 84), draw_head),
    }[region]
    fat_mm = rng.uniform(8, 30) if region in ("abdomen", "thorax") else 0.0
    low, high = _PIXEL_MM[region]
    wanted_mm = 2 * (half_width_mm + fat_mm) * rng.uniform(1.1, 1.25) / _REFERENCE_SIZE
    pixel_mm = float(np.clip(wanted_mm, low, high)) * _REFERENCE_SIZE / size
    shift_mm = (rng.uniform(-6, 6), rng.uniform(-14, 2))
    canvas = Canvas(size, pixel_mm, rng, tilt_deg=rng.normal(0, 1.8), shift_mm=shift_mm)
    lowest_mm = draw(canvas, rng, half_width_mm, fat_mm)
    if region != "head" and rng.random() < 0.7:
        table(canvas, rng, lowest_mm, half_width_mm + fat_mm)
    return canvas.image(noise_hu=rng.uniform(9, 15)), pixel_mm
