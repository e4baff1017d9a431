"""Stages whose inside is computed once more in the backward pass instead of being kept."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recomputed(function: Callable[..., Any], module: nn.Module, *tensors: Tensor) -> Any:
    """Return function(*tensors), of whose inside nothing is kept for the backward pass but these tensors.

    T. Chen et al., "Training deep nets with sublinear memory cost", arXiv 1604.06174. Batch norms count the batch once.

    Args:
        function: pure, but for the statistics of the batch norms of ``module``.
        module: what the function runs through.
        tensors: its arguments.
    """

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), _unchanged_buffers(module)

    return checkpoint(function, *tensors, use_reentrant=False, context_fn=contexts)


@contextmanager
def _unchanged_buffers(module: nn.Module) -> Iterator[None]:
    """Return running means and variances as they were: the recomputation has seen no other batch."""
    kept = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)
