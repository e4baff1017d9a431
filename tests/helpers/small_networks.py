"""Networks small enough for tests, and batches for them."""

from typing import Any

import torch
from torch import Tensor, nn

from mar_pipeline.networks import NETWORKS
from mar_pipeline.networks.blocks import SparseProxNet

_DICTIONARY: dict[str, Any] = {"stages": 3, "blocks": 1, "dual_channels": 3}
SMALL: dict[str, dict[str, Any]] = {
    "unet": {"width": 4, "poolings": 2},
    "dicdnet": _DICTIONARY | {"maps": 4, "kernel_size": 5},
    "oscnet": _DICTIONARY | {"filters": 2, "rotations": 4, "kernel_size": 5, "frequencies": 3},
    "oscnet_plus": _DICTIONARY | {"filters": 2, "rotations": 4, "kernel_size": 5, "frequencies": 3},
    "acdnet": _DICTIONARY | {"maps": 2, "kernels": 3, "kernel_size": 5},
}


def small_network(name: str, seed: int = 0, **changes: Any) -> nn.Module:
    """A small network with the random weights of the seed; low thresholds keep its few maps alive."""
    torch.manual_seed(seed)
    network = NETWORKS[name](**SMALL[name] | changes)
    for module in network.modules():
        if isinstance(module, SparseProxNet):
            nn.init.constant_(module.threshold, 0.01)
    return network


def small_batch(batch: int = 2, height: int = 32, width: int = 32, seed: int = 0) -> dict[str, Tensor]:
    """Smooth objects of about water, streaks in the image, fainter ones in LI, and a square of metal."""
    random = torch.Generator().manual_seed(seed)
    shape = (batch, 1, height, width)
    coarse = torch.rand((batch, 1, 4, 4), generator=random)
    target = 35 + 30 * nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    angle = 6.3 * torch.rand((batch, 1, 1, 1), generator=random)
    row, column = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    streaks = (0.7 * (row * angle.cos() + column * angle.sin())).sin()
    metal_mask = torch.zeros(shape)
    metal_mask[..., height // 2 : height // 2 + 4, width // 2 : width // 2 + 3] = 1
    image = target + 15 * streaks + 150 * metal_mask
    return {"image": image, "li": target + 5 * streaks.roll(3, -1), "target": target, "metal_mask": metal_mask}


def inputs(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """What a network is called with."""
    return batch["image"], batch["li"], batch["metal_mask"]
