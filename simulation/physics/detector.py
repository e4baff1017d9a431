"""From line integrals of materials to measured ones: polychromatic transmission, detector, water correction."""

import numpy as np
from numba import njit
from scipy import ndimage

from simulation.physics.materials import reference_mu_per_cm
from simulation.physics.protocols import ScanProtocol
from simulation.physics.spectra import SpectrumNodes

_FLOOR_COUNTS = 1.0
"""A reading is never below one photon: the logarithm needs it, and a scanner clips too."""
_WATER_CM = np.arange(0, 50.0001, 0.05)
"""Water lengths over which the beam-hardening correction is fitted (SynDeepLesion)."""


def split_tissue(image_mu: np.ndarray, protocol: ScanProtocol) -> tuple[np.ndarray, np.ndarray]:
    """Return water and bone parts of an image, water + bone = mu (the rule measured on SynDeepLesion).

    Below water_below_mu all water, above bone_above_mu all bone, between bone = mu (mu - low) / (high - low).

    Args:
        image_mu: any shape, 1/cm; negative values count as air.
        protocol: gives both thresholds.

    Returns:
        water and bone, both of the image's shape, float32.
    """
    image_mu = np.maximum(np.asarray(image_mu, np.float32), 0)
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
