"""The head phantom: jaw, teeth, tongue, airway and upper neck."""

import numpy as np

from simulation.phantoms.canvas import (
    AIR_HU,
    FAT_HU,
    MUSCLE_HU,
    Canvas,
    band,
    ellipse,
    mirrored,
    offset,
    shifted,
    spline,
    wobbled,
)
from simulation.phantoms.parts import CERVICAL, vertebra, vessel

_OUTLINE = [
    (0, -1),
    (0.22, -0.98),
    (0.46, -0.88),
    (0.7, -0.68),
    (0.88, -0.4),
    (0.98, -0.05),
    (1, 0.25),
    (0.92, 0.58),
    (0.62, 0.88),
    (0.25, 0.99),
    (0, 0.98),
]

# Teeth of one side from the midline: width along the arch and depth across it, mm.
_TEETH = [(7.5, 6.5), (6.3, 6.3), (7.3, 7.8), (6.8, 8.6), (6.8, 8.8), (10.4, 10.4), (9.8, 10.0), (8.8, 9.2)]

# Paired soft tissue, mm on an average head, x outwards: centre, radii, angle, HU, mottle, marbling.
_SOFT = {
    "masseter": ((58, -20), (7.5, 21), 12, 60, 6, 0.03),
    "pterygoid": ((37, -10), (6, 15), -20, 58, 6, 0.03),
    "parotid": ((57, 14), (12, 15), -10, 12, 12, 0.35),
    "sternomastoid": ((56, 42), (8, 17), -18, 58, 6, 0.05),
    "longus": ((9, 14), (8, 4.2), 10, 55, 5, 0.02),
    "scalene": ((31, 37), (8, 10), 15, 55, 6, 0.08),
    "inferior oblique": ((20, 55), (14, 7), 25, 55, 6, 0.1),
    "semispinalis": ((17, 70), (14, 9), -12, 55, 7, 0.12),
    "splenius": ((36, 64), (9, 16), 42, 55, 7, 0.1),
    "trapezius": ((24, 84), (20, 4), -22, 55, 7, 0.1),
}


def draw_head(canvas: Canvas, rng: np.random.Generator, half_width_mm: float, fat_mm: float) -> float:
    """Draw the level of the teeth and return the lowest y in mm."""
    half_mm = (half_width_mm, half_width_mm * rng.uniform(1.2, 1.3))
    scale = (half_mm[0] / 76, half_mm[1] / 98)
    outline = shifted(wobbled(mirrored(_OUTLINE, half_mm), rng, 1.0, modes=4), 0, fat_mm)
    canvas.body(outline)
    _soft_tissue(canvas, rng, scale, canvas.area(offset(outline, -4.0)))
    canvas.paint(
        wobbled(
            spline([(0, -66), (20, -52), (24, -34), (16, -16), (0, -12), (-16, -16), (-24, -34), (-20, -52)], scale),
            rng,
            1.0,
        ),
        58.0,
        mottle=7,
        marbling=0.04,
    )
    canvas.paint(band(np.array([(0, -60), (0, -40), (0, -20)]) * scale, 1.6), -30.0, mottle=20)
    airway = wobbled(spline([(-13, 0), (-6, -6), (0, -5), (6, -6), (13, 0), (8, 5), (0, 6), (-8, 5)], scale), rng, 0.8)
    airway = airway * (rng.uniform(0.8, 1.3), rng.uniform(0.8, 1.4)) - (0, 2)
    canvas.paint(offset(airway, 3.5), 50.0, mottle=5)
    canvas.paint(airway, AIR_HU)
    _jaw(canvas, rng, scale)
    for side in (-1, 1):
        contrast = rng.uniform(45, 230)
        vessel(canvas, (side * 27 * scale[0], 15 * scale[1]), (3.3, 3.3), contrast)
        vessel(canvas, (side * 34 * scale[0], 20 * scale[1]), tuple(rng.uniform(4, 6.5, 2)), 0.7 * contrast + 15)
        vessel(canvas, (side * 35 * scale[0], 4 * scale[1]), (2.2, 2.2), contrast)
    vertebra(canvas, rng, (rng.uniform(-1.5, 1.5), 27 * scale[1]), CERVICAL, 0.95 * scale[0])
    return float(half_mm[1])


def _soft_tissue(canvas: Canvas, rng: np.random.Generator, scale: tuple[float, float], skin: np.ndarray) -> None:
    """Draw muscles of chewing and of the neck, parotids, the lips and cheeks around the dental arch."""
    cheek = np.array([(-44, -38), (-36, -66), (-20, -86), (0, -92), (20, -86), (36, -66), (44, -38)]) * scale
    canvas.paint(band(cheek, [3, 4, 8, 10, 8, 4, 3]), 52.0, mottle=8, marbling=0.08)
    deep = spline([(-30, 2), (0, -4), (30, 2), (34, 26), (20, 44), (0, 40), (-20, 44), (-34, 26)], scale)
    canvas.paint(wobbled(deep, rng, 1.0), 30.0, mottle=30, marbling=0.2)
    for side in (-1, 1):
        for centre, radii, angle, hu, mottle, marbling in _SOFT.values():
            shape = ellipse(centre, radii, angle) * (side * scale[0], scale[1])
            shape = wobbled(shape, rng, 0.07 * min(radii))
            canvas.paint(offset(shape, 1.0), FAT_HU, mottle=8, inside=skin)
            canvas.paint(shape, hu, mottle=mottle, marbling=marbling, inside=skin)
    ligament = np.array([(0, 62), (0, 76), (0, 92)]) * scale
    canvas.paint(band(ligament, 1.8), MUSCLE_HU)


def _arch(scale: tuple[float, float]) -> np.ndarray:
    """Return the centre line of the right half (x > 0) of the dental arch from the midline backwards: (200, 2) mm."""
    turn = np.linspace(0, 1, 200)
    x = 27.5 * np.sin(turn * np.pi / 2) ** 0.85
    y = -82 + 55 * turn**1.75
    return np.stack([x, y], 1) * scale


def _jaw(canvas: Canvas, rng: np.random.Generator, scale: tuple[float, float]) -> None:
    """Draw alveolar bone (at the lower level), rami and teeth with enamel, dentine and pulp; some teeth are missing."""
    half = _arch(scale)
    whole = np.vstack([(half * (-1, 1))[::-1], half[1:]])
    in_bone = rng.random() < 0.5
    if in_bone:
        canvas.bone(wobbled(band(whole[::14], 13.5), rng, 0.5), 1.6, cortex_hu=1200, marrow_hu=330)
    else:
        canvas.paint(band(whole[::14], 13.0), 45.0, mottle=10)
    for side in (-1, 1):
        ramus = np.array([(43, -28), (47, -14), (50, 2)]) * (side * scale[0], scale[1])
        canvas.bone(wobbled(band(ramus, [8, 9, 7]), rng, 0.5), 2.2, cortex_hu=1250, marrow_hu=350)
        walk = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(half, axis=0), axis=1))])
        position = 0.4
        for width, depth in _TEETH:
            middle = int(np.searchsorted(walk, position + width / 2))
            position += width + 0.35
            if middle >= len(half) - 2 or rng.random() < 0.07:
                continue
            _tooth(canvas, rng, half[middle - 1 : middle + 2] * (side, 1), (width, depth), in_bone)


def _tooth(
    canvas: Canvas, rng: np.random.Generator, arch: np.ndarray, size_mm: tuple[float, float], in_bone: bool
) -> None:
    """Draw one tooth across the arch: an enamelled crown, or its root when it stands in bone."""
    along = arch[2] - arch[0]
    angle = float(np.degrees(np.arctan2(along[1], along[0])))
    shrink = 0.72 if in_bone else 0.96
    half = np.array(size_mm) / 2 * shrink * rng.uniform(0.94, 1.04, 2)
    corners = (
        np.array([(-1, -0.55), (-0.6, -1), (0.6, -1), (1, -0.55), (1, 0.55), (0.6, 1), (-0.6, 1), (-1, 0.55)]) * half
    )
    outline = wobbled(spline(corners) @ _turn(angle), rng, 0.18) + arch[1]
    if in_bone:
        canvas.paint(offset(outline, 0.5), 250.0)
        canvas.paint(outline, rng.uniform(1400, 1750), grain=40)
    else:
        canvas.paint(outline, rng.uniform(2150, 2480), grain=25)
        canvas.paint(offset(outline, -1.3), rng.uniform(1500, 1800), grain=30)
    canvas.paint(ellipse(arch[1], (0.9, 0.9)), 300.0)


def _turn(angle_deg: float) -> np.ndarray:
    cosine, sine = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    return np.array([[cosine, sine], [-sine, cosine]])
