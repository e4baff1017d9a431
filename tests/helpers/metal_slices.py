"""Slices with metal that the simulator put in at the pixel spacing of the image."""

from dataclasses import replace

import numpy as np

from simulation.physics.protocols import protocol
from simulation.simulator import Simulator
from simulation.units import hu_to_mu, mu_to_hu


def discs(shape: tuple[int, int], spacing_mm: float, *discs_mm: tuple[float, float, float]) -> np.ndarray:
    """Bool image of discs, each given by row, column (mm from the middle) and radius in mm."""
    rows, columns = ((np.arange(n) - (n - 1) / 2) * spacing_mm for n in shape)
    return np.any([np.hypot(rows[:, None] - y, columns - x) <= radius for y, x, radius in discs_mm], axis=0)


def with_metal(hu: np.ndarray, metal: np.ndarray, spacing_mm: float, material: str, seed: int = 0) -> np.ndarray:
    """The slice as a clinical scanner shows it with metal in it, whole HU of 16 bits.

    What metal does to the simulated slice is added to the slice as it is, noise and all.

    Args:
        hu: square slice in HU, air outside the body.
        metal: Bool["rows columns"].
        spacing_mm: side of a pixel.
        material: a key of `simulation.physics.materials.METALS`.
        seed: of the noise.
    """
    clinical = protocol("clinical")
    geometry = replace(clinical.geometry, image_shape=hu.shape, pixel_mm=spacing_mm)
    simulator = Simulator(replace(clinical, geometry=geometry), "cpu", metal=material)
    mu = np.maximum(hu_to_mu(hu), 0).astype(np.float32)
    scanned = simulator.simulate(mu, metal, np.random.default_rng(seed)).ma_CT
    clean = simulator.clean(mu, np.random.default_rng(seed))[1]
    return np.clip(np.rint(hu + mu_to_hu(scanned) - mu_to_hu(clean)), -1024, 30000).astype(np.float32)
