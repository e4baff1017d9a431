"""One network in several processes: its gradients and its running statistics."""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mar_pipeline.runtime.processes import average_over_processes, joins


def shared(network: nn.Module) -> nn.Module:
    """Return the network whose gradients are the means over the processes; itself where none were joined.

    All take the weights of the leading one. Batch norms normalise with the process's own part of the batch, and so do
    not see what one process with the whole batch would; see `share_statistics`.

    Args:
        network: on the device of the process.
    """
    if not joins():
        return network
    device = next(network.parameters()).device
    if device.type == "cuda":
        return DistributedDataParallel(network, device_ids=[device], forward_sync_buffers=False)
    wrapped = DistributedDataParallel(network, forward_sync_buffers=False)
    wrapped.register_comm_hook(None, _mean_in_order)
    return wrapped


def _mean_in_order(_: None, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Return the mean of gradients, each summed in the order of the ranks.

    Gloo's own sum takes an order that follows from a gradient's place in the bucket, and the buckets are others in the
    first step than later: with three processes or more a resumed run would not be a straight one bit for bit.
    """
    own = bucket.buffer()
    everyone = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    work = dist.all_gather(everyone, own, async_op=True)
    return work.get_future().then(lambda _: torch.stack(everyone).mean(dim=0))


def share_statistics(*networks: nn.Module) -> None:
    """Replace the running means and variances of batch and instance norms by their means over the processes.

    Args:
        networks: alike in every process.
    """
    modules = [module for network in dict.fromkeys(networks) for module in network.modules()]
    statistics = [getattr(module, name, None) for module in modules for name in ("running_mean", "running_var")]
    with torch.no_grad():
        average_over_processes([own for own in statistics if own is not None])
