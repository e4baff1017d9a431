"""numpy in, numpy out; torch in, torch out: without importing torch."""

import sys
from typing import Any

import numpy as np


def is_tensor(array: Any) -> bool:
    """Return whether this is a torch tensor; never imports torch to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def to_numpy(array: Any) -> np.ndarray:
    """Return the array as numpy, detached and on the host."""
    return array.detach().cpu().numpy() if is_tensor(array) else np.asarray(array)


def like(result: np.ndarray, template: Any) -> Any:
    """Return the result as what the template is: numpy, or a torch tensor on the template's device."""
    if not is_tensor(template):
        return result
    return sys.modules["torch"].from_numpy(np.ascontiguousarray(result)).to(template.device)
