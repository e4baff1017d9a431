"""Seconds of a dual-domain network's image beside the module's own forward, one 416 x 416 slice on all usable cores.

Plain: eager float32, evaluation mode, no gradients. Fast: `fast_network` in float32; bfloat16 is the same there, as
all proximal networks of these networks have an image or a sinogram among their channels, which is never rounded.
"""

import torch
from torch import Tensor

from mar_pipeline.bench.measure import network_sample, say, wall_and_cpu_seconds
from mar_pipeline.bench.networks import body_of, plain, rmse_hu, with_batch_norms
from mar_pipeline.inference.fast import fast_network
from mar_pipeline.networks import NETWORKS
from mar_pipeline.networks.build import inputs_of
from mar_pipeline.sample import IMAGES, SINOGRAMS, Layout
from simulation.physics.projector_cpu import usable_cores

_NETWORKS = ("indudonet_plus",)
_ROUNDS = 2


def main() -> None:
    """Print seconds of both paths, their ratio, and the RMSE between their images inside the body.

    Wall seconds are what a user waits for; CPU-seconds tell on a machine that others use as well.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(usable_cores())
    try:
        sample = network_sample(Layout.of((*IMAGES, *SINOGRAMS)))
        say(f"seconds an image of whole slices, {usable_cores()} threads; RMSE inside the body against plain")
        say(f"{'':16}{'plain':26}   {'fast / plain'}")
        for name in _NETWORKS:
            _report(name, sample, body_of(sample))
    finally:
        torch.set_num_threads(threads)


def _report(name: str, sample: dict[str, Tensor], body: Tensor) -> None:
    torch.manual_seed(0)
    network = with_batch_norms(NETWORKS[name](), sample)
    inputs, fast = inputs_of(network, sample), fast_network(network)
    image = fast(*inputs)  # the first call warms up
    results: list[Tensor] = []
    of_plain = wall_and_cpu_seconds(lambda: results.append(plain(network, *inputs)))  # warm since its norms were filled
    of_fast = min(wall_and_cpu_seconds(lambda: fast(*inputs)) for _ in range(_ROUNDS))
    wall, cpu = (f"{own:.2f} = {own / other:.2f} x" for own, other in zip(of_fast, of_plain, strict=True))
    error = rmse_hu(image, results[0], body)
    say(f"{name:16}{of_plain[0]:7.2f} wall {of_plain[1]:7.2f} CPU   {wall:16} wall {cpu:16} CPU   {error:.4f} HU")
