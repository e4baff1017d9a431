"""Laws of the simulator: one energy is Beer's law, seeds decide every byte, metal changes only what it shadows.

Most laws need no full scan: here both protocols have a quarter of their resolution, at the same extent.
"""

import dataclasses
import math

import numpy as np
import pytest
import torch

from simulation.correction import linear_interpolation, metal_trace
from simulation.errors import InputError, UsageError
from simulation.physics import protocols
from simulation.physics.detector import trace_rim
from simulation.physics.geometry import FanBeam
from simulation.physics.materials import METAL_CODES, attenuation_ratios, reference_mu_per_cm
from simulation.physics.spectra import Spectrum, exact_nodes
from simulation.simulator import Sample, Simulator
from simulation.units import MU_WATER_PER_CM

FIELDS = tuple(field.name for field in dataclasses.fields(Sample))
PRESETS = ("syndeeplesion", "clinical")


def coarse(geometry: FanBeam) -> FanBeam:
    return dataclasses.replace(
        geometry,
        image_shape=tuple(n // 4 for n in geometry.image_shape),
        pixel_mm=4 * geometry.pixel_mm,
        views=geometry.views // 4,
        bins=geometry.bins // 4 + 1,
        pitch_mm=geometry.pitch_mm * geometry.bins / (geometry.bins // 4 + 1),
    )


@pytest.fixture(scope="module", autouse=True)
def coarse_protocols():
    with pytest.MonkeyPatch.context() as patch:
        for name in PRESETS:
            full = protocols.PROTOCOLS[name]
            patch.setitem(protocols.PROTOCOLS, name, dataclasses.replace(full, geometry=coarse(full.geometry)))
        yield


@pytest.fixture(scope="module")
def simulators() -> dict[str, Simulator]:
    return {name: Simulator(name, "cpu") for name in PRESETS}


@pytest.fixture(params=PRESETS)
def simulator(request, simulators) -> Simulator:
    return simulators[request.param]


@pytest.fixture(scope="module")
def monochromatic() -> Simulator:
    return Simulator("syndeeplesion", "cpu", spectrum=([70.0], [1.0]))


def plane(simulator: Simulator) -> tuple[np.ndarray, np.ndarray]:
    """x and y of every pixel, in units of the image's half side."""
    axis = np.linspace(-1, 1, simulator.projector.geometry.image_shape[0] + 1)
    return np.meshgrid(*[(axis[1:] + axis[:-1]) / 2] * 2, indexing="ij")


def disc(simulator: Simulator, row: float, column: float, radius: float) -> np.ndarray:
    x, y = plane(simulator)
    return np.hypot(x - row, y - column) < radius


def body(simulator: Simulator) -> np.ndarray:
    x, y = plane(simulator)
    image = np.where((x / 0.5) ** 2 + (y / 0.7) ** 2 < 1, MU_WATER_PER_CM, 0)
    image[disc(simulator, 0.1, -0.3, 0.13)] = 0.45
    return image.astype(np.float32)


def metal(simulator: Simulator) -> np.ndarray:
    return disc(simulator, -0.1, 0.2, 0.08) | disc(simulator, 0.2, -0.35, 0.05)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def assert_same(one: Sample, two: Sample) -> None:
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)


# One energy


def test_one_energy_without_noise_is_the_line_integral(monochromatic: Simulator) -> None:
    """-ln(counts / photons) = A(mu), metal included, up to the rounding of counts and the four digits of the ratios.

    With a trace that covers the detector no bin is a rim, so no metal is weakened by partial volume.
    """
    image, mask = body(monochromatic), metal(monochromatic)
    everywhere = np.ones(monochromatic.projector.geometry.sinogram_shape, bool)
    total = image + np.where(mask, reference_mu_per_cm("titanium"), 0).astype(np.float32)
    for counts, mu in (
        (monochromatic.expected_counts(image), image),
        (monochromatic.expected_counts(image, mask, everywhere), total),
    ):
        p = monochromatic.projector.forward(mu).astype(float)
        enough = np.exp(-p) * 2e7 > 1e4
        np.testing.assert_allclose(-np.log((counts - 20) / 2e7)[enough], p[enough], rtol=6e-4, atol=1e-4)


def test_one_energy_attenuates_by_its_ratio() -> None:
    simulator = Simulator("syndeeplesion", "cpu", spectrum=([50.0], [3.0]))
    water = np.where(body(simulator) > 0, MU_WATER_PER_CM, 0).astype(np.float32)
    expected = simulator.projector.forward(water) * attenuation_ratios("water", np.array(50.0))
    got = -np.log((simulator.expected_counts(water) - 20) / 2e7)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_the_rim_of_the_shadow_sees_a_quarter_of_the_metal(monochromatic: Simulator) -> None:
    """In air, so that only metal attenuates; the rim is the first and last bin of each run."""
    mask = disc(monochromatic, 0.0, 0.1, 0.1)
    path = monochromatic.projector.forward(np.where(mask, reference_mu_per_cm("titanium"), 0)).astype(float)
    shadow = path > 0
    middle = shadow & np.roll(shadow, 1, axis=1) & np.roll(shadow, -1, axis=1)
    expected = np.where(middle, path, path / 4) * attenuation_ratios("titanium", np.array(70.0))
    got = monochromatic.expected_counts(np.zeros_like(mask, dtype=np.float32), mask) - 20
    np.testing.assert_allclose(got, np.round(2e7 * np.exp(-expected)), rtol=1e-4, atol=1)
    np.testing.assert_array_equal(monochromatic.expected_counts(0.0 * mask, mask, shadow) - 20, got)


def test_without_an_object_all_photons_arrive(simulators) -> None:
    for name, simulator in simulators.items():
        air = simulator.expected_counts(np.zeros(simulator.protocol.geometry.image_shape, np.float32))
        expected = 2e7 + 20 if name == "syndeeplesion" else np.broadcast_to(simulator.detector.air, air.shape)
        np.testing.assert_allclose(air, expected, rtol=1e-6, err_msg=name)


# Noise and seeds


def test_the_same_seed_gives_the_same_bytes(simulator: Simulator) -> None:
    image, mask = body(simulator), metal(simulator)
    assert_same(simulator.simulate(image, mask, rng(1)), simulator.simulate(image, mask, rng(1)))
    one, other = (simulator.simulate(image, mask, rng(seed)) for seed in (1, 2))
    assert np.any(one.ma_sinogram != other.ma_sinogram)
    np.testing.assert_array_equal(one.metal_trace, other.metal_trace)
    for a, b in zip(simulator.clean(image, rng(3)), simulator.clean(image, rng(3)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_threads_change_no_byte(simulator: Simulator) -> None:
    alone = Simulator(simulator.protocol, "cpu", threads=1)
    image, mask = body(simulator), metal(simulator)
    assert_same(alone.simulate(image, mask, rng(1)), simulator.simulate(image, mask, rng(1)))


def test_masks_of_a_slice_share_its_work_and_change_no_byte(simulator: Simulator) -> None:
    """Alone, in a batch, in another order, with projections made before: the same samples."""
    image = body(simulator)
    masks = [
        metal(simulator),
        disc(simulator, 0, 0, 0.03),
        disc(simulator, 0.3, 0.3, 0.1),
        metal(simulator) * np.uint8(3),
    ]
    alone = [simulator.simulate(image, mask, rng(seed)) for seed, mask in enumerate(masks)]
    together = simulator.simulate_masks(image, masks, [rng(seed) for seed in range(4)])
    order = [2, 0, 3, 1]
    tissue = simulator.project_tissue(image)
    shuffled = simulator.simulate_masks(image, [masks[i] for i in order], [rng(i) for i in order], tissue)
    for i, sample in enumerate(alone):
        assert_same(sample, together[i])
        assert_same(sample, shuffled[order.index(i)])


def test_readings_scatter_about_the_expected_counts_as_photons_do(simulators) -> None:
    """chi2 of one scan over its bins, the water correction undone by its table."""
    simulator = simulators["syndeeplesion"]
    image, mask = body(simulator), metal(simulator)
    expected = simulator.expected_counts(image, mask)
    c = simulator.detector.water_correction
    p = np.linspace(-0.1, 12, 200_001)
    for sinogram, counts in (
        (simulator.simulate(image, mask, rng(4)).ma_sinogram, expected),
        (simulator.clean(image, rng(5))[0], simulator.expected_counts(image)),
    ):
        drawn = 2e7 * np.exp(-np.interp(sinogram, p * (c[0] + p * (c[1] + p * c[2])), p))
        chi2 = np.mean((drawn - counts) ** 2 / counts)
        assert chi2 == pytest.approx(1, abs=5 * math.sqrt(2 / counts.size))


# What belongs together in a sample


def test_a_sample_is_consistent(simulator: Simulator) -> None:
    image, mask = body(simulator), metal(simulator)
    sample = simulator.simulate(image, mask, rng(6))
    geometry, weighting = simulator.protocol.geometry, simulator.protocol.weighting
    assert sample.ma_sinogram.shape == sample.LI_sinogram.shape == sample.metal_trace.shape == geometry.sinogram_shape
    assert sample.ma_CT.shape == sample.LI_CT.shape == geometry.image_shape
    assert sample.metal_trace.dtype == bool
    assert all(getattr(sample, name).dtype == np.float32 for name in FIELDS[:4])
    np.testing.assert_array_equal(sample.metal_trace, metal_trace(simulator.projector, mask))
    np.testing.assert_array_equal(sample.LI_sinogram, linear_interpolation(sample.ma_sinogram, sample.metal_trace))
    np.testing.assert_array_equal(sample.ma_CT, simulator.projector.fbp(sample.ma_sinogram, weighting))
    np.testing.assert_array_equal(sample.LI_CT, simulator.projector.fbp(sample.LI_sinogram, weighting))


def test_water_comes_out_as_water(simulator: Simulator) -> None:
    """The chain with its water correction: a disc of water reads its mu in the middle, LI in metal-free rays too."""
    x, y = plane(simulator)
    water = np.where(np.hypot(x, y) < 0.45, MU_WATER_PER_CM, 0).astype(np.float32)
    ct = simulator.clean(water, rng(7))[1]
    assert float(ct[np.hypot(x, y) < 0.3].mean()) == pytest.approx(MU_WATER_PER_CM, rel=0.025)


# Metal


@pytest.mark.parametrize("name", METAL_CODES)
def test_outside_its_shadow_metal_changes_nothing(simulators, name: str) -> None:
    """But for scatter and crosstalk, which metal beside a ray changes; the clinical scanner has none of them here."""
    without_spread = protocols.without(protocols.PROTOCOLS["clinical"], "scatter", "crosstalk")
    for simulator in (simulators["syndeeplesion"], Simulator(without_spread, "cpu")):
        image, mask = body(simulator), metal(simulator)
        shadow = metal_trace(simulator.projector, mask)
        free, behind = simulator.expected_counts(image), simulator.expected_counts(image, mask * METAL_CODES[name])
        np.testing.assert_allclose(behind[~shadow], free[~shadow], rtol=1e-6)
        assert np.all(behind[shadow] <= free[shadow] * (1 + 1e-6) + 1)
        assert behind[shadow].mean() < 0.8 * free[shadow].mean()


def test_a_boolean_mask_is_of_the_simulators_metal(simulator: Simulator) -> None:
    steel = Simulator(simulator.protocol, "cpu", metal="steel")
    image, mask = body(simulator), metal(simulator)
    np.testing.assert_array_equal(
        steel.expected_counts(image, mask), simulator.expected_counts(image, mask * METAL_CODES["steel"])
    )
    np.testing.assert_array_equal(simulator.expected_counts(image, mask), simulator.expected_counts(image, 1 * mask))
    assert np.any(steel.expected_counts(image, mask) < simulator.expected_counts(image, mask))


def test_two_metals_in_one_slice_attenuate_together() -> None:
    """A label mask of titanium and gold: each shadow is its own metal's, their crossing both, by the sum over nodes."""
    spectrum = Spectrum((40.0, 60.0, 90.0), (1.0, 2.0, 1.0))
    simulator = Simulator("syndeeplesion", "cpu", spectrum=spectrum)
    image, nodes = body(simulator), exact_nodes(spectrum)
    labels = np.zeros(image.shape, np.uint8)
    parts = {"titanium": disc(simulator, 0, 0.3, 0.12), "gold": disc(simulator, 0, -0.3, 0.05)}
    for name, part in parts.items():
        labels[part] = METAL_CODES[name]
    everywhere = np.ones(simulator.projector.geometry.sinogram_shape, bool)
    water, bone = simulator.project_tissue(image)
    exponent = np.multiply.outer(nodes.ratios["water"], water) + np.multiply.outer(nodes.ratios["bone"], bone)
    for name, part in parts.items():
        path = simulator.projector.forward(np.where(part, reference_mu_per_cm(name), 0))
        exponent += np.multiply.outer(nodes.ratios[name], path)
    expected = np.round(2e7 * np.tensordot(nodes.weights, np.exp(-exponent), 1)) + 20
    got = simulator.expected_counts(image, labels, everywhere)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1)


def test_shipped_nodes_agree_about_metals_that_two_sets_serve(simulators) -> None:
    """The light set is taken for titanium alone; beside gold the set for all metals: no step between them.

    A grain of gold makes the mask's metals differ; rays that miss it see titanium alone.
    """
    simulator = simulators["syndeeplesion"]
    image, mask = body(simulator), 1 * disc(simulator, -0.1, 0.2, 0.08)
    beside = mask.copy()
    beside[disc(simulator, 0.3, -0.3, 0.03)] = METAL_CODES["gold"]
    gold = metal_trace(simulator.projector, beside == METAL_CODES["gold"])
    titanium = metal_trace(simulator.projector, mask)
    alone, both = simulator.expected_counts(image, mask, titanium), simulator.expected_counts(image, beside, titanium)
    rays = titanium & ~gold
    assert rays.any()
    error = (both - alone)[rays] / np.sqrt(alone[rays])
    assert np.sqrt(np.mean(error**2)) < 0.3  # deviations of the noise


def test_clinical_metal_takes_the_place_of_tissue(simulators) -> None:
    """What stands under the metal has no say where the metal fills the bin, up to float32; in the benchmark it has."""
    for name, replaced in (("clinical", True), ("syndeeplesion", False)):
        simulator = simulators[name]
        image, mask = body(simulator), metal(simulator)
        versions = [
            simulator.expected_counts(np.where(mask, mu, image).astype(np.float32), mask)
            for mu in (0.0, MU_WATER_PER_CM, 0.4, 2.0)
        ]
        filled = ~trace_rim(metal_trace(simulator.projector, mask))
        worst = max(float(np.max(np.abs(v / versions[0] - 1)[filled])) for v in versions[1:])
        assert (worst < 2e-3) == replaced, f"{name}: {worst:.1e}"


# What comes in comes out


def test_tensors_give_tensors(simulator: Simulator) -> None:
    image, mask = torch.from_numpy(body(simulator)), torch.from_numpy(metal(simulator))
    sample = simulator.simulate(image, mask, rng(8))
    assert all(isinstance(getattr(sample, name), torch.Tensor) for name in FIELDS)
    assert sample.metal_trace.dtype == torch.bool
    assert_same(sample, simulator.simulate(image.numpy(), mask.numpy(), rng(8)))
    assert isinstance(simulator.expected_counts(image), torch.Tensor)
    assert all(isinstance(result, torch.Tensor) for result in simulator.clean(image, rng(9)))


def test_batches_keep_their_dimensions_and_draw_in_order(simulator: Simulator) -> None:
    image, mask = body(simulator), metal(simulator)
    images = np.stack([image, 0.9 * image, 1.1 * image]).reshape(3, 1, *image.shape)
    masks = np.broadcast_to(mask, images.shape)
    shared, single = rng(10), rng(10)
    batch = simulator.simulate(images, masks, shared)
    assert batch.ma_sinogram.shape == (3, 1, *simulator.protocol.geometry.sinogram_shape)
    assert batch.LI_CT.shape == images.shape
    for i in range(3):
        assert_same(
            Sample(*(getattr(batch, name)[i, 0] for name in FIELDS)), simulator.simulate(images[i, 0], mask, single)
        )
    counts = simulator.expected_counts(images, masks)
    np.testing.assert_array_equal(counts[2, 0], simulator.expected_counts(images[2, 0], mask))
    assert simulator.clean(images, rng(11))[1].shape == images.shape


def test_the_input_is_left_alone(simulator: Simulator) -> None:
    image, mask = body(simulator), metal(simulator)
    kept = image.copy(), mask.copy()
    simulator.simulate(image, mask, rng())
    np.testing.assert_array_equal(image, kept[0])
    np.testing.assert_array_equal(mask, kept[1])


def test_the_hash_knows_what_the_physics_depends_on(simulators) -> None:
    benchmark = simulators["syndeeplesion"]
    again = Simulator("syndeeplesion", "cpu", threads=1)
    assert benchmark.physics_sha256 == again.physics_sha256
    assert benchmark.physics_sha256 != simulators["clinical"].physics_sha256
    assert benchmark.physics_sha256 != Simulator(spectrum=([70.0], [1.0]), device="cpu").physics_sha256


# Bad input


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UsageError, match=r"unknown preset 'vet'; expected one of syndeeplesion, clinical, ctmar"):
        Simulator("vet")
    with pytest.raises(UsageError, match="unknown metal 'wood'"):
        Simulator(metal="wood")
    with pytest.raises(UsageError, match="unknown device 'tpu'"):
        Simulator(device="tpu")
    with pytest.raises(InputError, match="no such file"):
        Simulator(device="cpu", spectrum="missing.csv")
    with pytest.raises(InputError, match="equally many"):
        Simulator(device="cpu", spectrum=([40.0, 50.0], [1.0]))


def test_images_that_cannot_be_scanned_are_refused(simulator: Simulator) -> None:
    image, mask = body(simulator), metal(simulator)
    holed = image.copy()
    holed[3, :2] = np.nan, np.inf
    with pytest.raises(InputError, match="2 values are not finite"):
        simulator.expected_counts(holed)
    with pytest.raises(InputError, match="2 values are not finite"):
        simulator.simulate(holed, mask, rng())
    for wrong in (image[:-1], image[:, :-1]):
        with pytest.raises(InputError, match=r"image: got shape .* resize it with simulation.physics.grid.to_grid"):
            simulator.clean(wrong, rng())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda mask: mask[:-1], "metal mask: got shape"),
        (lambda mask: mask & False, "it is empty"),
        (lambda mask: mask * np.uint8(0), "it is empty"),
        (lambda mask: mask * np.uint8(200), r"got the value 200; expected booleans or codes"),
        (lambda mask: mask * np.int16(-1), r"got the value -1"),
        (lambda mask: mask * 1.5, r"got the value 1\.5"),
        (lambda mask: mask * 0.5, r"got the value 0\.5"),
        (lambda mask: np.where(mask, np.nan, 0), r"got the value nan"),
    ],
)
def test_masks_that_hold_no_metal_are_refused(simulator: Simulator, change, words: str) -> None:
    mask = change(metal(simulator))
    for call in (
        lambda: simulator.expected_counts(body(simulator), mask),
        lambda: simulator.simulate(body(simulator), mask, rng()),
    ):
        with pytest.raises(InputError, match=words):
            call()


def test_batches_that_do_not_match_are_refused(simulator: Simulator) -> None:
    image, mask = body(simulator), metal(simulator)
    with pytest.raises(InputError, match=r"batch dimensions differ: image \(2,\), mask or trace \(\)"):
        simulator.simulate(np.stack([image, image]), mask, rng())


# Photon starvation, on the full scans


def test_a_steel_hip_pair_starves_the_clinical_detector_and_the_benchmark_is_never_dark(monkeypatch) -> None:
    """Two 50 mm discs of steel 180 mm apart in 360 x 240 mm of water leave bins without a single primary photon.

    In the benchmark, with its shrunken body, the largest mask leaves over 1e4 in every bin.
    """
    for name in PRESETS:
        full = dataclasses.replace(protocols.PROTOCOLS[name], geometry=FanBeam.preset(name))
        monkeypatch.setitem(protocols.PROTOCOLS, name, full)
    clinical, benchmark = Simulator("clinical", "cpu", metal="steel"), Simulator("syndeeplesion", "cpu")
    x, y = (250 * axis for axis in plane(clinical))
    water = np.where((x / 120) ** 2 + (y / 180) ** 2 < 1, MU_WATER_PER_CM, 0)
    hips = (np.hypot(x, y - 90) < 25) | (np.hypot(x, y + 90) < 25)
    assert np.count_nonzero(clinical.signal(water / MU_WATER_PER_CM, None, hips) < np.exp(-10.3)) > 1000
    sample = clinical.simulate(water, hips, rng(12))
    assert np.isfinite(sample.ma_CT).all()
    between = (np.abs(y) < 40) & (np.abs(x) < 8)
    assert float(sample.ma_CT[between].mean()) < 0.7 * MU_WATER_PER_CM  # the dark band between the hips

    x, y = plane(benchmark)
    water = np.where((x / 0.6) ** 2 + (y / 0.9) ** 2 < 1, MU_WATER_PER_CM, 0)
    implant = np.hypot(x - 0.1, y + 0.2) < math.sqrt(2061 / math.pi) / 208
    assert np.count_nonzero(implant) == pytest.approx(2061, rel=0.01)
    assert benchmark.expected_counts(water, implant).min() > 1e4
