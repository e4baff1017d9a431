"""The device that torch computes on."""

import torch

from simulation.errors import UsageError


def torch_device(name: str) -> torch.device:
    """Return the device of a setting.

    Args:
        name: ``auto`` (CUDA where there is a GPU), ``cpu`` or ``cuda``.

    Raises:
        UsageError: cuda without a CUDA device.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UsageError("--device: got cuda, but torch finds no CUDA device; take cpu or auto, or see mar info")
    return torch.device(("cuda" if available else "cpu") if name == "auto" else name)
