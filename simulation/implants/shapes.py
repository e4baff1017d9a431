"""Metal parts as shapes in pixels, and the implants they make up, placed on a slice's anatomy."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from simulation.implants.anatomy import Anatomy, Point, Round

_THINNEST = 0.55


@dataclass(frozen=True)
class Part:
    """One piece of one metal.

    Args:
        shape: its name, e.g. "cup".
        metal: a key of METAL_CODES.
        mask: bool (n, n).
    """

    shape: str
    metal: str
    mask: np.ndarray


def _grid(n: int) -> tuple[np.ndarray, np.ndarray]:
    row, column = np.ogrid[:n, :n]
    return row.astype(float), column.astype(float)


def blob(
    n: int, middle: Point, radii: tuple[float, float], angle_rad: float, bumps: np.ndarray | None = None
) -> np.ndarray:
    """Return an ellipse with an uneven rim: radius (1 + sum_k bumps_k cos(k phi)) of the ellipse, k from 2."""
    row, column = _grid(n)
    y, x = row - middle[0], column - middle[1]
    along, across = x * np.cos(angle_rad) + y * np.sin(angle_rad), y * np.cos(angle_rad) - x * np.sin(angle_rad)
    u, v = along / max(radii[0], _THINNEST), across / max(radii[1], _THINNEST)
    rim = 1.0
    if bumps is not None:
        phi = np.arctan2(v, u)
        rim = 1.0 + sum(bump * np.cos((k + 2) * phi + k) for k, bump in enumerate(bumps))
    return _with_middle(np.hypot(u, v) <= rim, middle)


def bar(
    n: int, start: Point, end: Point, width: float, end_width: float | None = None, thread: float = 0.0
) -> np.ndarray:
    """Return a straight bar with round ends, its width going linearly from `width` to `end_width`, maybe threaded."""
    row, column = _grid(n)
    axis = np.subtract(end, start)
    length = max(float(np.hypot(*axis)), 1e-6)
    axis = axis / length
    along = (row - start[0]) * axis[0] + (column - start[1]) * axis[1]
    at = np.clip(along, 0, length)
    away = np.hypot(row - start[0] - at * axis[0], column - start[1] - at * axis[1])
    half = (width + (at / length) * ((width if end_width is None else end_width) - width)) / 2
    if thread:
        half = half + thread * np.sign(np.sin(at * (2 * np.pi / 3.2)))
    return _with_middle(away <= np.maximum(half, _THINNEST), start)


def arc(n: int, middle: Point, inner: float, outer: float, towards_rad: float, half_angle_rad: float) -> np.ndarray:
    """Return a part of a ring around the direction `towards_rad` (0 to the right, pi/2 posterior)."""
    row, column = _grid(n)
    y, x = row - middle[0], column - middle[1]
    radius = np.hypot(x, y)
    turn = np.angle(np.exp(1j * (np.arctan2(y, x) - towards_rad)))
    return (radius >= inner) & (radius <= max(outer, inner + 2 * _THINNEST)) & (np.abs(turn) <= half_angle_rad)


def _with_middle(mask: np.ndarray, point: Point) -> np.ndarray:
    """At least the pixel at the point, so that the smallest part does not fall between pixels."""
    row, column = round(point[0]), round(point[1])
    if 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]:
        mask[row, column] = True
    return mask


def hip(anatomy: Anatomy, rng: np.random.Generator) -> list[Part]:
    """Return a total replacement of one hip or both: cup and head, a large solid head, or a head on neck and stem."""
    heads = list(anatomy.femoral_heads)
    if len(heads) == 2 and rng.random() < 0.6:
        heads = [heads[int(rng.integers(2))]]
    parts: list[Part] = []
    for head in heads:
        parts += _one_hip(anatomy, rng, head)
    return parts


def _one_hip(anatomy: Anatomy, rng: np.random.Generator, head: Round) -> list[Part]:
    n, mm = anatomy.body.shape[0], anatomy.pixels_per_mm
    outwards = 1.0 if head.middle[1] > anatomy.middle[1] else -1.0
    style = rng.choice(["cup", "cup and stem", "solid", "stem"])
    ball_metal = str(rng.choice(["cocr", "cocr", "steel", "titanium"]))
    if style == "solid":
        radius = rng.uniform(0.62, 0.86) * min(head.radius, 25 * mm)
        return [Part("head", ball_metal, blob(n, head.middle, (radius, radius), 0.0))]
    parts = []
    ball = rng.uniform(11, 16) * mm
    if style != "cup":
        parts += _stem(anatomy, rng, head, outwards, ball)
    if style != "stem":
        outer = min(max(head.radius * rng.uniform(0.98, 1.12), 21 * mm), 29 * mm)
        inwards = (np.pi if outwards > 0 else 0.0) + outwards * rng.uniform(-0.2, 0.5)
        shell = arc(n, head.middle, outer - rng.uniform(2.6, 4.2) * mm, outer, inwards, rng.uniform(1.25, 1.75))
        parts.append(Part("cup", "titanium", shell))
    parts.append(Part("head", ball_metal, blob(n, head.middle, (ball, ball), 0.0)))
    return parts


def _stem(anatomy: Anatomy, rng: np.random.Generator, head: Round, outwards: float, ball: float) -> list[Part]:
    """Return the neck of the prosthesis from the head outwards and backwards, ending in the stem's shoulder."""
    n, mm = anatomy.body.shape[0], anatomy.pixels_per_mm
    metal = str(rng.choice(["titanium", "cocr", "steel"]))
    turn = rng.uniform(0.1, 0.45)
    reach = rng.uniform(30, 46) * mm
    end = (head.middle[0] + reach * np.sin(turn), head.middle[1] + outwards * reach * np.cos(turn))
    neck = bar(n, head.middle, end, 11 * mm, rng.uniform(10, 15) * mm)
    shoulder = blob(n, end, (rng.uniform(7, 11) * mm, rng.uniform(5.5, 8) * mm), outwards * turn)
    return [Part("neck", metal, neck), Part("stem", metal, shoulder)]


def spine(anatomy: Anatomy, rng: np.random.Generator) -> list[Part]:
    """Return pedicle screws that converge in the vertebral body, with rods cut across; or the rods alone."""
    vertebra = anatomy.vertebra
    if vertebra is None:
        return []
    n = anatomy.body.shape[0]
    mm = anatomy.pixels_per_mm * (0.62 if anatomy.is_head else 1.0)
    metal = str(rng.choice(["titanium", "titanium", "steel", "cocr"]))
    rods_only = rng.random() < 0.2
    sides = (-1, 1) if rng.random() < 0.85 else (int(rng.choice([-1, 1])),)
    size = rng.uniform(0.85, 1.15) * mm
    first, last = vertebra.canal[0] - 10 * mm, vertebra.body.middle[0] - 0.35 * vertebra.body.radius
    tip_row = first + rng.uniform(0.2, 1.0) * min(last - first, 0.0)
    parts = []
    for side in sides:
        pedicle = (
            vertebra.canal[0] - rng.uniform(0, 3) * mm,
            vertebra.canal[1] + side * (vertebra.canal_half_width + rng.uniform(2.6, 4.0) * mm),
        )
        tip = (tip_row, vertebra.canal[1] + side * rng.uniform(3.5, 6.5) * mm)
        axis = np.subtract(pedicle, tip) / np.hypot(*np.subtract(pedicle, tip))
        entry = tuple(np.add(pedicle, axis * rng.uniform(12, 16) * mm))
        if not rods_only:
            width = 5.8 * size
            parts.append(Part("screw", metal, bar(n, entry, tip, width, 0.7 * width, thread=0.35 * (mm > 0.7))))
            angle = float(np.arctan2(axis[0], axis[1]))
            tulip = blob(n, entry, (rng.uniform(6, 8) * size, rng.uniform(5, 6.3) * size), angle)
            parts.append(Part("tulip", metal, tulip))
        behind = tuple(np.add(entry, axis * 3.0 * mm))
        rod_metal = "cocr" if metal != "steel" and rng.random() < 0.4 else metal
        parts.append(Part("rod", rod_metal, blob(n, behind, (2.9 * size, 2.9 * size), 0.0)))
    return parts


def dental(anatomy: Anatomy, rng: np.random.Generator) -> list[Part]:
    """Return fillings, crowns and root implants on one to six teeth, often neighbours."""
    teeth = np.array(anatomy.teeth)
    if len(teeth) == 0:
        return []
    n, mm = anatomy.body.shape[0], anatomy.pixels_per_mm
    first = teeth[rng.integers(len(teeth))]
    by_distance = np.argsort(np.hypot(*(teeth - first).T) + rng.uniform(0, 45 * mm, len(teeth)))
    parts = []
    crown_metal = str(rng.choice(["gold", "gold", "cocr", "titanium"]))
    for tooth in teeth[by_distance[: rng.integers(1, 7)]]:
        kind = str(rng.choice(["filling", "filling", "crown", "implant"], p=[0.3, 0.25, 0.35, 0.1]))
        bumps = rng.normal(0, 0.09, 3)
        turn = rng.uniform(0, np.pi)
        if kind == "crown":
            radii, metal = rng.uniform(3.4, 5.4, 2) * mm, crown_metal
        elif kind == "filling":
            radii, metal = rng.uniform(1.1, 3.2, 2) * mm, str(rng.choice(["amalgam", "amalgam", "gold"]))
        else:
            radii, metal = np.full(2, rng.uniform(1.9, 2.4) * mm), "titanium"
        parts.append(Part(kind, metal, blob(n, tuple(tooth), tuple(radii), turn, bumps)))
    return parts


def _soft_point(anatomy: Anatomy, rng: np.random.Generator, deep: float) -> Point:
    """Return a random place in soft tissue, at least `deep` of the greatest depth below the skin."""
    depth = ndimage.distance_transform_edt(anatomy.body)
    places = np.argwhere(anatomy.soft & (depth > deep * depth.max()))
    if len(places) == 0:
        places = np.argwhere(anatomy.body)
    row, column = places[rng.integers(len(places))]
    return float(row), float(column)


def clips(anatomy: Anatomy, rng: np.random.Generator) -> list[Part]:
    """Return surgical clips around one bed: short thin bars, some seen end on."""
    n, mm = anatomy.body.shape[0], anatomy.pixels_per_mm
    bed = _soft_point(anatomy, rng, 0.25)
    places = np.argwhere(anatomy.soft)
    metal = str(rng.choice(["titanium", "titanium", "tantalum", "steel"]))
    if len(places) == 0:
        return []
    near = np.hypot(*(places - np.array(bed)).T) < rng.uniform(14, 40) * mm
    places = places[near] if near.any() else places
    parts = []
    for _ in range(rng.integers(2, 9)):
        start = places[rng.integers(len(places))].astype(float)
        turn, length = rng.uniform(0, np.pi), rng.uniform(0, 9) * mm
        end = start + length * np.array([np.sin(turn), np.cos(turn)])
        parts.append(Part("clip", metal, bar(n, tuple(start), tuple(end), rng.uniform(1.2, 2.4) * mm)))
    return parts


def electrodes(anatomy: Anatomy, rng: np.random.Generator) -> list[Part]:
    """Return leads cut across (pacing, stimulation): platinum dots, now and then a length of lead or a ring tip."""
    n, mm = anatomy.body.shape[0], anatomy.pixels_per_mm
    parts = []
    for _ in range(rng.integers(2, 6)):
        point = _soft_point(anatomy, rng, 0.4)
        radius = rng.uniform(1.0, 2.6) * mm
        metal = str(rng.choice(["platinum", "platinum", "steel", "tantalum"]))
        parts.append(Part("electrode", metal, blob(n, point, (radius, radius), 0.0)))
        if rng.random() < 0.3:
            turn, length = rng.uniform(0, 2 * np.pi), rng.uniform(6, 18) * mm
            end = (point[0] + length * np.sin(turn), point[1] + length * np.cos(turn))
            parts.append(Part("lead", "platinum", bar(n, point, end, 1.3 * mm)))
    return parts


def needle(anatomy: Anatomy, rng: np.random.Generator) -> list[Part]:
    """Return one to three needles from the skin inwards, along paths that meet little bone and air."""
    n, mm = anatomy.body.shape[0], anatomy.pixels_per_mm
    row0, row1, column0, column1 = anatomy.box
    skin = anatomy.body & ~ndimage.binary_erosion(anatomy.body)
    rims = np.argwhere(skin)
    at_edge = (rims == 0).any(1) | (rims == n - 1).any(1)
    rims = rims[~at_edge] if (~at_edge).any() else rims
    obstacle = anatomy.bone | anatomy.air
    longest = 0.45 * min(row1 - row0, column1 - column0)
    tries = []
    for _ in range(16):
        start = rims[rng.integers(len(rims))].astype(float)
        inwards = np.array(anatomy.middle) - start
        turn = np.arctan2(inwards[0], inwards[1]) + rng.normal(0, 0.3)
        length = min(rng.uniform(30, 110) * mm, longest)
        steps = start + np.linspace(0, length, 80)[:, None] * np.array([np.sin(turn), np.cos(turn)])
        on_path = np.clip(np.round(steps).astype(int), 0, n - 1)
        blocked = (
            obstacle[on_path[:, 0], on_path[:, 1]].mean() + 2 * (~anatomy.body[on_path[:, 0], on_path[:, 1]]).mean()
        )
        tries.append((float(blocked), tuple(start), tuple(steps[-1])))
    tries.sort(key=lambda item: item[0])
    width, metal = rng.uniform(1.0, 2.0) * mm, str(rng.choice(["steel", "steel", "titanium"]))
    count = int(rng.choice([1, 1, 1, 2, 3]))
    return [Part("needle", metal, bar(n, start, end, width)) for _, start, end in tries[:count]]


SHAPERS: dict[str, Callable[[Anatomy, np.random.Generator], list[Part]]] = {
    "hip": hip,
    "spine": spine,
    "dental": dental,
    "clips": clips,
    "electrodes": electrodes,
    "needle": needle,
}


def suitable(anatomy: Anatomy, kind: str) -> bool:
    """Return whether a slice shows the anatomy that a kind of implant is anchored in."""
    if kind == "hip":
        return bool(anatomy.femoral_heads)
    if kind == "spine":
        return anatomy.vertebra is not None
    if kind == "dental":
        return len(anatomy.teeth) > 0
    return True
