"""What is measured in a slice, before and after its correction, and in a whole series."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from mar_pipeline.dicom.measures.beams import largest_change_mm
from mar_pipeline.dicom.measures.regions import Plane, Region
from mar_pipeline.dicom.measures.rings import RING_NAMES, find_body, ring_masks
from mar_pipeline.dicom.measures.statistics import NO_VOXELS, Statistics, pooled, statistics_of

CHANGES_HU = (20, 100)
AROUND_METAL_MM = 5.0
"""How far from the metal a voxel above the threshold still counts as its image."""


@dataclass(frozen=True)
class RegionFigures:
    """HU of the same voxels before and after the correction.

    Args:
        name: such as ``ring 0-10 mm``, or the name of an ROI.
        before: in the original.
        after: in the derived image.
    """

    name: str
    before: Statistics
    after: Statistics


@dataclass(frozen=True)
class MetalFigures:
    """What the metal and its correction are like in a slice (areas, mm2), or in a series (volumes, cm3).

    Args:
        mask: the metal that was found, which the correction leaves as it is.
        before: voxels of the original at or above the threshold, in the metal or within 5 mm of it.
        after: the same of the derived image: bright streaks at the metal's rim are no longer counted.
    """

    mask: float
    before: float
    after: float


@dataclass(frozen=True)
class SliceFigures:
    """Numbers of one slice.

    Args:
        regions: rings around its metal, then ROIs that it meets.
        metal_mm2: areas; None of a slice without metal.
        changed_mm2: HU -> area of the field of view that changed by more.
        proton_path_mm: largest change of the water-equivalent thickness for protons, see `beams`.
        photon_path_mm: the same for photons.
    """

    regions: tuple[RegionFigures, ...]
    metal_mm2: MetalFigures | None = None
    changed_mm2: tuple[tuple[int, float], ...] = ()
    proton_path_mm: float | None = None
    photon_path_mm: float | None = None


@dataclass(frozen=True)
class SeriesFigures:
    """Numbers of a whole series.

    Args:
        regions: over the voxels of all slices: rings of those with metal, ROIs of those that they meet.
        metal_cm3: volumes: areas times the thickness of each slice; None of a single slice.
        changed_cm3: HU -> volume that changed by more; empty of a single slice.
        proton_path_mm: the largest of all slices.
        photon_path_mm: the largest of all slices.
    """

    regions: tuple[RegionFigures, ...]
    metal_cm3: MetalFigures | None
    changed_cm3: tuple[tuple[int, float], ...]
    proton_path_mm: float | None
    photon_path_mm: float | None


@dataclass(frozen=True)
class MeasuredSlice:
    """The images of one slice.

    Args:
        plane: where it lies.
        before: the original, Float["rows columns"] in HU.
        after: the derived image.
        metal: Bool["rows columns"].
        inside: Bool["rows columns"], the field of view.
    """

    plane: Plane
    before: np.ndarray
    after: np.ndarray
    metal: np.ndarray
    inside: np.ndarray


def slice_figures(images: MeasuredSlice, rois: Sequence[Region], threshold_hu: float) -> SliceFigures:
    """Measure a slice with metal: rings, ROIs, areas and beams.

    Body and rings are those of the original, and the same voxels are measured in both images. ROIs are cut off at the
    field of view, and hold what metal lies in them.

    Args:
        images: of the slice.
        rois: of the series.
        threshold_hu: of metal.
    """
    spacing_mm = images.plane.geometry.spacing_mm
    pixel_mm2 = spacing_mm[0] * spacing_mm[1]
    before, after, metal = images.before, images.after, images.metal
    body = find_body(before, images.inside, metal, spacing_mm)
    rings = ring_masks(metal, body, spacing_mm)
    near = ndimage.distance_transform_edt(~metal, sampling=spacing_mm) <= AROUND_METAL_MM if metal.any() else metal
    metal_mm2 = MetalFigures(
        float(metal.sum()) * pixel_mm2,
        float((near & (before >= threshold_hu)).sum()) * pixel_mm2,
        float((near & (after >= threshold_hu)).sum()) * pixel_mm2,
    )
    change = np.abs(after - before)[images.inside]
    changed = tuple((hu, float((change > hu).sum()) * pixel_mm2) for hu in CHANGES_HU)
    protons, photons = largest_change_mm(before, after, body, spacing_mm)
    regions = tuple(_measured(name, mask, before, after) for name, mask in rings.items())
    return SliceFigures((*regions, *_roi_figures(images, rois)), metal_mm2, changed, protons, photons)


def unchanged_figures(images: MeasuredSlice, rois: Sequence[Region]) -> SliceFigures | None:
    """Measure the ROIs in a slice without metal; None if it meets none."""
    regions = _roi_figures(images, rois)
    return SliceFigures(regions) if regions else None


def series_figures(slices: Sequence[SliceFigures | None], thicknesses_mm: Sequence[float] | None) -> SeriesFigures:
    """Put the slices of a series together.

    Args:
        slices: figures of its slices; None where nothing was measured.
        thicknesses_mm: that each slice stands for; None of a single one, which has no volume.
    """
    measured = [one for one in slices if one is not None]
    groups: dict[str, list[RegionFigures]] = {name: [] for name in RING_NAMES}  # before the ROIs
    for region in (region for one in measured for region in one.regions):
        groups.setdefault(region.name, []).append(region)
    metal_cm3: MetalFigures | None = None
    changed_cm3: tuple[tuple[int, float], ...] = ()
    if thicknesses_mm is not None and any(one.metal_mm2 for one in measured):
        thick = [(one, mm / 1000) for one, mm in zip(slices, thicknesses_mm, strict=True) if one is not None]
        areas = [(one.metal_mm2, cm) for one, cm in thick if one.metal_mm2]
        metal_cm3 = MetalFigures(*(sum(getattr(a, n) * cm for a, cm in areas) for n in ("mask", "before", "after")))
        changed_cm3 = tuple(
            (hu, sum(dict(one.changed_mm2).get(hu, 0.0) * cm for one, cm in thick)) for hu in CHANGES_HU
        )
    return SeriesFigures(
        tuple(
            RegionFigures(name, pooled(one.before for one in group), pooled(one.after for one in group))
            for name, group in groups.items()
            if group
        ),
        metal_cm3,
        changed_cm3,
        max((one.proton_path_mm for one in measured if one.proton_path_mm is not None), default=None),
        max((one.photon_path_mm for one in measured if one.photon_path_mm is not None), default=None),
    )


def unmet(rois: Sequence[Region], slices: Iterable[SliceFigures | None]) -> list[str]:
    """Return the names of ROIs that hold no voxel of any slice."""
    met = {region.name for one in slices if one is not None for region in one.regions}
    return [roi.name for roi in rois if roi.name not in met]


def _measured(name: str, mask: np.ndarray, before: np.ndarray, after: np.ndarray) -> RegionFigures:
    if not mask.any():
        return RegionFigures(name, NO_VOXELS, NO_VOXELS)
    return RegionFigures(name, statistics_of(before[mask]), statistics_of(after[mask]))


def _roi_figures(images: MeasuredSlice, rois: Sequence[Region]) -> tuple[RegionFigures, ...]:
    masks = ((roi.name, roi.mask(images.plane)) for roi in rois)
    within = ((name, mask & images.inside) for name, mask in masks if mask is not None)
    return tuple(_measured(name, mask, images.before, images.after) for name, mask in within if mask.any())
