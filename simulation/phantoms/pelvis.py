"""The pelvis phantom: hips in their sockets, bladder, rectum, gluteal muscles."""

import numpy as np

from simulation.phantoms.canvas import (
    FAT_HU,
    MUSCLE_HU,
    Canvas,
    band,
    ellipse,
    mirrored,
    offset,
    shifted,
    spline,
    turned,
    wobbled,
)
from simulation.phantoms.parts import gut, vessel

_OUTLINE = [
    (0, -0.94),
    (0.3, -0.97),
    (0.62, -0.86),
    (0.9, -0.5),
    (1, 0.0),
    (0.93, 0.45),
    (0.68, 0.82),
    (0.32, 0.98),
    (0.08, 0.97),
    (0, 0.9),
]

# Muscles of one side as ellipses, mm from the head of the femur, x outwards: centre, radii, angle, marbling.
_MUSCLES = {
    "iliopsoas": ((-4, -50), (22, 13), -12, 0.04),
    "sartorius": ((24, -72), (13, 5), 18, 0.06),
    "rectus femoris": ((32, -56), (10, 8), 10, 0.06),
    "tensor": ((56, -46), (7, 17), -22, 0.15),
    "gluteus medius": ((52, -12), (10, 24), -8, 0.12),
    "gluteus minimus": ((36, -22), (8, 16), -14, 0.15),
    "pectineus": ((-40, -42), (13, 7), -20, 0.05),
}


def draw_pelvis(canvas: Canvas, rng: np.random.Generator, half_width_mm: float, fat_mm: float) -> float:
    """Draw the level of the femoral heads, or lower with necks and pubic rami, and return the lowest y in mm."""
    half_mm = (half_width_mm, half_width_mm * rng.uniform(0.64, 0.71))
    scale = half_width_mm / 176 * rng.uniform(0.96, 1.04)
    canvas.body(shifted(wobbled(mirrored(_OUTLINE, half_mm), rng, 1.5, modes=5), 0, fat_mm))
    low = rng.random() < 0.5
    hip_y = rng.uniform(-8, 0)
    marbling = rng.uniform(0.0, 0.12)
    hips = {side: np.array([side * rng.uniform(88, 92) * scale, hip_y + rng.normal(0, 1.5)]) for side in (-1, 1)}
    floor = spline([(-52, -40), (0, -52), (52, -40), (50, 25), (28, 62), (0, 70), (-28, 62), (-50, 25)]) * scale
    canvas.paint(shifted(floor, 0, hip_y), FAT_HU, mottle=9)
    for side, hip in hips.items():
        _hip_muscles(canvas, rng, hip, side, scale, marbling)
    _organs(canvas, rng, hip_y, scale, half_mm)
    for side, hip in hips.items():
        _socket(canvas, rng, hip, side, scale, low)
        _femur(canvas, rng, hip, side, scale, low)
        vessel(canvas, tuple(hip + np.array([-side * 27, -66]) * scale), (4.6, 4.6), rng.uniform(45, 180))
        vessel(canvas, tuple(hip + np.array([-side * 39, -62]) * scale), (6.5, 5.5), rng.uniform(40, 120))
    coccyx = np.array([0, hip_y + 68 * scale])
    sacrum = (
        spline([(-13, 2), (-7, -5), (0, -6.5), (7, -5), (13, 2), (6, 6), (0, 7), (-6, 6)])
        * scale
        * rng.uniform(0.9, 1.5)
    )
    canvas.bone(wobbled(sacrum, rng, 0.6) + coccyx, 1.4, cortex_hu=650, marrow_hu=140)
    return float(half_mm[1])


def _hip_muscles(
    canvas: Canvas, rng: np.random.Generator, hip: np.ndarray, side: int, scale: float, marbling: float
) -> None:
    """Draw gluteal, flexor and rotator muscles of one side, painted over fat."""

    def at(points: np.ndarray) -> np.ndarray:
        return points * (side * scale, scale) + hip

    maximus = [
        (66, 6),
        (71, 26),
        (60, 52),
        (30, 76),
        (-14, 92),
        (-56, 92),
        (-78, 78),
        (-74, 68),
        (-44, 66),
        (-4, 62),
        (30, 50),
        (52, 30),
    ]
    canvas.paint(wobbled(at(spline(maximus)), rng, 1.5), MUSCLE_HU - 4, mottle=7, marbling=0.08 + marbling)
    for _ in range(5):
        start = np.array([rng.uniform(-50, 40), rng.uniform(64, 78)])
        septum = np.array([start, shifted(start, 14, -4), shifted(start, 26, -12)])
        canvas.paint(at(band(septum, [0.8, 1.8, 0.8])), -70.0, mottle=20)
    rotators = band(np.array([(-46, 40), (-14, 52), (18, 50), (44, 38)]), [9, 13, 12, 7])
    canvas.paint(wobbled(at(rotators), rng, 0.8), MUSCLE_HU, mottle=6, marbling=0.1)
    internus = band(np.array([(-40, -30), (-46, -4), (-47, 24), (-40, 44)]), [6, 13, 14, 9])
    canvas.paint(wobbled(at(internus), rng, 0.8), MUSCLE_HU, mottle=6, marbling=0.03)
    for centre, radii, angle, streaks in _MUSCLES.values():
        shape = spline(turned(ellipse((0, 0), radii), angle)[::16]) + centre
        canvas.paint(wobbled(at(shape), rng, 0.06 * min(radii)), MUSCLE_HU, mottle=6, marbling=streaks + marbling / 2)
    capsule = at(ellipse((8, -2), (34, 32)))
    canvas.paint(wobbled(capsule, rng, 1.0), 45.0, mottle=8, marbling=0.06)


def _socket(canvas: Canvas, rng: np.random.Generator, hip: np.ndarray, side: int, scale: float, low: bool) -> None:
    """Draw the acetabulum with both columns around the joint space; the pubic ramus at the lower level."""

    def at(points: np.ndarray) -> np.ndarray:
        return points * (side * scale, scale) + hip

    knots = [
        (16, -27),
        (6, -36),
        (-10, -42),
        (-28, -38),
        (-37, -24),
        (-36, -4),
        (-38, 16),
        (-40, 34),
        (-30, 46),
        (-10, 44),
        (12, 36),
        (20, 25),
        (4, 4),
    ]
    outlines = [at(wobbled(spline(knots), rng, 0.8))]
    if low:
        end = 3 - hip[0] * side / scale
        ramus = np.array([(-22, -36), (-44, -44), (0.7 * end - 8, -50), (end, -50)])
        outlines.append(at(wobbled(band(ramus, [16, 11, 13, 17]), rng, 0.5)))
    joint = at(ellipse((1, 0), (27.5, 27.5)))
    canvas.bone(outlines, 2.0, holes=[joint], cortex_hu=rng.uniform(850, 1050), marrow_hu=rng.uniform(180, 280))
    canvas.paint(at(ellipse((1, 0), (27.0, 27.0))), 70.0, mottle=8)


def _femur(canvas: Canvas, rng: np.random.Generator, hip: np.ndarray, side: int, scale: float, low: bool) -> None:
    """Draw the head of the femur, at the lower level with neck and greater trochanter, else with its tip."""

    def at(points: np.ndarray) -> np.ndarray:
        return points * (side * scale, scale) + hip

    head = at(wobbled(ellipse((0, 0), (24, 24)), rng, 0.35))
    trochanter = at(wobbled(ellipse((55, 16), (13, 20) if low else (9, 14), 12), rng, 1.0))
    dense = rng.uniform(250, 380)
    if low:
        neck = at(band(np.array([(2, 0), (20, 3), (36, 8), (56, 15)]), [40, 32, 30, 26]))
        canvas.bone([head, wobbled(neck, rng, 0.6), trochanter], 1.7, cortex_hu=1000, marrow_hu=dense * 0.6)
        canvas.paint(offset(head, -3.0), dense, mottle=28, grain=38)
    else:
        canvas.bone(head, 1.5, cortex_hu=900, marrow_hu=dense)
        canvas.bone(trochanter, 1.4, cortex_hu=800, marrow_hu=120)
    for bend in (-7.0, 0.0, 7.0):
        streak = band(np.array([(-16, bend - 4), (0, bend), (16, bend + 3)]), [1.5, 5, 1.5])
        canvas.paint(at(streak), dense * 1.35, mottle=25, grain=40)


def _organs(canvas: Canvas, rng: np.random.Generator, hip_y: float, scale: float, half_mm: tuple[float, float]) -> None:
    """Draw bladder, prostate or uterus, rectum, the anterior wall, a few bowel loops."""
    for side in (-1, 1):
        rectus = spline([(3, -5), (22, -7), (40, -1), (38, 5), (20, 4), (3, 4)]) * (side * scale, scale)
        canvas.paint(
            shifted(wobbled(rectus, rng, 0.6), 0, -0.97 * half_mm[1] + rng.uniform(18, 21)),
            MUSCLE_HU,
            mottle=6,
            marbling=0.08,
        )
        levator = np.array([(40, 20), (32, 40), (14, 58)]) * (side * scale, scale) + (0, hip_y)
        canvas.paint(band(levator, [3, 5, 4]), MUSCLE_HU, mottle=6)
    for _ in range(rng.integers(0, 4)):
        centre = np.array([rng.uniform(-28, 28), hip_y - rng.uniform(52, 60)])
        loop = wobbled(ellipse(centre, rng.uniform(8, 12, 2), rng.uniform(0, 90)), rng, 1.0)
        gut(canvas, rng, loop, str(rng.choice(["fluid", "stool", "level"])))
    wide, tall = rng.uniform(28, 38) * scale, rng.uniform(19, 28) * scale
    bladder = spline(
        [(-1, -0.1), (-0.6, -0.85), (0, -0.95), (0.6, -0.85), (1, -0.1), (0.62, 0.8), (0, 0.9), (-0.62, 0.8)],
        (wide, tall),
    )
    bladder = shifted(wobbled(bladder, rng, 1.2), rng.uniform(-3, 3), hip_y - 24)
    canvas.paint(bladder, 40.0, mottle=5)
    canvas.paint(offset(bladder, -rng.uniform(2.5, 4)), rng.uniform(2, 12), mottle=2)
    gland = wobbled(ellipse((0, hip_y + 15 * scale), (rng.uniform(20, 27), rng.uniform(10, 14))), rng, 1.5)
    canvas.paint(gland, rng.uniform(42, 75), mottle=9)
    rectum = wobbled(ellipse((rng.uniform(-4, 4), hip_y + 42 * scale), rng.uniform(15, 20, 2)), rng, 1.4)
    gut(canvas, rng, rectum, str(rng.choice(["gas", "level", "stool", "level"])), wall_mm=3.5)
