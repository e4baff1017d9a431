"""An energy-integrating detector, from line integrals of materials to corrected ones, as XCIST models a clinical CT.

Tube and bowtie filter give each bin its spectrum; the scintillator absorbs a share of it and gives light by energy;
scatter, crosstalk and noise come on top; the scanner corrects for scatter, low signals and beam hardening in water.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numba import njit
from scipy import ndimage
from scipy.interpolate import PchipInterpolator

from simulation.physics.geometry import FanBeam
from simulation.physics.materials import reference_mu_per_cm
from simulation.physics.protocols import AnyProtocol, EnergyIntegratingProtocol
from simulation.physics.spectra import Spectrum, SpectrumBins, binned, shipped_bins
from simulation.units import MM_PER_CM

_REFERENCE_MM = 1000.0
"""Distance from the tube at which its photons are stated."""
_SCATTER_PER_SIGNAL = 0.025
"""Scatter before it spreads: this times scale, signal and line integral (XCIST)."""
_MOST_ENERGIES = 24
_KERNEL_BIN_RAD = 2 * np.arctan(0.5 / 950)
_LEAST, _TINY = 1e-10, 1e-12
_CLIP, _SEVEN_BELOW, _FIVE_BELOW = np.exp(-13.0), np.exp(-10.3), np.exp(-8.0)
"""Signals relative to air: none is less; where a view's lowest is below, its low ones are smoothed."""
_SMOOTHED_BELOW, _SMOOTHING = 5e-3, 1e-3
_FIVE = np.array([1, 4, 6, 4, 1]) / 16
_SEVEN = np.full(7, 1 / 7)


def sampled_scans(protocol: AnyProtocol) -> list[FanBeam]:
    """Return the scans whose mean a measurement is: one for each point of the focal spot and each angle of a view.

    A point of the focal spot beside its middle sees the bins from a slightly turned view, a little shifted.
    """
    geometry = protocol.geometry
    step_rad = 2 * np.pi / geometry.views
    first_rad = float(geometry.angles_rad[0])
    if protocol.focal_spot_samples * protocol.view_samples == 1:
        return [geometry]
    source_detector_mm = geometry.source_mm + geometry.detector_mm
    bins_a_mm = (1 / geometry.source_mm - 1 / source_detector_mm) / (geometry.pitch_mm / source_detector_mm)
    bins_a_mm *= -1 if geometry.reversed_bins else 1
    return [
        replace(
            geometry,
            first_view_rad=first_rad + turned * step_rad + beside_mm / geometry.source_mm,
            column_offset=geometry.column_offset + beside_mm * bins_a_mm,
        )
        for turned in _middles(protocol.view_samples)
        for beside_mm in protocol.focal_spot_mm * _middles(protocol.focal_spot_samples)
    ]


def _middles(count: int) -> np.ndarray:
    """Return the middles of so many equal parts of -1/2 .. 1/2."""
    return (np.arange(count) + 0.5) / count - 0.5


@dataclass(frozen=True)
class Transmitted:
    """What reaches a detector without scatter and crosstalk.

    Args:
        photons: Float["views bins"], their mean number.
        mean: Float["views bins"], mean of the signal, in electrons.
        variance: of its quantum noise, in electrons squared.
        spectra: Float["views energies"], photons of each view.
    """

    photons: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    spectra: np.ndarray


class EnergyIntegratingDetector:
    """Reads line integrals and corrects what was read.

    Args:
        protocol: the scanner; an effect whose constant is zero is off.
        spectrum: of the tube; None takes the protocol's. Its photons are scaled to the protocol's number.
    """

    def __init__(self, protocol: EnergyIntegratingProtocol, spectrum: Spectrum | None = None) -> None:
        self.protocol = protocol
        geometry = protocol.geometry
        bins = shipped_bins(protocol.spectrum) if spectrum is None else SpectrumBins.of(_few_energies(spectrum))
        self._ratios = bins.ratios
        source_detector_mm = geometry.source_mm + geometry.detector_mm
        row_mm = protocol.slice_mm * source_detector_mm / geometry.source_mm
        cell_mm2 = geometry.pitch_mm * row_mm * protocol.fill_share**2
        at_detector = (_REFERENCE_MM / source_detector_mm) ** 2 * cell_mm2
        bowtie_cm = _bowtie_cm(protocol.bowtie, np.abs(geometry.fan_rad))
        tube = protocol.photons_per_mas_mm2 * protocol.mas / geometry.views * at_detector * bins.weights
        self._photons = tube * np.exp(-np.outer(bowtie_cm, bins.filters_per_cm["aluminium"]))
        absorbed = 1 - np.exp(-protocol.scintillator_mm / MM_PER_CM * bins.filters_per_cm["gadolinium oxysulfide"])
        electrons = protocol.electrons_per_kev * bins.energies_kev
        kept = 1 - 2 * protocol.row_crosstalk  # the neighbouring rows are not there to give anything back
        self._gains = kept * absorbed * np.stack([electrons, electrons**2])
        self.air = self._crosstalk((self._photons @ self._gains[0])[None])[0]
        self._air_photons = self._photons.sum(axis=1)
        self.water_correction = self._fit_water_correction()

    @property
    def facts(self) -> list[Any]:
        """Return what a hash of the physics holds beside the protocol: the spectrum."""
        return [self._photons.tolist(), {name: ratios.tolist() for name, ratios in self._ratios.items()}]

    def transmitted(self, names: tuple[str, ...], integrals: np.ndarray) -> Transmitted:
        """Return what reaches the detector behind line integrals.

        Args:
            names: of the materials.
            integrals: Float["materials samples*views bins"], at 70 keV; of several samples of a view, one block after
                the other, the mean is taken.
        """
        views = self.protocol.geometry.views
        samples = integrals.shape[1] // views
        ratios = np.stack([self._ratios[name] for name in names], axis=1)
        shape = (integrals.shape[1], integrals.shape[2])
        photons, mean, variance = (np.empty(shape) for _ in range(3))
        spectra = np.empty((shape[0], len(ratios)))
        integrals = np.ascontiguousarray(integrals, np.float32)
        _read(integrals, ratios, self._photons, self._gains, photons, mean, variance, spectra)
        photons, mean, variance, spectra = (
            array.reshape(samples, views, -1).mean(axis=0) for array in (photons, mean, variance, spectra)
        )
        return Transmitted(photons, mean, variance, spectra)

    def with_metal(
        self, metal_free: Transmitted, shadow: np.ndarray, names: tuple[str, ...], integrals: np.ndarray
    ) -> Transmitted:
        """Return what reaches the detector with metal: all anew, as scatter needs the spectrum of whole views."""
        return self.transmitted(names, integrals)

    def signal(self, transmitted: Transmitted) -> np.ndarray:
        """Return the noise-free signal over that of air, before scatter."""
        return self._crosstalk(transmitted.mean) / self.air

    def expected(self, transmitted: Transmitted) -> np.ndarray:
        """Return the noise-free signal in electrons, scatter included."""
        return self._read(transmitted)[0]

    def _read(self, transmitted: Transmitted) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance of the signal with scatter and crosstalk."""
        mean, variance = transmitted.mean, transmitted.variance
        if self.protocol.scatter_scale:
            scattered = self._scattered(transmitted.photons)
            spectra = transmitted.spectra / transmitted.spectra.sum(axis=1, keepdims=True)
            gains = spectra @ self._gains.T
            mean, variance = mean + scattered * gains[:, :1], variance + scattered * gains[:, 1:]
        return self._crosstalk(mean), self._crosstalk(variance)

    def measure(self, transmitted: Transmitted, rng: np.random.Generator) -> np.ndarray:
        """Return line integrals as the scanner states them: noise drawn, then corrected; Float32["views bins"].

        Quanta are drawn as a scaled Poisson number with the mean and the variance of the sum of independent Poisson
        numbers over the energies.
        """
        protocol = self.protocol
        signal, variance = self._read(transmitted)
        if protocol.quantum_noise:
            quantum = np.maximum(variance, _TINY) / np.maximum(signal, _TINY)
            signal = rng.poisson(signal / quantum) * quantum
        if protocol.electronic_noise_electrons:
            signal = signal + rng.normal(0, protocol.electronic_noise_electrons, signal.shape)
        relative = (signal - self._scatter_estimate(signal)) / self.air
        if protocol.low_signal_correction:
            relative = low_signal_corrected(relative)
        p = -np.log(np.maximum(relative, _CLIP))
        return _polynomial(tuple(self.water_correction.T), p).astype(np.float32)

    def _scattered(self, photons: np.ndarray) -> np.ndarray:
        """Return photons that scatter brings to each bin."""
        p = -np.log(np.maximum(photons / self._air_photons, _LEAST))
        source = photons * p * (_SCATTER_PER_SIGNAL * self.protocol.scatter_scale)
        return self._spread(source, self.protocol.scatter_kernel)

    def _scatter_estimate(self, signal: np.ndarray) -> np.ndarray | float:
        """Return what the scanner subtracts as scatter."""
        scale = self.protocol.scatter_correction
        if not scale:
            return 0.0
        p = np.maximum(-np.log(np.maximum(signal / self.air, _LEAST)), 0) ** self.protocol.correction_exponent
        return self._spread(signal * p * (_SCATTER_PER_SIGNAL * scale), self.protocol.correction_kernel)

    def _spread(self, source: np.ndarray, kernel: tuple[float, ...]) -> np.ndarray:
        """Return the convolution along the bins with a symmetric kernel, which is stretched to the width of a bin."""
        width = self.protocol.geometry.bin_rad / _KERNEL_BIN_RAD
        taps = np.array(kernel)
        if not np.isclose(width, 1):
            places = np.arange(0, len(kernel), width)
            taps = width * np.interp(places, np.arange(len(kernel)), kernel)
        return ndimage.correlate1d(source, [*taps[:0:-1], *taps], mode="constant")

    def _crosstalk(self, signal: np.ndarray) -> np.ndarray:
        share = self.protocol.column_crosstalk
        if not share:
            return signal
        return ndimage.correlate1d(signal, [share, 1 - 2 * share, share], mode="constant")

    def _fit_water_correction(self) -> np.ndarray:
        """Return for each bin the polynomial from p to the line integral of water: Float["bins order+1"]."""
        protocol = self.protocol
        water_cm = np.arange(1, 31.0)
        transmitted = np.exp(-np.outer(reference_mu_per_cm("water") * water_cm, self._ratios["water"]))
        signal = self._crosstalk((transmitted * self._gains[0]) @ self._photons.T)
        p = -np.log(signal / self.air)
        truth = protocol.water_mu_per_cm * water_cm
        return np.stack([np.polynomial.polynomial.polyfit(p[:, b], truth, 5) for b in range(p.shape[1])])


def _bowtie_cm(bowtie: tuple[tuple[float, float], ...], fan_rad: np.ndarray) -> np.ndarray:
    """Return the filter's aluminium in front of each bin."""
    if not bowtie:
        return np.zeros_like(fan_rad)
    return PchipInterpolator(*np.array(bowtie).T)(np.minimum(fan_rad, bowtie[-1][0]))


def low_signal_corrected(relative: np.ndarray) -> np.ndarray:
    """Smooth the lowest signals along the bins, so that the logarithm does not turn noise into streaks (XCIST).

    Values up to 0 become the mean of both neighbours. Where a view's minimum is below exp(-10.3), readings up to 5e-3
    are smoothed over 7 bins; where it then is below exp(-8), over 5; the lower, the more. Nothing is below exp(-13).

    Args:
        relative: Float["views bins"], signal over that of air.

    Returns:
        The same shape.
    """
    signal = np.array(relative, float)
    dark = signal <= 0
    if dark.any():
        signal[dark] = ndimage.correlate1d(signal, [0.5, 0, 0.5])[dark]
    starved = np.flatnonzero(signal.min(axis=1) < _SEVEN_BELOW)
    if starved.size:
        part = signal[starved]
        lift = np.where(part <= _CLIP, _CLIP * (1 + 50 * part), part)
        signal[starved] = _smoothed(lift, _SEVEN)
    low = np.flatnonzero(signal.min(axis=1) < _FIVE_BELOW)
    if low.size:
        signal[low] = _smoothed(signal[low], _FIVE)
    return np.maximum(signal, _CLIP)


def _smoothed(signal: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return low signals drawn towards their neighbours' mean by exp(-signal / 1e-3); the ends of a view stay."""
    edge = len(weights) // 2
    share = np.where(signal <= _SMOOTHED_BELOW, np.exp(-np.maximum(signal, 0) / _SMOOTHING), 0)
    share[:, :edge] = share[:, -edge:] = 0
    return signal - share * (signal - ndimage.correlate1d(signal, weights))


def _few_energies(spectrum: Spectrum) -> Spectrum:
    """Return a spectrum of many energies in bins of 5 keV, half as wide as XCIST's."""
    return spectrum if len(spectrum.weights) <= _MOST_ENERGIES else binned(spectrum, 7.5, 5.0, 100)


def _polynomial(coefficients: tuple, x: np.ndarray) -> np.ndarray:
    """Return c0 + c1 x + c2 x^2 + ..."""
    total = np.zeros_like(x)
    for coefficient in reversed(coefficients):
        total = total * x + coefficient
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def _read(integrals, ratios, photons, gains, total, mean, variance, spectra):  # type: ignore[no-untyped-def]
    materials, views, bins = integrals.shape
    energies = ratios.shape[0]
    for v in range(views):
        spectra[v] = 0
        for b in range(bins):
            n, m, s = 0.0, 0.0, 0.0
            for k in range(energies):
                exponent = 0.0
                for i in range(materials):
                    exponent -= ratios[k, i] * integrals[i, v, b]
                here = photons[b, k] * np.exp(exponent)
                n += here
                m += here * gains[0, k]
                s += here * gains[1, k]
                spectra[v, k] += here
            total[v, b] = n
            mean[v, b] = m
            variance[v, b] = s
