"""The user's own metal mask in place of a decision: a NIfTI volume, a DICOM SEG or RTSTRUCT, or a series of images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

from mar_pipeline.dicom.errors import RefusedInput
from mar_pipeline.dicom.measures.regions import Plane, Region
from mar_pipeline.dicom.measures.structures import read_structures
from mar_pipeline.dicom.reading.discovery import discover
from mar_pipeline.dicom.reading.limits import Limits
from mar_pipeline.dicom.reading.pixels import read_slice
from mar_pipeline.dicom.reading.series import Series

NAME = "--metal-mask"
_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""DICOM's axes point left and posterior, NIfTI's right and anterior."""
_SAME_PLACE_MM = 0.05
_EXPECTED = (
    "expected a NIfTI volume, a DICOM SEG or RTSTRUCT of the series, or a folder with a series of the same slices"
)


@dataclass(frozen=True)
class Volume:
    """A NIfTI volume, in which all but 0 is metal.

    Args:
        values: Bool["i j k"].
        to_voxels: Float["4 4"], from mm (left, posterior, superior) to i, j, k.
    """

    values: np.ndarray
    to_voxels: np.ndarray

    name = NAME
    label = None

    def mask(self, plane: Plane) -> np.ndarray | None:
        """Return the nearest voxel of the volume for each of a slice, or None if it holds no metal there."""
        along_row, along_column = np.array(plane.geometry.orientation).reshape(2, 3)
        row, column = np.indices(plane.shape)
        row_mm, column_mm = plane.geometry.spacing_mm
        places_mm = (
            np.asarray(plane.geometry.position_mm)[:, None, None]
            + along_column[:, None, None] * row * row_mm
            + along_row[:, None, None] * column * column_mm
        )
        voxels = np.einsum("ij,jrc->irc", self.to_voxels[:3, :3], places_mm) + self.to_voxels[:3, 3, None, None]
        found = ndimage.map_coordinates(self.values.astype(np.uint8), voxels, order=0, cval=0) > 0
        return found if found.any() else None


@dataclass(frozen=True)
class Images:
    """A series of images that lie where the slices do; in them all but the stored value 0 is metal.

    Args:
        masks: position of a slice along its normal, in mm -> Bool["rows columns"].
    """

    masks: Mapping[float, np.ndarray]

    name = NAME
    label = None

    def mask(self, plane: Plane) -> np.ndarray | None:
        """Return the mask of the image at the slice's place, or None if there is none, or none with metal."""
        along_row, along_column = np.array(plane.geometry.orientation).reshape(2, 3)
        position_mm = float(np.dot(np.cross(along_row, along_column), plane.geometry.position_mm))
        for place_mm, mask in self.masks.items():
            if abs(place_mm - position_mm) <= _SAME_PLACE_MM and mask.shape == plane.shape:
                return mask if mask.any() else None
        return None


def read_given_mask(path: Path, series: Series, limits: Limits) -> tuple[Region, ...]:
    """Read the metal mask that the user gives for a series.

    Args:
        path: a NIfTI file, a DICOM file, or a folder.
        series: the series that is corrected.
        limits: how much may be read.

    Returns:
        Regions whose union is metal.

    Raises:
        RefusedInput: there is no such file, it is of another kind or damaged, or it does not refer to the series.
    """
    if path.is_dir():
        return (_images(path, series, limits),)
    if not path.is_file():
        raise RefusedInput(f"{NAME}: no such file or folder; {_EXPECTED}")
    if path.name.endswith((".nii", ".nii.gz")):
        return (_volume(path),)
    found = read_structures(series, [(path, NAME)], limits)
    if found.warnings:
        raise RefusedInput(f"{'; '.join(found.warnings)}; {_EXPECTED}")
    if not found.regions:
        raise RefusedInput(f"{NAME}: holds no region of series {series.number}; {_EXPECTED}")
    return found.regions


def given_in(regions: Sequence[Region], plane: Plane) -> np.ndarray:
    """Return the union of regions in a slice: Bool["rows columns"]."""
    union = np.zeros(plane.shape, bool)
    for region in regions:
        mask = region.mask(plane)
        if mask is not None:
            union |= mask
    return union


def _volume(path: Path) -> Volume:
    try:
        image = nibabel.Nifti1Image.from_filename(path)
        values = np.asarray(image.dataobj)
        to_voxels = np.linalg.inv(image.affine) @ _TO_RAS
    except _DAMAGED as error:
        raise RefusedInput(f"{NAME}: is damaged or no NIfTI volume; {_EXPECTED}") from error
    if values.ndim != 3:
        raise RefusedInput(f"{NAME}: got {values.ndim} dimensions; expected a volume of 3")
    return Volume(values != 0, to_voxels)


def _images(path: Path, series: Series, limits: Limits) -> Images:
    found = [one for one in discover(path, limits).series if one.error is None]
    if len(found) != 1 or found[0].shape != series.shape:
        raise RefusedInput(
            f"{NAME}: got {len(found)} series of images"
            + (f" of {found[0].shape[0]} x {found[0].shape[1]}" if len(found) == 1 else "")
            + f"; expected one, of {series.shape[0]} x {series.shape[1]} as series {series.number}"
        )
    masks = {file.position_mm: read_slice(file, found[0], limits)[1].stored != 0 for file in found[0].slices}
    return Images(masks)
