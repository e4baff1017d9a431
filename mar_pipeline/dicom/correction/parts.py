"""What may be metal in one slice: parts above a threshold, each with the evidence that a decision needs."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from mar_pipeline.judge.streaks import fine_structure, radial_coherence
from mar_pipeline.judge.tissue import body_mask, box_of, core_hu, saturated, soft_tissue
from simulation.implants.masks import PackedMask

RIM_HU = 500.0
"""Below the threshold, voxels belong to the metal that they touch: its blurred rim."""
BLUR_MM = 1.5
"""How far a reconstruction kernel blurs metal, and so how far a part may grow into its rim."""
MOST_SEEN = 32
"""Streaks are looked for around so many of the largest parts of a slice; specks of noise can be hundreds."""
_EIGHT = np.ones((3, 3), bool)


@dataclass(frozen=True)
class Part:
    """A connected region above the threshold in one slice.

    Args:
        mask: the region and its blurred rim.
        centre: row and column of its middle.
        area_mm2: of the mask.
        peak_hu: its brightest voxel.
        core_hu: its brightest voxel after a blur of 0.7 mm, which no kernel's overshoot survives.
        saturated_mm2: area at the highest value that the scanner writes; 0 if nothing is clipped.
        saturated_share: that area as a share of the region above the threshold.
        streaks: radial coherence of the soft tissue around it (`judge.streaks.radial_coherence`); None if there is
            too little of it, or 32 parts of the slice are larger.
        inside: share that lies in the body.
    """

    mask: PackedMask
    centre: tuple[int, int]
    area_mm2: float
    peak_hu: float
    core_hu: float
    saturated_mm2: float
    saturated_share: float
    streaks: float | None
    inside: float


@dataclass(frozen=True)
class Candidates:
    """What may be metal in one slice.

    Args:
        parts: regions above the threshold, the largest first.
        weak: voxels above the lower threshold, into which metal of a neighbouring slice may reach.
    """

    parts: tuple[Part, ...]
    weak: PackedMask


def find_candidates(
    hu: np.ndarray,
    inside: np.ndarray,
    spacing_mm: tuple[float, float],
    threshold_hu: float,
    brightest_hu: float = np.inf,
) -> Candidates:
    """Find what may be metal in a slice.

    Args:
        hu: Float["rows columns"]; padding is air.
        inside: Bool["rows columns"], the field of view.
        spacing_mm: distance of rows, and of columns.
        threshold_hu: from here on a voxel may be metal; 500 HU less count at the rim.
        brightest_hu: the highest value that the image's bits can store.
    """
    strong, weak = (inside & (hu >= limit) for limit in (threshold_hu, threshold_hu - RIM_HU))
    labels, count = ndimage.label(strong, _EIGHT)
    if not count:
        return Candidates((), PackedMask.of(weak))
    shape, body, cut_off = hu.shape, body_mask(hu, spacing_mm), saturated(hu, brightest_hu)
    steps = max(1, round(BLUR_MM / min(spacing_mm)))
    box = box_of(body | strong, steps)
    packed_weak = PackedMask.of(weak)
    hu, labels, weak, body, cut_off = (array[box] for array in (hu, labels, weak, body, cut_off))
    core = core_hu(hu, spacing_mm)
    fine, soft = fine_structure(hu, spacing_mm), soft_tissue(hu, spacing_mm)
    pixel_mm2 = spacing_mm[0] * spacing_mm[1]
    areas = np.bincount(labels.ravel())[1:]
    seen = set(1 + np.argsort(-areas, kind="stable")[:MOST_SEEN])
    parts = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        region = labels == number
        near = (_widened(rows, steps), _widened(columns, steps))
        mask = np.zeros(shape, bool)
        mask[box][near] = ndimage.binary_dilation(region[near], _EIGHT, steps, weak[near])
        parts.append(
            Part(
                mask=PackedMask.of(mask),
                centre=tuple(
                    side.start + (place.start + place.stop) // 2
                    for side, place in zip(box, (rows, columns), strict=True)
                ),
                area_mm2=float(mask.sum() * pixel_mm2),
                peak_hu=float(hu[region].max()),
                core_hu=float(core[region].max()),
                saturated_mm2=float((cut_off & region).sum() * pixel_mm2),
                saturated_share=float(cut_off[region].mean()),
                streaks=radial_coherence(fine, soft, region, spacing_mm) if number in seen else None,
                inside=float(body[region].mean()),
            )
        )
    return Candidates(tuple(sorted(parts, key=lambda part: -part.area_mm2)), packed_weak)


def _widened(place: slice, steps: int) -> slice:
    return slice(max(0, place.start - steps), place.stop + steps)
