"""The type in which a network computes."""

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the type in which the network computes under autocast; None computes in float32.

    Args:
        precision: ``auto``, ``float32`` or ``bfloat16``; auto takes bfloat16 where the processor has it.
        device: of the network.
    """
    if precision == "auto":
        native = torch.cpu._is_avx512_bf16_supported()
        if device.type == "cuda":
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bfloat16" if native else "float32"
    return torch.bfloat16 if precision == "bfloat16" else None


class AutocastInferer(Inferer):
    """Calls the network under autocast; MONAI's own ``amp`` does nothing on the CPU.

    Args:
        device: of the network.
        dtype: to compute in; None leaves float32.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.device, self.dtype = device, dtype

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return the network's output for inputs."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            return network(inputs, *args, **kwargs)
