"""Scan protocols: every constant of the physics in one place, each with its source."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from simulation.errors import UsageError
from simulation.physics.geometry import FanBeam


@dataclass(frozen=True)
class ScanProtocol:
    """What happens between a clean slice and its measured sinogram.

    Args:
        geometry: the scan.
        weighting: the filtered back projection that makes its CTs.
        grid: how a slice comes onto the image grid: "stretch" fills the grid whatever the pixel size, "physical" keeps
            the size in mm.
        photons: photons a bin receives without an object.
        scatter_counts: mean count added to every bin, the scatter floor.
        scatter_corrected: the share of that mean which the scanner subtracts again.
        electronic_noise_counts: standard deviation of the additive Gaussian noise, in photons.
        water_below_mu: below this mu (1/cm) a pixel is all water.
        bone_above_mu: above this mu (1/cm) a pixel is all bone; between, the share grows linearly.
        edge_divisor: divides the metal's line integral on the bins at the rim of its shadow (partial volume).
        replace_tissue: whether metal takes the place of the tissue under it.
        water_correction: cubic beam-hardening correction without constant, for the preset's own spectrum.
        spectrum: name of its spectrum's nodes in spectrum_nodes.csv.
    """

    geometry: FanBeam
    weighting: Literal["benchmark", "standard"]
    grid: Literal["stretch", "physical"]
    photons: float
    scatter_counts: float
    scatter_corrected: float
    electronic_noise_counts: float
    water_below_mu: float
    bone_above_mu: float
    edge_divisor: float
    replace_tissue: bool
    water_correction: tuple[float, float, float]
    spectrum: str

    kernel: ClassVar[Literal["ramp"]] = "ramp"
    bone: ClassVar[bool] = True
    image_water_mu: ClassVar[float] = 0.192
    focal_spot_mm: ClassVar[float] = 0.0
    focal_spot_samples: ClassVar[int] = 1
    view_samples: ClassVar[int] = 1


@dataclass(frozen=True)
class EnergyIntegratingProtocol:
    """What happens between a clean slice and its measured sinogram on a clinical scanner, see `integrating`.

    Args:
        geometry: the scan.
        weighting: the filtered back projection that makes its CTs.
        kernel: its kernel, see `Projector.fbp`.
        water_mu_per_cm: what its line integrals state for water, 1/cm.
        image_water_mu: what its images are meant to show for water, 1/cm.
        mas: tube current times the time of a rotation.
        slice_mm: thickness of a slice, at the isocentre.
        photons_per_mas_mm2: of the tube, at 1 m.
        spectrum: name of its spectrum in spectrum_bins.csv.
        bowtie: (fan angle in rad, aluminium in cm) pairs, on either side alike; empty without a bowtie filter.
        scintillator_mm: thickness of the gadolinium oxysulfide.
        fill_share: active share of a cell, along and across.
        electrons_per_kev: gain.
        quantum_noise: whether the number of quanta varies.
        electronic_noise_electrons: standard deviation of the electronic noise.
        column_crosstalk: share of a cell's quanta that each neighbour in its row takes.
        row_crosstalk: the same of the neighbours in other rows, which a single row loses.
        scatter_scale: strength of the scatter; 0 is none.
        scatter_kernel: how it spreads along bins of 1 mm at 950 mm, from the middle on.
        scatter_correction: strength of the scatter that the scanner subtracts.
        correction_exponent: power of the line integral in its estimate; that of scatter itself is 1.
        correction_kernel: how it believes it to spread.
        low_signal_correction: whether low signals are smoothed before the logarithm.
        focal_spot_mm: width of the focal spot.
        focal_spot_samples: number of points it is sampled at.
        view_samples: number of angles a view is sampled at, as the gantry turns while it measures.
        bone: whether dense tissue is bone, by `water_below_mu` and `bone_above_mu`, or all tissue is dense water.
        water_below_mu: below this mu (1/cm) a pixel is all water.
        bone_above_mu: above this mu (1/cm) a pixel is all bone; between, the share grows linearly.
    """

    geometry: FanBeam
    weighting: Literal["benchmark", "standard"]
    kernel: Literal["ramp", "soft", "standard", "bone"]
    water_mu_per_cm: float
    image_water_mu: float
    mas: float
    slice_mm: float
    photons_per_mas_mm2: float
    spectrum: str
    bowtie: tuple[tuple[float, float], ...]
    scintillator_mm: float
    fill_share: float
    electrons_per_kev: float
    quantum_noise: bool
    electronic_noise_electrons: float
    column_crosstalk: float
    row_crosstalk: float
    scatter_scale: float
    scatter_kernel: tuple[float, ...]
    scatter_correction: float
    correction_exponent: float
    correction_kernel: tuple[float, ...]
    low_signal_correction: bool
    focal_spot_mm: float
    focal_spot_samples: int
    view_samples: int
    bone: bool
    water_below_mu: float = 0.2112
    bone_above_mu: float = 0.48
    grid: Literal["stretch", "physical"] = "physical"
    edge_divisor: float = 1.0
    replace_tissue: bool = True


AnyProtocol = ScanProtocol | EnergyIntegratingProtocol


def protocol(name: str) -> AnyProtocol:
    """Return a named protocol.

    Raises:
        UsageError: if the name is unknown.
    """
    if name not in PROTOCOLS:
        raise UsageError(f"unknown preset {name!r}; expected one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def _bells(peak: float, reach: int, parts: tuple[tuple[float, float], ...], tail: tuple[float, float] = (0, 1)) -> Any:
    """Return peak times a sum of Gaussians (share, width) and an exponential (share, length), from the middle on."""
    x = np.arange(reach + 1)
    values = sum(share * np.exp(-0.5 * (x / width) ** 2) for share, width in parts)
    return tuple(np.round(peak * (values + tail[0] * np.exp(-x / tail[1])), 9).tolist())


_SCATTER = _bells(0.000908029, 24, ((0.68120525, 8.76319911),), (0.32592966, 11.76652587))
_CORRECTION = _bells(0.000908029, 32, ((0.37801159, 13.55706133), (0.62014672, 39.51516771)))
"""Fitted to the middle column and the middle row of XCIST's scatter kernel, which the sum over it normalises. XCIST
spreads scatter by the one and corrects it by the other."""

_BOWTIE = (
    *((0.0, 0.253), (0.06, 0.262), (0.1, 0.363), (0.14, 0.642), (0.2, 1.362), (0.27, 2.499)),
    *((0.31, 3.157), (0.34, 3.434), (0.37, 3.515), (0.42, 3.597), (0.48, 3.713)),
)
"""Fitted to XCIST's large bowtie, within 0.008 cm."""

# The AAPM CT-MAR challenge, made with XCIST: its published settings. What this does to a signal agrees with XCIST's own
# output within the noise; spectrum, bowtie and scatter kernel are fitted to its files.
CTMAR = EnergyIntegratingProtocol(
    geometry=FanBeam.preset("ctmar"),
    weighting="benchmark",
    kernel="standard",
    water_mu_per_cm=0.2,
    image_water_mu=0.2,
    mas=500,
    slice_mm=550 / 950,
    photons_per_mas_mm2=1.983e6,
    spectrum="clinical",
    bowtie=_BOWTIE,
    scintillator_mm=3.0,
    fill_share=0.9,
    electrons_per_kev=0.1,
    quantum_noise=True,
    electronic_noise_electrons=25,
    column_crosstalk=0.025,
    row_crosstalk=0.02,
    scatter_scale=55,
    scatter_kernel=_SCATTER,
    scatter_correction=25.83,  # with its wide kernel this subtracts too much behind metal
    correction_exponent=0.9,
    correction_kernel=_CORRECTION,
    low_signal_correction=True,
    focal_spot_mm=1.0,
    focal_spot_samples=1,  # the challenge took 2 x 2 samples, which changes edges by a tenth of a millimetre
    view_samples=1,
    bone=False,
)

# Measured on the public SynDeepLesion files; chi2 of the stored counts moves visibly with each of these.
SYNDEEPLESION = ScanProtocol(
    geometry=FanBeam.preset("syndeeplesion"),
    weighting="benchmark",
    grid="stretch",
    photons=2e7,
    scatter_counts=20,
    scatter_corrected=0,
    electronic_noise_counts=0,
    water_below_mu=0.2112,  # 100 HU
    bone_above_mu=0.48,  # 1500 HU
    edge_divisor=4,
    replace_tissue=False,
    water_correction=(0.80370341, 0.02301414, -0.0008444),
    spectrum="syndeeplesion",
)

PROTOCOLS: dict[str, AnyProtocol] = {
    "syndeeplesion": SYNDEEPLESION,
    # The same scanner with what is realistic: scatter is corrected as it spreads and not entirely, the image shows the
    # whole field of view, water has the attenuation of the benchmark, which leaves 0.3 % to the kernels.
    "clinical": replace(
        CTMAR,
        geometry=FanBeam.preset("clinical"),
        weighting="standard",
        water_mu_per_cm=0.192 / 0.997,
        image_water_mu=0.192,
        mas=250,
        slice_mm=5.0,
        scatter_correction=45,
        correction_exponent=1,
        correction_kernel=_SCATTER,
        bone=True,
    ),
    "ctmar": CTMAR,
}

EFFECTS: dict[str, dict[str, Any]] = {
    "bowtie": {"bowtie": ()},
    "quantum-noise": {"quantum_noise": False},
    "electronic-noise": {"electronic_noise_electrons": 0.0},
    "crosstalk": {"column_crosstalk": 0.0, "row_crosstalk": 0.0},
    "scatter": {"scatter_scale": 0.0, "scatter_correction": 0.0},
    "scatter-correction": {"scatter_correction": 0.0},
    "low-signal-correction": {"low_signal_correction": False},
}
"""Effects of an energy-integrating scanner, and what switches them off."""


def without(scan: EnergyIntegratingProtocol, *effects: str) -> EnergyIntegratingProtocol:
    """Return the scanner with effects switched off.

    Args:
        scan: an energy-integrating scanner.
        effects: keys of `EFFECTS`.

    Raises:
        UsageError: an effect is unknown.

    Example:
        >>> without(protocol("clinical"), "scatter").scatter_scale
        0.0
    """
    for name in effects:
        if name not in EFFECTS:
            raise UsageError(f"unknown effect {name!r}; expected one of {', '.join(EFFECTS)}")
        scan = replace(scan, **EFFECTS[name])
    return scan
