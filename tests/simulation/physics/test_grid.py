"""Laws of resampling: a protocol's grid keeps what it says it keeps, the whole extent or the size in mm."""

from dataclasses import replace

import numpy as np
import pytest

from simulation.errors import UsageError
from simulation.physics.geometry import FanBeam
from simulation.physics.grid import to_grid
from simulation.physics.protocols import protocol

MU = 0.19


def disc(size: int, pixel_mm: float, radius_mm: float, centre_mm: tuple[float, float] = (0, 0)) -> np.ndarray:
    axis = (np.arange(size) - (size - 1) / 2) * pixel_mm
    inside = np.hypot.outer(axis - centre_mm[0], axis - centre_mm[1]) < radius_mm
    return np.where(inside, MU, 0).astype(np.float32)


def area_and_centre_mm(image: np.ndarray, pixel_mm: float) -> tuple[float, float, float]:
    axis = (np.arange(len(image)) - (len(image) - 1) / 2) * pixel_mm
    total = image.sum(dtype=float)
    rows, columns = image.sum(axis=1, dtype=float), image.sum(axis=0, dtype=float)
    return total / MU * pixel_mm**2, rows @ axis / total, columns @ axis / total


@pytest.mark.parametrize(("size", "pixel_mm"), [(512, 0.7), (512, 0.9765625), (320, 1.3), (700, 0.6), (512, 1.4)])
def test_the_clinical_grid_keeps_sizes_and_places_in_mm(size: int, pixel_mm: float) -> None:
    clinical = protocol("clinical")
    image = to_grid(disc(size, pixel_mm, 100, (20, -35)), pixel_mm, clinical)
    assert image.shape == (512, 512)
    assert image.dtype == np.float32
    area, row_mm, column_mm = area_and_centre_mm(image, clinical.geometry.pixel_mm)
    assert area == pytest.approx(np.pi * 100**2, rel=3e-3)
    assert (row_mm, column_mm) == pytest.approx((20, -35), abs=0.1)
    assert image[0, 0] == 0
    assert image[265, 220] == pytest.approx(MU)


def test_the_clinical_grid_is_air_outside_the_field_of_view() -> None:
    clinical = protocol("clinical")
    for shape in ((512, 512), (256, 256)):
        image = to_grid(np.full((700, 700), MU, np.float32), 1.0, clinical, shape)
        area = np.count_nonzero(image) * (500 / shape[0]) ** 2
        assert area == pytest.approx(np.pi / 4 * min(clinical.geometry.field_of_view_mm, 502) ** 2, rel=0.01)
        assert np.unique(image).tolist() == [0, np.float32(MU)]


def test_the_benchmark_grid_fills_the_image_whatever_the_pixel() -> None:
    benchmark = protocol("syndeeplesion")
    image = np.random.default_rng(0).random((512, 512), dtype=np.float32)
    stretched = to_grid(image, 0.5, benchmark)
    assert stretched.shape == (416, 416)
    np.testing.assert_array_equal(stretched, to_grid(image, None, benchmark))
    np.testing.assert_allclose(to_grid(np.full((512, 512), MU, np.float32), 3.0, benchmark), MU, rtol=1e-6)
    assert stretched.mean() == pytest.approx(image.mean(), rel=1e-3)


@pytest.mark.parametrize("name", ["syndeeplesion", "clinical"])
def test_an_image_on_the_right_grid_is_left_alone(name: str) -> None:
    geometry = FanBeam.preset(name)
    image = np.random.default_rng(1).random(geometry.image_shape, dtype=np.float32)
    if name == "clinical":
        image[~geometry.inside_field_of_view] = 0
    np.testing.assert_array_equal(to_grid(image, geometry.pixel_mm, protocol(name)), image)


def test_another_shape_covers_the_same_extent() -> None:
    clinical = protocol("clinical")
    source = disc(512, 0.8, 100, (20, -35))
    small = to_grid(source, 0.8, clinical, shape=(256, 256))
    area, row_mm, column_mm = area_and_centre_mm(small, 500 / 256)
    assert area == pytest.approx(np.pi * 100**2, rel=3e-3)
    assert (row_mm, column_mm) == pytest.approx((20, -35), abs=0.1)
    assert to_grid(source, None, protocol("syndeeplesion"), shape=(208, 208)).shape == (208, 208)


def test_a_missing_pixel_size_is_refused_where_sizes_are_kept() -> None:
    with pytest.raises(UsageError, match=r"no pixel size.*--preset syndeeplesion"):
        to_grid(np.zeros((512, 512), np.float32), None, protocol("clinical"))
    to_grid(np.zeros((512, 512), np.float32), None, replace(protocol("clinical"), grid="stretch"))
