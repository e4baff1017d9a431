"""The user's own metal mask: NIfTI, SEG, and a folder of images say the same; what does not fit is refused."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from mar_pipeline.cli import main
from mar_pipeline.dicom.example import write_example
from mar_pipeline.dicom.given_mask import Volume
from mar_pipeline.dicom.measures.regions import Plane
from mar_pipeline.dicom.reading.image_header import geometry

SIDE = 128
OPTIONS = ("--no-html", "--created", "2026-01-02T03:04:05", "--workers", "1")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("example") / "in"
    write_example(folder, slices=3, with_metal=(1,), size=SIDE)
    return folder


def metal_images(source: Path) -> list[np.ndarray]:
    images = [dcmread(path) for path in sorted(source.iterdir())]
    return [image.pixel_array + float(image.RescaleIntercept) > 3500 for image in images]


def pixels(out: Path) -> list[bytes]:
    return [dcmread(path).PixelData for path in sorted((out / "series_001").glob("IM*.dcm"))]


@pytest.fixture(scope="module")
def nifti(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    first = dcmread(sorted(source.iterdir())[0])
    spacing, gap = float(first.PixelSpacing[0]), 3.0
    x, y, z = map(float, first.ImagePositionPatient)
    affine = np.diag([-spacing, -spacing, gap, 1.0])
    affine[:3, 3] = -x, -y, z
    volume = np.stack([mask.T for mask in metal_images(source)], axis=-1).astype(np.uint8)
    path = tmp_path_factory.mktemp("masks") / "metal.nii.gz"
    nibabel.save(nibabel.Nifti1Image(volume, affine), path)
    return path


@pytest.fixture(scope="module")
def by_nifti(source: Path, nifti: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "out"
    assert main(["dicom", str(source), str(out), "--metal-mask", str(nifti), *OPTIONS]) == 0
    return out


def test_a_nifti_mask_lies_where_the_metal_lies(source: Path, by_nifti: Path) -> None:
    summary = json.loads((by_nifti / "summary.json").read_text())
    spacing = summary["series"][0]["spacing_mm"][0]
    areas = [one["metal_mm2"] for one in summary["series"][0]["per_slice"]]
    expected = [mask.sum() * spacing**2 for mask in metal_images(source)]
    assert areas == pytest.approx(expected, abs=0.01) and areas[1] > 0
    before = [dcmread(path).PixelData for path in sorted(source.iterdir())]
    assert [a == b for a, b in zip(before, pixels(by_nifti), strict=True)] == [True, False, True]


def test_a_segmentation_of_the_derived_series_says_the_same(source: Path, by_nifti: Path, tmp_path: Path) -> None:
    """The SEG that a run writes refers to the derived images, which lie where the source's do."""
    segmentation = by_nifti / "series_001" / "metal_seg.dcm"
    image = dcmread(segmentation)
    derived = {dcmread(path).SOPInstanceUID for path in by_nifti.rglob("IM*.dcm")}
    referred = {one.ReferencedSOPInstanceUID for one in image.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert referred <= derived
    assert main(["dicom", str(source), str(tmp_path / "out"), "--metal-mask", str(segmentation), *OPTIONS]) == 0
    assert pixels(tmp_path / "out") == pixels(by_nifti)


@pytest.mark.parametrize("fault", ["frame of reference", "place"])
def test_a_segmentation_of_another_place_is_refused(source: Path, by_nifti: Path, tmp_path: Path, fault: str) -> None:
    image = dcmread(by_nifti / "series_001" / "metal_seg.dcm")
    if fault == "place":
        for frame in image.PerFrameFunctionalGroupsSequence:
            place = frame.PlanePositionSequence[0]
            place.ImagePositionPatient = [place.ImagePositionPatient[0] + 1, *place.ImagePositionPatient[1:]]
    else:
        image.FrameOfReferenceUID = generate_uid()
    image.save_as(tmp_path / "seg.dcm")
    code = main(["dicom", str(source), str(tmp_path / "out"), "--metal-mask", str(tmp_path / "seg.dcm"), *OPTIONS])
    assert code == 5 and not (tmp_path / "out").exists()


def test_a_folder_of_images_says_the_same(source: Path, by_nifti: Path, tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()
    for path, mask in zip(sorted(source.iterdir()), metal_images(source), strict=True):
        image = dcmread(path)
        image.PixelData = mask.astype("<i2").tobytes()
        image.save_as(folder / path.name)
    out = tmp_path / "out"
    assert main(["dicom", str(source), str(out), "--metal-mask", str(folder), *OPTIONS]) == 0
    assert pixels(out) == pixels(by_nifti)


def test_masks_that_do_not_fit_are_refused(source: Path, nifti: Path, tmp_path: Path, capsys) -> None:
    elsewhere = nibabel.load(nifti)
    affine = elsewhere.affine.copy()
    affine[2, 3] += 1000
    nibabel.save(nibabel.Nifti1Image(np.asarray(elsewhere.dataobj), affine), tmp_path / "far.nii.gz")
    values = np.asarray(elsewhere.dataobj)
    nibabel.save(nibabel.Nifti1Image(values * 3, elsewhere.affine), tmp_path / "labels.nii.gz")
    nibabel.save(nibabel.Nifti1Image(values, None), tmp_path / "nowhere.nii.gz")
    (tmp_path / "broken.nii").write_bytes(b"no volume")
    for mask, words in (
        (tmp_path / "far.nii.gz", "holds no voxel"),
        (tmp_path / "broken.nii", "damaged or no NIfTI"),
        (tmp_path / "labels.nii.gz", "other than 0 and 1"),
        (tmp_path / "nowhere.nii.gz", "where it lies"),
        (next(source.iterdir()), "0 regions"),
    ):
        assert main(["dicom", str(source), str(tmp_path / "out"), "--metal-mask", str(mask), *OPTIONS]) == 5
        assert words in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_images_that_lie_elsewhere_are_refused(source: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()
    for path in sorted(source.iterdir()):
        image = dcmread(path)
        image.ImagePositionPatient = [image.ImagePositionPatient[0] + 7, *image.ImagePositionPatient[1:]]
        image.save_as(folder / path.name)
    assert main(["dicom", str(source), str(tmp_path / "out"), "--metal-mask", str(folder), *OPTIONS]) == 5
    assert "no image lies where a slice lies" in capsys.readouterr().err


def test_images_that_are_turned_are_refused(source: Path, tmp_path: Path, capsys) -> None:
    """They lie in the same place with their first voxel alone."""
    folder = tmp_path / "masks"
    folder.mkdir()
    for path in sorted(source.iterdir()):
        image = dcmread(path)
        image.ImageOrientationPatient = [0, 1, 0, -1, 0, 0]
        image.save_as(folder / path.name)
    assert main(["dicom", str(source), str(tmp_path / "out"), "--metal-mask", str(folder), *OPTIONS]) == 5
    assert "no image lies where a slice lies" in capsys.readouterr().err


def test_a_mask_of_soft_tissue_is_refused_and_one_mostly_of_it_is_warned_of(
    source: Path, nifti: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = nibabel.load(nifti)
    values = np.asanyarray(image.dataobj)
    metal = values[..., 1] > 0

    def given(mask: np.ndarray, name: str) -> Path:
        volume = np.zeros_like(values)
        volume[..., 1] = mask
        nibabel.save(nibabel.Nifti1Image(volume, image.affine), tmp_path / name)
        return tmp_path / name

    soft = np.zeros_like(metal)
    soft[62:67, 88:93] = True  # behind the hips, in muscle
    wrong = given(soft & ~metal, "soft.nii.gz")
    assert main(["dicom", str(source), str(tmp_path / "out"), "--metal-mask", str(wrong), *OPTIONS]) == 5
    assert "metal is brighter than 1000: is the mask in its place?" in capsys.readouterr().err
    wide = np.zeros_like(metal)
    wide[44:84, 80:100] = True
    mostly = given(wide | metal, "wide.nii.gz")
    main(["dicom", str(source), "--dry-run", "--metal-mask", str(mostly), *OPTIONS[1:]])
    assert "% of it is darker than metal; is it in its place?" in capsys.readouterr().out


def test_the_outermost_slices_of_a_nifti_mask_are_not_lost_by_rounding(source: Path) -> None:
    plane = Plane(geometry(dcmread(sorted(source.iterdir())[0]), "first"), (SIDE, SIDE), 1.5, "1.2.3")
    row_mm, column_mm = plane.geometry.spacing_mm
    x, y, z = plane.geometry.position_mm
    to_mm = np.diag([column_mm, row_mm, 3.0, 1.0])
    to_mm[:3, 3] = x, y, z + 1e-5  # as a float32 affine rounds it
    volume = Volume(np.ones((SIDE, SIDE, 2), bool), np.linalg.inv(to_mm))
    found = volume.mask(plane)
    assert found is not None and found.all()
