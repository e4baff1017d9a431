"""Cost of a network's image beside the same network as others run it, one 416 x 416 image on one thread.

Published: eager float32 with the textbook operations of the public code: a convolution from all maps to one artifact
layer, a transposed convolution back, every map with every kernel of ACDNet's dictionary. Plain: the module's own
forward, eager, evaluation mode, no gradients.
"""

from collections.abc import Callable
from unittest import mock

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from mar_pipeline.bench import infer_dual
from mar_pipeline.bench.measure import crops, fastest_cpu_seconds, network_sample, say
from mar_pipeline.bench.networks import body_of, plain, rmse_hu, with_batch_norms
from mar_pipeline.data import IMAGE, LI, METAL_MASK
from mar_pipeline.inference.fast import fast_network
from mar_pipeline.networks import acdnet, dicdnet, oscnet
from mar_pipeline.networks.build import IMAGE_INPUTS, MAR, network_inputs, networks_for

_ROUNDS = 3


def main() -> None:
    """Print the cost of every network of images and of the dual-domain ones, and how far rounding moves the image."""
    _networks_of_images()
    infer_dual.main()


def _networks_of_images() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        sample = network_sample()
        inputs = sample[IMAGE], sample[LI], sample[METAL_MASK]
        body = body_of(sample)
        say(f"CPU-seconds an image, least of {_ROUNDS} rounds in turns; RMSE inside the body against plain")
        say(f"{'':12}{'published':>10}{'plain':>8}   {'float32 / published / plain':30}{'bfloat16':30}")
        for name, network_class in networks_for(MAR).items():
            if network_inputs(network_class) != IMAGE_INPUTS:  # `infer_dual` has those of whole slices
                continue
            torch.manual_seed(0)
            network = with_batch_norms(network_class(), crops(sample, 16, 64))
            _report(name, network, inputs, body)
    finally:
        torch.set_num_threads(threads)


def _report(name: str, network: nn.Module, inputs: tuple[Tensor, Tensor, Tensor], body: Tensor) -> None:
    float32, bfloat16 = fast_network(network), fast_network(network, "bfloat16")
    functions: dict[str, Callable[[], Tensor]] = {
        "published": lambda: published(network, *inputs),
        "plain": lambda: plain(network, *inputs),
        "float32": lambda: float32(*inputs),
        "bfloat16": lambda: bfloat16(*inputs),
    }
    seconds = fastest_cpu_seconds(functions, _ROUNDS)
    reference = functions["plain"]()
    line = f"{name:12}{seconds['published']:10.2f}{seconds['plain']:8.2f}   "
    for precision in ("float32", "bfloat16"):
        own = seconds[precision]
        ratios = f"{own:.2f} = {own / seconds['published']:.2f} x = {own / seconds['plain']:.2f} x"
        line += f"{ratios}, {rmse_hu(functions[precision](), reference, body):.3f} HU   "
    say(line + f"(published {rmse_hu(functions['published'](), reference, body):.3f} HU)")


def published(network: nn.Module, image: Tensor, li: Tensor, metal_mask: Tensor) -> Tensor:
    """Return the same with the operations of the public code."""
    with (
        mock.patch.object(dicdnet, "synthesise", _synthesise),
        mock.patch.object(dicdnet, "analyse", _analyse),
        mock.patch.object(acdnet, "synthesise", _synthesise),
        mock.patch.object(acdnet, "analyse", _analyse),
        mock.patch.object(oscnet, "synthesise", _synthesise),
        mock.patch.object(acdnet.AdaptiveStage, "kernel_gradient", _kernel_gradient),
    ):
        return plain(network, image, li, metal_mask)


def _synthesise(maps: Tensor, kernels: Tensor) -> Tensor:
    batch, _, height, width = maps.shape
    groups = batch if kernels.dim() == 4 else 1
    weight = kernels.reshape(groups, -1, *kernels.shape[-2:])
    layers = functional.conv2d(_side_by_side(maps, groups), weight, padding=weight.shape[-1] // 2, groups=groups)
    return layers.reshape(batch, 1, height, width)


def _analyse(residual: Tensor, kernels: Tensor) -> Tensor:
    batch, _, height, width = residual.shape
    groups = batch if kernels.dim() == 4 else 1
    weight = kernels.reshape(groups, -1, *kernels.shape[-2:])
    padding = weight.shape[-1] // 2
    maps = functional.conv_transpose2d(_side_by_side(residual, groups), weight, padding=padding, groups=groups)
    return maps.reshape(batch, -1, height, width)


def _side_by_side(images: Tensor, groups: int) -> Tensor:
    """Return a batch that has kernels for each image as the channels of one."""
    return images if groups == 1 else images.reshape(1, -1, *images.shape[2:])


def _kernel_gradient(stage: acdnet.AdaptiveStage, maps: Tensor, residual: Tensor, atoms: Tensor) -> Tensor:
    batch, count, height, width = maps.shape
    layers = functional.conv2d(maps.reshape(-1, 1, height, width), atoms[:, None], padding=atoms.shape[-1] // 2)
    products = (layers.reshape(batch, count, -1, height, width) * residual[:, None]).sum((3, 4))
    if stage.kernel_step is None:
        return products
    return stage.kernel_step / (acdnet._KERNEL_STEP_SCALE * height * width) * products
