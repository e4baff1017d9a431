"""Images of one SeriesInstanceUID to parts that can be stacked: scanners put several series under one."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np

from mar_pipeline.dicom.reading.ct_image import CTImage
from mar_pipeline.dicom.reading.image_header import ACQUISITION, TIMES, same_spacing
from mar_pipeline.dicom.reading.stacking import SAME_POSITION_MM, differing_orientation, positions_mm

SPLITTING = ("FrameOfReferenceUID", "Rows, Columns", "PixelSpacing")
Key = tuple[object, ...]


@dataclass(frozen=True)
class Part:
    """Images that can be one stack.

    Args:
        images: without a fault.
        remarks: why the series was split, by the attributes' names.
    """

    images: tuple[CTImage, ...]
    remarks: tuple[str, ...]


def parts_of(images: Sequence[CTImage]) -> list[Part]:
    """Return the parts of a series that differ in frame of reference, size or spacing, and in these the phases.

    Two acquisitions, phases or reconstructions of one volume are told apart by the attribute that leaves the fewest
    parts without two images at one position. Where none does, the part is left whole.

    Args:
        images: of one SeriesInstanceUID, without a fault.
    """
    spacings = _spacings(images)
    by_kind: dict[Key, list[CTImage]] = defaultdict(list)
    for image in images:
        by_kind[_kind(image, spacings)].append(image)
    remarks = _kinds_remark(by_kind)
    parts = []
    for kind in by_kind.values():
        phases, keywords = _phases(kind)
        remark = (
            f"its SeriesInstanceUID stands for {len(phases)} series at the same positions, told apart by "
            f"{' and '.join(keywords)}"
        )
        parts += [Part(tuple(phase), (*remarks, remark) if keywords else remarks) for phase in phases]
    return parts


def common_spacing(images: Iterable[CTImage]) -> tuple[float, float]:
    """Return the PixelSpacing that most images have, the smallest of equally many; zeros if none has one."""
    counts = Counter(image.geometry.spacing_mm for image in images if image.geometry)
    return min(counts, key=lambda spacing: (-counts[spacing], spacing), default=(0.0, 0.0))


def _spacings(images: Iterable[CTImage]) -> dict[tuple[float, float], tuple[float, float]]:
    """Each PixelSpacing that occurs, and the one that it is but for rounding."""
    standing_for: dict[tuple[float, float], tuple[float, float]] = {}
    for spacing in sorted({image.geometry.spacing_mm for image in images if image.geometry}):
        known = (one for one in standing_for.values() if same_spacing(one, spacing))
        standing_for[spacing] = next(known, spacing)
    return standing_for


def _kind(image: CTImage, spacings: Mapping[tuple[float, float], tuple[float, float]]) -> Key:
    """Return what images that can be stacked share, by the names of `SPLITTING`."""
    shape = (image.pixels.rows, image.pixels.columns) if image.pixels else None
    return image.uids["FrameOfReferenceUID"], shape, spacings[image.geometry.spacing_mm] if image.geometry else None


def _kinds_remark(kinds: Collection[Key]) -> tuple[str, ...]:
    if len(kinds) < 2:
        return ()
    differing = [name for name, values in zip(SPLITTING, zip(*kinds, strict=True), strict=True) if len(set(values)) > 1]
    return (f"its SeriesInstanceUID stands for {len(kinds)} series that differ in {', '.join(differing)}",)


def _phases(images: Sequence[CTImage]) -> tuple[list[list[CTImage]], tuple[str, ...]]:
    """Return parts without two images at one position, and what tells them apart; all images if nothing does.

    An attribute that splits finer than there are images at any one position counts only if it does not tear the stack
    into single slices, and a time, which may be that of a slice, does not count then.
    """
    most = _most_at_one_position(images)
    best: tuple[list[list[CTImage]], tuple[str, ...]] = ([list(images)], ())
    if most < 2:
        return best
    for keywords in chain(combinations(ACQUISITION, 1), combinations(ACQUISITION, 2)):
        limit = most if set(keywords) & TIMES else max(most, len(images) // 2)
        by_value: dict[tuple[str, ...], list[CTImage]] = defaultdict(list)
        for image in images:
            by_value[tuple(image.acquisition[keyword] for keyword in keywords)].append(image)
        parts = list(by_value.values())
        if not most <= len(parts) <= limit or (best[1] and len(parts) >= len(best[0])):
            continue
        if all(_most_at_one_position(part) < 2 for part in parts):
            best = parts, keywords
    return best


def _most_at_one_position(images: Sequence[CTImage]) -> int:
    """How many different images lie at one position at most; 1 where they are turned against each other."""
    different = {image.sop_uid or image.name: image.geometry for image in images if image.geometry}
    places = [place for place in different.values() if place]
    if len(places) < 2 or differing_orientation(places) is not None:
        return 1
    steps = np.diff(np.sort(positions_mm(places)))
    groups = np.concatenate([[0], np.cumsum(steps >= SAME_POSITION_MM)])
    return int(np.bincount(groups).max())
