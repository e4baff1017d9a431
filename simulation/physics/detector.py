"""From line integrals of materials to measured ones: polychromatic transmission, detector, water correction."""

from typing import Any

import numpy as np
from numba import njit
from scipy import ndimage

from simulation.physics.materials import METALS, TISSUES, reference_mu_per_cm
from simulation.physics.protocols import AnyProtocol, ScanProtocol
from simulation.physics.spectra import (
    FITTED_METALS,
    Spectrum,
    SpectrumNodes,
    exact_nodes,
    fit_nodes,
    shipped_nodes,
)

_LIGHT_METALS = ("titanium", "steel", "cocr")
"""Metals without a K edge among diagnostic energies: few nodes serve them."""
_FITTED = {*TISSUES, *FITTED_METALS}
_FLOOR_COUNTS = 1.0
"""A reading is never below one photon: the logarithm needs it, and a scanner clips too."""
_WATER_CM = np.arange(0, 50.0001, 0.05)
"""Water lengths over which the beam-hardening correction is fitted (SynDeepLesion)."""


def split_tissue(image_mu: np.ndarray, protocol: AnyProtocol) -> tuple[np.ndarray, np.ndarray]:
    """Return water and bone parts of an image, water + bone = mu (the rule measured on SynDeepLesion).

    Below water_below_mu all water, above bone_above_mu all bone, between bone = mu (mu - low) / (high - low).

    Args:
        image_mu: any shape, 1/cm; negative values count as air.
        protocol: gives both thresholds, or says that all is water.

    Returns:
        water and bone, both of the image's shape, float32.
    """
    image_mu = np.maximum(np.asarray(image_mu, np.float32), 0)
    if not protocol.bone:
        return image_mu, np.zeros_like(image_mu)
    low, high = protocol.water_below_mu, protocol.bone_above_mu
    bone = np.clip((image_mu - low) / (high - low), 0, 1).astype(np.float32) * image_mu
    return image_mu - bone, bone


def trace_rim(metal_trace: np.ndarray) -> np.ndarray:
    """Return the rim of the metal trace, whose bins the metal covers only in part.

    The trace less its erosion by [1 1 1] along the detector; what lies outside the detector counts as metal.

    Args:
        metal_trace: Bool["... bins"].

    Returns:
        Bool["... bins"].
    """
    structure = np.ones((1,) * (metal_trace.ndim - 1) + (3,), bool)
    return metal_trace & ~ndimage.binary_erosion(metal_trace, structure, border_value=1)


class PhotonCountingDetector:
    """Counts photons, as the benchmark does: line integrals to readings, and these to corrected line integrals.

    Args:
        protocol: the scanner.
        spectrum: of the tube; None takes the protocol's shipped nodes.
        tolerance: to which a given spectrum is compressed, see `fit_nodes`; 0 keeps every energy.
    """

    def __init__(self, protocol: ScanProtocol, spectrum: Spectrum | None, tolerance: float) -> None:
        self.protocol, self._spectrum, self._tolerance = protocol, spectrum, tolerance
        self._nodes = shipped_nodes(protocol.spectrum) if spectrum is None else (self._fitted(_LIGHT_METALS),)
        self._shipped = () if spectrum is not None else self._nodes
        self.water_correction = np.array(protocol.water_correction)
        if spectrum is not None:
            self.water_correction = water_correction(self._nodes[0])

    @property
    def facts(self) -> list[Any]:
        """Return what a hash of the physics holds beside the protocol: the spectrum, or its shipped nodes."""
        shipped = [
            (nodes.weights.tolist(), {name: ratios.tolist() for name, ratios in nodes.ratios.items()})
            for nodes in self._shipped
        ]
        return [repr(self._spectrum), self._tolerance, *shipped]

    def transmitted(self, names: tuple[str, ...], integrals: np.ndarray) -> np.ndarray:
        """Return the share of the photons that passes: Float["..."] of Float["materials ..."]."""
        return transmission(self._nodes_for(names), names, integrals)

    def with_metal(
        self, metal_free: np.ndarray, shadow: np.ndarray, names: tuple[str, ...], integrals: np.ndarray
    ) -> np.ndarray:
        """Return the transmission with metal, of which only what lies in its shadow is computed anew."""
        transmitted = metal_free.copy()
        transmitted[shadow] = self.transmitted(names, integrals[:, shadow])
        return transmitted

    def signal(self, transmitted: np.ndarray) -> np.ndarray:
        """Return the noise-free signal over that of air."""
        return transmitted

    def expected(self, transmitted: np.ndarray) -> np.ndarray:
        """Return noise-free counts, scatter included."""
        return mean_counts(transmitted, self.protocol)

    def measure(self, transmitted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the line integrals that the scanner states, noise drawn: float32."""
        counts = detect(mean_counts(transmitted, self.protocol), self.protocol, rng)
        return log_and_correct(counts, self.protocol, self.water_correction)

    def _nodes_for(self, materials: tuple[str, ...]) -> SpectrumNodes:
        """Return the smallest set of nodes that serves these materials; that for heavy metals is fitted when needed."""
        if not all(name in self._nodes[-1].ratios for name in materials):
            self._nodes = (*self._nodes, self._fitted(FITTED_METALS if set(materials) <= _FITTED else tuple(METALS)))
        return next(nodes for nodes in self._nodes if all(name in nodes.ratios for name in materials))

    def _fitted(self, metals: tuple[str, ...]) -> SpectrumNodes:
        """Return nodes of the given spectrum, or all its energies where no error is tolerated."""
        if self._spectrum is None:
            return shipped_nodes(self.protocol.spectrum, more=True)[-1]
        if self._tolerance == 0:
            return exact_nodes(self._spectrum)
        return fit_nodes(self._spectrum, metals, self._tolerance)


def transmission(nodes: SpectrumNodes, materials: tuple[str, ...], integrals: np.ndarray) -> np.ndarray:
    """Return polychromatic transmission sum_k w_k exp(-sum_m r_mk P_m), r relative to 70 keV.

    Args:
        nodes: fitted nodes or every energy of a spectrum.
        materials: names, in the order of integrals.
        integrals: Float["materials ..."], line integrals at 70 keV.

    Returns:
        Float["..."], float64, 1 where nothing is in the way.
    """
    flat = np.ascontiguousarray(integrals, np.float32).reshape(len(materials), -1)
    out = np.empty(flat.shape[1])
    _transmission_kernel(nodes.weights, nodes.table(materials), flat, out)
    return out.reshape(integrals.shape[1:])


@njit(nogil=True, cache=True, error_model="numpy")
def _transmission_kernel(weights, ratios, integrals, out):  # type: ignore[no-untyped-def]
    for i in range(out.shape[0]):
        total = 0.0
        for k in range(weights.shape[0]):
            exponent = 0.0
            for m in range(integrals.shape[0]):
                exponent -= ratios[k, m] * integrals[m, i]
            total += weights[k] * np.exp(exponent)
        out[i] = total


def mean_counts(transmitted: np.ndarray, protocol: ScanProtocol) -> np.ndarray:
    """Return noise-free counts round(photons * transmission) + scatter, as the benchmark rounds before it draws."""
    return np.round(protocol.photons * transmitted) + protocol.scatter_counts


def detect(expected: np.ndarray, protocol: ScanProtocol, rng: np.random.Generator) -> np.ndarray:
    """Return one noisy reading: Poisson photons, Gaussian electronics, never below one photon.

    Args:
        expected: any shape, noise-free counts.
        protocol: gives the electronic noise and how much of the scatter floor is subtracted.
        rng: draws the noise.

    Returns:
        The same shape, counts.
    """
    counts = rng.poisson(expected).astype(np.float64)
    if protocol.electronic_noise_counts > 0:
        counts += rng.normal(0, protocol.electronic_noise_counts, counts.shape)
    counts -= protocol.scatter_corrected * protocol.scatter_counts
    return np.maximum(counts, _FLOOR_COUNTS)


def log_and_correct(counts: np.ndarray, protocol: ScanProtocol, correction: np.ndarray) -> np.ndarray:
    """Return line integrals p = -ln(counts / photons), corrected for water: c1 p + c2 p^2 + c3 p^3, float32."""
    p = -np.log(counts / protocol.photons)
    return (p * (correction[0] + p * (correction[1] + p * correction[2]))).astype(np.float32)


def water_correction(nodes: SpectrumNodes) -> np.ndarray:
    """Return the cubic without constant that maps a polychromatic reading of water to its 70 keV line integral.

    Least squares over 0 : 0.05 : 50 cm of water.

    Returns:
        (3,) coefficients of p, p^2, p^3.
    """
    truth = reference_mu_per_cm("water") * _WATER_CM
    measured = nodes.line_integral(("water",), truth[:, None])
    return np.linalg.lstsq(np.stack([measured, measured**2, measured**3], axis=1), truth, rcond=None)[0]
