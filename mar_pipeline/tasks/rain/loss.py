"""Losses of rain removal, in grey levels 0..255."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mar_pipeline.networks.rcdnet import RainOutput

_STAGE_WEIGHT = 0.1
_LAST_RAIN_WEIGHT = 0.9


def rain_loss(output: RainOutput | Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Loss of RCDNet, every stage supervised; of another network the mean square error of its image.

        0.1 MSE(B_0) + sum over s = 1..S of 0.1 [MSE(B_s) + MSE(R_s)] + MSE(B) + 0.9 MSE(R_S)

    against the clean image and the rain, which is the rainy image minus the clean one. H. Wang et al., CVPR 2020.

    Args:
        output: of the network.
        batch: `image` and `target`, Float["batch 3 H W"].

    Returns:
        A scalar.
    """
    clean = batch["target"]
    if isinstance(output, Tensor):
        return _mse(output, clean)
    rain = batch["image"] - clean
    stages = [_mse(image, clean) for image in output.images] + [_mse(layer, rain) for layer in output.rains]
    return (
        _STAGE_WEIGHT * torch.stack(stages).sum()
        + _mse(output.image, clean)
        + _LAST_RAIN_WEIGHT * _mse(output.rains[-1], rain)
    )


def _mse(image: Tensor, truth: Tensor) -> Tensor:
    return (image - truth).square().mean()
