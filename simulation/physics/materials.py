"""What the x-rays meet: tissues and metals by composition, with attenuation from xraydb; codes of metals in masks."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from simulation.errors import UsageError

REFERENCE_KEV = 70.0
"""Energy at which line integrals of a material are stated."""


@dataclass(frozen=True)
class Material:
    """A mixture of elements.

    Args:
        density: g/cm3.
        mass_fractions: (element, fraction) pairs that sum to 1.
        source: where the composition is from.
    """

    density: float
    mass_fractions: tuple[tuple[str, float], ...]
    source: str


TISSUES: dict[str, Material] = {
    "water": Material(1.0, (("H", 0.111898), ("O", 0.888102)), "H2O"),
    "bone": Material(
        1.92,
        (
            ("H", 0.034),
            ("C", 0.155),
            ("N", 0.042),
            ("O", 0.435),
            ("Na", 0.001),
            ("Mg", 0.002),
            ("P", 0.103),
            ("S", 0.003),
            ("Ca", 0.225),
        ),
        "cortical bone, ICRU report 44",
    ),
}

METALS: dict[str, Material] = {
    "titanium": Material(4.5, (("Ti", 1.0),), "SynDeepLesion: pure titanium of density 4.5"),
    "steel": Material(
        8.0,
        (("Fe", 0.655), ("Cr", 0.175), ("Ni", 0.12), ("Mo", 0.025), ("Mn", 0.02), ("Si", 0.005)),
        "stainless steel 316L for implants, ISO 5832-1",
    ),
    "cocr": Material(8.3, (("Co", 0.65), ("Cr", 0.285), ("Mo", 0.06), ("Mn", 0.005)), "cast CoCrMo, ISO 5832-4"),
    "gold": Material(19.3, (("Au", 1.0),), "pure gold"),
    "amalgam": Material(
        11.0,
        (("Hg", 0.5), ("Ag", 0.3), ("Sn", 0.14), ("Cu", 0.06)),
        "high-copper dental amalgam, half mercury, ISO 24234",
    ),
    "tantalum": Material(16.65, (("Ta", 1.0),), "pure tantalum, ISO 13782"),
    "platinum": Material(21.45, (("Pt", 1.0),), "pure platinum (electrodes)"),
    "copper": Material(8.96, (("Cu", 1.0),), "pure copper"),
    "cobalt": Material(8.9, (("Co", 1.0),), "pure cobalt"),
}

MATERIALS = (*TISSUES, *METALS)

FILTERS: dict[str, Material] = {
    "aluminium": Material(2.699, (("Al", 1.0),), "pure aluminium: bowtie filters"),
    "gadolinium oxysulfide": Material(
        7.34, (("Gd", 0.8308), ("O", 0.0845), ("S", 0.0847)), "Gd2O2S: ceramic scintillators"
    ),
}
"""What the x-rays meet outside the patient."""

_TABULATED_AT_70_KEV = {"water": 0.1929, "bone": 0.257, "titanium": 0.5361}
"""cm2/g, XCOM's four digits. The benchmark divides by these rounded values; unrounded ones cost 0.3 in chi2."""

METAL_CODES: dict[str, int] = {name: code for code, name in enumerate(METALS, start=1)}
"""Value of each metal in a label mask; 0 is no metal."""


def check_metal(name: str) -> str:
    """Return the name, if it is a metal of `METALS`.

    Raises:
        UsageError: if it is not.
    """
    if name not in METALS:
        raise UsageError(f"unknown metal {name!r}; expected one of {', '.join(METALS)}")
    return name


def mass_attenuation(material: Material, energies_kev: np.ndarray) -> np.ndarray:
    """Return total mass attenuation with coherent scattering (Elam's tables through xraydb).

    Args:
        material: the mixture.
        energies_kev: any shape, 0.1 to 800 keV.

    Returns:
        The same shape, cm2/g.
    """
    import xraydb

    energies_ev = np.ravel(energies_kev) * 1000.0
    total = sum(share * xraydb.mu_elam(element, energies_ev) for element, share in material.mass_fractions)
    return np.asarray(total).reshape(np.shape(energies_kev))


@cache
def _reference_mass_attenuation(name: str) -> float:
    """Return mass attenuation at `REFERENCE_KEV`, cm2/g."""
    if name in _TABULATED_AT_70_KEV:
        return _TABULATED_AT_70_KEV[name]
    return float(mass_attenuation(METALS[name], np.array(REFERENCE_KEV)))


def reference_mu_per_cm(name: str) -> float:
    """Return linear attenuation of a tissue or metal at `REFERENCE_KEV`, 1/cm."""
    return {**TISSUES, **METALS}[name].density * _reference_mass_attenuation(name)


def mu_per_cm(name: str, energies_kev: np.ndarray) -> np.ndarray:
    """Return linear attenuation of any known material, 1/cm: the shape of energies_kev."""
    material = {**TISSUES, **METALS, **FILTERS}[name]
    return material.density * mass_attenuation(material, energies_kev)


def attenuation_ratios(name: str, energies_kev: np.ndarray) -> np.ndarray:
    """Return r(E) = mu(E) / mu(70 keV) of a tissue or metal: the shape of energies_kev, without unit."""
    return mass_attenuation({**TISSUES, **METALS}[name], energies_kev) / _reference_mass_attenuation(name)
