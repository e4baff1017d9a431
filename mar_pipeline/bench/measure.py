"""What the benchmarks share: seconds, lines of output and the slice that all of them work on."""

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mar_pipeline.data.measured import pair_arrays
from mar_pipeline.sample import IMAGES_ONLY, Layout, Sample, to_sample
from simulation.phantoms import phantom
from simulation.simulator import Simulator
from simulation.units import hu_to_mu

PUBLIC_SIZES = (254, 890, 451, 53, 112, 35, 881, 2061, 118, 124)
"""Metal pixels of SynDeepLesion's ten test masks."""
_LARGE = 1
"""The mask with which networks are measured."""


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def cpu_seconds(function: Callable[[], Any]) -> float:
    """CPU-seconds of one call, all threads of this process together."""
    start = time.process_time()
    function()
    return time.process_time() - start


def wall_and_cpu_seconds(function: Callable[[], Any]) -> tuple[float, float]:
    """Return seconds that pass during one call, and its CPU-seconds."""
    start = time.monotonic()
    cpu = cpu_seconds(function)
    return time.monotonic() - start, cpu


def fastest_cpu_seconds(functions: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """CPU-seconds of each function, the least of several rounds.

    The functions take turns, so that a busy machine slows all of them alike; a first round warms up and is not counted.

    Args:
        functions: what to measure, by name.
        rounds: how often each is measured.

    Returns:
        CPU-seconds by the same names.
    """
    for function in functions.values():
        function()
    seconds = dict.fromkeys(functions, np.inf)
    for _ in range(rounds):
        for name, function in functions.items():
            seconds[name] = min(seconds[name], cpu_seconds(function))
    return seconds


def workload() -> tuple[np.ndarray, list[np.ndarray]]:
    """Return an abdomen on the benchmark's grid, 1/cm, and ten discs of the public masks' sizes."""
    hu, _ = phantom("abdomen", np.random.default_rng(0), 416)
    image_mu = np.maximum(hu_to_mu(hu), 0).astype(np.float32)
    rows, columns = np.mgrid[:416, :416]
    rng = np.random.default_rng(1)
    masks = []
    for size in PUBLIC_SIZES:
        row, column = rng.uniform(170, 246, 2)
        masks.append((rows - row) ** 2 + (columns - column) ** 2 <= size / np.pi)
    return image_mu, masks


def network_sample(layout: Layout = IMAGES_ONLY) -> Sample:
    """Return a pair of the slice in network units, on the grids of the benchmark.

    Args:
        layout: the names of its images and sinograms.

    Returns:
        Each name -> [1, 1, 416, 416], or [1, 1, 640, 641] for a sinogram.
    """
    image_mu, masks = workload()
    mask = masks[_LARGE]
    simulator = Simulator("syndeeplesion", device="cpu")
    scan = simulator.simulate(image_mu, mask, np.random.default_rng(0))
    weighting = simulator.protocol.weighting
    arrays = pair_arrays(layout, scan, image_mu, mask, simulator.projector, weighting)
    return {name: tensor[None] for name, tensor in to_sample(arrays, layout).items()}


def crops(sample: dict[str, Tensor], count: int, side: int) -> dict[str, Tensor]:
    """Return a batch of square crops at random places within the body, all tensors of the sample at the same ones."""
    rng = np.random.default_rng(0)
    corners = rng.integers(100, 316 - side, (count, 2))
    return {
        name: torch.cat([image[..., row : row + side, column : column + side] for row, column in corners])
        for name, image in sample.items()
    }
