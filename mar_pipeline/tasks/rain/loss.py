"""Losses of rain removal, in grey levels 0..255."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mar_pipeline.networks.rcdnet import RainOutput
from mar_pipeline.tasks.images.answers import checked_answer

_STAGE_WEIGHT = 0.1
_LAST_RAIN_WEIGHT = 0.9


def rain_loss(output: RainOutput | Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the loss of RCDNet, every stage supervised; of another network the mean square error of its image.

        0.1 MSE(B_0) + sum over s = 1..S of 0.1 [MSE(B_s) + MSE(R_s)] + MSE(B) + 0.9 MSE(R_S)

    against the clean image and the rain, which is the rainy image minus the clean one. H. Wang et al., CVPR 2020.

    Args:
        output: of the network.
        batch: `image` and `target`, Float["batch 3 H W"].

    Returns:
        A scalar.

    Raises:
        UsageError: the answer is no image, or not of the target's shape.
    """
    clean = batch["target"]
    image = checked_answer(image_of(output), clean.shape)
    if not isinstance(output, RainOutput):
        return _mse(image, clean)
    rain = batch["image"] - clean
    stages = [_mse(image, clean) for image in output.images] + [_mse(layer, rain) for layer in output.rains]
    return (
        _STAGE_WEIGHT * torch.stack(stages).sum()
        + _mse(image, clean)
        + _LAST_RAIN_WEIGHT * _mse(output.rains[-1], rain)
    )


def image_of(output: RainOutput | Tensor) -> Tensor:
    """Return what is scored of an answer."""
    return output.image if isinstance(output, RainOutput) else output


def _mse(image: Tensor, truth: Tensor) -> Tensor:
    return (image - truth).square().mean()
