"""The simulator: a clean slice, a metal mask and a random generator give a metal-corrupted sample."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import numpy as np

from simulation.correction import linear_interpolation
from simulation.errors import InputError
from simulation.files import sha256_of_text
from simulation.physics import detector
from simulation.physics.arrays import like, to_numpy
from simulation.physics.geometry import FanBeam
from simulation.physics.materials import METAL_CODES, METALS, check_metal, reference_mu_per_cm
from simulation.physics.projector import Device, Projector
from simulation.physics.protocols import ScanProtocol
from simulation.physics.protocols import protocol as named_protocol
from simulation.physics.spectra import (
    FIT_TOLERANCE,
    Spectrum,
    SpectrumNodes,
    as_spectrum,
    exact_nodes,
    fit_nodes,
    shipped_nodes,
)
from simulation.units import check_mu

_LIGHT_METALS = ("titanium", "steel", "cocr")
"""Metals without a K edge among diagnostic energies: few nodes serve them."""


@dataclass(frozen=True)
class Sample:
    """One metal-corrupted scan, what `Simulator.simulate` returns.

    Args:
        ma_sinogram: Float["... views bins"], line integrals, without unit.
        LI_sinogram: Float["... views bins"], after linear interpolation of the metal trace.
        ma_CT: Float["... rows columns"], 1/cm, reconstructed from ma_sinogram.
        LI_CT: Float["... rows columns"], 1/cm, reconstructed from LI_sinogram.
        metal_trace: Bool["... views bins"], true where a ray meets metal.

    Example:
        >>> import numpy as np
        >>> from simulation import Sample
        >>> sinogram, image_mu = np.zeros((64, 81), np.float32), np.zeros((64, 64), np.float32)
        >>> Sample(sinogram, sinogram, image_mu, image_mu, sinogram > 0).metal_trace.dtype
        dtype('bool')
    """

    ma_sinogram: Any
    LI_sinogram: Any
    ma_CT: Any
    LI_CT: Any
    metal_trace: Any


class Simulator:
    """Scans slices: clean, or with metal in them.

    The numbers of the presets and their sources are in `simulation.physics.protocols`.

    Args:
        preset: a key of `PROTOCOLS`; a `FanBeam` of your own, with the dose, spectrum and noise of `clinical`; or a
            protocol of your own (`dataclasses.replace` of a preset's).
        device: where to project, see `Projector`.
        spectrum: (energies_kev, weights), a csv path or a `Spectrum`; None takes the preset's shipped nodes.
        metal: what boolean masks are made of, titanium if not given; other masks hold codes of `METAL_CODES` (0 none,
            1 titanium, ...) and name their metals themselves.
        tolerance: to which a given spectrum is compressed, see `fit_nodes`; 0 keeps every energy.
        threads: CPU threads a call may use; None takes the usable cores.

    Raises:
        UsageError: unknown preset, metal or device.
        InputError: the spectrum cannot be used.

    Example:
        >>> import numpy as np
        >>> from simulation import FanBeam, Simulator
        >>> scan = FanBeam((64, 64), 4.0, source_mm=550, detector_mm=400, views=90, bins=96, pitch_mm=7)
        >>> simulator = Simulator(scan, "cpu")
        >>> body_mu = np.zeros((64, 64), np.float32)
        >>> body_mu[16:48, 16:48] = 0.2  # 1/cm
        >>> metal_mask = np.zeros((64, 64), bool)
        >>> metal_mask[30:33, 30:33] = True  # titanium
        >>> sample = simulator.simulate(body_mu, metal_mask, np.random.default_rng(0))
        >>> sample.ma_sinogram.shape, sample.LI_CT.shape
        ((90, 96), (64, 64))
        >>> float(sample.ma_CT[31, 31]) > 2 * float(sample.LI_CT[31, 31])
        True
    """

    def __init__(
        self,
        preset: str | ScanProtocol | FanBeam = "syndeeplesion",
        device: Device = "auto",
        spectrum: Spectrum | tuple[Sequence[float], Sequence[float]] | str | PathLike[str] | None = None,
        metal: str | None = None,
        tolerance: float = FIT_TOLERANCE,
        threads: int | None = None,
    ) -> None:
        if isinstance(preset, FanBeam):
            preset = replace(named_protocol("clinical"), geometry=preset)
        self.protocol = named_protocol(preset) if isinstance(preset, str) else preset
        self.metal = None if metal is None else check_metal(metal)
        self.projector = Projector(self.protocol.geometry, device, threads)
        self._spectrum, self._tolerance = as_spectrum(spectrum), tolerance
        self._nodes = (
            shipped_nodes(self.protocol.spectrum) if self._spectrum is None else (self._fitted(_LIGHT_METALS),)
        )
        self.water_correction = np.array(self.protocol.water_correction)
        if self._spectrum is not None:
            self.water_correction = detector.water_correction(self._nodes[0])

    @property
    def physics_sha256(self) -> str:
        """Hash of the protocol and the spectrum, or its shipped nodes."""
        facts = [repr(self.protocol), repr(self._spectrum), self._tolerance]
        if self._spectrum is None:
            facts += [
                (nodes.weights.tolist(), {name: ratios.tolist() for name, ratios in nodes.ratios.items()})
                for nodes in self._nodes
            ]
        return sha256_of_text(repr(facts))

    def _nodes_for(self, materials: tuple[str, ...]) -> SpectrumNodes:
        """Return the smallest set of nodes that serves these materials; that for heavy metals is fitted when needed."""
        if not all(name in self._nodes[-1].ratios for name in materials):
            self._nodes = (*self._nodes, self._fitted(tuple(METALS)))
        return next(nodes for nodes in self._nodes if all(name in nodes.ratios for name in materials))

    def _fitted(self, metals: tuple[str, ...]) -> SpectrumNodes:
        """Return nodes of the given spectrum, or all its energies where no error is tolerated."""
        if self._spectrum is None:
            raise RuntimeError("shipped nodes are not fitted")
        if self._tolerance == 0:
            return exact_nodes(self._spectrum)
        return fit_nodes(self._spectrum, metals, self._tolerance)

    def project_tissue(self, image_mu: Any) -> np.ndarray:
        """Return water and bone line integrals of a slice, to be shared by all its masks.

        Args:
            image_mu: Float["rows columns"], 1/cm.

        Returns:
            Float["2 views bins"].

        Raises:
            InputError: wrong shape, or values that are not finite.
        """
        tissue: np.ndarray = self.projector.forward(
            np.stack(detector.split_tissue(self._checked(image_mu), self.protocol))
        )
        return tissue

    def expected_counts(self, image_mu: Any, metal_mask: Any = None, metal_trace: Any = None) -> Any:
        """Return noise-free photon counts, the background count included.

        Args:
            image_mu: Float["... rows columns"], 1/cm.
            metal_mask: ["... rows columns"], bool or metal codes; None is a metal-free scan.
            metal_trace: Bool["... views bins"], which decides the rim with partial volume; None computes it.

        Returns:
            Float["... views bins"].

        Raises:
            InputError: wrong shape, an empty mask, unknown codes, values that are not finite.
        """

        def one(image: np.ndarray, mask: np.ndarray | None, trace: np.ndarray | None) -> tuple[np.ndarray]:
            tissue = self.project_tissue(image)
            transmitted = detector.transmission(self._nodes[0], ("water", "bone"), tissue)
            if mask is not None:
                transmitted, _ = self._add_metal(transmitted, tissue, image, mask, trace)
            return (detector.mean_counts(transmitted, self.protocol).astype(np.float32),)

        return _over_batch(one, image_mu, metal_mask, metal_trace)[0]

    def clean(self, image_mu: Any, rng: np.random.Generator) -> tuple[Any, Any]:
        """Return the metal-free scan.

        Args:
            image_mu: Float["... rows columns"], 1/cm.
            rng: draws the noise.

        Returns:
            poly_sinogram ["... views bins"] and poly_CT ["... rows columns"].

        Raises:
            InputError: wrong shape, or values that are not finite.
        """

        def one(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return self.clean_from_tissue(self.project_tissue(image), rng)

        return _over_batch(one, image_mu)

    def clean_from_tissue(self, tissue: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return `clean` from the line integrals of `project_tissue`."""
        transmitted = detector.transmission(self._nodes[0], ("water", "bone"), tissue)
        sinogram = self._measure(transmitted, rng)
        return sinogram, self.projector.fbp(sinogram, self.protocol.weighting)

    def simulate(self, image_mu: Any, metal_mask: Any, rng: np.random.Generator) -> Sample:
        """Return the scan with metal.

        Args:
            image_mu: Float["... rows columns"], 1/cm.
            metal_mask: ["... rows columns"], bool or metal codes.
            rng: draws the noise.

        Returns:
            A sample with the image's leading dimensions.

        Raises:
            InputError: wrong shape, an empty mask, unknown codes, values that are not finite.
        """

        def one(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, ...]:
            sample = self.simulate_masks(image, [mask], [rng])[0]
            return sample.ma_sinogram, sample.LI_sinogram, sample.ma_CT, sample.LI_CT, sample.metal_trace

        return Sample(*_over_batch(one, image_mu, metal_mask))

    def simulate_masks(
        self,
        image_mu: np.ndarray,
        metal_masks: Sequence[np.ndarray],
        rngs: Sequence[np.random.Generator],
        tissue: np.ndarray | None = None,
    ) -> list[Sample]:
        """Return the scans of one slice with several metals, which share what is computed of the slice.

        Args:
            image_mu: Float["rows columns"], 1/cm.
            metal_masks: each ["rows columns"], bool or metal codes.
            rngs: one generator for each mask.
            tissue: what `project_tissue` gave for this image; None computes it.

        Returns:
            One sample for each mask, the same bytes as if it had been simulated alone.

        Raises:
            InputError: wrong shape, an empty mask, unknown codes, values that are not finite.
        """
        image_mu = self._checked(image_mu)
        tissue = self.project_tissue(image_mu) if tissue is None else tissue
        metal_free = detector.transmission(self._nodes[0], ("water", "bone"), tissue)
        sinograms, traces = [], []
        for mask, rng in zip(metal_masks, rngs, strict=True):
            transmitted, trace = self._add_metal(metal_free, tissue, image_mu, np.asarray(mask), None)
            measured = self._measure(transmitted, rng)
            sinograms += [measured, linear_interpolation(measured, trace)]
            traces.append(trace)
        images = self.projector.fbp(np.stack(sinograms), self.protocol.weighting)
        return [
            Sample(sinograms[2 * i], sinograms[2 * i + 1], images[2 * i], images[2 * i + 1], trace)
            for i, trace in enumerate(traces)
        ]

    def _checked(self, image_mu: Any) -> np.ndarray:
        image = to_numpy(image_mu).astype(np.float32)
        if image.shape != self.protocol.geometry.image_shape:
            raise InputError(
                f"image: got shape {image.shape}, the scan expects {self.protocol.geometry.image_shape}; "
                "resize it with simulation.physics.grid.to_grid"
            )
        check_mu(image, "image")
        return image

    def _metal_images(self, mask: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
        """Return names of the metals in a mask and their images of mu at 70 keV."""
        if mask.shape != self.protocol.geometry.image_shape:
            shape = self.protocol.geometry.image_shape
            raise InputError(
                f"metal mask: got shape {mask.shape}, the scan expects {shape}; "
                "resize it with simulation.implants.masks.resize_mask"
            )
        if not mask.any():
            raise InputError("metal mask: it is empty; give a mask with at least one metal pixel")
        if mask.dtype == bool:
            metal = self.metal or "titanium"
            return (metal,), np.where(mask, reference_mu_per_cm(metal), 0)[None].astype(np.float32)
        if self.metal is not None:
            raise InputError(
                f"metal mask: got {mask.dtype}, whose values name metals, and metal {self.metal!r}; give a boolean mask"
            )
        names = {code: name for name, code in METAL_CODES.items()}
        codes = [code for code in np.unique(mask).tolist() if code != 0]
        unknown = [code for code in codes if code not in names]
        if unknown:
            raise InputError(f"metal mask: got the value {unknown[0]}; expected booleans or codes {METAL_CODES}")
        images = [np.where(mask == code, reference_mu_per_cm(names[code]), 0) for code in codes]
        return tuple(names[code] for code in codes), np.stack(images).astype(np.float32)

    def _add_metal(
        self, metal_free: np.ndarray, tissue: np.ndarray, image: np.ndarray, mask: np.ndarray, trace: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return transmission with the metal in, and the trace; only bins in the metal's shadow are computed anew."""
        metals, metal_images = self._metal_images(mask)
        images = metal_images
        if self.protocol.replace_tissue:
            replaced = np.stack(detector.split_tissue(np.where(mask != 0, image, 0), self.protocol))
            images = np.concatenate([metal_images, replaced])
        integrals = self.projector.forward(images)
        metal = integrals[: len(metals)]
        shadow = (metal > 0).any(axis=0)
        trace = shadow if trace is None else np.asarray(trace) > 0
        rim = detector.trace_rim(trace)
        metal = np.where(rim, metal / self.protocol.edge_divisor, metal)[:, shadow]
        under = tissue[:, shadow]
        if self.protocol.replace_tissue:
            hidden = np.where(rim, integrals[len(metals) :] / self.protocol.edge_divisor, integrals[len(metals) :])
            under = np.maximum(under - hidden[:, shadow], 0)
        names = ("water", "bone", *metals)
        nodes = self._nodes_for(names)
        transmitted = metal_free.copy()
        transmitted[shadow] = detector.transmission(nodes, names, np.concatenate([under, metal]))
        return transmitted, trace

    def _measure(self, transmitted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        counts = detector.detect(detector.mean_counts(transmitted, self.protocol), self.protocol, rng)
        return detector.log_and_correct(counts, self.protocol, self.water_correction)


def _over_batch(one: Any, first: Any, *others: Any) -> tuple[Any, ...]:
    """Apply a function of (rows, columns) arrays over leading dimensions; results come out as `first` came in."""
    arrays = [None if a is None else to_numpy(a) for a in (first, *others)]
    leading = to_numpy(first).shape[:-2]
    if 0 in leading:
        raise InputError(f"got an empty batch of shape {tuple(first.shape)}; expected at least one image")
    for array in arrays[1:]:
        if array is not None and array.shape[:-2] != leading:
            raise InputError(f"batch dimensions differ: image {leading}, mask or trace {array.shape[:-2]}")
    flat = [None if a is None else a.reshape(-1, *a.shape[-2:]) for a in arrays]
    results = [one(*(None if a is None else a[i] for a in flat)) for i in range(math.prod(leading))]
    stacked = (np.stack(parts) for parts in zip(*results, strict=True))
    return tuple(like(s.reshape(*leading, *s.shape[1:]), first) for s in stacked)
