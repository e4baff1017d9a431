"""A step of a dual-domain network, of one process on a whole batch or of one of several on its part."""

import torch
import torch.distributed as dist
from small_scans import DUAL, dual_network, inputs_of, scan_batch

from mar_pipeline.networks.build import loss_of
from mar_pipeline.runtime.processes import leave
from mar_pipeline.training.sharing import share_statistics, shared

SAMPLES = 2


def start(rank, world, folder):
    """Finds out what a process has with all networks and writes it down."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    torch.save({name: stepped(name, part_of(rank, world)) for name in DUAL}, f"{folder}/{rank}.pt")
    leave()


def part_of(rank, world):
    """The samples of a process."""
    size = SAMPLES // world
    return slice(rank * size, (rank + 1) * size)


def stepped(name, part=slice(0, SAMPLES)):
    """Gradients of a step whose norms are fixed and of two whose norms are not, and running statistics after them."""
    recompute = {"recompute": True} if name.startswith("indudonet") else {}
    network, batch = dual_network(name, **recompute), {key: own[part] for key, own in scan_batch(SAMPLES).items()}
    wrapped = shared(network).train()
    gradients = []
    for fixed in (True, False, False):
        for norm in (module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)):
            norm.train(not fixed)
        wrapped.zero_grad()
        loss_of(network)(wrapped(*inputs_of(network, batch)), batch).backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in network.parameters()]))
    own = dict(network.named_buffers())
    before = {key: value.clone() for key, value in own.items()}
    share_statistics(network)
    return *gradients, before, own
