"""The scan that stands in for the raw data of a reconstructed image: its grid, its geometry, the way to it and back.

The image is projected as a fan beam with the distances of a clinical scanner, corrected there, and the difference that
the correction makes is reconstructed and added to the image (see `projection.added`).
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from simulation.physics.geometry import FanBeam
from simulation.units import hu_to_mu

TISSUE_HU = -500.0
_CLINICAL = FanBeam.preset("clinical")
_EXTENSION_MM = 40.0
"""Length over which a body that is cut off at the field of view fades into air."""
_BORDER_MM, _BORDER_PIXELS = 3.0, 5
_TRUNCATED_SHARE = 0.02
"""Share of the field of view's border that is tissue from which a body counts as cut off."""


@dataclass(frozen=True)
class Grid:
    """The square pixels on which images of one shape and pixel spacing are projected, with the same middle.

    Args:
        shape: rows and columns of the images.
        spacing_mm: distance of their rows, and of their columns.
        grid_shape: rows and columns of the grid.
        pixel_mm: its pixels.
    """

    shape: tuple[int, int]
    spacing_mm: tuple[float, float]
    grid_shape: tuple[int, int]
    pixel_mm: float

    def to_grid(self, image: np.ndarray, outside: float = 0.0) -> np.ndarray:
        """Return the image on the grid, interpolated linearly where pixels differ.

        Args:
            image: Float["rows columns"].
            outside: value where the grid reaches beyond the image.

        Returns:
            Float32 of the grid's shape.
        """
        return _resampled(image, self.spacing_mm, self.grid_shape, (self.pixel_mm,) * 2, outside)

    def from_grid(self, image: np.ndarray) -> np.ndarray:
        """Return what lies on the grid on the pixels of the image, interpolated linearly: Float32["rows columns"]."""
        return _resampled(image, (self.pixel_mm,) * 2, self.shape, self.spacing_mm, 0.0)

    def mu_on_grid(self, hu: np.ndarray, field_of_view: np.ndarray, extend: bool) -> np.ndarray:
        """Attenuation of an image on the grid: air outside the field of view, or what fades out the body there.

        Args:
            hu: Float["rows columns"].
            field_of_view: Bool["rows columns"], see `field_of_view`.
            extend: whether a body that is cut off goes on outside and fades out.

        Returns:
            Float32 of the grid's shape, 1/cm.
        """
        mu = self.to_grid(np.where(field_of_view, hu_to_mu(hu), 0))
        if not extend:
            return mu
        inside = self.to_grid(field_of_view.astype(np.float32)) > 0.5
        distance, nearest = ndimage.distance_transform_edt(~inside, return_indices=True)
        # A local mean goes on, not single noisy pixels, and only tissue does: the noise of air would add up.
        near = ndimage.uniform_filter(mu * inside, _BORDER_PIXELS)
        share = ndimage.uniform_filter(inside.astype(np.float32), _BORDER_PIXELS)
        near = (near / np.maximum(share, 1e-3))[tuple(nearest)]
        fade = 0.5 + 0.5 * np.cos(math.pi * np.minimum(distance * self.pixel_mm / _EXTENSION_MM, 1))
        beyond = np.where(near > hu_to_mu(TISSUE_HU), near * fade, 0)
        return np.where(inside, mu, beyond).astype(np.float32)


def virtual_scan(shape: tuple[int, int], spacing_mm: tuple[float, float], extend: bool = False) -> tuple[Grid, FanBeam]:
    """Return the scan of images of a shape and spacing: pixels as fine as the image's, all of it in the fan.

    Distances and views are those of the preset ``clinical``, bins as dense in proportion to the pixels. More views
    do not help: the streaks of an image lie along the views of its scanner, which has about as many.

    Args:
        shape: rows and columns.
        spacing_mm: distance of rows, and of columns.
        extend: leaves room around the image, see `Grid.mu_on_grid`.
    """
    pixel_mm = min(spacing_mm)
    side_mm = max(count * mm for count, mm in zip(shape, spacing_mm, strict=True)) + (2 * _EXTENSION_MM * extend)
    side = math.ceil(side_mm / pixel_mm - 1e-6)
    side += (side - max(shape)) % 2  # pixel on pixel where the spacings are equal: nothing is interpolated
    density = side / _CLINICAL.image_shape[0]
    radius_mm = side * pixel_mm / 2  # corners are outside of every field of view
    source_mm = max(_CLINICAL.source_mm, 1.6 * radius_mm)
    half_detector_mm = (source_mm + _CLINICAL.detector_mm) * math.tan(math.asin(radius_mm / source_mm))
    bins = math.ceil(_CLINICAL.bins * density)
    geometry = FanBeam(
        image_shape=(side, side),
        pixel_mm=pixel_mm,
        source_mm=source_mm,
        detector_mm=_CLINICAL.detector_mm,
        views=_CLINICAL.views,
        bins=bins,
        pitch_mm=2 * half_detector_mm / bins,
    )
    return Grid(shape, spacing_mm, geometry.image_shape, pixel_mm), geometry


def field_of_view(
    shape: tuple[int, int], spacing_mm: tuple[float, float], padding: np.ndarray, diameter_mm: float | None
) -> np.ndarray:
    """Return the circle that the scanner reconstructed, without what it marked as padding.

    Args:
        shape: rows and columns.
        spacing_mm: distance of rows, and of columns.
        padding: Bool["rows columns"].
        diameter_mm: the header's reconstruction diameter; None, and what is larger than the image, is its shorter side.

    Returns:
        Bool["rows columns"].
    """
    rows_mm, columns_mm = ((np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing_mm, strict=True))
    shorter_mm = min(n * mm for n, mm in zip(shape, spacing_mm, strict=True))
    radius_mm = min(diameter_mm or shorter_mm, shorter_mm) / 2
    return (np.hypot(rows_mm[:, None], columns_mm) <= radius_mm) & ~padding


def is_truncated(hu: np.ndarray, inside: np.ndarray, spacing_mm: tuple[float, float]) -> bool:
    """Whether the body is cut off at the border of the field of view.

    Args:
        hu: Float["rows columns"].
        inside: Bool["rows columns"], the field of view.
        spacing_mm: distance of rows, and of columns.
    """
    depth = math.ceil(_BORDER_MM / min(spacing_mm))
    border = inside & ~ndimage.binary_erosion(inside, iterations=depth)
    labels, count = ndimage.label(ndimage.binary_opening(inside & (hu > TISSUE_HU), iterations=2 * depth))
    if not count or not border.any():
        return False
    body = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])  # not the table
    return float(body[border].mean()) > _TRUNCATED_SHARE


def _resampled(
    image: np.ndarray,
    spacing_mm: tuple[float, float],
    shape: tuple[int, int],
    new_spacing_mm: tuple[float, float],
    outside: float,
) -> np.ndarray:
    """Return the image on another grid with the same middle, linearly interpolated, blurred first if it is coarser."""
    scale = np.array(new_spacing_mm) / spacing_mm
    if (scale > 1).any():
        image = ndimage.gaussian_filter(image.astype(np.float32), np.maximum(scale - 1, 0) / 2)
    offset = (np.array(image.shape) - 1) / 2 - scale * (np.array(shape) - 1) / 2
    return ndimage.affine_transform(
        image.astype(np.float32), scale, offset, shape, order=1, mode="constant", cval=outside
    )
