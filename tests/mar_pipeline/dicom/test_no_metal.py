"""Slices without metal that a threshold takes for metal: nothing in them may change."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from scipy import ndimage

from mar_pipeline.cli import main
from mar_pipeline.dicom.example import write_example

SIDE, MM = 256, 0.9
Y, X = ((np.arange(SIDE) - (SIDE - 1) / 2) * MM for _ in range(2))


def ellipse(x_mm: float, y_mm: float, half_x: float, half_y: float) -> np.ndarray:
    return ((X[None] - x_mm) / half_x) ** 2 + ((Y[:, None] - y_mm) / half_y) ** 2 <= 1


def skull(hu: np.ndarray) -> np.ndarray:
    """Dense bone and air side by side: petrous bones, a sinus with a septum, the base of the skull."""
    hu = np.full(hu.shape, -1000.0)
    hu[ellipse(0, 0, 80, 98)] = 40
    hu[ellipse(0, 0, 75, 93)] = 1900
    hu[ellipse(0, 0, 68, 82)] = 35
    for side in (-38, 38):
        hu[ellipse(side, 0, 22, 9)] = 2700
        hu[ellipse(side, 0, 5, 3)] = -900
    hu[ellipse(0, -55, 22, 26)] = -900
    hu[ellipse(0, -55, 1.5, 26)] = 900
    hu[ellipse(0, 88, 30, 4)] = 2600
    return ndimage.gaussian_filter(hu, 0.7) + np.random.default_rng(0).normal(0, 6, hu.shape)


def shield(hu: np.ndarray) -> np.ndarray:
    """A bismuth shield in the air above the skin."""
    skin = int(np.argmax((hu > -300).any(axis=1)))
    row, column = np.indices(hu.shape)
    line = skin - 8 + ((column - hu.shape[1] / 2) / 85) ** 2 * 12
    return np.where((np.abs(row - line) <= 1.2) & (np.abs(column - hu.shape[1] / 2) <= 85), 3071, hu)


def grown_bone(hu: np.ndarray) -> np.ndarray:
    """Two voxels just above the threshold in a dense disc."""
    row, column = np.indices(hu.shape)
    hu[np.hypot(row - 128, column - 128) <= 6] = 2100
    hu[128, 128:130] = 2550
    return hu


def write(folder: Path, change: Callable[[np.ndarray], np.ndarray], slices: int = 1) -> Path:
    write_example(folder, slices=slices, with_metal=(), size=SIDE)
    for path in folder.iterdir():
        image = dcmread(path)
        hu = change(image.pixel_array + float(image.RescaleIntercept))
        image.PixelSpacing = [MM, MM]
        image.PixelData = np.clip(np.rint(hu) - float(image.RescaleIntercept), 0, 32767).astype("<i2").tobytes()
        image.save_as(path)
    return folder


@pytest.mark.parametrize(
    ("change", "slices", "reason"),
    [
        (skull, 1, "no brighter than dense bone"),
        (shield, 1, "outside the body"),
        (grown_bone, 2, "no brighter than dense bone"),
    ],
)
def test_bone_shields_and_single_bright_voxels_are_no_metal(
    change, slices: int, reason: str, tmp_path: Path, capsys
) -> None:
    source = write(tmp_path / "in", change, slices)
    assert main(["dicom", str(source), str(tmp_path / "out")]) == 4
    assert reason in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_what_is_forced_is_judged_and_the_original_kept(tmp_path: Path) -> None:
    source, out = write(tmp_path / "in", skull), tmp_path / "out"
    forced = ["--all-candidates", "--no-html"]
    assert main(["dicom", str(source), str(out), *forced]) == 0
    (written,) = (out / "series_001").glob("IM*.dcm")
    assert dcmread(written).PixelData == dcmread(next(source.iterdir())).PixelData
    assert main(["dicom", str(source), str(tmp_path / "strict"), *forced, "--strict-harm"]) == 5
    assert not (tmp_path / "strict").exists()


@pytest.mark.shared_data
@pytest.mark.parametrize("case", ["teeth_no_metal", "contrast_no_metal"])
def test_real_teeth_and_contrast_are_no_metal(case: str, shared_data: Path, tmp_path: Path) -> None:
    assert main(["dicom", str(shared_data / "real_metal" / case), str(tmp_path / "out")]) == 4
