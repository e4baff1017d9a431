"""X-ray spectra, and their compression to a few fitted nodes that attenuate like the whole spectrum."""

import itertools
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from simulation.errors import InputError, UsageError
from simulation.physics.materials import FILTERS, MATERIALS, TISSUES, attenuation_ratios, mu_per_cm

FITTED_METALS = ("titanium", "steel", "cocr", "gold", "amalgam", "tantalum", "platinum")
"""Metals that nodes are fitted for together; those that came later are fitted when they are asked for."""
FIT_TOLERANCE = 0.05
"""Root mean square error that fitted nodes may have, in standard deviations of the Poisson noise of `_PHOTONS`."""
_PHOTONS = 2e7
_NODE_COUNTS = (8, 12, 16, 24, 32, 48)
_STEP_LIMIT = 8.0
"""Log ratios stay within this while the fit tries steps; real ones lie within 4."""
_DOMAIN = {"water": 10.0, "bone": 3.0, "metal": 12.0}
"""Line integrals at 70 keV over which nodes are fitted."""


@dataclass(frozen=True)
class Spectrum:
    """Photons by energy.

    Args:
        energies_kev: (n,), increasing, 5 to 500 keV.
        weights: (n,), relative number of photons, not negative; normalised to sum 1.

    Raises:
        InputError: unequal lengths, energies not increasing or out of range, negative or vanishing weights.
    """

    energies_kev: tuple[float, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        energies, weights = np.asarray(self.energies_kev, float), np.asarray(self.weights, float)
        if energies.ndim != 1 or energies.shape != weights.shape or len(energies) == 0:
            raise InputError(
                f"spectrum: got {energies.shape} energies and {weights.shape} weights; expected equally many"
            )
        if not (np.all(np.diff(energies) > 0) and energies[0] >= 5 and energies[-1] <= 500):
            raise InputError(
                f"spectrum: energies must increase from line to line within 5..500 keV, got {energies.min():g} to "
                f"{energies.max():g}; sort them, and give keV, not eV"
            )
        if not (np.all(weights >= 0) and np.isfinite(weights).all() and weights.sum() > 0):
            raise InputError("spectrum: weights must be finite, not negative, and not all zero")
        object.__setattr__(self, "energies_kev", tuple(energies.tolist()))
        object.__setattr__(self, "weights", tuple((weights / weights.sum()).tolist()))


@dataclass(frozen=True, eq=False)
class SpectrumNodes:
    """Terms of a polychromatic transmission: sum_k weight_k exp(-sum_m ratio_mk P_m).

    Args:
        weights: (K,), sum 1.
        ratios: for each material its (K,) attenuation relative to 70 keV.
    """

    weights: np.ndarray
    ratios: dict[str, np.ndarray]

    def table(self, materials: tuple[str, ...]) -> np.ndarray:
        """Return ratios as an array (K, len(materials))."""
        return np.stack([self.ratios[name] for name in materials], axis=1)

    def line_integral(self, materials: tuple[str, ...], integrals: np.ndarray) -> np.ndarray:
        """Return P = -ln(transmission) through 70 keV line integrals.

        Args:
            materials: names.
            integrals: (..., len(materials)).

        Returns:
            (...), without unit.
        """
        return -np.log(np.exp(-integrals @ self.table(materials).T) @ self.weights)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_spectrum(path: str | Path) -> Spectrum:
    """Return a spectrum from a csv file: energy in keV and relative photons, one pair a line; a header line is skipped.

    Raises:
        InputError: the file is missing or does not hold two columns of numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"spectrum {path}: no such file; give a csv with energy in keV and relative photons")
    rows = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines()):
        fields = line.split("#")[0].split(",")
        if len(fields) > 2 and _is_number(fields[2]):
            raise InputError(f"spectrum {path}: got {len(fields)} columns, expected two: energy in keV, photons")
        try:
            rows.append((float(fields[0]), float(fields[1])))
        except (ValueError, IndexError):
            if number > 0 and line.strip():
                raise InputError(
                    f"spectrum {path}, line {number + 1}: got {line[:40]!r}, expected energy in keV, photons"
                ) from None
    if not rows:
        raise InputError(f"spectrum {path}: no line with two numbers; expected energy in keV, relative photons")
    energies, weights = zip(*rows, strict=True)
    try:
        return Spectrum(energies, weights)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def as_spectrum(given: Any) -> Spectrum | None:
    """Return a spectrum from what users give: (energies_kev, weights), a csv path, a `Spectrum`; None stays None.

    Raises:
        InputError: it is no usable spectrum.
    """
    if given is None or isinstance(given, Spectrum):
        return given
    if isinstance(given, str | Path):
        return read_spectrum(given)
    energies, weights = given
    return Spectrum(tuple(np.asarray(energies, float)), tuple(np.asarray(weights, float)))


@lru_cache(maxsize=8)
def tube_spectrum(
    kvp: float, anode_angle_deg: float = 7.0, filters_mm: tuple[tuple[str, float], ...] = (("Al", 2.5),)
) -> Spectrum:
    """Return the spectrum of a tungsten tube (spekpy; G. Poludniowski et al., Medical Physics 2021).

    Args:
        kvp: tube voltage.
        anode_angle_deg: effective anode angle.
        filters_mm: (element, thickness in mm) pairs.

    Raises:
        UsageError: the tube or a filter is not possible.
    """
    import spekpy

    if not (30 <= kvp <= 300 and 1 <= anode_angle_deg <= 45):
        raise UsageError(f"tube: got {kvp} kVp and {anode_angle_deg} degrees; expected 30..300 kVp and 1..45 degrees")
    try:
        tube = spekpy.Spek(kvp=kvp, th=anode_angle_deg, dk=1.0)
        for element, thickness_mm in filters_mm:
            tube.filter(element, thickness_mm)
        energies, fluence = tube.get_spectrum()
    except Exception as error:  # spekpy raises bare Exceptions
        raise UsageError(f"tube: spekpy refuses the filters {filters_mm} ({error})") from error
    kept = (energies >= 10) & (fluence > 0)
    return Spectrum(tuple(energies[kept]), tuple(fluence[kept]))


def parse_filters(words: tuple[str, ...]) -> tuple[tuple[str, float], ...]:
    """Return filters written as ELEMENT:MM, such as Al:2.5.

    Raises:
        UsageError: a word is not of that form.
    """
    filters = []
    for word in words:
        element, _, thickness = word.partition(":")
        if not re.fullmatch(r"[A-Z][a-z]?", element) or not re.fullmatch(r"\d+(\.\d*)?|\.\d+", thickness):
            raise UsageError(f"--filters: got {word!r}, expected ELEMENT:MM such as Al:2.5")
        filters.append((element, float(thickness)))
    return tuple(filters)


@lru_cache(maxsize=8)
def exact_nodes(spectrum: Spectrum) -> SpectrumNodes:
    """Return every energy of the spectrum as a node, for all materials."""
    energies = np.array(spectrum.energies_kev)
    return SpectrumNodes(np.array(spectrum.weights), {name: attenuation_ratios(name, energies) for name in MATERIALS})


@lru_cache(maxsize=8)
def fit_nodes(
    spectrum: Spectrum, metals: tuple[str, ...] = FITTED_METALS, tolerance: float = FIT_TOLERANCE
) -> SpectrumNodes:
    """Return the fewest nodes (of 8, 12, 16, ...) that attenuate like the spectrum, mixtures of the metals included.

    Weights and ratios are fitted by least squares in p = -ln(transmission), in units of its Poisson noise with 2e7
    photons, over water 0..10, bone 0..3 and metal 0..12 (line integrals at 70 keV), and checked on other samples.

    Args:
        spectrum: the whole spectrum.
        metals: the metals that nodes must serve, besides water and bone.
        tolerance: root mean square error allowed, in standard deviations of that noise; 0.05 adds 0.0025 to chi2.

    Returns:
        Fitted nodes, or every energy as a node where no smaller number reaches the tolerance.
    """
    exact = exact_nodes(spectrum)
    names = (*TISSUES, *metals)
    fitted_on, checked_on = _sample_domain(names, 3000, seed=0), _sample_domain(names, 4000, seed=1)
    for count in _NODE_COUNTS:
        if count < 1.5 * len(names):
            continue  # too few to tell that many materials apart
        if count >= len(spectrum.weights):
            break
        nodes = _fit(exact, names, fitted_on, count)
        if fit_error(nodes, exact, names, checked_on) <= tolerance:
            return nodes
    return exact


def fit_error(
    nodes: SpectrumNodes, exact: SpectrumNodes, names: tuple[str, ...], integrals: np.ndarray | None = None
) -> float:
    """Return root mean square difference in p from the whole spectrum over the fitted domain, in Poisson deviations."""
    integrals = _sample_domain(names, 4000, seed=2) if integrals is None else integrals
    truth = exact.line_integral(names, integrals)
    difference = nodes.line_integral(names, integrals) - truth
    return float(np.sqrt(np.mean(difference**2 * _PHOTONS * np.exp(-truth))))


def shipped_nodes(preset: str, more: bool = False) -> tuple[SpectrumNodes, ...]:
    """Return the fitted nodes that come with a preset, the most accurate set first.

    Each set serves the materials it has columns for; the last serves `FITTED_METALS`.

    Args:
        preset: its name in spectrum_nodes.csv.
        more: add the set that serves every metal.
    """
    text = resources.files(__package__).joinpath("spectrum_nodes.csv").read_text()
    header, *lines = [line.split(",") for line in text.splitlines() if not line.startswith("#")]
    sets = []
    for label in dict.fromkeys(line[1] for line in lines if line[0] == preset):
        if label == "more" and not more:
            continue
        rows = [line for line in lines if line[:2] == [preset, label]]
        columns = {name: [row[i] for row in rows] for i, name in enumerate(header) if i >= 2}
        values = {name: np.array(column, float) for name, column in columns.items() if "" not in column}
        sets.append(SpectrumNodes(values.pop("weight"), values))
    return tuple(sets)


@dataclass(frozen=True, eq=False)
class SpectrumBins:
    """A spectrum in a few bins of energy, with what an energy-integrating detector needs of each.

    Args:
        energies_kev: (K,), the middle of each bin.
        weights: (K,), relative number of photons, sum 1.
        ratios: for each material its (K,) attenuation relative to 70 keV.
        filters_per_cm: for each of `FILTERS` its (K,) attenuation, 1/cm.
    """

    energies_kev: np.ndarray
    weights: np.ndarray
    ratios: dict[str, np.ndarray]
    filters_per_cm: dict[str, np.ndarray]

    @classmethod
    def of(cls, spectrum: Spectrum) -> "SpectrumBins":
        """Return every energy of a spectrum as a bin."""
        energies = np.array(spectrum.energies_kev)
        ratios = {name: attenuation_ratios(name, energies) for name in MATERIALS}
        filters = {name: mu_per_cm(name, energies) for name in FILTERS}
        return cls(energies, np.array(spectrum.weights), ratios, filters)


def binned(spectrum: Spectrum, first_kev: float, width_kev: float, count: int) -> Spectrum:
    """Return a spectrum in bins of equal width, whose photons bring as much energy as before.

    Args:
        spectrum: the whole.
        first_kev: middle of the first bin.
        width_kev: of a bin.
        count: number of bins.
    """
    energies, weights = np.array(spectrum.energies_kev), np.array(spectrum.weights)
    middles = first_kev + width_kev * np.arange(count)
    edges = first_kev + width_kev * (np.arange(count + 1) - 0.5)
    sums = np.histogram(energies, edges, weights=weights)[0]
    return Spectrum(tuple(middles[sums > 0]), tuple(sums[sums > 0]))


def shipped_bins(name: str) -> SpectrumBins:
    """Return the binned spectrum that comes with an energy-integrating preset."""
    text = resources.files(__package__).joinpath("spectrum_bins.csv").read_text()
    header, *lines = [line.split(",") for line in text.splitlines() if not line.startswith("#")]
    rows = [line[1:] for line in lines if line[0] == name]
    columns = dict(zip(header[1:], np.array(rows, float).T, strict=True))
    energies, weights = columns.pop("energy_kev"), columns.pop("weight")
    filters = {name: columns.pop(name) for name in FILTERS}
    return SpectrumBins(energies, weights, columns, filters)


def _sample_domain(names: tuple[str, ...], count: int, seed: int) -> np.ndarray:
    """Return random line integrals (count, len(names)): water, bone, in two thirds one to three metals."""
    rng = np.random.default_rng(seed)
    integrals = np.zeros((count, len(names)))
    # Thin paths have the least noise, so they ask for the smallest error: half of the samples are thin.
    thickness = rng.random((count, 3)) ** np.where(rng.random((count, 3)) < 0.5, 1.5, 6)
    integrals[:, 0] = _DOMAIN["water"] * thickness[:, 0]
    integrals[:, 1] = _DOMAIN["bone"] * thickness[:, 1]
    metals = len(names) - 2
    for row, thick in zip(integrals[count // 3 :], thickness[count // 3 :, 2], strict=True):
        chosen = rng.choice(metals, size=rng.integers(1, min(metals, 3) + 1), replace=False)
        row[2 + chosen] = _DOMAIN["metal"] * thick * rng.dirichlet(np.ones(len(chosen)))
    return integrals


def _fit(
    exact: SpectrumNodes, names: tuple[str, ...], integrals: np.ndarray, count: int, max_nfev: int = 150
) -> SpectrumNodes:
    """Return least squares over log weights and log ratios, started from merged neighbouring energies."""
    ratios, target = exact.table(names), exact.line_integral(names, integrals)
    inverse_noise = np.sqrt(_PHOTONS * np.exp(-target))
    groups = _merge_energies(exact, ratios, count)
    weights = np.array([exact.weights[g].sum() for g in groups])
    means = np.stack([exact.weights[g] @ ratios[g] / exact.weights[g].sum() for g in groups])

    def unpack(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        unnormalised = np.exp(x[:count] - x[:count].max())
        return unnormalised / unnormalised.sum(), np.exp(
            np.clip(x[count:], -_STEP_LIMIT, _STEP_LIMIT).reshape(count, -1)
        )

    def terms(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        w, r = unpack(x)
        return w, r, np.maximum(np.exp(-integrals @ r.T) * w, np.finfo(float).tiny)

    def residual(x: np.ndarray) -> np.ndarray:
        return (-np.log(terms(x)[2].sum(axis=1)) - target) * inverse_noise

    def jacobian(x: np.ndarray) -> np.ndarray:
        w, r, parts = terms(x)
        shares = parts / parts.sum(axis=1, keepdims=True)
        by_ratio = shares[:, :, None] * integrals[:, None, :] * r[None]
        return np.hstack([w - shares, by_ratio.reshape(len(integrals), -1)]) * inverse_noise[:, None]

    start = np.concatenate([np.log(weights), np.log(means).ravel()])
    solution = least_squares(residual, start, jacobian, method="lm", x_scale="jac", max_nfev=max_nfev).x
    weights, ratios = unpack(solution)
    return SpectrumNodes(weights, dict(zip(names, ratios.T, strict=True)))


def _merge_energies(exact: SpectrumNodes, ratios: np.ndarray, count: int) -> list[list[int]]:
    """Merge neighbouring energies whose attenuation is most alike (Ward) until `count` groups remain."""
    # Behind a body the soft end of the spectrum is gone: energies count by what a few cm of water let through.
    weights = np.maximum(exact.weights, 1e-12) * np.exp(-3 * exact.ratios["water"])
    features = np.log(ratios)

    def spread(group: list[int]) -> float:
        w = weights[group]
        mean = w @ features[group] / w.sum()
        return float(w @ ((features[group] - mean) ** 2).sum(axis=1))

    groups = [[i] for i in range(len(weights))]
    while len(groups) > count:
        losses = [spread(a + b) - spread(a) - spread(b) for a, b in itertools.pairwise(groups)]
        i = int(np.argmin(losses))
        groups[i] += groups.pop(i + 1)
    return groups
