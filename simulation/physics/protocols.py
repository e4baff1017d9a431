"""Scan protocols: every constant of the physics in one place, each with its source."""

from dataclasses import dataclass
from typing import Literal

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


def protocol(name: str) -> ScanProtocol:
    """Return a named protocol.

    Raises:
        UsageError: if the name is unknown.
    """
    if name not in PROTOCOLS:
        raise UsageError(f"unknown preset {name!r}; expected one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


PROTOCOLS: dict[str, ScanProtocol] = {
    # Measured on the public SynDeepLesion files; chi2 of the stored counts moves visibly with each of these.
    "syndeeplesion": ScanProtocol(
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
    ),
    "clinical": ScanProtocol(
        geometry=FanBeam.preset("clinical"),
        weighting="standard",
        grid="physical",
        photons=5e6,  # 16 HU of noise in the middle of 30 cm of water with this sharp kernel, a body scan's dose
        scatter_counts=500,  # 1e-4 of the photons: a tenth of what 35 cm of water lets through
        scatter_corrected=0.8,  # what is left limits how dark a ray can get: about 100 counts
        electronic_noise_counts=3.3,  # variance 11, Zeng et al., IEEE Trans. Nucl. Sci. 62 (2015), low-dose simulation
        water_below_mu=0.2112,
        bone_above_mu=0.48,
        edge_divisor=4,
        replace_tissue=True,
        water_correction=(0.8831003, 0.01436825, -0.000452934),  # physics.water_correction of its spectrum
        spectrum="clinical",  # tungsten, 120 kVp, 7 degrees, 7 mm Al: mean 61.6 keV
    ),
}
