"""Anatomy found in a slice, as far as the placing of implants needs it: body, bone, air, spine, hips, teeth."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage
from scipy.signal import fftconvolve

from simulation.errors import InputError
from simulation.units import MU_WATER_PER_CM, hu_to_mu, mu_to_hu

_BONE_HU, _DENSE_HU, _AIR_HU, _CANAL_HU, _MARROW_HU = 250.0, 1400.0, -500.0, 90.0, 135.0
# Side of a square as large as an average body section, mm: a trunk of 370 x 250 mm, a head of 160 x 200 mm.
_TRUNK_MM, _HEAD_MM = 270.0, 158.0
_MIN_BODY_SHARE, _CANAL_WIDEST_MM = 0.01, 29.0
Point = tuple[float, float]


def find_body(image_mu: np.ndarray) -> np.ndarray:
    """Return the patient: the largest component of mu > 0.5 water, thin parts such as the couch cut off, holes filled.

    Args:
        image_mu: (n, n), 1/cm.

    Returns:
        bool (n, n).

    Raises:
        InputError: if less than 1 % of the image is body.
    """
    solid = np.asarray(image_mu) > 0.5 * MU_WATER_PER_CM
    radius = max(1, round(image_mu.shape[0] / 200))
    opened = ndimage.binary_opening(solid, _disc(radius))
    labels, count = ndimage.label(opened)
    sizes = np.bincount(labels.ravel(), minlength=2)[1:]
    if count == 0 or sizes.max() < _MIN_BODY_SHARE * solid.size:
        raise InputError(
            f"no body in the slice: its largest part above half the attenuation of water has {sizes.max()} pixels; "
            f"expected at least {_MIN_BODY_SHARE:.0%} of {solid.size}; check that the image is mu in 1/cm, not HU"
        )
    body = labels == np.argmax(sizes) + 1
    body = ndimage.binary_dilation(body, _disc(radius), mask=solid)
    return ndimage.binary_fill_holes(body)


def _disc(radius: int) -> np.ndarray:
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return x * x + y * y <= radius * radius


@dataclass(frozen=True)
class Round:
    """A round bone: middle (row, column) and radius of the largest disc in it, pixels."""

    middle: Point
    radius: float


@dataclass(frozen=True)
class Vertebra:
    """A vertebra: its body, and the spinal canal behind it, (row, column) and pixels."""

    body: Round
    canal: Point
    canal_half_width: float


@dataclass(frozen=True)
class Anatomy:
    """What a slice shows; every part is found when first asked for.

    Args:
        image_mu: (n, n), 1/cm, row 0 anterior.
        pixel_mm: side of a pixel; None takes it from the size of the body section.
    """

    image_mu: np.ndarray
    pixel_mm: float | None = None

    @cached_property
    def body(self) -> np.ndarray:
        """The patient: bool (n, n)."""
        return find_body(self.image_mu)

    @cached_property
    def box(self) -> tuple[int, int, int, int]:
        """First and last row, first and last column of the body."""
        rows, columns = (np.flatnonzero(self.body.any(axis)) for axis in (1, 0))
        return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])

    @property
    def height(self) -> int:
        """Rows of the body."""
        return self.box[1] - self.box[0] + 1

    @property
    def width(self) -> int:
        """Return the columns of the body."""
        return self.box[3] - self.box[2] + 1

    @property
    def middle(self) -> Point:
        """Middle (row, column) of the body's box."""
        return (self.box[0] + self.box[1]) / 2, (self.box[2] + self.box[3]) / 2

    @property
    def is_head(self) -> bool:
        """Taller than a trunk: a section through head or neck."""
        return self.width < 1.1 * self.height

    @cached_property
    def pixels_per_mm(self) -> float:
        """Scale of the slice, as given or such that the body has an average size."""
        if self.pixel_mm is not None:
            return 1 / self.pixel_mm
        return float(np.sqrt(self.body.sum())) / (_HEAD_MM if self.is_head else _TRUNK_MM)

    @cached_property
    def air(self) -> np.ndarray:
        """Lung and gas in the body: bool (n, n)."""
        return self.body & (self.image_mu < hu_to_mu(_AIR_HU))

    @cached_property
    def _bone_shell(self) -> np.ndarray:
        """Bone as its HU show it; marrow may be missing."""
        smooth = ndimage.gaussian_filter(self.image_mu, 0.7)
        bone = self.body & (smooth > hu_to_mu(_BONE_HU))
        labels, _ = ndimage.label(bone)
        small = np.bincount(labels.ravel()) < 0.0004 * self.body.sum()
        return bone & ~small[labels]

    @cached_property
    def _porous(self) -> np.ndarray:
        """Marrow and all that is denser, contrasted vessels too."""
        return self.body & (ndimage.gaussian_filter(self.image_mu, 0.9 * self.pixels_per_mm) > hu_to_mu(_MARROW_HU))

    @cached_property
    def bone(self) -> np.ndarray:
        """Return the bones with the marrow that they enclose, without the spinal canal: bool (n, n)."""
        closed = ndimage.binary_closing(self._bone_shell, _disc(max(1, round(2.5 * self.pixels_per_mm))))
        return self._bone_shell | (ndimage.binary_fill_holes(closed) & self._porous)

    @cached_property
    def soft(self) -> np.ndarray:
        """Soft tissue away from bone, air and skin: bool (n, n)."""
        solid = self.body & ~self.air & ~self.bone
        return ndimage.binary_erosion(solid, _disc(max(1, round(2 * self.pixels_per_mm))))

    def _roundest(
        self, window: np.ndarray, low_mm: float, high_mm: float, bone_depth: np.ndarray | None = None
    ) -> Round | None:
        """Return the largest disc in bone with its middle in a window, if its radius is low_mm to high_mm."""
        depth = np.where(window, self._bone_depth if bone_depth is None else bone_depth, 0)
        radius = float(depth.max())
        if not low_mm <= radius / self.pixels_per_mm <= high_mm:
            return None
        rows, columns = np.nonzero(depth > 0.93 * radius)
        return Round((float(rows.mean()), float(columns.mean())), radius)

    @cached_property
    def _bone_depth(self) -> np.ndarray:
        return ndimage.distance_transform_edt(self._closed_bone)

    @cached_property
    def _closed_bone(self) -> np.ndarray:
        return ndimage.binary_fill_holes(
            ndimage.binary_closing(self.bone, _disc(max(1, round(2.0 * self.pixels_per_mm))))
        )

    @cached_property
    def _canal(self) -> tuple[Point, float] | None:
        """Spinal canal, middle and half width: a soft hole in the bone near the midline, right behind solid bone."""
        best_first = sorted(self._holes(0.8) + self._holes(2.2), reverse=True)
        return best_first[0][1:] if best_first else None

    def _holes(self, closing_mm: float) -> list[tuple[float, Point, float]]:
        """Return candidates for the canal once gaps of 2 closing_mm are closed: score, middle, half width."""
        mm = self.pixels_per_mm
        closed = ndimage.binary_closing(self._porous, _disc(max(1, round(closing_mm * mm))))
        filled = ndimage.binary_fill_holes(closed)
        labels, count = ndimage.label(filled & ~closed)
        reach = mm * (0.62 if self.is_head else 1.0)
        found = []
        for number, box in enumerate(ndimage.find_objects(labels, count), start=1):
            hole = labels[box] == number
            row, column = (float(np.mean(i)) + s.start for i, s in zip(np.nonzero(hole), box, strict=True))
            aside_mm, area_mm2, width_mm = abs(column - self.middle[1]) / mm, hole.sum() / mm**2, hole.any(0).sum() / mm
            level = row > self.middle[0] - 0.1 * self.height and aside_mm * mm < 0.1 * self.width
            if not level or not 70 < area_mm2 < 700 or width_mm > _CANAL_WIDEST_MM:
                continue
            ahead = filled[
                max(0, round(box[0].start - 20 * reach)) : max(1, round(box[0].start - 5 * reach)),
                round(column - 6 * reach) : round(column + 6 * reach),
            ]
            hu = float(mu_to_hu(self.image_mu[box][hole].mean()))
            if hu < _CANAL_HU and ahead.mean() > 0.6:
                score = float(ahead.mean()) - 0.02 * aside_mm + 0.0015 * min(area_mm2, 300) - 0.008 * abs(hu - 20)
                found.append((score, (row, column), float(hole.any(0).sum()) / 2))
        return found

    @cached_property
    def vertebra(self) -> Vertebra | None:
        """The vertebra: in front of the spinal canal, or else the largest round bone at the midline."""
        mm = self.pixels_per_mm * (0.62 if self.is_head else 1.0)
        row, column = np.ogrid[: self.body.shape[0], : self.body.shape[1]]
        if self._canal is not None:
            canal, half_width = self._canal
            ahead = (np.abs(column - canal[1]) < 8 * mm) & (row < canal[0] - 12 * mm) & (row > canal[0] - 34 * mm)
            body = self._roundest(ahead, 4.5, 24.0) or Round((canal[0] - 23 * mm, canal[1]), 14 * mm)
            return Vertebra(body, canal, half_width)
        if self.is_head or self.femoral_heads:
            return None
        window = np.abs(column - self.middle[1]) < 0.12 * self.width
        window = window & (np.abs(row - self.middle[0] - 0.14 * self.height) < 0.08 * self.height)
        depth = ndimage.distance_transform_edt(ndimage.binary_fill_holes(self._porous))
        found = self._roundest(window, 9.5, 26.0, depth)
        if found is None:
            return None
        return Vertebra(found, (found.middle[0] + 1.4 * found.radius, found.middle[1]), 0.65 * found.radius)

    @cached_property
    def femoral_heads(self) -> tuple[Round, ...]:
        """Large round bones beside the midline of a section without lungs: none, one or two."""
        if self.is_head or self.air.sum() > 0.1 * self.body.sum():
            return ()
        row, column = np.ogrid[: self.body.shape[0], : self.body.shape[1]]
        level = np.abs(row - self.middle[0]) < 0.25 * self.height
        heads = []
        for side in (-1, 1):
            aside = side * (column - self.middle[1])
            found = self._roundest(level & (aside > 0.14 * self.width) & (aside < 0.42 * self.width), 13.0, 36.0)
            if found is not None:
                heads.append(self._ball(found.middle))
        return tuple(heads)

    def _ball(self, near: Point) -> Round:
        """Return the ball of bone in a darker ring (the joint space) that fits best within 22 mm of a point."""
        mm = self.pixels_per_mm
        reach = round(22 * mm)
        margin = reach + round(34 * mm)
        row, column = (round(v) for v in near)
        padded = np.pad(np.clip(self.image_mu, hu_to_mu(0.0), hu_to_mu(300.0)), margin, mode="edge")
        crop = padded[row : row + 2 * margin + 1, column : column + 2 * margin + 1]
        y, x = np.ogrid[-(margin - reach) : margin - reach + 1, -(margin - reach) : margin - reach + 1]
        distance = np.hypot(y, x)
        best = (-np.inf, near, 0.0)
        for radius in np.arange(19.0, 28.1, 1.5) * mm:
            disc, ring = distance <= radius, (distance > radius + 0.8 * mm) & (distance < radius + 3.2 * mm)
            fit = fftconvolve(crop, disc / disc.sum() - ring / ring.sum(), mode="valid")
            peak = np.unravel_index(np.argmax(fit), fit.shape)
            if fit[peak] > best[0]:
                best = (
                    float(fit[peak]),
                    (float(row + peak[0] - reach), float(column + peak[1] - reach)),
                    float(radius),
                )
        return Round(best[1], best[2])

    @cached_property
    def teeth(self) -> tuple[Point, ...]:
        """Return the middles (row, column) of teeth: dense spots in the anterior half of a head, 7 mm apart or more."""
        dense = self.body & (self.image_mu > hu_to_mu(_DENSE_HU))
        if not self.is_head or dense.sum() < 25 * self.pixels_per_mm**2:
            return ()
        if np.mean(np.nonzero(dense)[0] < self.middle[0]) < 0.8:
            return ()
        depth = ndimage.gaussian_filter(np.where(dense, self.image_mu, 0), 1.6 * self.pixels_per_mm)
        depth[round(self.middle[0]) :] = 0
        peaks = depth == ndimage.maximum_filter(depth, size=max(3, 2 * round(2.5 * self.pixels_per_mm) + 1))
        rows, columns = np.nonzero(peaks & (depth > 0.35 * depth.max()) & dense)
        found: list[Point] = []
        for row, column in sorted(zip(rows.tolist(), columns.tolist(), strict=True), key=lambda p: -depth[p]):
            if all(np.hypot(row - r, column - c) > 6 * self.pixels_per_mm for r, c in found):
                found.append((float(row), float(column)))
        return tuple(found)
