"""A data set of four pairs on a tiny scanner, whose images are off the truth by known amounts."""

import dataclasses
from pathlib import Path

import numpy as np

from simulation.correction import metal_trace
from simulation.dataset.community import write_case
from simulation.physics.geometry import FanBeam
from simulation.physics.projector import Projector
from simulation.physics.protocols import PROTOCOLS
from simulation.simulator import Sample

SIDE = 64
MASK_PIXELS = (48, 4, 12)
HU = 0.192 / 1000
TINY = FanBeam((SIDE, SIDE), pixel_mm=3.0, source_mm=500.0, detector_mm=400.0, views=40, bins=160, pitch_mm=3.0)


def masks() -> np.ndarray:
    """A stack of three masks, not 0 where metal is."""
    stack = np.zeros((SIDE, SIDE, len(MASK_PIXELS)), np.uint8)
    for index, pixels in enumerate(MASK_PIXELS):
        stack[20 + 6 * index : 24 + 6 * index, 30 : 30 + pixels // 4, index] = 1
    return stack


def write_slice(data: Path, case: str, indices: range, seed: int) -> None:
    """Uncorrected images are 30 HU off, those of LI 10 HU and 1 HU more for each mask."""
    rng, projector = np.random.default_rng(seed), Projector(TINY, "cpu", threads=1)
    truth = rng.uniform(0.1, 0.3, (SIDE, SIDE)).astype(np.float32)
    truth[:8], truth[-8:] = 0, 0.45
    sinogram = projector.forward(truth)
    samples = {
        index: Sample(
            ma_sinogram=sinogram,
            LI_sinogram=sinogram,
            ma_CT=truth + np.float32(30 * HU),
            LI_CT=truth + np.float32((10 + index) * HU),
            metal_trace=metal_trace(projector, masks()[:, :, index]),
        )
        for index in indices
    }
    write_case(data / "test_640geo" / case, truth, sinogram, truth, samples)


def write_pairs(folder: Path) -> None:
    """Two slices with three and one pairs, in the community layout."""
    write_slice(folder, "000001_01_01/001", range(3), seed=1)
    write_slice(folder, "000002_01_01/007", range(1), seed=2)
    (folder / "test_640geo_dir.txt").write_text("000001_01_01/001/gt.h5\n000002_01_01/007/gt.h5\n")
    np.save(folder / "testmask.npy", masks())


def tiny_protocol() -> object:
    """The protocol that made them, to be put into `PROTOCOLS`."""
    return dataclasses.replace(PROTOCOLS["clinical"], geometry=TINY)
