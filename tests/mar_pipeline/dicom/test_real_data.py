"""`mar dicom` on real series: what it refuses, what it corrects, and what DICOM's own checkers say of it."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from derived_files import TOO_YOUNG
from metal_slices import discs, with_metal
from pydicom import dcmread
from pydicom.dataset import FileDataset
from scipy import ndimage

from mar_pipeline.cli import main

CREATED = ("--created", "2026-01-02T03:04:05", "--no-html")


def hu_of(image: FileDataset) -> np.ndarray:
    return image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)


@pytest.fixture(scope="module")
def with_hip(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GE series with a steel disc of 28 mm in each slice."""
    folder = tmp_path_factory.mktemp("ge")
    for path in sorted((shared_data / "dicom" / "ct_3slices").iterdir()):
        image = dcmread(path)
        hu, spacing_mm = hu_of(image), float(image.PixelSpacing[0])
        padding = hu < -1500
        piece = discs(hu.shape, spacing_mm, (-50, -90, 14))
        metal = with_metal(np.where(padding, -1000, hu).astype(np.float32), piece, spacing_mm, "steel")
        stored = np.rint((metal - float(image.RescaleIntercept)) / float(image.RescaleSlope))
        image.PixelData = np.where(padding, image.pixel_array, stored).astype("<i2").tobytes()
        image.save_as(folder / path.name)
    return folder


@pytest.fixture(scope="module")
def corrected(with_hip: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def of(method: str) -> Path:
        if method not in made:
            out = tmp_path_factory.mktemp("out") / method
            assert main(["dicom", str(with_hip), str(out), "--method", method, *CREATED]) == 0
            made[method] = out / "series_001"
        return made[method]

    return of


def test_a_series_without_metal_ends_with_4(shared_data: Path, tmp_path: Path, capsys) -> None:
    assert main(["dicom", str(shared_data / "dicom" / "ct_3slices"), str(tmp_path / "out")]) == 4
    assert "no metal" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_blank_uids_are_refused_and_repaired_on_request(shared_data: Path, tmp_path: Path, capsys) -> None:
    """The Siemens series holds no metal, but something of 1500 HU that a low threshold takes for it."""
    folder, out = str(shared_data / "dicom" / "siemens_ct_20slices"), tmp_path / "out"
    assert main(["dicom", folder, str(out)]) == 5
    assert "blank" in capsys.readouterr().err and not out.exists()
    assert main(["dicom", folder, str(out), "--repair-uids", "--dry-run"]) == 4
    repaired = [
        "dicom",
        folder,
        str(out),
        "--repair-uids",
        "--metal-threshold",
        "1500",
        "--min-metal-mm2",
        "1",
        "--all-candidates",
    ]
    assert main([*repaired, "--no-html"]) == 0
    assert len(list((out / "series_001").glob("IM*.dcm"))) == 20


@pytest.mark.parametrize("method", ["li", "nmar"])
def test_steel_of_hip_size_loses_half_of_its_error(method: str, shared_data: Path, with_hip: Path, corrected) -> None:
    places = {float(dcmread(path).ImagePositionPatient[2]): path for path in corrected(method).glob("IM*.dcm")}
    assert len(places) == 3
    for path in sorted((shared_data / "dicom" / "ct_3slices").iterdir()):
        image = dcmread(path)
        truth, before = hu_of(image), hu_of(dcmread(with_hip / path.name))
        after = hu_of(dcmread(places[float(image.ImagePositionPatient[2])]))
        metal = ndimage.binary_propagation(before >= 2500, mask=before >= 2000)
        away_mm = ndimage.distance_transform_edt(~metal) * float(image.PixelSpacing[0])
        for low, high in ((0, 40), (40, 80), (80, 120), (120, 400)):
            ring = (truth > -1500) & (away_mm > low) & (away_mm <= high)
            old, new = (np.sqrt(np.mean((hu - truth)[ring] ** 2)) for hu in (before, after))
            assert new < (old / 2 if low == 0 else old + 1)
        np.testing.assert_array_equal(after[metal | (truth < -1500)], before[metal | (truth < -1500)])


def test_checkers_find_nothing_that_the_source_has_not(with_hip: Path, corrected, tool: Callable[[str], str]) -> None:
    def complaints(files: list[Path], *program: str) -> set[str]:
        found = set()
        for file in files:
            ended = subprocess.run([*program, str(file)], capture_output=True, text=True)
            lines = (ended.stdout + ended.stderr).splitlines()
            found |= {line for line in lines if line.startswith("Error") and not TOO_YOUNG.search(line)}
        return found

    sources, derived = sorted(with_hip.iterdir()), sorted(corrected("nmar").glob("*.dcm"))
    assert len(derived) == 4  # three images and the segmentation
    validator = tool("dciodvfy")
    assert complaints(derived, validator, "-new") <= complaints(sources, validator, "-new")
    consistency = subprocess.run([tool("dcentvfy"), *map(str, sources + derived)], capture_output=True, text=True)
    before = subprocess.run([tool("dcentvfy"), *map(str, sources)], capture_output=True, text=True)
    assert consistency.stderr.count("Error") <= before.stderr.count("Error"), consistency.stderr
