"""The user's own metal mask in place of a decision: a NIfTI volume, a DICOM SEG or RTSTRUCT, or a series of images."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from mar_pipeline.dicom.measures.regions import Plane, Region, same_place
from mar_pipeline.dicom.measures.structures import read_structures
from mar_pipeline.dicom.reading.discovery import discover
from mar_pipeline.dicom.reading.files import quiet
from mar_pipeline.dicom.reading.image_header import Geometry, geometry
from mar_pipeline.dicom.reading.limits import Limits
from mar_pipeline.dicom.reading.pixels import read_slice
from mar_pipeline.dicom.reading.series import Series
from simulation.errors import InputError
from simulation.implants.masks import PackedMask

NAME = "--metal-mask"
_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""DICOM's axes point left and posterior, NIfTI's right and anterior."""
_DAMAGED = (ImageFileError, HeaderDataError, WrapStructError, OSError, EOFError, ValueError, np.linalg.LinAlgError)
_EXPECTED = "expected a NIfTI volume, a DICOM SEG or RTSTRUCT of the scan, or a folder with images of the same slices"


DIM_HU = 1000.0
"""No metal is darker than this; bone seldom is brighter."""


@dataclass(frozen=True)
class GivenValues:
    """Values of a slice under the user's mask.

    Args:
        voxels: of the mask.
        dim: those below `DIM_HU`.
        peak_hu: the highest; minus infinity where the mask is empty.
    """

    voxels: int
    dim: int
    peak_hu: float

    @classmethod
    def of(cls, hu: np.ndarray) -> "GivenValues":
        """Return what is known of values in HU, of any number."""
        return cls(hu.size, int((hu < DIM_HU).sum()), float(hu.max(initial=-np.inf)))


def check_place(values: Sequence[GivenValues], series: int) -> str:
    """Return a warning where the mask covers mostly tissue; empty where it does not.

    Args:
        values: of all slices.
        series: its number.

    Raises:
        InputError: the mask holds no voxel of the series, or nothing as bright as metal.
    """
    voxels, dim = sum(one.voxels for one in values), sum(one.dim for one in values)
    if not voxels:
        raise InputError(f"{NAME}: holds no voxel of series {series}; give a mask of this scan")
    if dim == voxels:
        peak = max(one.peak_hu for one in values)
        raise InputError(
            f"{NAME}: covers nothing brighter than {peak:.0f} HU in series {series}; metal is brighter than "
            f"{DIM_HU:.0f}: is the mask in its place?"
        )
    return (
        f"{NAME}: {100 * dim / voxels:.0f} % of it is darker than metal; is it in its place?"
        if 2 * dim > voxels
        else ""
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
        nearest = np.rint(voxels).astype(int)  # half a voxel beyond the outermost centres still belongs to the volume
        inside = ((nearest >= 0) & (nearest < np.array(self.values.shape)[:, None, None])).all(0)
        found = np.zeros(plane.shape, bool)
        found[inside] = self.values[tuple(nearest[:, inside])]
        return found if found.any() else None


@dataclass(frozen=True)
class Images:
    """A series of images that lie where the slices do; in them all but the stored value 0 is metal.

    Args:
        masks: where each image lies, and its metal.
    """

    masks: Sequence[tuple[Geometry, PackedMask]]

    name = NAME
    label = None

    def mask(self, plane: Plane) -> np.ndarray | None:
        """Return the mask of the image at the slice's place, or None if it holds no metal.

        Raises:
            InputError: there is no image at that place, or its pixels differ.
        """
        for place, packed in self.masks:
            if packed.shape == plane.shape and same_place(place, plane.geometry):
                mask = packed.unpack()
                return mask if mask.any() else None
        raise InputError(f"{NAME}: no image lies where a slice lies, pixel on pixel; expected one for every slice")


def read_given_mask(path: Path, series: Series, limits: Limits) -> tuple[Region, ...]:
    """Read the metal mask that the user gives for a series.

    Args:
        path: a NIfTI file, a DICOM file, or a folder.
        series: the series that is corrected.
        limits: how much may be read.

    Returns:
        Regions whose union is metal.

    Raises:
        InputError: there is no such file, it is of another kind or damaged, or it does not refer to the series.
    """
    if path.is_dir():
        return (_images(path, series, limits),)
    if not path.is_file():
        raise InputError(f"{NAME}: no such file or folder; {_EXPECTED}")
    if path.name.endswith((".nii", ".nii.gz")):
        return (_volume(path, limits),)
    found = read_structures(series, [(path, NAME)], limits, by_place=True)
    if found.warnings:
        raise InputError(f"{'; '.join(found.warnings)}; {_EXPECTED}")
    if len(found.regions) != 1:
        raise InputError(
            f"{NAME}: holds {len(found.regions)} regions of series {series.number}; expected a file with one, the metal"
        )
    return found.regions


def given_in(regions: Sequence[Region], plane: Plane) -> np.ndarray:
    """Return the union of regions in a slice: Bool["rows columns"]."""
    union = np.zeros(plane.shape, bool)
    for region in regions:
        mask = region.mask(plane)
        if mask is not None:
            union |= mask
    return union


def _volume(path: Path, limits: Limits) -> Volume:
    with _whole(path):
        image = nibabel.Nifti1Image.from_filename(path)
        shape, codes = image.shape, (int(image.header["sform_code"]), int(image.header["qform_code"]))
        to_voxels = np.linalg.inv(image.affine) @ _TO_RAS
    if len(shape) != 3 or max(shape) > limits.max_side:
        raise InputError(f"{NAME}: got a volume of {shape}; expected 3 dimensions of at most {limits.max_side}")
    if not any(codes):
        raise InputError(f"{NAME}: does not say where it lies (no sform or qform); expected the scan's affine")
    with _whole(path):
        values = np.asanyarray(image.dataobj)
    metal = values == 1
    if not (metal | (values == 0)).all():
        raise InputError(f"{NAME}: got values other than 0 and 1; expected a mask")
    return Volume(metal, to_voxels)


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Whatever nibabel raises of a file that is no whole NIfTI volume, as a refusal."""
    try:
        yield
    except _DAMAGED as error:
        raise InputError(f"{NAME}: is damaged or no NIfTI volume; {_EXPECTED}") from error


def _images(path: Path, series: Series, limits: Limits) -> Images:
    found = [one for one in discover(path, limits).series if one.error is None]
    if len(found) != 1 or found[0].shape != series.shape:
        raise InputError(
            f"{NAME}: got {len(found)} series of images"
            + (f" of {found[0].shape[0]} x {found[0].shape[1]}" if len(found) == 1 else "")
            + f"; expected one, of {series.shape[0]} x {series.shape[1]} as series {series.number}"
        )
    masks = []
    for number, file in enumerate(found[0].slices, 1):
        named = replace(file, name=f"{NAME}, image {number}")  # file names may name a patient
        header, pixels = read_slice(named, found[0], limits)
        with quiet():
            masks.append((geometry(header, named.name), PackedMask.of(pixels.stored != 0)))
    return Images(masks)
