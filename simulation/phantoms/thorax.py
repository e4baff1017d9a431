"""The thorax phantom: lungs with vessels, heart, thoracic spine, ribs and sternum."""

import numpy as np

from simulation.phantoms.canvas import (
    AIR_HU,
    FAT_HU,
    MUSCLE_HU,
    Canvas,
    band,
    ellipse,
    offset,
    shifted,
    spline,
    wobbled,
)
from simulation.phantoms.parts import THORACIC, ribs, tree, trunk, vertebra, vessel


def draw_thorax(canvas: Canvas, rng: np.random.Generator, half_width_mm: float, fat_mm: float) -> float:
    """Draw the level of the heart's chambers."""
    half_mm = (half_width_mm, half_width_mm * rng.uniform(0.66, 0.74))
    wall = trunk(canvas, rng, half_mm, 0.6 * fat_mm)
    scale = half_width_mm / 152
    cage = offset(wall, -rng.uniform(14, 17) - 5 * (np.abs(wall[:, 0]) / half_mm[0]) ** 2)
    spine = (rng.uniform(-3, 3), 0.95 * half_mm[1] - 58 * scale)
    contrast_hu = float(rng.choice([0.0, 90.0, 180.0]))
    _chest_muscles(canvas, rng, half_mm, cage, spine)
    canvas.paint(cage, FAT_HU + 4, mottle=8)
    pleura = canvas.area(offset(cage, -1.2))
    _lungs(canvas, rng, half_mm, spine, pleura)
    _heart(canvas, rng, half_mm, spine, contrast_hu, pleura)
    aorta_hu = 42 + contrast_hu
    vessel(canvas, (spine[0] + 21 * scale, spine[1] - 14 * scale), tuple(rng.uniform(10.5, 13.5, 2)), aorta_hu)
    canvas.paint(wobbled(ellipse((spine[0] + 4, spine[1] - 24 * scale), (9, 6)), rng, 0.8), 42.0)
    canvas.paint(ellipse((spine[0] + 4, spine[1] - 24 * scale), (2.5, 1.2)), -700.0)
    vessel(canvas, (spine[0] - 9, spine[1] - 20 * scale), (3.2, 3.2), 40 + 0.6 * contrast_hu)
    vertebra(canvas, rng, spine, THORACIC, scale * 1.05)
    angles = np.array([-62.0, -40.0, -14.0, 10.0, 33.0, 54.0])
    ribs(canvas, rng, offset(cage, 4.2), np.concatenate([angles, 180 - angles]), 7.5)
    for side in (-1, 1):
        neck = np.array([(16, -3), (26, 6), (38, 14), (50, 14)]) * (side * scale, scale) + spine
        canvas.bone(band(neck, [8, 7, 7, 7]), 1.4, cortex_hu=850, marrow_hu=160)
    top = cage[:, 1].min()
    sternum = spline([(-17, -1), (0, -4), (17, -1), (15, 6), (0, 7.5), (-15, 6)]) * scale + (0, top - 2)
    canvas.bone(wobbled(sternum, rng, 0.6), 1.3, cortex_hu=620, marrow_hu=120)
    return float(wall[:, 1].max() + 0.6 * fat_mm)


def _chest_muscles(
    canvas: Canvas, rng: np.random.Generator, half_mm: tuple[float, float], cage: np.ndarray, spine: tuple[float, float]
) -> None:
    """Draw fat planes between the layers of the chest wall, paraspinal muscles, and the tips of the scapulae."""
    layer = offset(cage, 8.5)
    sides = canvas.area(offset(layer, 1.4)) & ~canvas.area(layer)
    canvas.paint(offset(layer, 2), -80.0, mottle=25, inside=sides & canvas.above(0.8 * half_mm[1]))
    for side in (-1, 1):
        muscle = ellipse((spine[0] + side * 25, spine[1] + 38), (19, 15), side * -10)
        canvas.paint(offset(muscle, 2.2), -85.0, mottle=15, inside=canvas.bodies())
        canvas.paint(wobbled(muscle, rng, 1.0), MUSCLE_HU, mottle=6, marbling=rng.uniform(0.05, 0.2))
        start = np.array([side * rng.uniform(0.56, 0.62), rng.uniform(0.74, 0.78)]) * half_mm
        blade = start + np.array([(0, 0), (side * 14, -9), (side * 25, -21), (side * 34, -36)])
        canvas.paint(band(shifted(blade, -side, -1), 19.0), MUSCLE_HU, mottle=6, inside=canvas.bodies())
        canvas.bone(band(blade, [8, 4.5, 4.5, 8]), 1.5, cortex_hu=850, marrow_hu=220)


def _lungs(
    canvas: Canvas,
    rng: np.random.Generator,
    half_mm: tuple[float, float],
    spine: tuple[float, float],
    pleura: np.ndarray,
) -> None:
    """Draw both lungs, denser at the back, with branching vessels from the hila and a fissure."""
    lung_hu = rng.uniform(-885, -830)
    for side in (-1, 1):
        knots = [
            (0.06, -0.9),
            (0.6, -1.2),
            (1.2, 0.0),
            (0.7, 1.0),
            (0.22, 0.92),
            (0.15, 0.62),
            (0.2, 0.36),
            (0.15, 0.1),
            (0.12, -0.4),
        ]
        lung = wobbled(spline(knots, half_mm) * (side, 1), rng, 2.0)
        canvas.paint(lung, lung_hu, mottle=16, grain=14, inside=pleura)
        for part, gain in ((0.25, 18), (0.5, 28)):
            canvas.paint(lung, lung_hu + gain, mottle=18, grain=15, inside=pleura & ~canvas.above(part * half_mm[1]))
        area = canvas.area(offset(lung, -3)) & pleura
        hilum = np.array([side * 0.24 * half_mm[0], 0.06 * half_mm[1]])
        for heading in np.linspace(-110, 110, 13) + rng.uniform(-9, 9, 13):
            turn = heading if side > 0 else 180 - heading
            strokes = tree(rng, hilum, turn, rng.uniform(24, 36), rng.uniform(3.2, 5.0))
            cut = [(path[: rng.integers(2, 7)], width) for path, width in strokes if rng.random() < 0.12 + 0.1 * width]
            canvas.strokes(cut, -60.0, inside=area, opacity=rng.uniform(0.5, 0.9))
        dots = [
            (np.array([p, p + rng.uniform(-1.5, 1.5, 2)]), rng.uniform(0.8, 2.2)) for p in _scatter(rng, half_mm, 130)
        ]
        canvas.strokes(dots, -250.0, inside=area, opacity=0.6)
        for shift in ((0.0, 0.0), (9.0, 8.0)):
            bronchus = shifted(hilum, side * (8 + shift[0]), shift[1])
            canvas.paint(ellipse(bronchus, (4.2, 4.2)), 20.0, inside=pleura)
            canvas.paint(ellipse(bronchus, (2.9, 2.9)), AIR_HU + 15, inside=pleura)
        fissure = np.array([(0.28, 0.05), (0.6, 0.1), (0.95, 0.0)]) * half_mm * (side, 1) + (0, rng.uniform(-8, 8))
        canvas.strokes([(band(fissure, 0.8)[:60], 0.8)], -600.0, inside=area, opacity=0.7)


def _scatter(rng: np.random.Generator, half_mm: tuple[float, float], count: int) -> np.ndarray:
    return rng.uniform(-0.9, 0.9, (count, 2)) * half_mm


def _heart(
    canvas: Canvas,
    rng: np.random.Generator,
    half_mm: tuple[float, float],
    spine: tuple[float, float],
    contrast_hu: float,
    pleura: np.ndarray,
) -> None:
    """Draw four chambers in myocardium, in pericardial fat; the apex to the patient's left."""
    scale = half_mm[0] / 152 * rng.uniform(0.94, 1.08)
    knots = np.array(
        [(-46, -8), (-38, -34), (-8, -48), (30, -44), (62, -22), (70, 2), (54, 20), (26, 33), (-4, 38), (-34, 26)]
    )
    centre = np.array([6.0, spine[1] - 58 * scale + rng.uniform(-4, 4)])
    outline = wobbled(spline(knots * scale), rng, 1.8) + centre
    canvas.paint(offset(outline, rng.uniform(4, 8)), FAT_HU + 5, mottle=10, inside=pleura)
    canvas.paint(outline, 48 + 0.35 * contrast_hu, mottle=5, inside=pleura)
    chambers = [
        ([(24, -24), (46, -20), (56, -4), (44, 10), (26, 8), (14, -8)], 1.0),
        ([(-10, 16), (12, 14), (24, 22), (6, 33), (-16, 30)], 1.0),
        ([(-16, -34), (8, -42), (30, -36), (14, -22), (0, -8), (-14, -14)], 0.75),
        ([(-42, -8), (-30, -22), (-18, -10), (-18, 8), (-32, 18), (-42, 6)], 0.75),
    ]
    for points, part in chambers:
        chamber = wobbled(spline(np.array(points) * scale), rng, 1.2) + centre
        canvas.paint(chamber, 42 + part * contrast_hu, mottle=5)
    groove = np.array([(-14, -16), (-8, -2), (-8, 12)]) * scale + centre
    canvas.paint(wobbled(band(groove, [5, 3, 6]), rng, 0.5), -70.0, mottle=15)
    canvas.paint(ellipse(groove[0] - (3, 2), (1.9, 1.9)), 45 + contrast_hu)
