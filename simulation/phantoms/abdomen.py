"""The abdomen phantom: kidneys, liver, spleen, gut, lumbar spine."""

import numpy as np

from simulation.phantoms.canvas import FAT_HU, MUSCLE_HU, Canvas, band, ellipse, offset, spline, wobbled
from simulation.phantoms.parts import LUMBAR, back_muscles, gut, ribs, tree, trunk, vertebra, vessel


def draw_abdomen(canvas: Canvas, rng: np.random.Generator, half_width_mm: float, fat_mm: float) -> float:
    """Draw the level of the kidneys and the lower liver."""
    half_mm = (half_width_mm, half_width_mm * rng.uniform(0.68, 0.78))
    wall = trunk(canvas, rng, half_mm, fat_mm)
    scale = half_width_mm / 138
    contrast_hu = float(rng.choice([0.0, 60.0, 110.0]))
    for depth in (3.6, 7.0):
        sides = canvas.area(offset(wall, -depth + 0.5)) & ~canvas.area(offset(wall, -depth - 0.5))
        sides &= canvas.above(0.35 * half_mm[1]) & ~canvas.above(-0.6 * half_mm[1])
        canvas.paint(wall, -45.0, mottle=25, inside=sides)
    cavity = offset(wall, -rng.uniform(9, 12))
    canvas.paint(cavity, FAT_HU - 3, mottle=8)
    for side in (-1, 1):
        rectus = ellipse((side * 0.23 * half_mm[0], -0.9 * half_mm[1]), (0.21 * half_mm[0], 7 * scale), side * 8)
        canvas.paint(wobbled(rectus, rng, 0.8), MUSCLE_HU, mottle=6, marbling=0.05)
    spine = (rng.uniform(-3, 3), 0.93 * half_mm[1] - 64 * scale)
    inner = canvas.area(offset(cavity, -1.5))
    back_muscles(canvas, rng, spine, scale)
    _bowel(canvas, rng, half_mm, inner)
    _liver(canvas, rng, half_mm, contrast_hu, inner)
    _spleen_pancreas_stomach(canvas, rng, half_mm, contrast_hu, inner)
    for side in (-1, 1):
        _kidney(
            canvas,
            rng,
            (spine[0] + side * rng.uniform(62, 70) * scale, spine[1] - rng.uniform(2, 12)),
            side,
            contrast_hu,
        )
    aorta_hu = 42 + contrast_hu * rng.uniform(1.4, 2.2)
    vessel(canvas, (spine[0] + 9 * scale, spine[1] - 30 * scale), tuple(rng.uniform(8.5, 11, 2) * scale), aorta_hu)
    vessel(canvas, (spine[0] - 17 * scale, spine[1] - 27 * scale), (12.5 * scale, 8.5 * scale), 40 + 0.8 * contrast_hu)
    vessel(canvas, (spine[0] + 6, spine[1] - 52 * scale), (4.0, 4.0), aorta_hu)
    vessel(canvas, (spine[0] - 7, spine[1] - 53 * scale), (6.0, 5.5), 42 + contrast_hu)
    vertebra(canvas, rng, spine, LUMBAR, scale)
    angles = np.array([6.0, 26.0, 46.0])
    ribs(canvas, rng, offset(wall, -5.5), np.concatenate([angles, 180 - angles]), 6.5)
    return float(wall[:, 1].max() + fat_mm)


def _liver(
    canvas: Canvas, rng: np.random.Generator, half_mm: tuple[float, float], contrast_hu: float, inner: np.ndarray
) -> None:
    """Draw liver with vessels, and gallbladder."""
    liver_hu, shrink = 58 + 0.45 * contrast_hu, rng.uniform(0.85, 1.0)
    knots = [(-1, -0.1), (-0.9, -0.5), (-0.6, -0.8), (-0.22, -0.84), (0.06, -0.76), (0.13, -0.62), (-0.02, -0.5)]
    knots += [
        (-0.18, -0.38),
        (-0.25, -0.2),
        (-0.32, -0.08),
        (-0.46, 0.04),
        (-0.56, 0.16),
        (-0.62, 0.34),
        (-0.8, 0.46),
        (-0.95, 0.3),
    ]
    liver = np.array(knots) * half_mm
    liver[:, 0] = np.where(liver[:, 0] > -0.5 * half_mm[0], liver[:, 0] * shrink, liver[:, 0])
    outline = wobbled(spline(liver), rng, 2.0)
    canvas.paint(offset(outline, 2.0), FAT_HU, mottle=8, inside=inner)
    canvas.paint(outline, liver_hu, mottle=4, grain=2, inside=inner)
    area = canvas.area(offset(outline, -3)) & inner
    vessels = []
    for heading in rng.uniform(150, 260, 4):
        root = np.array([-0.34, -0.28]) * half_mm + rng.uniform(-8, 8, 2)
        vessels += tree(rng, root, heading, 30.0, rng.uniform(3, 4.5))
    canvas.strokes(vessels, liver_hu + (25 if contrast_hu else -18), inside=area, opacity=0.75)
    bile = ellipse(np.array([-0.36, -0.3]) * half_mm, rng.uniform(10, 17, 2), rng.uniform(0, 90))
    canvas.paint(wobbled(bile, rng, 0.8), 55.0)
    canvas.paint(wobbled(offset(bile, -1.8), rng, 0.5), 6.0)


def _spleen_pancreas_stomach(
    canvas: Canvas, rng: np.random.Generator, half_mm: tuple[float, float], contrast_hu: float, inner: np.ndarray
) -> None:
    """Draw what lies on the patient's left."""
    spleen = [
        (0.78, -0.2),
        (0.97, -0.02),
        (0.92, 0.34),
        (0.76, 0.5),
        (0.66, 0.46),
        (0.7, 0.34),
        (0.75, 0.2),
        (0.72, 0.06),
    ]
    outline = wobbled(spline(spleen, half_mm), rng, 1.8)
    canvas.paint(outline, 52 + 0.65 * contrast_hu, mottle=4, inside=inner)
    path = np.array([(-0.2, -0.02), (-0.05, -0.2), (0.18, -0.22), (0.42, -0.1), (0.58, -0.02)]) * half_mm
    pancreas = wobbled(band(path, [26, 17, 15, 15, 9]), rng, 1.5, modes=24)
    canvas.paint(pancreas, 42 + 0.4 * contrast_hu, mottle=8, marbling=0.2, inside=inner)
    belly = [(0.2, -0.68), (0.5, -0.72), (0.66, -0.5), (0.64, -0.3), (0.5, -0.22), (0.32, -0.36), (0.16, -0.48)]
    content = str(rng.choice(["level", "level", "gas"]))
    gut(canvas, rng, wobbled(spline(belly, half_mm), rng, 2.5), content, inner, wall_mm=4.0)


def _kidney(
    canvas: Canvas, rng: np.random.Generator, centre: tuple[float, float], side: int, contrast_hu: float
) -> None:
    """Draw a kidney in its fat, hilum towards the spine: cortex, medulla, sinus fat and pelvis."""
    knots = np.array(
        [(2, -27), (17, -20), (24, 0), (17, 22), (2, 28), (-13, 22), (-14, 9), (-5, 1), (-9, -9), (-13, -20)]
    )
    bean = spline(knots * rng.uniform(0.92, 1.12)) * (side, 1) + centre
    outline = wobbled(bean, rng, 1.0)
    canvas.paint(offset(outline, 6.0), FAT_HU - 5, mottle=6)
    canvas.paint(outline, 36 + 1.35 * contrast_hu, mottle=4)
    sinus = spline([(-10, -6), (2, -13), (9, -3), (8, 8), (0, 12), (-9, 8)]) * (side, 1) + centre
    if contrast_hu:
        for angle in np.linspace(-150, 150, 7) + rng.uniform(-8, 8):
            spot = sinus.mean(0) + np.array([np.cos(np.radians(angle)) * 13 * side, np.sin(np.radians(angle)) * 18])
            pyramid = wobbled(ellipse(spot, (4.2, 3.6)), rng, 0.5)
            canvas.paint(pyramid, 36 + 0.8 * contrast_hu, mottle=4, inside=canvas.area(offset(outline, -3)))
    canvas.paint(wobbled(sinus, rng, 1.3), -75.0, mottle=30)
    canvas.strokes(tree(rng, sinus.mean(0) - (side * 16, 0), 0 if side > 0 else 180, 13.0, 3.2), 35 + 0.6 * contrast_hu)


def _bowel(canvas: Canvas, rng: np.random.Generator, half_mm: tuple[float, float], inner: np.ndarray) -> None:
    """Draw mesenteric vessels, small-bowel loops, and colon with stool and gas."""
    for _ in range(5):
        root = np.array([rng.uniform(-0.1, 0.35), rng.uniform(-0.35, 0.1)]) * half_mm
        canvas.strokes(tree(rng, root, rng.uniform(180, 360), 22.0, 2.4), 45.0, inside=inner)
    for _ in range(rng.integers(9, 15)):
        centre = np.array([rng.uniform(-0.35, 0.62), rng.uniform(-0.66, -0.02)]) * half_mm
        path = centre + np.cumsum(rng.normal(0, 9, (3, 2)), axis=0)
        loop = wobbled(band(path, rng.uniform(16, 23)), rng, 0.8)
        canvas.paint(offset(loop, 1.2), FAT_HU, mottle=8, inside=inner)
        gut(canvas, rng, loop, str(rng.choice(["fluid", "fluid", "fluid", "level"])), inner)
    places = [(-0.3, -0.72), (-0.02, -0.78), (0.82, -0.3), (0.8, 0.1), (0.74, -0.52)]
    for place in places:
        centre = np.array(place) * half_mm + rng.uniform(-5, 5, 2)
        colon = wobbled(ellipse(centre, rng.uniform(14, 21, 2), rng.uniform(0, 90)), rng, 1.8)
        gut(canvas, rng, colon, str(rng.choice(["stool", "stool", "level", "gas"])), inner)
