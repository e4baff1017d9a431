"""Correction of a slice: what it removes, what it leaves alone, and what it refuses."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from metal_slices import discs, with_metal
from pydicom import dcmread
from scipy import ndimage

from mar_pipeline.dicom.correction.projection import SINOGRAM_METHODS, ProjectionCorrection, added, replaced_share
from mar_pipeline.dicom.correction.virtual_scan import field_of_view, is_truncated, virtual_scan
from simulation.errors import InputError
from simulation.physics.projector import Projector

SPACING_MM, SHAPE = 2.0, (160, 160)
methods = pytest.mark.parametrize("method", list(SINOGRAM_METHODS))


def correction(
    method: str, shape=SHAPE, spacing_mm=SPACING_MM, most_trace: float = 0.5, truncated: bool = False
) -> ProjectionCorrection:
    grid, geometry = virtual_scan(shape, (spacing_mm,) * 2, truncated)
    return ProjectionCorrection(SINOGRAM_METHODS[method], grid, Projector(geometry, "cpu"), most_trace)


def body() -> np.ndarray:
    """Soft tissue with a spine and a rib, noise of 10 HU."""
    hu = np.where(discs(SHAPE, SPACING_MM, (0, 0, 130)), 40.0, -1000.0)
    hu[discs(SHAPE, SPACING_MM, (70, 0, 20), (-80, 60, 10))] = 600
    return (hu + np.random.default_rng(3).normal(0, 10, SHAPE) * (hu > -500)).astype(np.float32)


def everywhere() -> np.ndarray:
    return field_of_view(SHAPE, (SPACING_MM,) * 2, np.zeros(SHAPE, bool), None)


def rmse_by_distance(hu, truth, metal, spacing_mm: float, where, edges_mm=(0, 40, 80, 120, 400)) -> list[float]:
    away_mm = ndimage.distance_transform_edt(~metal) * spacing_mm
    rings = [where & (away_mm > low) & (away_mm <= high) for low, high in pairwise(edges_mm)]
    return [float(np.sqrt(np.mean((hu - truth)[ring] ** 2))) for ring in rings if ring.any()]


@pytest.fixture(scope="module")
def steel() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(truth, slice with a steel disc of 28 mm, the metal that is found)."""
    truth = body()
    corrupted = with_metal(truth, discs(SHAPE, SPACING_MM, (-10, 45, 14)), SPACING_MM, "steel")
    return truth, corrupted, ndimage.binary_propagation(corrupted >= 2500, mask=corrupted >= 2000)


@methods
def test_a_hip_size_piece_of_steel(method: str, steel) -> None:
    truth, corrupted, metal = steel
    result = correction(method)(corrupted, metal, everywhere(), False)
    before = rmse_by_distance(corrupted, truth, metal, SPACING_MM, everywhere())
    after = rmse_by_distance(result.hu, truth, metal, SPACING_MM, everywhere())
    assert after[0] < before[0] / 2
    assert all(a < b + 2 for a, b in zip(after, before, strict=True))


@methods
def test_metal_and_what_is_outside_stay_as_they_are(method: str, steel) -> None:
    _, corrupted, metal = steel
    result = correction(method)(corrupted, metal, everywhere(), False)
    untouched = metal | ~everywhere()
    np.testing.assert_array_equal(result.hu[untouched], corrupted[untouched])
    assert (result.hu != corrupted)[~untouched].mean() > 0.9
    assert result.hu.dtype == np.float32


def test_the_trace_share_is_that_of_the_metals_shadow(steel) -> None:
    """A disc of radius r covers about 2 r of the 320 mm wide fan in every view."""
    _, corrupted, metal = steel
    share = correction("li")(corrupted, metal, everywhere(), False).trace_share
    assert share == pytest.approx(2 * 14 / 320, rel=0.25)


def test_a_streak_that_is_there_is_removed_and_one_that_is_not_is_not_brought() -> None:
    y, x = (axis * SPACING_MM for axis in np.mgrid[: SHAPE[0], : SHAPE[1]])
    there, new = 60 * np.sin(y / 4), 60 * np.sin((x + y) / 5)
    nothing = np.zeros(SHAPE, bool)
    hu = body() + there
    inside = discs(SHAPE, SPACING_MM, (0, 0, 100))

    def left(difference: np.ndarray, wanted: np.ndarray) -> float:
        result = added(hu, difference, np.zeros(SHAPE), nothing, everywhere(), (SPACING_MM,) * 2)
        return float(np.sqrt(np.mean((result - wanted)[inside] ** 2)))

    assert left(-there, hu - there) < 9  # of 42 HU
    assert left(new, hu) < 9
    assert left(there, hu) < 1  # a correction that would double what is there


@methods
@pytest.mark.parametrize(("place_mm", "radius_mm"), [((0, 100), 2.5), ((0, 60), 5.0), ((40, 0), 4.0)])
def test_small_titanium_is_corrected_and_what_is_far_is_left_alone(method: str, place_mm, radius_mm: float) -> None:
    truth, piece = body(), discs(SHAPE, SPACING_MM, (*place_mm, radius_mm))
    hu = with_metal(truth, piece, SPACING_MM, "titanium")
    metal = ndimage.binary_propagation(hu >= 2500, mask=hu >= 2000)
    result = correction(method)(hu, metal, everywhere(), False)
    before = rmse_by_distance(hu, truth, piece | metal, SPACING_MM, everywhere(), (0, 40, 400))
    after = rmse_by_distance(result.hu, truth, piece | metal, SPACING_MM, everywhere(), (0, 40, 400))
    assert after[0] < 0.85 * before[0]
    assert after[1] < before[1] + 1.5


def test_far_from_the_metal_fine_detail_stays() -> None:
    """Noise of single voxels, which no projection keeps: the image is not replaced."""
    hu = with_metal(body(), discs(SHAPE, SPACING_MM, (0, 100, 2.5)), SPACING_MM, "titanium")
    result = correction("nmar")(hu, hu >= 2000, everywhere(), False)
    far = discs(SHAPE, SPACING_MM, (0, -80, 40))
    detail, kept = (image - ndimage.gaussian_filter(image, 1) for image in (hu, result.hu))
    assert np.corrcoef(detail[far], kept[far])[0, 1] > 0.98


def test_of_a_disc_all_is_replaced_and_of_a_needle_only_what_is_seen_along_it() -> None:
    """A disc's path is about as long in every view; a needle's of 60 mm by 2 mm only near the view along it."""
    projector = Projector(virtual_scan(SHAPE, (SPACING_MM,) * 2, False)[1], "cpu")
    disc, needle = discs(SHAPE, SPACING_MM, (10, 20, 12)), np.zeros(SHAPE, bool)
    needle[80, 65:95] = True
    for piece in (disc, needle):
        path_cm = projector.forward(piece.astype(np.float32))
        beside_cm = ndimage.maximum_filter1d(path_cm, 13, axis=-1)
        share = np.where(path_cm > 0, replaced_share(beside_cm), np.nan)
        if piece is disc:
            assert np.nanmin(share) == 1
        else:
            assert np.nanmax(share) == 1 and np.nanmedian(share) < 0.5


@methods
def test_metal_that_hides_too_much_is_refused(method: str, steel) -> None:
    _, corrupted, metal = steel
    with pytest.raises(InputError, match=r"metal hides \d+ % of the projections.*at most 5 %"):
        correction(method, most_trace=0.05)(corrupted, metal, everywhere(), False)
    with pytest.raises(InputError, match="metal hides"):
        correction(method, most_trace=1.0)(corrupted, np.ones(SHAPE, bool), everywhere(), False)


@pytest.mark.parametrize("truncated", [False, True])
def test_pixels_that_are_not_square(truncated: bool, steel) -> None:
    """Every second column left out: still at least a third less error near the metal."""
    truth, corrupted, metal = (image[:, ::2] for image in steel)
    grid, geometry = virtual_scan(truth.shape, (SPACING_MM, 2 * SPACING_MM), truncated)
    inside = field_of_view(truth.shape, (SPACING_MM, 2 * SPACING_MM), np.zeros(truth.shape, bool), None)
    result = ProjectionCorrection(SINOGRAM_METHODS["nmar"], grid, Projector(geometry, "cpu"), 0.5)(
        corrupted, metal, inside, truncated
    )
    near = inside & ~metal & (ndimage.distance_transform_edt(~metal, (SPACING_MM, 2 * SPACING_MM)) < 40)
    before, after = (np.sqrt(np.mean((hu - truth)[near] ** 2)) for hu in (corrupted, result.hu))
    assert after < 0.67 * before


PIECES = {
    "steel in the liver": ("02.dcm", "steel", (-50, -90), 14),
    "steel beside the spine": ("02.dcm", "steel", (0, 0), 10),
    "titanium": ("02.dcm", "titanium", (16, -57), 3),
    "larger titanium": ("02.dcm", "titanium", (-8, 49), 5),
    "titanium in the spine": ("02.dcm", "titanium", (75, 5), 4),
    "titanium under the skin": ("01.dcm", "titanium", (-22, 159), 5),
    "titanium under the skin of the back": ("02.dcm", "titanium", (87, 165), 5),
}


def piece_in_a_real_slice(method: str, piece: str, folder: Path) -> tuple[list[float], list[float]]:
    """RMSE before and after: within 40 mm, beyond, and in the rings of 40 .. 80, 80 .. 120 and 120 .. 400 mm."""
    file, material, place_mm, radius_mm = PIECES[piece]
    image = dcmread(folder / "dicom" / "ct_3slices" / file)
    hu = image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)
    spacing_mm = float(image.PixelSpacing[0])
    inside = field_of_view(hu.shape, (spacing_mm,) * 2, hu < -1500, float(image.ReconstructionDiameter))
    truth = np.where(inside, hu, -1000).astype(np.float32)
    put = discs(hu.shape, spacing_mm, (*place_mm, radius_mm))
    corrupted = with_metal(truth, put, spacing_mm, material)
    metal = ndimage.binary_propagation(corrupted >= 2500, mask=corrupted >= 2000)
    truncated = is_truncated(corrupted, inside, (spacing_mm,) * 2)  # as `mar dicom` goes about it
    result = correction(method, hu.shape, spacing_mm, truncated=truncated)(corrupted, metal, inside, truncated)

    def errors(image: np.ndarray) -> list[float]:
        rings = rmse_by_distance(image, truth, put | metal, spacing_mm, inside)
        return [rings[0], *rmse_by_distance(image, truth, put | metal, spacing_mm, inside, (40, 400)), *rings[1:]]

    return errors(corrupted), errors(result.hu)


@methods
@pytest.mark.shared_data
@pytest.mark.parametrize("piece", [name for name in PIECES if name.startswith("steel")])
def test_steel_in_a_real_slice(method: str, piece: str, shared_data: Path) -> None:
    """Less than 60 % of the error near the metal, and no ring of the rest worse by more than 3 HU."""
    before, after = piece_in_a_real_slice(method, piece, shared_data)
    assert after[0] < 0.6 * before[0] and after[1] < before[1]
    assert all(a < b + 3 for a, b in zip(after, before, strict=True))


@pytest.mark.shared_data
@pytest.mark.parametrize("piece", [name for name in PIECES if "titanium" in name and "skin" not in name])
def test_nmar_helps_titanium_in_a_real_slice(piece: str, shared_data: Path) -> None:
    """Far away there is nothing to correct but noise: what is brought there stays below a HU."""
    before, after = piece_in_a_real_slice("nmar", piece, shared_data)
    assert after[0] < 0.7 * before[0]
    assert all(a < b + 1 for a, b in zip(after[1:], before[1:], strict=True))


@pytest.mark.shared_data
@pytest.mark.parametrize("piece", [name for name in PIECES if "skin" in name])
def test_nmar_of_titanium_under_the_skin_does_little_harm(piece: str, shared_data: Path) -> None:
    """Between tissue and air it may be worse than nothing, by a few HU: whether it is, the judge is to say."""
    before, after = piece_in_a_real_slice("nmar", piece, shared_data)
    assert all(a < b + 6 for a, b in zip(after, before, strict=True))


@pytest.mark.shared_data
@pytest.mark.parametrize("piece", ["titanium", "larger titanium", "titanium in the spine"])
def test_li_helps_titanium_inside_the_body(piece: str, shared_data: Path) -> None:
    """Under the skin, between tissue and air, a straight line is no model, and LI is worse than nothing."""
    before, after = piece_in_a_real_slice("li", piece, shared_data)
    assert after[0] < before[0] and after[1] < before[1] + 1
