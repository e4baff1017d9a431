"""Which parts of a series are metal: a threshold proposes them, evidence decides, and every decision has its reason.

Bone reaches 2700 HU, enamel and dense contrast 3000 HU, sharp kernels lift enamel to 5400 HU. So a voxel above a
threshold is only a candidate. It is metal if it is far brighter than those can be, if the scanner's range cuts a flat
plateau out of it, or if streaks leave it; and if it lies in the body. Parts that touch in neighbouring slices are one
component, and what is known of one of them counts for the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from mar_pipeline.dicom.correction.parts import Candidates, Part
from mar_pipeline.judge.tissue import box_of
from simulation.implants.masks import PackedMask

CERTAIN_HU = 4700.0
"""A core above this is metal: that of enamel stays below 4350 HU with sharp kernels."""
FLOOR_HU = 3050.0
"""A component whose peak is below this may be bone, enamel or contrast, whatever threshold proposed it."""
PLATEAU_MM2, PLATEAU_SHARE, LARGE_PLATEAU_MM2 = 8.0, 0.6, 100.0
"""Bone and enamel that reach the end of the scanner's range do so with their peaks; metal is cut off on a plateau. The
skull's base can have a plateau, too: around a large one there must be more coherence than without any streaks, if that
can be seen, and one that is no larger than a tooth must be seen to have more than noise can have."""
STREAKS, NO_STREAKS, SPREAD = 1.1, 0.9, 0.5
"""Mean radial coherence from which streaks leave a component: without any it is 0.9, and that of one slice may be
0.5 higher by chance, the mean of n slices as much less as n observations are."""
INSIDE = 0.5
_OUTSIDE = "outside the body"
_BESIDE = "touches metal of the next slice, but is no brighter than bone, enamel or contrast, and no streaks leave it"
FARTHEST_MM = 10.0
"""Slices farther apart than this tell nothing of each other."""


@dataclass(frozen=True)
class Component:
    """One connected piece of candidates in a series, and what was decided about it.

    Args:
        kept: whether it counts as metal.
        reason: why it is metal, or why it is left alone: plain words, complete as a clause.
        first_slice: place of its first slice, from 0.
        last_slice: place of its last slice.
        centre: row and column of its middle in the slice where it is largest.
        area_mm2: its largest area in a slice.
        peak_hu: its brightest voxel.
    """

    kept: bool
    reason: str
    first_slice: int
    last_slice: int
    centre: tuple[int, int]
    area_mm2: float
    peak_hu: float


@dataclass(frozen=True)
class Metal:
    """What is metal in a series.

    Args:
        masks: metal of every slice.
        sure: the part of it that is certain by its brightness, in every slice.
        components: every candidate, with what was decided about it.
    """

    masks: tuple[PackedMask, ...]
    sure: tuple[PackedMask, ...]
    components: tuple[Component, ...]


Place = tuple[int, int]
"""Number of a slice, and of a part in it."""


def decide(
    found: Sequence[Candidates],
    positions_mm: Sequence[float],
    threshold_hu: float,
    least_mm2: float,
    all_candidates: bool = False,
) -> Metal:
    """Decide what is metal in a series.

    Args:
        found: candidates of all slices in order.
        positions_mm: of the slices along their normal.
        threshold_hu: what the candidates were found with.
        least_mm2: smallest largest area of a component.
        all_candidates: take every component that is large enough, wherever it lies.
    """
    everything, sure = ([PackedMask.of(np.zeros(one.weak.shape, bool)) for one in found] for _ in range(2))
    components = []
    for places in _connected(found, positions_mm):
        parts = {place: found[place[0]].parts[place[1]] for place in places}
        kept, certain, reason = _judged(list(parts.values()), least_mm2, threshold_hu, all_candidates)
        metal = {place: part for place, part in parts.items() if kept and (all_candidates or _belongs(part))}
        beside = {place: part for place, part in parts.items() if place not in metal}
        if metal:
            components.append(_component(metal, True, reason))
        if beside:
            within = any(part.inside >= INSIDE for part in beside.values())
            components.append(_component(beside, False, reason if not kept else _BESIDE if within else _OUTSIDE))
        for (number, _), part in metal.items():
            everything[number] = everything[number].union(part.mask)
            if certain and _proves_itself(part, threshold_hu):
                sure[number] = sure[number].union(part.mask)
    return Metal(tuple(_continued(everything, found, positions_mm)), tuple(sure), tuple(components))


def _connected(found: Sequence[Candidates], positions_mm: Sequence[float]) -> list[list[Place]]:
    """Return parts that overlap in neighbouring slices, together; in the order of slices."""
    group: dict[Place, list[Place]] = {(n, k): [(n, k)] for n, one in enumerate(found) for k in range(len(one.parts))}
    for number in range(1, len(found)):
        if abs(positions_mm[number] - positions_mm[number - 1]) > FARTHEST_MM:
            continue
        before = [part.mask.unpack() for part in found[number - 1].parts]
        for k, part in enumerate(found[number].parts if before else ()):
            mask = part.mask.unpack()
            for other, mask_before in enumerate(before):
                one, two = group[number - 1, other], group[number, k]
                if one is not two and (mask & mask_before).any():
                    one += two
                    group.update(dict.fromkeys(two, one))
    return list({id(places): places for places in group.values()}.values())


def _judged(
    parts: Sequence[Part], least_mm2: float, threshold_hu: float, all_candidates: bool
) -> tuple[bool, bool, str]:
    """Whether a component is metal, whether that is certain by its brightness alone, and why."""
    area_mm2, peak_hu = max(part.area_mm2 for part in parts), max(part.peak_hu for part in parts)
    if area_mm2 < least_mm2:
        return False, False, f"smaller than {least_mm2:g} mm2"
    if all_candidates:
        return True, False, "all candidates were asked for"
    within = [part for part in parts if part.inside >= INSIDE]
    if not within:
        return False, False, _OUTSIDE
    core_hu = max(part.core_hu for part in within)
    if core_hu >= max(CERTAIN_HU, threshold_hu):
        return True, True, f"far above bone and enamel ({core_hu:.0f} HU without noise and overshoot)"
    seen = [part.streaks for part in within if part.streaks is not None]
    mean, least = float(np.mean(seen or [0])), max(STREAKS, NO_STREAKS + SPREAD / np.sqrt(max(len(seen), 1)))
    plateau_mm2 = max(part.saturated_mm2 if part.saturated_share >= PLATEAU_SHARE else 0 for part in within)
    large = plateau_mm2 >= LARGE_PLATEAU_MM2 and (mean > NO_STREAKS or not seen)
    if large or (plateau_mm2 >= PLATEAU_MM2 and mean > 1):
        return True, True, f"the scanner's range cuts a plateau out of it ({plateau_mm2:.0f} mm2)"
    if peak_hu < FLOOR_HU:
        return False, False, "no brighter than dense bone, enamel or contrast can be"
    if not seen:
        return False, False, "no brighter than enamel can be, and too little soft tissue around it to show streaks"
    if mean < least:
        return (
            False,
            False,
            f"no brighter than enamel can be, and no streaks leave it (coherence {mean:.2f} of {least:.2f})",
        )
    return True, False, f"streaks leave it (coherence {mean:.2f}, from {least:.2f} on)"


def _belongs(part: Part) -> bool:
    """Whether a part of a metal component is metal itself, not bone or enamel that touches it."""
    return part.inside >= INSIDE and (part.peak_hu >= FLOOR_HU or (part.streaks or 0) >= NO_STREAKS + SPREAD)


def _proves_itself(part: Part, threshold_hu: float) -> bool:
    """Whether a part is certain to be metal by its own brightness, not by that of what it touches in other slices."""
    plateau = part.saturated_share >= PLATEAU_SHARE and part.saturated_mm2 >= PLATEAU_MM2
    return plateau or part.core_hu >= max(CERTAIN_HU, threshold_hu)


def _component(parts: dict[Place, Part], kept: bool, reason: str) -> Component:
    largest = max(parts.values(), key=lambda part: part.area_mm2)
    numbers = [number for number, _ in parts]
    peak_hu = max(part.peak_hu for part in parts.values())
    return Component(kept, reason, min(numbers), max(numbers), largest.centre, largest.area_mm2, peak_hu)


def _continued(
    masks: Sequence[PackedMask], found: Sequence[Candidates], positions_mm: Sequence[float]
) -> list[PackedMask]:
    """Return the masks with what partial volume leaves of metal in the slice before and behind its ends."""
    continued = []
    for number, mask in enumerate(masks):
        grown = mask.unpack()
        for neighbour in (number - 1, number + 1):
            if 0 <= neighbour < len(masks) and abs(positions_mm[number] - positions_mm[neighbour]) <= FARTHEST_MM:
                grown |= masks[neighbour].unpack() & found[number].weak.unpack()
        if grown.any():
            box = box_of(grown)
            grown[box] = ndimage.binary_opening(np.pad(grown[box], 1))[1:-1, 1:-1] | mask.unpack()[box]
        continued.append(PackedMask.of(grown))
    return continued
