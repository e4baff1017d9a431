"""The derived series as a NIfTI volume in HU, for programs that read no DICOM."""

import logging
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset

from mar_pipeline.dicom.process import SeriesResult, series_name
from mar_pipeline.dicom.slices import image_name

logger = logging.getLogger(__name__)

FOLDER = "nifti"
_UNEVEN_MM = 0.01
_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""DICOM's axes point left and posterior, NIfTI's right and anterior."""


def write_nifti(staging: Path, results: Sequence[SeriesResult]) -> None:
    """Write series_001.nii.gz, ... of all derived series whose slices are evenly spaced; others are named in the log.

    Args:
        staging: the output folder, with the derived series in it.
        results: of the run.
    """
    for result in results:
        if result.derivation is None:
            continue
        folder = staging / series_name(result.work.series)
        images = [dcmread(folder / image_name(number)) for number in range(len(result.slices))]
        places = np.array([image.ImagePositionPatient for image in images], float)
        if np.abs(np.diff(places, n=2, axis=0)).max(initial=0) > _UNEVEN_MM:
            logger.warning("%s: slices are not evenly spaced, which NIfTI cannot say; not written", folder.name)
            continue
        volume = np.stack([_hu(image) for image in images], axis=-1)
        (staging / FOLDER).mkdir(exist_ok=True)
        nifti = nibabel.Nifti1Image(volume, _affine(images[0], places))
        nifti.header.set_xyzt_units("mm")
        nibabel.save(nifti, staging / FOLDER / f"{folder.name}.nii.gz")


def _hu(image: Dataset) -> np.ndarray:
    """Float32["columns rows"]."""
    return (image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)).astype(np.float32).T


def _affine(first: Dataset, places: np.ndarray) -> np.ndarray:
    """From column, row and slice to mm, right-anterior-superior; a tilted stack keeps its shear."""
    along_row, along_column = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    row_mm, column_mm = (float(mm) for mm in first.PixelSpacing)
    step = (places[-1] - places[0]) / (len(places) - 1) if len(places) > 1 else np.cross(along_row, along_column)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2], affine[:3, 3] = (
        along_row * column_mm,
        along_column * row_mm,
        step,
        places[0],
    )
    return _TO_RAS @ affine
