"""Parts that several phantom regions share: vertebrae, ribs, gut, vessels, the muscles of the back, the table."""

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
    turned,
    wobbled,
)

_TRUNK = [
    (0, -1),
    (0.4, -0.95),
    (0.78, -0.68),
    (0.98, -0.15),
    (1, 0.2),
    (0.85, 0.62),
    (0.5, 0.93),
    (0.15, 0.97),
    (0, 0.94),
]

# Right halves of outlines around the middle of the vertebral body, mm; mirrored on use.
Outline = list[tuple[float, float]]
LUMBAR: dict[str, Outline] = {
    "body": [(0, -17), (12, -16.5), (21, -9), (22.5, 1), (18, 12), (8, 14.5), (0, 13.5)],
    "pedicle": [(9, 8), (17, 7), (20, 18), (17, 30), (10, 30), (11, 18)],
    "process": [(14, 18), (24, 15), (34, 16), (41, 19), (40, 23), (30, 22), (19, 25), (14, 23)],
    "facet": [(13, 23), (21, 22), (24, 30), (18, 36), (12, 34)],
    "lamina": [(0, 33), (7, 29), (16, 24), (18, 30), (9, 37), (3.5, 42), (3.2, 58), (3.8, 66), (0, 68)],
    "canal": [(0, 13.5), (9, 15), (11.5, 21), (7, 28), (0, 32)],
}
THORACIC: dict[str, Outline] = {
    "body": [(0, -15), (9, -13.5), (15, -5), (16, 4), (12, 11), (5, 12.5), (0, 11.5)],
    "pedicle": [(7, 7), (12, 7), (13, 18), (11, 24), (7, 22)],
    "process": [(9, 17), (17, 18), (27, 24), (33, 30), (30, 35), (22, 30), (11, 26)],
    "facet": [(9, 17), (15, 18), (15, 26), (9, 27)],
    "lamina": [(0, 27), (6, 24), (12, 20), (13, 25), (6, 32), (3, 38), (2.4, 52), (3, 58), (0, 60)],
    "canal": [(0, 11.5), (7, 12.5), (8.5, 18), (5.5, 24), (0, 26)],
}
CERVICAL: dict[str, Outline] = {
    "body": [(0, -9), (6, -8.5), (10, -4), (10.5, 2), (8, 7), (3, 8), (0, 7.5)],
    "pedicle": [(7, 2), (12, 3), (17, 9), (14, 14), (9, 11)],
    "process": [(8, -4), (14, -5), (22, -3), (25, 1), (22, 6), (14, 7), (9, 5)],
    "facet": [(13, 6), (20, 7), (23, 13), (20, 19), (13, 18), (11, 12)],
    "lamina": [(0, 24), (6, 22), (14, 15), (18, 17), (10, 26), (6, 33), (7, 42), (4, 44), (2.5, 37), (0, 38)],
    "canal": [(0, 7.5), (9, 9), (11.5, 14), (8, 20), (0, 23.5)],
}


def vertebra(
    canvas: Canvas, rng: np.random.Generator, centre: tuple[float, float], kind: dict[str, Outline], scale: float
) -> None:
    """Draw a vertebra seen from above: body, pedicles, processes, laminae with cortex; the canal with cord and fat.

    Args:
        canvas: what to draw on.
        rng: source of the shape.
        centre: middle of the vertebral body, mm.
        kind: `LUMBAR`, `THORACIC` or `CERVICAL`.
        scale: size relative to an average adult.
    """
    tilt = rng.normal(0, 1.5)
    size = (scale * rng.uniform(0.94, 1.06), scale * rng.uniform(0.94, 1.06))

    def at(points: np.ndarray) -> np.ndarray:
        return turned(points, tilt) + centre

    body = at(wobbled(mirrored(kind["body"], size), rng, 0.5))
    canal = at(mirrored(kind["canal"], size))
    arch = [at(wobbled(mirrored(kind["lamina"], size), rng, 0.5))]
    for side in (-1, 1):
        for name in ("pedicle", "process", "facet"):
            arch.append(at(wobbled(spline(kind[name], size) * (side, 1), rng, 0.45)))
    marrow = rng.uniform(130, 240)
    canvas.bone([body, *arch], 1.7 * scale, holes=[canal], cortex_hu=rng.uniform(750, 950), marrow_hu=marrow)
    canvas.bone(body, 1.3 * scale, holes=[canal], cortex_hu=rng.uniform(550, 750), marrow_hu=marrow)
    middle = canal.mean(0)
    canvas.paint(canal, -40.0, mottle=10)
    canvas.paint(ellipse(middle - (0, 0.5), (7.5 * size[0], 6.3 * size[1])), 20.0)
    canvas.paint(ellipse(middle - (0, 0.5), (5.0 * size[0], 3.8 * size[1])), 38.0)


def ribs(canvas: Canvas, rng: np.random.Generator, wall: np.ndarray, angles_deg: np.ndarray, thick_mm: float) -> None:
    """Draw oblique cuts through ribs along a curve.

    Args:
        canvas: what to draw on.
        rng: source of lengths and values.
        wall: closed curve along which the ribs run, mm.
        angles_deg: where, seen from the middle of the curve: 0 patient left, 90 posterior.
        thick_mm: their mean thickness.
    """
    centre = wall.mean(0)
    polar = np.degrees(np.arctan2(*(wall - centre).T[::-1]))
    step_mm = np.linalg.norm(np.diff(wall, axis=0), axis=1).mean()
    for angle in angles_deg + rng.uniform(-4, 4, len(angles_deg)):
        start = int(np.argmin(np.abs((polar - angle + 180) % 360 - 180)))
        steps = max(2, round(rng.uniform(16, 46) / step_mm))
        path = wall[(start + np.arange(steps + 1) - steps // 2) % len(wall)]
        slope = np.linspace(-1, 1, len(path))[:, None] * rng.uniform(-2, 2) * (path[0] - centre) / 100
        width = thick_mm * rng.uniform(0.85, 1.15) * np.linspace(1, rng.uniform(0.7, 1.0), len(path))
        outline = wobbled(band(path + slope, width), rng, 0.3)
        canvas.bone(outline, 1.5, cortex_hu=rng.uniform(700, 1000), marrow_hu=rng.uniform(80, 220))


def table(canvas: Canvas, rng: np.random.Generator, lowest_mm: float, half_width_mm: float) -> None:
    """Draw the couch under the patient: a carbon-fibre shell around light foam."""
    at_y = lowest_mm + 3 * canvas.pixel_mm
    x = np.linspace(-1, 1, 80) * min(half_width_mm, 200.0)
    sag = rng.uniform(18, 30) * (1 - (x / x.max()) ** 2)
    top, under = np.stack([x, at_y - 22 + sag], 1), np.stack([x, at_y + sag * 1.1], 1)
    canvas.strokes([(shifted(top[8:-8], 0, 26), 26.0)], -965.0, inside=~canvas.bodies())
    shell = rng.uniform(-250, 150)
    canvas.strokes([(shifted(top, 0, 14), 1.4), (shifted(under[6:-6], 0, 20), 1.2)], shell, inside=~canvas.bodies())


def tree(
    rng: np.random.Generator, root: np.ndarray, heading_deg: float, length_mm: float, width_mm: float
) -> list[tuple[np.ndarray, float]]:
    """Return a branching vessel as strokes: each branch splits in two thinner ones until they are below 0.7 mm."""
    strokes = []
    stack = [(np.asarray(root, dtype=float), heading_deg, length_mm, width_mm)]
    while stack:
        start, heading, length, width = stack.pop()
        bend = heading + np.cumsum(rng.normal(0, 6, 6))
        steps = np.stack([np.cos(np.radians(bend)), np.sin(np.radians(bend))], 1) * (length / 6)
        path = np.vstack([start, start + np.cumsum(steps, 0)])
        strokes.append((path, width))
        if width > 0.9:
            for turn in (rng.uniform(14, 38), -rng.uniform(14, 38)):
                stack.append(
                    (path[-1], bend[-1] + turn, length * rng.uniform(0.6, 0.95), width * rng.uniform(0.6, 0.8))
                )
    return strokes


def gut(
    canvas: Canvas,
    rng: np.random.Generator,
    outline: np.ndarray,
    content: str,
    inside: np.ndarray | None = None,
    wall_mm: float = 2.5,
) -> None:
    """Draw a loop of gut: wall around fluid, gas over fluid ("level"), gas, or stool with gas bubbles."""
    canvas.paint(outline, rng.uniform(40, 70), mottle=6, inside=inside)
    lumen = offset(outline, -wall_mm)
    canvas.paint(lumen, rng.uniform(5, 30), mottle=6, inside=inside)
    if content == "stool":
        canvas.paint(lumen, -30.0, mottle=60, grain=70, inside=inside)
        for _ in range(rng.integers(2, 6)):
            spot = lumen[rng.integers(len(lumen))] * 0.5 + lumen.mean(0) * 0.5
            canvas.paint(wobbled(ellipse(spot, rng.uniform(1.5, 4, 2)), rng, 0.4), -850.0, inside=inside)
    elif content in ("gas", "level"):
        low, high = lumen[:, 1].min(), lumen[:, 1].max()
        level = high + 1 if content == "gas" else low + (high - low) * rng.uniform(0.3, 0.7)
        gas = canvas.above(level) if inside is None else canvas.above(level) & inside
        canvas.paint(lumen, AIR_HU + 8, inside=gas)


def vessel(canvas: Canvas, centre: tuple[float, float], radii: tuple[float, float], hu: float) -> None:
    """Draw a great vessel cut across, in a thin sheath of fat, its wall slightly darker than contrasted blood."""
    outline = ellipse(centre, radii)
    canvas.paint(offset(outline, 1.5), FAT_HU, mottle=6)
    canvas.paint(outline, min(hu, 60.0), mottle=3)
    canvas.paint(offset(outline, -1.2), hu, mottle=4)


def back_muscles(canvas: Canvas, rng: np.random.Generator, spine: tuple[float, float], scale: float) -> None:
    """Draw psoas, quadratus lumborum and the erector spinae with its fat septa, beside a lumbar vertebra."""
    marbling = rng.uniform(0.05, 0.25)
    x, y = spine
    for side in (-1, 1):
        psoas = ellipse((x + side * 33 * scale, y + 4), rng.uniform(14, 18, 2) * scale * (1.0, 1.15), side * 25)
        quadratus = ellipse((x + side * 57 * scale, y + 22 * scale), (17 * scale, 8 * scale), side * 30)
        erector = spline([(3.5, 38), (8, 28), (26, 21), (48, 24), (61, 36), (52, 56), (30, 64), (9, 66), (4, 55)])
        erector = erector * (side * scale, scale) + (x, y)
        for muscle, streaks in ((psoas, 0.03), (quadratus, 0.08), (erector, marbling)):
            canvas.paint(wobbled(muscle, rng, 1.2), MUSCLE_HU, mottle=5, marbling=streaks)
        for bend in (22.0, 42.0):
            septum = np.array([(bend, 27), (bend - 4, 42), (bend - 10, 58)]) * (side * scale, scale) + (x, y)
            canvas.paint(band(septum, [2.0, 1.0, 2.6]), -60.0, mottle=15)


def trunk(canvas: Canvas, rng: np.random.Generator, half_mm: tuple[float, float], fat_mm: float) -> np.ndarray:
    """Draw skin, subcutaneous fat and the muscle wall, and return the wall's outer outline."""
    wall = wobbled(mirrored(_TRUNK, half_mm), rng, 1.5, modes=4)
    direction = (wall - wall.mean(0)) / half_mm
    behind = rng.uniform(0.4, 1.1)
    front = rng.uniform(0.5, 1.0)
    thickness = fat_mm * np.where(direction[:, 1] > 0, 1 - direction[:, 1] ** 2 * (1 - behind), 1.0)
    thickness = np.where(direction[:, 1] < 0, fat_mm * (1 - direction[:, 1] ** 2 * (1 - front)), thickness)
    canvas.body(wobbled(offset(wall, thickness + 3), rng, 0.06 * fat_mm, modes=5))
    canvas.paint(wall, MUSCLE_HU, mottle=6, marbling=0.04)
    return wall
