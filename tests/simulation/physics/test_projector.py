"""Laws of the projector: transposes, straight lines through known objects, what comes in comes out, gradients.

The dense references follow the words of `FanBeam` and of Joseph's paper in plain numpy, ray by ray.
"""

import dataclasses
import math
import multiprocessing

import astra
import numpy as np
import pytest
import torch

from simulation.errors import InputError, UsageError
from simulation.physics import projector_cuda, projector_torch
from simulation.physics.geometry import FanBeam
from simulation.physics.projector import Projector, _convolve_rows, why_no_cuda

BENCHMARK, CLINICAL = FanBeam.preset("syndeeplesion"), FanBeam.preset("clinical")
SMALL = FanBeam((40, 56), 1.7, 90.0, 70.0, views=24, bins=75, pitch_mm=2.0)
SCANS = {
    "small": SMALL,
    "tall": dataclasses.replace(SMALL, image_shape=(61, 17)),
    "one pixel": dataclasses.replace(SMALL, image_shape=(1, 1)),
    "one row": dataclasses.replace(SMALL, image_shape=(1, 9)),
    "two bins": dataclasses.replace(SMALL, bins=2),
    "even bins, odd views": dataclasses.replace(SMALL, bins=30, views=7),
    "narrow detector": dataclasses.replace(SMALL, bins=9, pitch_mm=1.1),
    "wide detector": dataclasses.replace(SMALL, bins=90, pitch_mm=7.3),
    "rays along the axes": dataclasses.replace(SMALL, bins=5, views=2),
    "rays along diagonals": dataclasses.replace(SMALL, bins=5, views=4, image_shape=(16, 16)),
    "detector at the isocentre": dataclasses.replace(SMALL, detector_mm=0.0),
    "turned and mirrored onto itself": dataclasses.replace(SMALL, image_shape=(26, 26)),
    "the same with a pixel in the middle": dataclasses.replace(SMALL, image_shape=(25, 25), bins=40),
    "shifted, from elsewhere": dataclasses.replace(SMALL, column_offset=1.3, first_view_rad=0.4),
    "clockwise": dataclasses.replace(SMALL, image_shape=(24, 24), clockwise=True),
    "clockwise, from elsewhere": dataclasses.replace(SMALL, image_shape=(24, 24), clockwise=True, first_view_rad=2.0),
    "reversed bins": dataclasses.replace(SMALL, image_shape=(24, 24), reversed_bins=True, column_offset=-0.25),
    "arc": dataclasses.replace(SMALL, detector="arc"),
    "arc that is turned and mirrored": dataclasses.replace(SMALL, image_shape=(26, 26), detector="arc"),
    "arc like a clinical scanner's": dataclasses.replace(
        *(SMALL,), image_shape=(25, 25), detector="arc", column_offset=-1.25, first_view_rad=-1.5, reversed_bins=True
    ),
}
MAPS = ("forward", "adjoint", "fbp benchmark", "fbp standard")
scans = pytest.mark.parametrize("geometry", SCANS.values(), ids=SCANS)
maps = pytest.mark.parametrize("name", MAPS)


@pytest.fixture(scope="module")
def benchmark() -> Projector:
    return Projector(BENCHMARK, "cpu")


@pytest.fixture(scope="module")
def small() -> Projector:
    return Projector(SMALL, "cpu")


def apply(projector: Projector, name: str, array):
    word, _, weighting = name.partition(" ")
    return projector.fbp(array, weighting) if word == "fbp" else getattr(projector, word)(array)


def shapes(geometry: FanBeam, name: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Shape that a map takes and shape that it gives."""
    pair = geometry.image_shape, geometry.sinogram_shape
    return pair if name == "forward" else pair[::-1]


def dot(a, b) -> float:
    return float(np.vdot(np.asarray(a, np.float64), np.asarray(b, np.float64)))


def relative(a, b) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def random(shape, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def axes_mm(geometry: FanBeam) -> tuple[np.ndarray, np.ndarray]:
    """Centres of rows and columns: x and y."""
    return tuple((np.arange(n) - (n - 1) / 2) * geometry.pixel_mm for n in geometry.image_shape)


def disc(geometry: FanBeam, radius_mm: float, centre_mm=(0.0, 0.0), mu: float = 0.1929) -> np.ndarray:
    x, y = axes_mm(geometry)
    return np.where(np.hypot.outer(x - centre_mm[0], y - centre_mm[1]) < radius_mm, mu, 0).astype(np.float32)


def blob(geometry: FanBeam, centre_mm: tuple[float, float], width_mm: float) -> np.ndarray:
    x, y = axes_mm(geometry)
    return np.exp(-(np.hypot.outer(x - centre_mm[0], y - centre_mm[1]) ** 2) / (2 * width_mm**2)).astype(np.float32)


def ray(geometry: FanBeam, view: int, bin_: int) -> tuple[np.ndarray, np.ndarray]:
    """Source, and unit vector from it to the middle of a bin, in mm."""
    first = math.pi / geometry.views if geometry.first_view_rad is None else geometry.first_view_rad
    theta = first + (-1 if geometry.clockwise else 1) * view * 2 * math.pi / geometry.views
    bins_off = (bin_ - (geometry.bins - 1) / 2 + geometry.column_offset) * (-1 if geometry.reversed_bins else 1)
    source = geometry.source_mm * np.array([math.sin(theta), -math.cos(theta)])
    axis, along = np.array([-math.sin(theta), math.cos(theta)]), np.array([math.cos(theta), math.sin(theta)])
    if geometry.detector == "arc":
        fan = bins_off * 2 * math.atan(geometry.pitch_mm / 2 / (geometry.source_mm + geometry.detector_mm))
        return source, math.cos(fan) * axis + math.sin(fan) * along
    cell = geometry.detector_mm * axis + bins_off * geometry.pitch_mm * along
    return source, (cell - source) / np.linalg.norm(cell - source)


def dense_joseph(geometry: FanBeam, image: np.ndarray) -> np.ndarray:
    """Joseph (1982) in float64: one sample a row (or column), interpolated linearly across it, zero outside."""
    out = np.zeros(geometry.sinogram_shape)
    for view, bin_ in np.ndindex(*out.shape):
        source, direction = ray(geometry, view, bin_)
        main = int(abs(direction[0]) < abs(direction[1]))  # the axis that the ray runs along
        values = np.pad(image.T if main else image, ((0, 0), (1, 1))).astype(float)
        steps, positions = axes_mm(geometry)[main], axes_mm(geometry)[1 - main]
        distance = (steps - source[main]) / direction[main]
        hit = source[1 - main] + distance * direction[1 - main]
        places = (hit - positions[0]) / geometry.pixel_mm
        places = np.where(np.abs(places - np.round(places)) < 1e-9, np.round(places), places)
        grid = np.arange(-1, len(positions) + 1)
        samples = [np.interp(p, grid, row, left=0, right=0) for p, row in zip(places, values, strict=True)]
        out[view, bin_] = sum(samples) * geometry.pixel_mm / 10 / abs(direction[main])
    return out


# Transposes


def test_adjoint_is_the_transpose_on_the_benchmark_geometry(benchmark: Projector) -> None:
    """<Ax, y> = <x, A'y> for random float32 x and y."""
    x, y = random(BENCHMARK.image_shape, 1), random(BENCHMARK.sinogram_shape, 2)
    left, right = dot(benchmark.forward(x), y), dot(x, benchmark.adjoint(y))
    assert abs(left - right) < 1e-5 * abs(left), f"{abs(left - right) / abs(left):.1e}"
    y -= 0.5  # of both signs: nothing is hidden by a sum of positives
    left, right = dot(benchmark.forward(x), y), dot(x, benchmark.adjoint(y))
    assert abs(left - right) < 1e-5 * abs(left), f"{abs(left - right) / abs(left):.1e}"


@scans
def test_adjoint_is_the_transpose_on_odd_geometries(geometry: FanBeam) -> None:
    projector = Projector(geometry, "cpu")
    x, y = random((3, *geometry.image_shape), 3), random((3, *geometry.sinogram_shape), 4)
    assert dot(projector.forward(x), y) == pytest.approx(dot(x, projector.adjoint(y)), rel=1e-6)


@scans
def test_every_entry_of_adjoint_is_that_of_forward(geometry: FanBeam) -> None:
    """Unit vectors: column by column for some pixels, row by row for some rays."""
    projector, rng = Projector(geometry, "cpu"), np.random.default_rng(6)
    pixels, rays = math.prod(geometry.image_shape), math.prod(geometry.sinogram_shape)
    some_pixels, some_rays = rng.choice(pixels, min(9, pixels), False), rng.choice(rays, min(9, rays), False)
    columns = projector.forward(np.eye(pixels, dtype=np.float32)[some_pixels].reshape(-1, *geometry.image_shape))
    rows = projector.adjoint(np.eye(rays, dtype=np.float32)[some_rays].reshape(-1, *geometry.sinogram_shape))
    block = columns.reshape(len(columns), -1)[:, some_rays]
    np.testing.assert_allclose(rows.reshape(len(rows), -1)[:, some_pixels].T, block, rtol=1e-5, atol=1e-7)


@scans
@pytest.mark.parametrize("weighting", ["benchmark", "standard"])
def test_the_gradient_of_fbp_is_its_transpose(geometry: FanBeam, weighting: str) -> None:
    projector = Projector(geometry, "cpu")
    y = torch.from_numpy(random((2, *geometry.sinogram_shape), 7)).requires_grad_()
    x = torch.from_numpy(random((2, *geometry.image_shape), 8))
    image = projector.fbp(y, weighting)
    (gradient,) = torch.autograd.grad(image, y, x)
    scale = float(image.detach().norm() * x.norm())
    assert abs(dot(image.detach(), x) - dot(y.detach(), gradient)) <= 1e-5 * scale


# Line integrals


@scans
def test_forward_is_josephs_method(geometry: FanBeam) -> None:
    """Diagonal rays have two equal choices of the main axis: a symmetric object sees no difference."""
    image = random(geometry.image_shape, 9)
    if geometry is SCANS["rays along diagonals"]:
        image = image + image.T + image[::-1, ::-1] + image.T[::-1, ::-1]
    got = Projector(geometry, "cpu").forward(image)
    np.testing.assert_allclose(got, dense_joseph(geometry, image), rtol=2e-5, atol=2e-5)


def test_line_integrals_of_an_off_centre_disc_are_its_chords(benchmark: Projector) -> None:
    """mu times the chord, by the ray's distance from the centre; only pixelation is left."""
    centre, radius_mm = np.array([-21.0, 34.0]), 25.0
    expected = np.zeros(BENCHMARK.sinogram_shape)
    for view, bin_ in np.ndindex(*expected[::80].shape):
        source, direction = ray(BENCHMARK, 80 * view, bin_)
        across = centre - source
        distance = abs(direction[0] * across[1] - direction[1] * across[0])
        expected[80 * view, bin_] = 0.1929 / 10 * 2 * math.sqrt(max(radius_mm**2 - distance**2, 0))
    got = benchmark.forward(disc(BENCHMARK, radius_mm, tuple(centre)))
    assert relative(got[::80], expected[::80]) < 0.008
    assert relative(got[::80, ::-1], expected[::80]) > 0.5  # and the detector is not mirrored


def test_a_central_ray_meets_the_whole_side(benchmark: Projector) -> None:
    """Through an image of ones the ray along an axis collects its side in cm."""
    across = dataclasses.replace(BENCHMARK, views=2, bins=3)  # views at 90 and 270 degrees
    ones = np.ones(across.image_shape, np.float32)
    assert Projector(across, "cpu").forward(ones)[:, 1] == pytest.approx(15.36, rel=1e-5)


def test_a_central_ray_meets_the_whole_side_of_a_large_image() -> None:
    large = FanBeam((1300, 1300), 0.1, 200.0, 200.0, views=2, bins=3, pitch_mm=1.0)
    ones = np.ones(large.image_shape, np.float32)
    assert Projector(large, "cpu").forward(ones)[:, 1] == pytest.approx(13.0, rel=1e-5)


@pytest.mark.parametrize("geometry", [BENCHMARK, CLINICAL], ids=["syndeeplesion", "clinical"])
def test_turning_the_image_turns_the_scan(geometry: FanBeam) -> None:
    """np.rot90 turns rows into columns, by +90 degrees of theta: view v + views/4 sees what view v saw before.

    On the benchmark P(rot90 x) is P(x) shifted by +160 views. On the open square grid nothing is interpolated, so both
    agree to float32 rounding.
    """
    x, y = axes_mm(geometry)
    image = random(geometry.image_shape, 10) * (np.hypot.outer(x, y) < 0.3 * 2 * x[-1])
    projector = Projector(geometry, "cpu")
    before, after = projector.forward(np.stack([image, np.rot90(image)]))
    assert relative(after, np.roll(before, geometry.views // 4, axis=0)) < 1e-6
    assert relative(after, np.roll(before, -geometry.views // 4, axis=0)) > 0.01


def test_astras_cpu_projector_agrees() -> None:
    """`astra_geometries`, which the GPU path shares, describes the same scan; line_fanflat is another kernel."""
    projection, volume = projector_cuda.astra_geometries(BENCHMARK)
    image = blob(BENCHMARK, (-30.0, 20.0), 12.0) + 0.5 * blob(BENCHMARK, (25.0, 45.0), 6.0)
    identifier = astra.create_projector("line_fanflat", projection, volume)
    try:
        data, reference = astra.create_sino(image, identifier)
        astra.data2d.delete(data)
    finally:
        astra.projector.delete(identifier)
    difference = relative(Projector(BENCHMARK, "cpu").forward(image), reference * BENCHMARK.pixel_mm / 10)
    assert difference < 3e-3, f"{difference:.1e}"


def test_astras_geometry_of_a_scan_that_is_not_square_agrees() -> None:
    scan = FanBeam((90, 130), 1.0, 300.0, 210.0, views=50, bins=200, pitch_mm=1.3)
    image = blob(scan, (-15.0, 25.0), 11.0)
    identifier = astra.create_projector("line_fanflat", *projector_cuda.astra_geometries(scan))
    try:
        data, reference = astra.create_sino(image, identifier)
        astra.data2d.delete(data)
    finally:
        astra.projector.delete(identifier)
    assert relative(Projector(scan, "cpu").forward(image), reference * scan.pixel_mm / 10) < 3e-3


# Filtered back projection


@pytest.mark.parametrize("geometry", [BENCHMARK, CLINICAL], ids=["syndeeplesion", "clinical"])
@pytest.mark.parametrize("share", [0.25, 0.4])
def test_fbp_of_a_water_disc_recovers_mu(geometry: FanBeam, share: float) -> None:
    """Standard weighting within 0.3 % in the middle, where nothing but mu is; the benchmark's is biased."""
    radius_mm = share * geometry.image_shape[0] * geometry.pixel_mm
    projector = Projector(geometry, "cpu")
    sinogram = projector.forward(disc(geometry, radius_mm))
    middle = disc(geometry, radius_mm / 2) > 0
    mean = float(projector.fbp(sinogram, "standard")[middle].mean())
    assert mean == pytest.approx(0.1929, rel=0.003), f"off by {mean / 0.1929 - 1:.2%}"
    assert float(projector.fbp(sinogram)[middle].mean()) == pytest.approx(0.1929, rel=0.015)


@pytest.mark.parametrize("kernel", ["ramp", "soft", "standard", "bone"])
def test_kernels_keep_uniform_tissue_and_differ_at_edges(kernel: str) -> None:
    """A windowed kernel passes .997 of what is uniform; the softer, the wider an edge gets (10 to 90 %, mm)."""
    projector = Projector(CLINICAL, "cpu", kernel=kernel)
    image = projector.fbp(projector.forward(disc(CLINICAL, 100.0)), "standard")
    x, y = axes_mm(CLINICAL)
    distance = np.hypot.outer(x, y)
    gain = 1 if kernel == "ramp" else 0.997
    assert float(image[distance < 80].mean()) == pytest.approx(gain * 0.1929, rel=1e-3)
    rings = [(distance >= edge) & (distance < edge + 0.1) for edge in np.arange(95, 105, 0.1)]
    profile = np.array([image[ring].mean() for ring in rings]) / (gain * 0.1929)
    inside, outside = 0.1 * np.flatnonzero(profile >= 0.9)[-1], 0.1 * np.flatnonzero(profile < 0.1)[0]
    low, high = {"ramp": (0.05, 1.2), "soft": (1.5, 3.0), "standard": (1.1, 2.0), "bone": (0.05, 1.2)}[kernel]
    assert low < outside - inside < high


def test_standard_fbp_recovers_an_off_centre_object_where_it_is(benchmark: Projector) -> None:
    image = blob(BENCHMARK, (-30.0, 42.0), 6.0)
    standard = benchmark.fbp(benchmark.forward(image), "standard")
    assert relative(standard, image) < 0.01
    assert float(standard.max()) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("weighting", ["benchmark", "standard"])
def test_fbp_on_an_even_detector_recovers_mu(weighting: str) -> None:
    scan = FanBeam((100, 80), 1.0, 300.0, 150.0, views=180, bins=260, pitch_mm=1.0)
    projector = Projector(scan, "cpu")
    image = projector.fbp(projector.forward(disc(scan, 30.0, (5, -4))), weighting)
    tolerance = {"benchmark": 0.03, "standard": 0.004}[weighting]
    assert float(image[disc(scan, 15.0, (5, -4)) > 0].mean()) == pytest.approx(0.1929, rel=tolerance)


@pytest.mark.parametrize("bins", [5, 75])
def test_the_benchmark_filter_is_odls(bins: int) -> None:
    """A row padded to 2 bins - 1 and filtered at half-shifted frequencies |w| / (4 pi), by the sums written out.

    One view of one pixel at the isocentre sees the central bin, times the magnification and the angle of a view.
    """
    scan = dataclasses.replace(SMALL, image_shape=(1, 1), views=1, bins=bins)
    pitch_cm, n = scan.pitch_mm / 10, 2 * bins - 1
    rows = random((4, bins), 11)
    padded = np.pad(rows.astype(float), ((0, 0), (bins // 2, bins // 2)))
    places = np.arange(n) * pitch_cm
    omega = -np.pi / pitch_cm + 2 * np.pi * np.arange(n) / (n * pitch_cm)
    spectrum = padded @ np.exp(-1j * np.outer(places, omega))
    filtered = ((spectrum * np.abs(omega) / (4 * np.pi)) @ np.exp(1j * np.outer(omega, places))).real / n
    expected = filtered[:, n // 2] * scan.magnification * 2 * np.pi
    got = Projector(scan, "cpu").fbp(rows[:, None])[:, 0, 0]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_standard_fbp_is_zero_outside_the_field_of_view_and_only_there() -> None:
    narrow = dataclasses.replace(SMALL, bins=21)
    image = Projector(narrow, "cpu").fbp(random(narrow.sinogram_shape, 36), "standard")
    x, y = axes_mm(narrow)
    np.testing.assert_array_equal(image != 0, np.hypot.outer(x, y) <= narrow.field_of_view_mm / 2)
    assert np.count_nonzero(Projector(narrow, "cpu").fbp(random(narrow.sinogram_shape, 36)) == 0) == 0


@pytest.mark.parametrize("power", [1, 2])
@scans
def test_back_projection_in_torch_is_the_compiled_one(geometry: FanBeam, power: int) -> None:
    operators = Projector(geometry, "cpu")._operators
    y, x = random((2, *geometry.sinogram_shape), 12), random((2, *geometry.image_shape), 13)
    there = projector_torch.backproject(torch.from_numpy(y), geometry, power)
    back = projector_torch.backproject_transpose(torch.from_numpy(x), geometry, power)
    np.testing.assert_allclose(there, operators.backproject(y, power), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(back, operators.backproject_transpose(x, power), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("power", [1, 2])
@scans
def test_back_projection_and_its_transpose(geometry: FanBeam, power: int) -> None:
    operators = Projector(geometry, "cpu")._operators
    y, x = random((2, *geometry.sinogram_shape), 14), random((2, *geometry.image_shape), 15)
    left, right = dot(operators.backproject(y, power), x), dot(y, operators.backproject_transpose(x, power))
    assert left == pytest.approx(right, rel=1e-6)


def test_filtering_tensors_is_filtering_arrays() -> None:
    """The branch that CUDA takes, here on the CPU."""
    rows, kernel = random((3, 4, 75), 16), np.hanning(149)
    got = _convolve_rows(torch.from_numpy(rows), kernel, "ramp")
    np.testing.assert_allclose(got, _convolve_rows(rows, kernel, "ramp"), rtol=1e-5)
    windowed = _convolve_rows(torch.from_numpy(rows), kernel, "soft")
    np.testing.assert_allclose(windowed, _convolve_rows(rows, kernel, "soft"), rtol=1e-4, atol=1e-4)
    full = np.convolve(rows[1, 2].astype(float), kernel)[74 : 74 + 75]
    np.testing.assert_allclose(got[1, 2], full, rtol=1e-5)


# Batches, threads, empty parts of the image


@maps
def test_a_batch_is_its_images_bit_by_bit(small: Projector, name: str) -> None:
    """Nine of them: a full vector of eight lanes and one alone; and every other width."""
    given, _ = shapes(SMALL, name)
    batch = random((9, *given), 17)
    alone = np.stack([apply(small, name, one) for one in batch])
    for count in (9, 7, 3, 2):
        np.testing.assert_array_equal(apply(small, name, batch[:count]), alone[:count])


@maps
def test_leading_dimensions_are_kept(small: Projector, name: str) -> None:
    given, result = shapes(SMALL, name)
    batch = random((2, 1, 3, *given), 18)
    out = apply(small, name, batch)
    assert out.shape == (2, 1, 3, *result)
    np.testing.assert_array_equal(out[1, 0, 2], apply(small, name, batch[1, 0, 2]))
    assert apply(small, name, torch.from_numpy(batch)).shape == (2, 1, 3, *result)
    assert apply(small, name, batch[:0]).shape == (0, 1, 3, *result)
    assert apply(small, name, torch.from_numpy(batch[:0])).shape == (0, 1, 3, *result)


@maps
@pytest.mark.parametrize("geometry", [SMALL, SCANS["one row"], BENCHMARK], ids=["small", "one row", "benchmark"])
def test_threads_change_no_bit(geometry: FanBeam, name: str) -> None:
    array = random(shapes(geometry, name)[0], 19)
    one, two, five = (apply(Projector(geometry, "cpu", threads), name, array) for threads in (1, 2, 5))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, five)


@scans
def test_skipping_the_empty_margin_changes_no_bit(geometry: FanBeam) -> None:
    """A small object alone and in a batch with a full image, which keeps every pixel in play."""
    rows, columns = geometry.image_shape
    image = np.zeros(geometry.image_shape, np.float32)
    image[rows // 3 : 2 * rows // 3 + 1, columns // 2 :][:5, :3] = random((5, 3), 20)[:rows, : columns - columns // 2]
    projector = Projector(geometry, "cpu")
    full = np.ones_like(image)
    np.testing.assert_array_equal(projector.forward(image), projector.forward(np.stack([image, full]))[0])
    assert not projector.forward(0 * image).any()


@maps
def test_maps_are_linear(small: Projector, name: str) -> None:
    a, b = random((2, *shapes(SMALL, name)[0]), 21)
    together = apply(small, name, 2 * a - 3 * b)
    scale = np.abs(together).max()
    np.testing.assert_allclose(together, 2 * apply(small, name, a) - 3 * apply(small, name, b), atol=1e-5 * scale)


# What comes in comes out


@maps
def test_numpy_gives_numpy_and_torch_gives_torch(small: Projector, name: str) -> None:
    array = random(shapes(SMALL, name)[0], 22)
    out, tensor = apply(small, name, array), apply(small, name, torch.from_numpy(array))
    assert type(out) is np.ndarray
    assert out.dtype == np.float32
    assert isinstance(tensor, torch.Tensor)
    assert tensor.dtype == torch.float32
    assert tensor.device.type == "cpu"
    np.testing.assert_array_equal(tensor, out)


@maps
def test_other_numbers_are_read_as_float32_and_the_input_is_left_alone(small: Projector, name: str) -> None:
    array = random(shapes(SMALL, name)[0], 23)
    expected, kept = apply(small, name, array), array.copy()
    for other in (array.astype(np.float64), np.asfortranarray(array), array[::-1][::-1]):
        got = apply(small, name, other)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, expected)
    assert apply(small, name, torch.from_numpy(array).double()).dtype == torch.float32
    mask = array > 0.5
    np.testing.assert_array_equal(apply(small, name, mask), apply(small, name, mask.astype(np.float32)))
    np.testing.assert_array_equal(array, kept)


@maps
@pytest.mark.parametrize("make", [np.zeros, torch.zeros], ids=["numpy", "torch"])
def test_a_wrong_shape_is_refused(small: Projector, name: str, make) -> None:
    rows, columns = shapes(SMALL, name)[0]
    for shape in ((columns, rows), (rows + 1, columns), (2, columns, rows), (rows * columns,), ()):
        with pytest.raises(InputError, match=rf"expected {rows} x {columns} in its last two dimensions"):
            apply(small, name, make(shape))


def test_unknown_names_are_refused(small: Projector) -> None:
    with pytest.raises(UsageError, match=r"unknown device 'tpu'; expected one of auto, cpu, cuda"):
        Projector(SMALL, "tpu")
    with pytest.raises(UsageError, match=r"unknown weighting 'parker'; expected one of benchmark, standard"):
        small.fbp(np.zeros(SMALL.sinogram_shape, np.float32), "parker")
    with pytest.raises(UsageError, match=r"unknown kernel 'B40'; expected one of ramp, soft, standard, bone"):
        small.fbp(np.zeros(SMALL.sinogram_shape, np.float32), "standard", "B40")


# Gradients


@pytest.mark.parametrize(("name", "transpose"), [("forward", "adjoint"), ("adjoint", "forward")])
def test_forward_and_adjoint_are_each_others_gradient(small: Projector, name: str, transpose: str) -> None:
    given, result = shapes(SMALL, name)
    x = torch.from_numpy(random((2, *given), 24)).requires_grad_()
    y = torch.from_numpy(random((2, *result), 25))
    apply(small, name, x).backward(y)
    np.testing.assert_array_equal(x.grad, apply(small, transpose, y))


@maps
def test_the_gradient_is_the_slope(small: Projector, name: str) -> None:
    """Finite differences: <y, M(x + d) - M(x)> = <gradient of <y, M x>, d>, exact for a linear map."""
    given, result = shapes(SMALL, name)
    x = torch.from_numpy(random(given, 26)).requires_grad_()
    y, d = torch.from_numpy(random(result, 27)), torch.from_numpy(random(given, 28))
    (gradient,) = torch.autograd.grad((apply(small, name, x) * y).sum(), x)
    slope = dot(y, (apply(small, name, x + d) - apply(small, name, x)).detach())
    assert slope == pytest.approx(dot(gradient, d), rel=1e-4)


@maps
def test_gradients_can_be_differentiated_again(small: Projector, name: str) -> None:
    """For |Mx|^2 / 2 the gradient is M'Mx and the Hessian times d is M'Md."""
    given, _ = shapes(SMALL, name)
    x = torch.from_numpy(random(given, 29)).requires_grad_()
    d = torch.from_numpy(random(given, 30)).requires_grad_()
    (gradient,) = torch.autograd.grad((apply(small, name, x) ** 2).sum() / 2, x, create_graph=True)
    (hessian_d,) = torch.autograd.grad((gradient * d.detach()).sum(), x)
    (expected,) = torch.autograd.grad((apply(small, name, d) ** 2).sum() / 2, d)
    np.testing.assert_allclose(hessian_d, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@maps
def test_tensors_that_need_no_gradient_get_none(small: Projector, name: str) -> None:
    x = torch.from_numpy(random(shapes(SMALL, name)[0], 31))
    assert not apply(small, name, x).requires_grad
    with torch.no_grad():
        assert not apply(small, name, x.requires_grad_()).requires_grad


# Forked workers


def _project_all(seed: int) -> list[np.ndarray]:
    return [apply(_SHARED[0], name, random(shapes(SMALL, name)[0], seed)) for name in MAPS]


_SHARED: list[Projector] = []


@pytest.fixture
def shared_projector():
    _SHARED.append(Projector(SMALL, "cpu", threads=2))
    _project_all(0)
    yield _SHARED[0]
    _SHARED.clear()


def test_the_projector_works_in_forked_processes_after_use_in_the_parent(shared_projector: Projector) -> None:
    """A deadlock would end in the time limit."""
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        forked = pool.map_async(_project_all, range(4)).get(timeout=60)
    for seed, results in enumerate(forked):
        for result, expected in zip(results, _project_all(seed), strict=True):
            np.testing.assert_array_equal(result, expected)


class _Scans(torch.utils.data.Dataset):
    def __init__(self, projector: Projector) -> None:
        self.projector = projector

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        image = torch.from_numpy(random(SMALL.image_shape, index))
        return self.projector.fbp(self.projector.forward(image))


def test_the_projector_works_in_forked_loader_workers(shared_projector: Projector) -> None:
    data = _Scans(shared_projector)
    torch.ones(300, 300) @ torch.ones(300, 300)  # the parent's OpenMP pool is running
    loader = torch.utils.data.DataLoader(data, batch_size=2, num_workers=2, timeout=60, multiprocessing_context="fork")
    batches = torch.cat(list(loader))
    np.testing.assert_array_equal(batches, torch.stack([data[i] for i in range(4)]))


# CUDA


@pytest.fixture
def without_gpu(monkeypatch) -> None:
    """ASTRA reports no GPU, and every other way to CUDA is a failure."""

    def forbidden(*_args, **_keywords):
        raise AssertionError("reached CUDA")

    monkeypatch.setattr(astra, "use_cuda", lambda: False)
    monkeypatch.setattr(astra, "create_projector", forbidden)
    for name in ("direct_FP", "direct_BP"):
        monkeypatch.setattr(astra.projector, name, forbidden)
    monkeypatch.setattr(torch.Tensor, "cuda", forbidden)


@pytest.mark.usefixtures("without_gpu")
def test_without_a_gpu_cuda_is_refused_before_it_is_called() -> None:
    assert why_no_cuda()
    with pytest.raises(UsageError, match="ASTRA finds no GPU on this machine; use --device cpu or auto"):
        Projector(SMALL, "cuda")
    with pytest.raises(RuntimeError, match="finds no GPU"):
        projector_cuda.CudaOperators(SMALL)


@pytest.mark.usefixtures("without_gpu")
@maps
def test_without_a_gpu_auto_is_the_cpu(name: str) -> None:
    projector = Projector(SMALL)
    assert projector.device == "cpu"
    apply(projector, name, random(shapes(SMALL, name)[0]))
    apply(projector, name, torch.from_numpy(random(shapes(SMALL, name)[0])))


@pytest.fixture(scope="module")
def on_gpu() -> Projector:
    return Projector(BENCHMARK, "cuda")


def soft_body(geometry: FanBeam) -> np.ndarray:
    return disc(geometry, 60.0) + 0.2 * blob(geometry, (-20.0, 30.0), 8.0)


@pytest.mark.gpu
def test_auto_takes_the_gpu() -> None:
    assert Projector(SMALL).device == "cuda"


@pytest.mark.gpu
def test_forward_on_cuda_is_that_of_the_cpu(on_gpu: Projector, benchmark: Projector) -> None:
    """Up to the 8-bit weights of the texture units."""
    image = soft_body(BENCHMARK)
    difference = relative(on_gpu.forward(image), benchmark.forward(image))
    assert difference < 2e-3, f"{difference:.1e}"


@pytest.mark.gpu
def test_adjoint_on_cuda_is_nearly_the_transpose(on_gpu: Projector, record_property) -> None:
    x, y = random(BENCHMARK.image_shape, 32), random(BENCHMARK.sinogram_shape, 33)
    left, right = dot(on_gpu.forward(x), y), dot(x, on_gpu.adjoint(y))
    mismatch = abs(left - right) / abs(left)
    record_property("adjoint_mismatch", mismatch)
    assert mismatch < 1e-2, f"{mismatch:.1e}"


@pytest.mark.gpu
@pytest.mark.parametrize("weighting", ["benchmark", "standard"])
def test_fbp_on_cuda_is_that_of_the_cpu(on_gpu: Projector, benchmark: Projector, weighting: str) -> None:
    sinogram = benchmark.forward(soft_body(BENCHMARK))
    difference = relative(on_gpu.fbp(sinogram, weighting), benchmark.fbp(sinogram, weighting))
    assert difference < 1e-4, f"{difference:.1e}"


@pytest.mark.gpu
@maps
def test_cuda_tensors_stay_on_cuda(on_gpu: Projector, name: str, monkeypatch) -> None:
    """No copy to the host: every way to one is closed; gradients included."""
    x = torch.from_numpy(random((2, *shapes(BENCHMARK, name)[0]), 34)).cuda().requires_grad_()

    def forbidden(*_args, **_keywords):
        raise AssertionError("copied to the host")

    for method in ("cpu", "numpy", "tolist", "item"):
        monkeypatch.setattr(torch.Tensor, method, forbidden)
    out = apply(on_gpu, name, x)
    (gradient,) = torch.autograd.grad(out, x, torch.ones_like(out))
    assert out.is_cuda
    assert gradient.is_cuda


@pytest.mark.gpu
@maps
def test_a_batch_on_cuda_is_its_images(on_gpu: Projector, name: str) -> None:
    batch = torch.from_numpy(random((3, *shapes(BENCHMARK, name)[0]), 35)).cuda()
    alone = torch.stack([apply(on_gpu, name, one) for one in batch])
    torch.testing.assert_close(apply(on_gpu, name, batch), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
def test_a_projector_on_cuda_takes_and_gives_host_arrays_too(on_gpu: Projector) -> None:
    image = soft_body(BENCHMARK)
    assert type(on_gpu.forward(image)) is np.ndarray
    assert on_gpu.forward(torch.from_numpy(image)).device.type == "cpu"
