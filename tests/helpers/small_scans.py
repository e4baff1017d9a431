"""Whole pairs on the small scanner, with their sinograms, and dual-domain networks for them."""

from typing import Any

import numpy as np
import torch
from small_scanner import SMALL, body_hu, disc
from torch import Tensor, nn
from torch.utils.data import default_collate

from mar_pipeline.data.measured import pair_arrays
from mar_pipeline.networks import NETWORKS
from mar_pipeline.networks.build import network_inputs
from mar_pipeline.sample import IMAGES, SINOGRAMS, Layout, to_sample
from simulation.correction import linear_interpolation, metal_trace
from simulation.physics.geometry import FanBeam
from simulation.physics.projector import Precision, Projector
from simulation.simulator import Sample
from simulation.units import hu_to_mu

EVERYTHING = Layout.of((*IMAGES, *SINOGRAMS))
_STAGES: dict[str, Any] = {"stages": 2, "blocks": 1, "dual_channels": 3, "prior_width": 4}
DUAL: dict[str, dict[str, Any]] = {
    "indudonet": _STAGES | {"prior_poolings": 2},
    "indudonet_plus": _STAGES,
    "dudonet": {"sinogram_width": 4, "image_width": 4, "poolings": 2},
    "cnnmar": {"width": 8, "layers": 3},
}


def dual_network(
    name: str, seed: int = 0, geometry: FanBeam = SMALL, precision: Precision = "float32", **changes: Any
) -> nn.Module:
    """A small network with the random weights of the seed."""
    torch.manual_seed(seed)
    return NETWORKS[name](**DUAL[name] | changes, projector=Projector(geometry, "cpu", 1, precision))


def scan_of(number: int = 0, geometry: FanBeam = SMALL) -> tuple[Sample, np.ndarray, np.ndarray]:
    """A scan without noise, whose metal hardens the beam, the true image in 1/cm and the metal mask."""
    hu = body_hu(tissue_hu=40 + 20 * number, bone_column=12 - 5 * number)
    truth_mu = np.maximum(hu_to_mu(hu), 0).astype(np.float32)
    metal_mask = disc(3, row=6 * number - 4, column=-6 - number)
    projector = Projector(geometry, "cpu", threads=1)
    lengths = projector.forward(metal_mask.astype(np.float32))
    sinogram = projector.forward(truth_mu) + 1.6 * lengths - 0.25 * lengths**2
    trace = metal_trace(projector, metal_mask)
    interpolated = linear_interpolation(sinogram, trace)
    images = projector.fbp(np.stack([sinogram, interpolated]))
    return Sample(sinogram, interpolated, *images, trace), truth_mu, metal_mask


def scan_batch(count: int = 2, geometry: FanBeam = SMALL) -> dict[str, Tensor]:
    """A batch of such pairs with everything that networks may ask for."""
    projector, samples = Projector(geometry, "cpu", threads=1), []
    for number in range(count):
        arrays = pair_arrays(EVERYTHING, *scan_of(number, geometry), projector, "benchmark")
        samples.append(to_sample(arrays, EVERYTHING))
    return default_collate(samples)


def inputs_of(network: nn.Module, batch: dict[str, Tensor]) -> list[Tensor]:
    """What this network is called with."""
    return [batch[name] for name in network_inputs(network)]


def settled(network: nn.Module) -> nn.Module:
    """The network in evaluation mode, its batch norms filled: random ones otherwise overshoot every score's range."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        network.train()(*inputs_of(network, scan_batch()))
    return network.eval()
