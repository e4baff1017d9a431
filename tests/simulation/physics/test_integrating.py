"""Laws of the energy-integrating detector: what each effect does, noise by its two moments, what corrections undo."""

import math
from dataclasses import replace

import numpy as np
import pytest

from simulation.errors import UsageError
from simulation.physics.geometry import FanBeam
from simulation.physics.integrating import EnergyIntegratingDetector, low_signal_corrected, sampled_scans
from simulation.physics.materials import reference_mu_per_cm
from simulation.physics.projector import Projector
from simulation.physics.protocols import CTMAR, EFFECTS, PROTOCOLS, SYNDEEPLESION, without
from simulation.physics.spectra import Spectrum, tube_spectrum

CLINICAL = PROTOCOLS["clinical"]
QUIET = without(CTMAR, "quantum-noise", "electronic-noise", "scatter")
TISSUE = ("water", "bone")


def behind_water(cm: float, views: int = 1000) -> np.ndarray:
    integrals = np.zeros((2, views, 900), np.float32)
    integrals[0] = cm * reference_mu_per_cm("water")
    return integrals


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_air_has_the_quanta_of_the_challenges_dose() -> None:
    """6.3e5 equivalent quanta in the middle at 500 mAs and 0.579 mm, in proportion to both; fewer behind the bowtie."""

    def quanta(scan) -> np.ndarray:
        detector = EnergyIntegratingDetector(scan)
        air = detector.transmitted(TISSUE, behind_water(0))
        return air.mean[0] ** 2 / air.variance[0]

    middle, edge = quanta(CTMAR)[[450, 0]]
    assert middle == pytest.approx(6.3e5, rel=0.05)
    assert edge < 0.2 * middle
    assert quanta(replace(CTMAR, mas=250, slice_mm=4 * CTMAR.slice_mm))[450] == pytest.approx(2 * middle)
    assert np.ptp(quanta(without(CTMAR, "bowtie"))) < 1e-6 * middle


def test_one_energy_is_beers_law_whatever_the_bowtie() -> None:
    detector = EnergyIntegratingDetector(QUIET, Spectrum((70.0,), (1.0,)))
    signal = detector.signal(detector.transmitted(TISSUE, behind_water(12)))
    np.testing.assert_allclose(-np.log(signal), 12 * reference_mu_per_cm("water"), rtol=3e-4)  # four digits


def test_water_is_stated_as_its_line_integral() -> None:
    """The correction is exact to a hundredth from 1 to 30 cm, in every bin, and no line integral without an object."""
    detector = EnergyIntegratingDetector(QUIET)
    for cm in (0, 1, 7.5, 30):
        stated = detector.measure(detector.transmitted(TISSUE, behind_water(cm)), rng())
        np.testing.assert_allclose(stated, 0.2 * cm, atol=0.005)


def test_noise_has_the_moments_of_compound_poisson_numbers() -> None:
    """Mean and variance of sum E N(E) with independent Poisson N, plus the electronics; against draws."""
    scan = without(CTMAR, "scatter", "crosstalk", "low-signal-correction")
    detector = EnergyIntegratingDetector(scan)
    through = detector.transmitted(TISSUE, behind_water(32))
    energies = 0.1 * np.arange(15.5, 120, 10)
    weights = detector._photons[450] * np.exp(-32 * reference_mu_per_cm("water") * detector._ratios["water"])
    absorbed = detector._gains[0] / energies
    drawn = rng(1).poisson(weights * absorbed, (200_000, len(energies))) @ energies
    assert through.mean[0, 450] == pytest.approx(drawn.mean(), rel=5e-3)
    assert through.variance[0, 450] == pytest.approx(drawn.var(), rel=0.02)
    lines = detector.measure(through, rng(2))[:, 440:460]
    relative = math.sqrt(drawn.var() + 25**2) / drawn.mean()
    slope = np.polynomial.polynomial.polyval(
        -math.log(through.mean[0, 450] / detector.air[450]),
        np.polynomial.polynomial.polyder(detector.water_correction[450]),
    )
    assert lines.std() == pytest.approx(slope * relative, rel=0.03)


def test_crosstalk_spreads_a_signal_and_loses_what_other_rows_take() -> None:
    """A single open bin gives its neighbours 2.5 % each; a single row keeps 96 %."""
    one = without(QUIET, "bowtie")
    integrals = np.full((2, 1000, 900), 50, np.float32)
    integrals[:, :, 450] = 0
    with_, without_ = (EnergyIntegratingDetector(scan) for scan in (one, without(one, "crosstalk")))
    got = with_.expected(with_.transmitted(TISSUE, integrals))[0]
    alone = without_.expected(without_.transmitted(TISSUE, integrals))[0, 450]
    np.testing.assert_allclose(got[448:453] / alone, 0.96 * np.array([0, 0.025, 0.95, 0.025, 0]), atol=1e-6)


def test_scatter_over_primary_is_that_of_water_phantoms() -> None:
    """.11, .16, .21 behind the middle of 20, 30, 40 cm of water (specs/ctmar.md)."""
    detector = EnergyIntegratingDetector(without(CTMAR, "quantum-noise", "electronic-noise"))
    geometry = replace(CTMAR.geometry, pixel_mm=500 / 512)
    x, y = np.meshgrid(*[(np.arange(512) - 255.5) * geometry.pixel_mm] * 2, indexing="ij")
    for cm, ratio in ((20, 0.11), (30, 0.16), (40, 0.21)):
        water = np.where(np.hypot(x, y) < 5 * cm, reference_mu_per_cm("water"), 0).astype(np.float32)
        through = detector.transmitted(TISSUE, Projector(geometry, "cpu").forward(np.stack([water, 0 * water])))
        scattered = detector.expected(through) - detector._crosstalk(through.mean)
        assert (scattered / detector._crosstalk(through.mean))[:, 445:455].mean() == pytest.approx(ratio, abs=0.015)


def test_the_clinical_scanner_never_subtracts_more_scatter_than_there_is() -> None:
    """Beside and behind 3 cm of steel; the challenge's correction does, which makes metal brighter."""
    geometry = CLINICAL.geometry
    x, y = np.meshgrid(*[(np.arange(512) - 255.5) * geometry.pixel_mm] * 2, indexing="ij")
    rod = np.hypot(x, y - 60) < 15
    water = np.where((np.hypot(x, y) < 160) & ~rod, reference_mu_per_cm("water"), 0)
    steel = np.where(rod, reference_mu_per_cm("steel"), 0)
    integrals = Projector(geometry, "cpu").forward(np.stack([water, 0 * water, steel]).astype(np.float32))
    left = {}
    for name, scan in (("clinical", CLINICAL), ("ctmar", replace(CTMAR, geometry=geometry))):
        detector = EnergyIntegratingDetector(scan)
        through = detector.transmitted((*TISSUE, "steel"), integrals)
        signal, primary = detector.expected(through), detector._crosstalk(through.mean)
        left[name] = (signal - detector._scatter_estimate(signal) - primary) / detector.air
    assert left["clinical"].min() > -1e-4
    assert left["ctmar"].min() < -1e-3


@pytest.mark.parametrize("width", [0.5, 2.0])
def test_scatter_spreads_over_millimetres_whatever_the_bins(width: float) -> None:
    """Bins half or twice as wide hold half or twice of it, over twice or half as many of them."""
    geometry = CTMAR.geometry
    other = replace(geometry, pitch_mm=width, bins=round(900 / width), column_offset=0.0)
    detectors = [EnergyIntegratingDetector(replace(CTMAR, geometry=scan)) for scan in (geometry, other)]
    spreads = []
    for detector in detectors:
        source = np.zeros((1, detector.protocol.geometry.bins))
        source[0, source.shape[1] // 2] = 1
        spread = detector._spread(source, CTMAR.scatter_kernel)[0]
        places = np.arange(spread.size) * detector.protocol.geometry.pitch_mm
        mean = (spread @ places) / spread.sum()
        spreads.append((spread.sum(), math.sqrt(spread @ (places - mean) ** 2 / spread.sum())))
    np.testing.assert_allclose(*spreads, rtol=0.03)


def test_low_signals_are_smoothed_and_high_ones_left_alone() -> None:
    clear = np.full((2, 100), 0.1)
    clear[1, 50:] = 1e-3  # above e^-8 everywhere: nothing is smoothed
    np.testing.assert_array_equal(low_signal_corrected(clear), clear)
    noisy = np.full((1, 400), 0.1)
    noisy[0, 100:300] = rng(3).normal(2e-5, 2e-5, 200)
    smoothed = low_signal_corrected(noisy)
    np.testing.assert_array_equal(smoothed[0, :97], noisy[0, :97])
    assert smoothed.min() >= math.exp(-13)
    assert np.log(smoothed[0, 110:290]).std() < 0.6 * np.log(np.maximum(noisy[0, 110:290], math.exp(-13))).std()


def test_a_dark_reading_becomes_the_mean_of_its_neighbours() -> None:
    signal = np.full((1, 9), 0.2)
    signal[0, 4] = -1
    assert low_signal_corrected(signal)[0, 4] == pytest.approx(0.2)


def test_a_focal_spot_and_a_turning_gantry_are_samples_about_the_scan() -> None:
    """Their mean is the scan itself; a wide object's sinogram changes by their blur alone."""
    scan = replace(CTMAR, focal_spot_samples=2, view_samples=2)
    samples = sampled_scans(scan)
    assert len(samples) == 4 and sampled_scans(CTMAR) == [CTMAR.geometry] and sampled_scans(SYNDEEPLESION)
    assert np.mean([one.angles_rad for one in samples]) == pytest.approx(CTMAR.geometry.angles_rad.mean())
    assert np.mean([one.column_offset for one in samples]) == pytest.approx(-1.25)
    assert np.ptp([one.column_offset for one in samples]) == pytest.approx(0.5 * (950 / 550 - 1), rel=1e-3)


def test_a_point_beside_the_middle_of_the_focal_spot_sees_a_pin_where_its_ray_meets_it() -> None:
    """The bin of a pin's shadow, by the straight line from the shifted source through the pin to the arc."""
    geometry = FanBeam.preset("ctmar")
    beside_mm = 2.0
    sample = sampled_scans(replace(CTMAR, focal_spot_mm=2 * beside_mm * 2, focal_spot_samples=2))[1]
    pin_mm = np.array([60.0, -35.0])
    row, column = np.rint(pin_mm / geometry.pixel_mm + 255.5).astype(int)
    image = np.zeros((512, 512), np.float32)
    image[row, column] = 1
    x, y = (np.array([row, column]) - 255.5) * geometry.pixel_mm
    sinogram = Projector(sample, "cpu").forward(image)
    for view in (0, 130, 500, 777):
        theta = geometry.angles_rad[view]
        axis, along = np.array([-math.sin(theta), math.cos(theta)]), np.array([math.cos(theta), math.sin(theta)])
        source = -550 * axis + beside_mm * along
        direction = np.array([x, y]) - source
        # Where the ray meets the circle of radius 950 about the middle of the focal spot.
        start = source + 550 * axis
        a, b, c = direction @ direction, 2 * direction @ start, start @ start - 950**2
        cell = start + direction * (-b + math.sqrt(b * b - 4 * a * c)) / (2 * a)
        fan = math.atan2(cell @ along, cell @ axis)
        expected = geometry.central_bin - fan / geometry.bin_rad
        got = sinogram[view] @ np.arange(900) / sinogram[view].sum()
        assert got == pytest.approx(expected, abs=0.15)


def test_every_effect_can_be_switched_off_by_name() -> None:
    for name in EFFECTS:
        assert without(CTMAR, name) != CTMAR, name
    with pytest.raises(UsageError, match=r"unknown effect 'lag'; expected one of bowtie, quantum-noise"):
        without(CTMAR, "lag")


def test_a_spectrum_of_many_energies_is_binned() -> None:
    """Water behind 101 energies and behind their bins differs by less than the noise."""
    whole = tube_spectrum(140.0)
    detector = EnergyIntegratingDetector(QUIET, whole)
    assert detector._photons.shape[1] <= 30
    stated = detector.measure(detector.transmitted(TISSUE, behind_water(20)), rng())
    np.testing.assert_allclose(stated, 4, atol=0.005)
