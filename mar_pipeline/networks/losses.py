"""Training losses of the networks, each owned by a class: means, the same at any batch and patch size.

All images are in network units; only what is outside metal counts (I = 1 there, 0 on metal).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mar_pipeline.networks.blocks import NetworkOutput
from mar_pipeline.sample import IMAGE, METAL_MASK, TARGET, TARGET_SINOGRAM

Loss = Callable[[Any, Mapping[str, Tensor]], Tensor]
"""(output of the network, batch) -> scalar."""

_PUBLISHED_L1 = 5e-4
_PUBLISHED_PATCH_PIXELS = 64 * 64
_STAGE_WEIGHT = _SINOGRAM_WEIGHT = 0.1


def image_loss(output: NetworkOutput, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the mean square error outside metal: mean of (I (X - Xgt))^2 over all pixels.

    Args:
        output: of the network, images [batch, 1, height, width].
        batch: `target` Xgt and `metal_mask`, [batch, 1, height, width].

    Returns:
        A scalar.
    """
    return ((1 - batch[METAL_MASK]) * (output.image - batch[TARGET])).square().mean()


def dictionary_loss(output: NetworkOutput, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the loss of DICDNet and OSCNet(+), every stage supervised.

    With x_s = I (X_s - Xgt), a_s = I (A_s - (Y - Xgt)) and means over all pixels,

        mean(x_S+1^2) + 0.1 sum over s = 0..S of mean(x_s^2)
        + w [mean|x_S+1| + 0.1 sum over s = 0..S of mean|x_s| + mean|a_S| + 0.1 sum over s = 1..S of mean|a_s|].

    Published (Wang et al., DICDNet, IEEE TMI 2022) are sums in place of the means of absolute values, weighted 5e-4.
    At the published batch of 16 patches of 64 x 64 such a sum is 65,536 means: w = 32.768.

    Args:
        output: of the network.
        batch: `image` Y, `target` Xgt and `metal_mask`, [batch, 1, height, width].

    Returns:
        A scalar.
    """
    stages = len(output.artifacts)
    return _staged_loss(
        output,
        batch,
        image_weights=[_STAGE_WEIGHT] * (stages + 1),
        artifact_weights=_with_last_artifact([_STAGE_WEIGHT] * stages),
        l1_weight=_mean_weight(16),
    )


def acdnet_loss(output: NetworkOutput, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the loss of ACDNet: `dictionary_loss`, in which the two first stages weigh 0.1 and 1.

    Published (Wang et al., IJCAI 2022) are sums of absolute values weighted 5e-4 at a batch of 32 patches of 64 x 64:
    131,072 means, w = 65.536.

    Args:
        output: of the network: X0, the two first stages, then all others.
        batch: `image` Y, `target` Xgt and `metal_mask`, [batch, 1, height, width].

    Returns:
        A scalar.
    """
    first, others = [_STAGE_WEIGHT, 1.0], [_STAGE_WEIGHT] * (len(output.artifacts) - 2)
    return _staged_loss(
        output,
        batch,
        image_weights=[_STAGE_WEIGHT, *first, *others],
        artifact_weights=_with_last_artifact([*first, *others]),
        l1_weight=_mean_weight(32),
    )


def dual_domain_loss(output: NetworkOutput, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the loss of InDuDoNet and InDuDoNet+, every stage supervised in both domains.

        mean(x_N^2) + 0.1 sum over n < N of mean(x_n^2) + 0.1 [mean(s_N^2) + 0.1 sum over n < N of mean(s_n^2)]

    with x_n = I (X_n - Xgt) and s_n = Ybar S_n - P Xgt. H. Wang et al., MICCAI 2021.

    Args:
        output: of the network.
        batch: `target` and `metal_mask`, [batch, 1, height, width], `target_sinogram`, [batch, 1, views, bins].

    Returns:
        A scalar.
    """
    images = (*output.images, output.image)
    image_errors = [((1 - batch[METAL_MASK]) * (image - batch[TARGET])).square().mean() for image in images]
    sinogram_errors = [(sinogram - batch[TARGET_SINOGRAM]).square().mean() for sinogram in output.sinograms]
    return _last_first(image_errors) + _SINOGRAM_WEIGHT * _last_first(sinogram_errors)


def dudonet_loss(output: NetworkOutput, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the loss of DuDoNet: mean|S - Sgt| + mean|I (Xhat - Xgt)| + mean|I (X - Xgt)|.

    W.-A. Lin et al., CVPR 2019.

    Args:
        output: of the network: filled sinogram S, its reconstruction Xhat, the final image X.
        batch: as for `dual_domain_loss`.

    Returns:
        A scalar.
    """
    images = (*output.images, output.image)
    errors = [((1 - batch[METAL_MASK]) * (image - batch[TARGET])).abs().mean() for image in images]
    errors += [(sinogram - batch[TARGET_SINOGRAM]).abs().mean() for sinogram in output.sinograms]
    return torch.stack(errors).sum()


def _last_first(errors: Sequence[Tensor]) -> Tensor:
    """Sum the errors: the last stage counts whole, the others a tenth."""
    return errors[-1] + _STAGE_WEIGHT * sum(errors[:-1], torch.zeros_like(errors[-1]))


def _mean_weight(published_batch: int) -> float:
    """Return the weight of a mean over the batch that does what 5e-4 does to the sum over the published one."""
    return _PUBLISHED_L1 * published_batch * _PUBLISHED_PATCH_PIXELS


def _with_last_artifact(weights: list[float]) -> list[float]:
    """Add 1 to the last weight: the last artifact layer counts once more, as the final one."""
    return [*weights[:-1], weights[-1] + 1]


def _staged_loss(
    output: NetworkOutput,
    batch: Mapping[str, Tensor],
    image_weights: Sequence[float],
    artifact_weights: Sequence[float],
    l1_weight: float,
) -> Tensor:
    outside, target = 1 - batch[METAL_MASK], batch[TARGET]
    true_artifact = batch[IMAGE] - target
    square, absolute = torch.zeros_like(target), torch.zeros_like(target)
    for image, weight in zip((*output.images, output.image), (*image_weights, 1.0), strict=True):
        difference = outside * (image - target)
        square = square + weight * difference.square()
        absolute = absolute + weight * difference.abs()
    for artifact, weight in zip(output.artifacts, artifact_weights, strict=True):
        absolute = absolute + weight * (outside * (artifact - true_artifact)).abs()
    return square.mean() + l1_weight * absolute.mean()
