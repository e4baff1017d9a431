"""The simulator: a clean slice, a metal mask and a random generator give a metal-corrupted sample."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, Protocol

import numpy as np

from simulation.correction import linear_interpolation
from simulation.errors import InputError
from simulation.files import sha256_of_text
from simulation.physics.arrays import like, to_numpy
from simulation.physics.detector import PhotonCountingDetector, split_tissue, trace_rim
from simulation.physics.geometry import FanBeam
from simulation.physics.integrating import EnergyIntegratingDetector, sampled_scans
from simulation.physics.materials import METAL_CODES, TISSUES, check_metal, reference_mu_per_cm
from simulation.physics.projector import Device, Projector
from simulation.physics.protocols import AnyProtocol, EnergyIntegratingProtocol
from simulation.physics.protocols import protocol as named_protocol
from simulation.physics.spectra import FIT_TOLERANCE, Spectrum, as_spectrum
from simulation.units import MU_WATER_PER_CM, check_mu

_TISSUES = tuple(TISSUES)


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

    def scaled(self, factor: float) -> "Sample":
        """Return the sample with images and line integrals multiplied; the sample itself for a factor of 1."""
        if factor == 1:
            return self
        names = ("ma_sinogram", "LI_sinogram", "ma_CT", "LI_CT")
        return replace(self, **{name: np.float32(factor) * getattr(self, name) for name in names})


class Detector(Protocol):
    """What turns line integrals into a measured sinogram; what passes between its methods is its own affair."""

    @property
    def facts(self) -> list[Any]:
        """Return what a hash of the physics holds beside the protocol."""

    def transmitted(self, names: tuple[str, ...], integrals: np.ndarray) -> Any:
        """Return what reaches the detector behind line integrals: Float["materials samples*views bins"]."""

    def with_metal(self, metal_free: Any, shadow: np.ndarray, names: tuple[str, ...], integrals: np.ndarray) -> Any:
        """Return the same where metal throws a shadow on what is known without it."""

    def signal(self, transmitted: Any) -> np.ndarray:
        """Return the noise-free signal over that of air, before scatter: Float["views bins"]."""

    def expected(self, transmitted: Any) -> np.ndarray:
        """Return the noise-free reading, scatter included: Float["views bins"]."""

    def measure(self, transmitted: Any, rng: np.random.Generator) -> np.ndarray:
        """Return the line integrals that the scanner states, noise drawn: Float32["views bins"]."""


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
        field_of_view_mm: side of the image; None takes the preset's.

    Raises:
        UsageError: unknown preset, metal or device.
        InputError: the spectrum or the field of view cannot be used.

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
        preset: str | AnyProtocol | FanBeam = "syndeeplesion",
        device: Device = "auto",
        spectrum: Spectrum | tuple[Sequence[float], Sequence[float]] | str | PathLike[str] | None = None,
        metal: str | None = None,
        tolerance: float = FIT_TOLERANCE,
        threads: int | None = None,
        field_of_view_mm: float | None = None,
    ) -> None:
        if isinstance(preset, FanBeam):
            preset = replace(named_protocol("clinical"), geometry=preset)
        self.protocol = named_protocol(preset) if isinstance(preset, str) else preset
        if field_of_view_mm is not None:
            geometry = self.protocol.geometry
            shown = replace(geometry, pixel_mm=field_of_view_mm / geometry.image_shape[0])
            self.protocol = replace(self.protocol, geometry=shown)
        self.metal = None if metal is None else check_metal(metal)
        self.projector = Projector(self.protocol.geometry, device, threads, kernel=self.protocol.kernel)
        self._sampled = [Projector(scan, device, threads) for scan in sampled_scans(self.protocol)]
        self.detector: Detector
        if isinstance(self.protocol, EnergyIntegratingProtocol):
            self.detector = EnergyIntegratingDetector(self.protocol, as_spectrum(spectrum))
        else:
            self.detector = PhotonCountingDetector(self.protocol, as_spectrum(spectrum), tolerance)

    @property
    def physics_sha256(self) -> str:
        """Hash of the protocol and the spectrum, or its shipped nodes."""
        return sha256_of_text(repr([repr(self.protocol), *self.detector.facts]))

    def project_tissue(self, image_mu: Any) -> np.ndarray:
        """Return water and bone line integrals of a slice, to be shared by all its masks.

        Args:
            image_mu: Float["rows columns"], 1/cm.

        Returns:
            Float["2 views bins"]; where views are sampled several times, one block of views for each sample.

        Raises:
            InputError: wrong shape, or values that are not finite.
        """
        return self._forward(np.stack(split_tissue(self._checked(image_mu), self.protocol)))

    def _forward(self, images: np.ndarray) -> np.ndarray:
        """Return the line integrals of all samples of the views."""
        return np.concatenate([projector.forward(images) for projector in self._sampled], axis=1)

    def expected_counts(self, image_mu: Any, metal_mask: Any = None, metal_trace: Any = None) -> Any:
        """Return the noise-free reading, scatter included: photons, or electrons of an energy-integrating detector.

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
            transmitted = self.detector.transmitted(_TISSUES, tissue)
            if mask is not None:
                transmitted, _ = self._add_metal(transmitted, tissue, image, mask, trace)
            return (self.detector.expected(transmitted).astype(np.float32),)

        return _over_batch(one, image_mu, metal_mask, metal_trace)[0]

    def signal(self, water: Any, bone: Any = None, metal_mask: Any = None) -> Any:
        """Return the noise-free signal over that of air, before scatter.

        Args:
            water: Float["... rows columns"], volume fraction of water.
            bone: the same of cortical bone; None is none.
            metal_mask: ["... rows columns"], bool or metal codes; the fractions say what is left of the tissue there.

        Returns:
            Float["... views bins"].

        Raises:
            InputError: wrong shape, an empty mask, unknown codes, values that are not finite.
        """

        def one(water: np.ndarray, bone: np.ndarray | None, mask: np.ndarray | None) -> tuple[np.ndarray]:
            parts = [self._checked(part) for part in (water, np.zeros_like(water) if bone is None else bone)]
            images = np.stack([reference_mu_per_cm(name) * part for name, part in zip(_TISSUES, parts, strict=True)])
            metals: tuple[str, ...] = ()
            if mask is not None:
                metals, metal_images = self._metal_images(mask)
                images = np.concatenate([images, metal_images])
            integrals = self._forward(images.astype(np.float32))
            transmitted = self.detector.transmitted((*_TISSUES, *metals), integrals)
            return (self.detector.signal(transmitted).astype(np.float32),)

        return _over_batch(one, water, bone, metal_mask)[0]

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
        sinogram = self.detector.measure(self.detector.transmitted(_TISSUES, tissue), rng)
        return sinogram, self._reconstruct(sinogram)

    @property
    def common_scale(self) -> float:
        """Return what images and line integrals are multiplied by so that water has 0.192 /cm, as in data sets."""
        return MU_WATER_PER_CM / self.protocol.image_water_mu

    def _reconstruct(self, sinograms: np.ndarray) -> np.ndarray:
        images: np.ndarray = self.projector.fbp(sinograms, self.protocol.weighting)
        return images

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
        metal_free = self.detector.transmitted(_TISSUES, tissue)
        sinograms, traces = [], []
        for mask, rng in zip(metal_masks, rngs, strict=True):
            transmitted, trace = self._add_metal(metal_free, tissue, image_mu, np.asarray(mask), None)
            measured = self.detector.measure(transmitted, rng)
            sinograms += [measured, linear_interpolation(measured, trace)]
            traces.append(trace)
        images = self._reconstruct(np.stack(sinograms))
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
        self, metal_free: Any, tissue: np.ndarray, image: np.ndarray, mask: np.ndarray, trace: np.ndarray | None
    ) -> tuple[Any, np.ndarray]:
        """Return what the detector gets with the metal in, and the trace."""
        protocol = self.protocol
        metals, metal_images = self._metal_images(mask)
        images = metal_images
        if protocol.replace_tissue:
            replaced = np.stack(split_tissue(np.where(mask != 0, image, 0), protocol))
            images = np.concatenate([metal_images, replaced])
        integrals = self._forward(images)
        metal = integrals[: len(metals)]
        shadow = np.any(metal > 0, axis=0)
        seen = np.any(shadow.reshape(-1, *protocol.geometry.sinogram_shape), axis=0) if trace is None else trace
        trace = np.asarray(seen) > 0
        if protocol.edge_divisor != 1:
            integrals = np.where(trace_rim(trace), integrals / protocol.edge_divisor, integrals)
        if protocol.replace_tissue:
            tissue = np.maximum(tissue - integrals[len(metals) :], 0)
        names = (*_TISSUES, *metals)
        return self.detector.with_metal(
            metal_free, shadow, names, np.concatenate([tissue, integrals[: len(metals)]])
        ), trace


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
