"""Penalties of the batch that the processes of one training hold together."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from mar_pipeline.runtime.processes import joins


def gathered(x: Tensor) -> Tensor:
    """Return the x of all processes, Float["processes ..."], differentiable with regard to this one's.

    The gradient is that of what all of them compute from the result alike and add to their losses, times their number:
    `DistributedDataParallel` takes the mean over the processes, which leaves the sum of the parts, as in one process.

    Args:
        x: of the same shape in every process.
    """
    return _Gathered.apply(x)


def mean_of_all(x: Tensor) -> Tensor:
    """Return the mean of x over the processes, each of which has as many values behind it; x itself outside of a group.

    Args:
        x: of the same shape in every process.
    """
    return gathered(x).mean(dim=0) if joins() else x


def norm_of_all(norm: Tensor) -> Tensor:
    """Return the norm of all values of all processes.

    Args:
        norm: of those of this one, a scalar.
    """
    return torch.linalg.vector_norm(gathered(norm)) if joins() else norm


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """All of them, in the order of the ranks: sums of them are the same bits everywhere."""
        everyone = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(everyone, x.contiguous())
        return torch.stack(everyone)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Return that of the own part."""
        return grad[dist.get_rank()] * dist.get_world_size()
