"""Laws of spectra: what is read or modelled is a spectrum, and fitted nodes attenuate like the whole of it."""

import numpy as np
import pytest

from simulation.errors import InputError, UsageError
from simulation.physics.materials import FILTERS, MATERIALS, METALS, TISSUES, attenuation_ratios
from simulation.physics.spectra import (
    FIT_TOLERANCE,
    Spectrum,
    SpectrumBins,
    SpectrumNodes,
    binned,
    exact_nodes,
    fit_error,
    fit_nodes,
    parse_filters,
    read_spectrum,
    shipped_bins,
    shipped_nodes,
    tube_spectrum,
)


def mean_kev(spectrum: Spectrum) -> float:
    return float(np.dot(spectrum.energies_kev, spectrum.weights))


def worst_error_in_noise(nodes: SpectrumNodes, exact: SpectrumNodes, paths: dict[str, np.ndarray]) -> float:
    """Largest error of p over the paths, in deviations of the Poisson noise of 2e7 photons; sums written out."""

    def transmitted(n: SpectrumNodes) -> np.ndarray:
        exponent = sum(np.multiply.outer(integral, n.ratios[name]) for name, integral in paths.items())
        return np.exp(-exponent) @ n.weights

    truth = transmitted(exact)
    return float(np.max(np.abs(np.log(transmitted(nodes) / truth)) * np.sqrt(2e7 * truth)))


def random_paths(metals: int, thinnest_water: float) -> np.ndarray:
    """20000 rays through water up to 10, bone up to 3, and a random mixture of metals up to 12, dense near zero."""
    rng = np.random.default_rng(5)
    water, bone, metal = np.array([[10 - thinnest_water], [3], [12]]) * rng.random((3, 20000)) ** 1.5
    shares = rng.dirichlet(np.full(metals, 0.5), 20000)
    return np.column_stack([thinnest_water + water, bone, metal[:, None] * shares])


# Spectrum


def test_weights_are_normalised() -> None:
    spectrum = Spectrum((20.0, 40.0, 60.0), (1.0, 2.0, 1.0))
    assert spectrum.weights == (0.25, 0.5, 0.25)
    assert spectrum == Spectrum((20.0, 40.0, 60.0), (10.0, 20.0, 10.0))
    assert hash(spectrum) == hash(Spectrum((20.0, 40.0, 60.0), (10.0, 20.0, 10.0)))


@pytest.mark.parametrize(
    ("energies", "weights", "words"),
    [
        ((20.0, 30.0), (1.0,), "equally many"),
        ((), (), "equally many"),
        ((30.0, 20.0), (1.0, 1.0), "must increase"),
        ((20.0, 20.0), (1.0, 1.0), "must increase"),
        ((20e3, 30e3), (1.0, 1.0), "give keV, not eV"),
        ((1.0, 30.0), (1.0, 1.0), "5..500 keV"),
        ((float("nan"), 30.0), (1.0, 1.0), "must increase"),
        ((20.0, 30.0), (1.0, -1.0), "not negative"),
        ((20.0, 30.0), (0.0, 0.0), "not all zero"),
        ((20.0, 30.0), (1.0, float("nan")), "finite"),
        ((20.0, 30.0), (1.0, float("inf")), "finite"),
    ],
)
def test_what_is_no_spectrum_is_refused(energies: tuple, weights: tuple, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Spectrum(energies, weights)


# csv


@pytest.mark.parametrize("header", ["", "energy_kev,photons\n", "20 keV to 60 keV\n"])
def test_a_csv_is_read_with_or_without_header(tmp_path, header: str) -> None:
    path = tmp_path / "s.csv"
    path.write_text(header + "20,1\n40, 2  # the middle\n\n60,1.0,ignored\n")
    assert read_spectrum(path) == read_spectrum(str(path)) == Spectrum((20.0, 40.0, 60.0), (1.0, 2.0, 1.0))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no line with two numbers"),
        ("energy_kev,photons\n", "no line with two numbers"),
        ("20,1\nforty,2\n", "line 2: got 'forty,2'"),
        ("20,1\n40\n", "line 2: got '40'"),
        ("20,1\n40,\n", "line 2"),
        ("20;1\n40;2\n", "line 2: got '40;2'"),
        ("20000,1\n40000,2\n", "give keV, not eV"),
        ("20,1\n40,nan\n", "finite"),
    ],
)
def test_a_csv_that_holds_no_spectrum_is_refused(tmp_path, text: str, words: str) -> None:
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        read_spectrum(tmp_path / "s.csv")


def test_a_missing_or_binary_csv_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_spectrum(tmp_path / "none.csv")
    with pytest.raises(InputError, match="no such file"):
        read_spectrum(tmp_path)
    (tmp_path / "b.csv").write_bytes(bytes(range(256)))
    with pytest.raises(InputError):
        read_spectrum(tmp_path / "b.csv")


def test_the_benchmarks_spectrum(shared_data) -> None:
    spectrum = read_spectrum(shared_data / "spectrum_ge14_120kvp.csv")
    assert spectrum.energies_kev == tuple(float(e) for e in range(20, 121))
    assert mean_kev(spectrum) == pytest.approx(55.12, abs=0.01)


# tubes


def test_the_default_tube_is_close_to_the_benchmarks() -> None:
    """120 kVp, 7 degrees, 2.5 mm of aluminium: mean near 56.0 keV, no photon above the voltage."""
    spectrum = tube_spectrum(120.0)
    assert mean_kev(spectrum) == pytest.approx(56.0, abs=0.15)
    assert 10 <= spectrum.energies_kev[0] < 20
    assert spectrum.energies_kev[-1] <= 120


def test_voltage_and_filters_harden_the_beam() -> None:
    standard = mean_kev(tube_spectrum(120.0))
    assert mean_kev(tube_spectrum(80.0)) < standard - 5
    assert mean_kev(tube_spectrum(120.0, 7.0, (("Al", 7.0),))) == pytest.approx(61.6, abs=0.1)
    assert mean_kev(tube_spectrum(120.0, 7.0, (("Al", 2.5), ("Cu", 0.3)))) > standard + 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((5.0,), "expected 30..300 kVp"),
        ((120000.0,), "expected 30..300 kVp"),
        ((120.0, 0.0), "1..45 degrees"),
        ((120.0, 7.0, (("Unobtainium", 1.0),)), "spekpy refuses the filters"),
    ],
)
def test_impossible_tubes_are_refused(arguments: tuple, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        tube_spectrum(*arguments)


def test_filters_are_read_as_element_and_mm() -> None:
    assert parse_filters(("Al:2.5", "Cu:0.1")) == (("Al", 2.5), ("Cu", 0.1))
    assert parse_filters(()) == ()


@pytest.mark.parametrize("word", ["Al", "Al:", "Al2.5", "Al:thick", "Al:2.5:1"])
def test_filters_of_another_form_are_refused(word: str) -> None:
    with pytest.raises(UsageError, match="expected ELEMENT:MM such as Al"):
        parse_filters(("Cu:0.1", word))


# nodes


def test_exact_nodes_are_the_spectrum() -> None:
    spectrum = Spectrum((40.0, 70.0, 100.0), (1.0, 2.0, 1.0))
    nodes = exact_nodes(spectrum)
    np.testing.assert_array_equal(nodes.weights, spectrum.weights)
    assert set(nodes.ratios) == set(MATERIALS) == {*TISSUES, *METALS}
    np.testing.assert_array_equal(nodes.ratios["gold"], attenuation_ratios("gold", np.array([40.0, 70.0, 100.0])))


def test_the_line_integral_of_nodes_is_minus_log_transmission() -> None:
    nodes = SpectrumNodes(np.array([0.25, 0.75]), {"water": np.array([2.0, 1.0]), "gold": np.array([0.5, 3.0])})
    expected = -np.log(0.25 * np.exp(-2 * 1.5 - 0.5 * 0.2) + 0.75 * np.exp(-1.5 - 3 * 0.2))
    got = nodes.line_integral(("water", "gold"), np.array([[1.5, 0.2], [0, 0]]))
    np.testing.assert_allclose(got, [expected, 0], atol=1e-15)


def test_a_spectrum_of_few_energies_is_kept_whole() -> None:
    spectrum = Spectrum((40.0, 70.0, 100.0), (1.0, 2.0, 1.0))
    assert fit_nodes(spectrum) is exact_nodes(spectrum)


@pytest.mark.parametrize("metals", [("titanium",), ("titanium", "steel", "cocr"), ("titanium", "gold")])
def test_fitted_nodes_are_few_and_meet_the_tolerance_in_a_body(metals: tuple[str, ...]) -> None:
    """Mixtures included: one to three of the metals share a ray; single paths stay within a deviation of the noise."""
    spectrum = tube_spectrum(120.0)
    exact, nodes = exact_nodes(spectrum), fit_nodes(spectrum, metals)
    names = (*TISSUES, *metals)
    assert len(nodes.weights) <= 16 < len(exact.weights)
    assert nodes.weights.sum() == pytest.approx(1, abs=1e-12)
    assert set(nodes.ratios) == set(names)
    error = fit_error(nodes, exact, names, random_paths(len(metals), thinnest_water=1.0))
    assert error <= FIT_TOLERANCE, f"{error:.3f} deviations of the noise"
    length = np.linspace(0, 6, 200)
    for metal in metals:
        paths = {"water": np.full(200, 4.0), "bone": 0.2 * length, metal: length}
        assert worst_error_in_noise(nodes, exact, paths) < 1, metal
    mixture = {"water": np.full(200, 3.0), **{metal: length / len(metals) for metal in metals}}
    assert worst_error_in_noise(nodes, exact, mixture) < 1


@pytest.mark.parametrize("metals", [("titanium", "steel", "cocr"), ("titanium", "gold")])
def test_fitted_nodes_meet_the_tolerance_over_their_whole_domain(metals: tuple[str, ...]) -> None:
    spectrum = tube_spectrum(120.0)
    exact, nodes = exact_nodes(spectrum), fit_nodes(spectrum, metals)
    error = fit_error(nodes, exact, (*TISSUES, *metals), random_paths(len(metals), thinnest_water=0.0))
    assert error <= FIT_TOLERANCE, f"{error:.3f} deviations of the noise"


def test_the_error_of_nodes_counts_the_noise_of_the_photons() -> None:
    """Nodes with a relative 1e-4 too much transmission are off by 1e-4 sqrt(2e7 T) at every transmission T."""
    exact = exact_nodes(Spectrum((70.0,), (1.0,)))
    nodes = SpectrumNodes(exact.weights * 1.0001, exact.ratios)
    integrals = np.array([[1.0, 0, 0], [3.0, 0, 0]])
    expected = np.log(1.0001) * np.sqrt(2e7 * np.exp(-integrals[:, 0] * exact.ratios["water"][0]).mean())
    assert fit_error(nodes, exact, (*TISSUES, "titanium"), integrals) == pytest.approx(expected, rel=1e-6)


def check_shipped(preset: str, spectrum: Spectrum) -> None:
    exact = exact_nodes(spectrum)
    sets = shipped_nodes(preset, more=True)
    assert len(sets[0].weights) <= len(sets[-1].weights) < len(exact.weights)
    for nodes in sets:
        names = tuple(name for name in MATERIALS if name in nodes.ratios)
        error = fit_error(nodes, exact, names)
        assert error <= FIT_TOLERANCE, f"{names}: {error:.3f} deviations of the noise"
        assert nodes.weights.sum() == pytest.approx(1, abs=1e-6)
    assert tuple(sets[-1].ratios) == MATERIALS


def test_shipped_bins_are_those_of_the_fitted_tube() -> None:
    """120 kVp through 6.12 mm Al, in bins of 10 keV that bring the energy of the photons in them."""
    shipped = shipped_bins("clinical")
    whole = tube_spectrum(120.0, 12.64, (("Al", 6.12),))
    made = SpectrumBins.of(binned(whole, 5.5, 10.0, 12))
    for name in ("energies_kev", "weights"):
        np.testing.assert_allclose(getattr(shipped, name), getattr(made, name), rtol=1e-6, err_msg=name)
    for name in (*MATERIALS, *FILTERS):
        there, here = ({**bins.ratios, **bins.filters_per_cm}[name] for bins in (shipped, made))
        np.testing.assert_allclose(there, here, rtol=1e-6, err_msg=name)


def test_bins_hold_the_photons_of_their_energies() -> None:
    whole = Spectrum((21.0, 29.0, 31.0, 45.0), (1.0, 2.0, 3.0, 4.0))
    bins = binned(whole, 25.0, 10.0, 3)
    assert bins.energies_kev == (25.0, 35.0, 45.0) and bins.weights == pytest.approx((0.3, 0.3, 0.4))


def test_shipped_benchmark_nodes_are_its_spectrum(shared_data) -> None:
    check_shipped("syndeeplesion", read_spectrum(shared_data / "spectrum_ge14_120kvp.csv"))
