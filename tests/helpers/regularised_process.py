"""A step of EQ-Reg, of one process on a whole batch or of one of several on its part."""

import torch
import torch.distributed as dist
from c4_layers import soft_network
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mar_pipeline.equivariance import EquivarianceRegularizer
from mar_pipeline.runtime.processes import leave

SAMPLES = 6

CASES = {
    "relative": {},
    "relative with free channels": {"fields": {"0": (("regular", 1), ("free", 4))}},
    "relative by 45 degrees": {"group_order": 8},
    "mse": {"mode": "mse"},
    "paper": {"mode": "paper"},
    "every second step": {"every_k": 2},
    "half of the batch": {"batch_fraction": 2 / 3},
}
"""Arguments of the regulariser."""


def start(rank, world, folder):
    """Finds out what a process has in all cases and writes it down."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    size = SAMPLES // world
    part = slice(rank * size, (rank + 1) * size)
    found = {name: regularised(case, part, distributed=True) for name, case in CASES.items()}
    torch.save(found, f"{folder}/{rank}.pt")
    leave()


def regularised(case, part=slice(0, SAMPLES), distributed=False):
    """Loss, penalties by layer and gradient of a step."""
    torch.manual_seed(0)
    network, x = soft_network(), torch.randn(SAMPLES, 1, 16, 16)
    x = x + torch.arange(SAMPLES)[:, None, None, None]  # means differ between the processes
    options = {"batch_fraction": 1.0, "output_weight": 0.5, **case}
    regularizer = EquivarianceRegularizer(network, **options)
    model: nn.Module = DistributedDataParallel(network) if distributed else network
    batch = x if distributed else _kept_first(x, options["batch_fraction"])
    (both,) = regularizer.prepare(batch[part])
    loss = regularizer.loss(model(both))
    loss.backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
    return loss.detach(), regularizer.values, gradient


def _kept_first(x, fraction):
    """The batch in the order in which one process keeps what two processes keep of their halves."""
    order = sorted(range(len(x)), key=lambda i: (i % (len(x) // 2) >= round(fraction * len(x) / 2), i))
    return x[order]
