"""What the benchmarks of inference share: networks as if trained, their own forward, and how far images lie apart."""

import torch
from torch import Tensor, nn

from mar_pipeline.networks.build import inputs_of
from mar_pipeline.sample import METAL_MASK, TARGET, Sample, to_mu
from simulation.units import mu_to_hu

_BODY_HU = -500.0


def with_batch_norms(network: nn.Module, batch: Sample) -> nn.Module:
    """Return the network in evaluation mode, its batch norms filled with what a batch gives."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    plain(network.train(), *inputs_of(network, batch))
    return network.eval()


def plain(network: nn.Module, *inputs: Tensor) -> Tensor:
    """Return the module's own forward without gradients."""
    with torch.no_grad():
        return network(*inputs).image


def body_of(sample: Sample) -> Tensor:
    """Where there is tissue and no metal, Bool."""
    return (mu_to_hu(to_mu(sample[TARGET])) > _BODY_HU) & (sample[METAL_MASK] == 0)


def rmse_hu(image: Tensor, reference: Tensor, body: Tensor) -> float:
    """Root mean square difference of two images in network units, HU, where ``body`` is true."""
    difference = mu_to_hu(to_mu(image)) - mu_to_hu(to_mu(reference))
    return difference[body].square().mean().sqrt().item()
