"""Laws of the materials: compositions are whole, attenuation is that of the benchmark's tables."""

import numpy as np
import pytest

from simulation.errors import UsageError
from simulation.physics.materials import (
    METAL_CODES,
    METALS,
    REFERENCE_KEV,
    TISSUES,
    Material,
    attenuation_ratios,
    check_metal,
    mass_attenuation,
    reference_mu_per_cm,
)

ALL = {**TISSUES, **METALS}
EVERY_KEV = np.arange(20.0, 121.0)


@pytest.mark.parametrize("name", ALL)
def test_mass_fractions_sum_to_one(name: str) -> None:
    assert sum(share for _, share in ALL[name].mass_fractions) == pytest.approx(1, abs=1e-9)
    assert all(share > 0 for _, share in ALL[name].mass_fractions)


def test_the_metals_that_implants_are_made_of_are_there() -> None:
    assert {"titanium", "steel", "cocr", "gold", "amalgam", "tantalum", "platinum", "copper", "cobalt"} == set(METALS)


def test_metal_codes_are_stable_and_leave_zero_for_none() -> None:
    """Codes stand in files that people keep: a new metal gets a new code, none changes."""
    assert METAL_CODES == {
        "titanium": 1,
        "steel": 2,
        "cocr": 3,
        "gold": 4,
        "amalgam": 5,
        "tantalum": 6,
        "platinum": 7,
        "copper": 8,
        "cobalt": 9,
    }


@pytest.mark.parametrize(
    ("name", "mu_per_cm"),
    [("water", 0.1929), ("bone", 1.92 * 0.257), ("titanium", 2.41245)],
)
def test_the_benchmarks_attenuation_at_70_kev(name: str, mu_per_cm: float) -> None:
    assert reference_mu_per_cm(name) == pytest.approx(mu_per_cm, rel=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_ratios_are_one_at_the_reference_energy(name: str) -> None:
    """Within the rounding of the benchmark's four digits where it divides by rounded values."""
    assert float(attenuation_ratios(name, np.array(REFERENCE_KEV))) == pytest.approx(1, abs=6e-4)


@pytest.mark.parametrize("name", ALL)
def test_mu_is_ratio_times_reference(name: str) -> None:
    mu = ALL[name].density * mass_attenuation(ALL[name], EVERY_KEV)
    np.testing.assert_allclose(attenuation_ratios(name, EVERY_KEV) * reference_mu_per_cm(name), mu, rtol=1e-12)


def test_a_mixture_is_the_mean_of_its_parts_by_mass() -> None:
    parts = [mass_attenuation(Material(1, ((element, 1.0),), ""), EVERY_KEV) for element in ("Fe", "Cr")]
    mixed = mass_attenuation(Material(9, (("Fe", 0.8), ("Cr", 0.2)), ""), EVERY_KEV)
    np.testing.assert_allclose(mixed, 0.8 * parts[0] + 0.2 * parts[1], rtol=1e-12)


def test_heavy_metals_have_their_k_edges() -> None:
    """Gold 80.7 keV, platinum 78.4, tantalum 67.4: attenuation leaps up across the edge and falls on both sides."""
    for name, edge_kev in {"gold": 80.725, "platinum": 78.395, "tantalum": 67.416}.items():
        below, above = attenuation_ratios(name, np.array([edge_kev - 0.5, edge_kev + 0.5]))
        assert above > 2.5 * below, name
    for name in ("titanium", "steel", "cocr"):
        assert np.all(np.diff(attenuation_ratios(name, EVERY_KEV[1:])) < 0), name


def test_one_energy_comes_out_without_dimensions() -> None:
    assert mass_attenuation(TISSUES["water"], np.array(70.0)).shape == ()


def test_any_shape_of_energies_comes_out_as_it_came_in() -> None:
    water = TISSUES["water"]
    grid = mass_attenuation(water, EVERY_KEV[:100].reshape(4, 25))
    np.testing.assert_array_equal(grid.ravel(), mass_attenuation(water, EVERY_KEV[:100]))


def test_an_unknown_metal_is_refused_by_name() -> None:
    assert check_metal("gold") == "gold"
    with pytest.raises(UsageError, match=r"unknown metal 'mithril'; expected one of titanium, steel"):
        check_metal("mithril")


REFERENCE_COLUMNS = {
    "water": TISSUES["water"],
    "bone_cortical_icru44": TISSUES["bone"],
    "ti": METALS["titanium"],
    "fe": Material(7.874, (("Fe", 1.0),), ""),
    "cu": Material(8.96, (("Cu", 1.0),), ""),
    "au": METALS["gold"],
}


@pytest.mark.parametrize("column", REFERENCE_COLUMNS)
def test_attenuation_is_the_benchmarks_table(shared_data, column: str) -> None:
    """20..120 keV; the table has four digits."""
    header, *lines = (shared_data / "attenuation_reference.csv").read_text().splitlines()
    names = header.split("#")[0].strip().split(",")
    table = dict(zip(names, np.array([line.split(",") for line in lines], float).T, strict=True))
    np.testing.assert_array_equal(table["energy_kev"], EVERY_KEV)
    ours = mass_attenuation(REFERENCE_COLUMNS[column], EVERY_KEV)
    worst = float(np.max(np.abs(ours / table[column] - 1)))
    assert worst < 6e-4, f"{column}: {worst:.2e} relative"
