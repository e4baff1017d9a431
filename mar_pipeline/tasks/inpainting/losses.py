"""Losses of inpainting, with and without the truth, by the name that the settings give them.

Written with the network f, the measurement y, the operator A(x) = mask x, and M, how many numbers were measured: pixels
of the whole batch where the mask is 1, times three channels. The public code takes the expected M; the true one makes
each estimate a mean for any mask and any crop of it.

D. Chen, J. Tachella, M. E. Davies, "Robust equivariant imaging", CVPR 2022 (arXiv 2111.12855); "Equivariant imaging:
learning beyond the range space", ICCV 2021 (arXiv 2103.14756).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from mar_pipeline.tasks.images.answers import checked_answer
from mar_pipeline.tasks.inpainting.physics import measure_again
from mar_pipeline.tasks.inpainting.settings import InpaintingData
from mar_pipeline.tasks.task import Batch

Restore = Callable[[Tensor, Tensor], Tensor]
"""(measurement, mask) -> restored image: a network of either kind."""


class InpaintingLoss:
    """The loss that the settings name.

    - supervised: |f(y) - x|^2, mean over all pixels.
    - measurement_consistency: `measurement_consistency`.
    - sure: `sure_poisson`.
    - equivariant_imaging: measurement consistency + alpha `equivariant_term`.
    - robust_equivariant_imaging: SURE + alpha `equivariant_term` of a noisy second measurement.

    SURE's random signs, the moves and the second noise are torch's own random numbers. The trainer seeds these at the
    start of every epoch from its seed and the epoch's number, and resumes at epochs, so a resumed run sees the same.

    Args:
        restore: the network, called again by all but the first two losses.
        data: the settings.
    """

    def __init__(self, restore: Restore, data: InpaintingData) -> None:
        self.restore, self.data = restore, data

    @property
    def full_precision(self) -> bool:
        """Return whether it is lost in bfloat16: SURE divides the difference of two answers by a step of 0.01."""
        return self.data.has_sure

    def __call__(self, answer: Tensor, batch: Batch) -> Tensor:
        """Return a scalar.

        Args:
            answer: f(y), Float["batch 3 H W"].
            batch: with image (y), mask and target.

        Raises:
            UsageError: the answer is not of the target's shape.
        """
        data, image, mask = self.data, batch["image"], batch["mask"]
        answer = checked_answer(answer, batch["target"].shape).float()
        if data.loss == "supervised":
            return mse_loss(answer, batch["target"])
        consistency = (
            sure_poisson(self.restore, answer, image, mask, data.gamma, data.sure_step)
            if data.has_sure
            else measurement_consistency(answer, image, mask)
        )
        if not data.has_moves:
            return consistency
        moved = move(answer, data.transform, data.transforms)
        gamma = data.gamma if data.has_sure else 0.0
        again = equivariant_term(self.restore, moved, mask.repeat(data.transforms, 1, 1, 1), gamma)
        return consistency + data.equivariant_weight * again

    def of_nothing(self, answer: Any, batch: Batch) -> Tensor:
        """Return the loss of a network that answers zeros, which needs no network: the equivariant term is 0.

        Args:
            answer: Float["batch 3 H W"], not looked at.
            batch: as for the loss.
        """
        image, mask = batch["image"], batch["mask"]
        if self.data.loss == "supervised":
            return mse_loss(torch.zeros_like(batch["target"]), batch["target"])
        consistency = measurement_consistency(torch.zeros_like(image), image, mask)
        return consistency - self.data.gamma * image.sum() / measured(mask) if self.data.has_sure else consistency


def measured(mask: Tensor) -> Tensor:
    """Return M, the number of measured numbers of a batch; at least one.

    Args:
        mask: Float["batch 1 H W"].
    """
    return 3 * mask.sum().clamp(min=1)


def measurement_consistency(answer: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """Return |A f(y) - y|^2 / M: what is measured comes back, noise and all.

    Args:
        answer: f(y), Float["batch 3 H W"].
        image: y, the same.
        mask: Float["batch 1 H W"].
    """
    return (mask * (answer - image)).square().sum() / measured(mask)


def sure_poisson(
    restore: Restore,
    answer: Tensor,
    image: Tensor,
    mask: Tensor,
    gamma: float,
    step: float,
    signs: Tensor | None = None,
) -> Tensor:
    """Return Stein's unbiased risk estimate for Poisson noise: without x, the expectation of |A f(y) - A x|^2 / M.

        |A f(y) - y|^2 / M - gamma sum(y) / M + 2 gamma / (tau M) <b y, A f(y + tau A b) - A f(y)>

    with random signs b. To first order in gamma, so exact for a linear f: E[x g(y)] = E[y g(y - gamma)], a
    measurement being gamma times a count.

    Args:
        restore: f.
        answer: f(y), Float["batch 3 H W"], computed in the same precision.
        image: y, the same.
        mask: Float["batch 1 H W"].
        gamma: of the noise.
        step: tau.
        signs: b, as y; None draws them from torch's own generator.
    """
    if signs is None:
        signs = 2.0 * torch.randint_like(image, 2) - 1
    stepped = restore(image + step * mask * signs, mask)
    followed = (signs * image * mask * (stepped - answer)).sum() / step
    count = measured(mask)
    return measurement_consistency(answer, image, mask) + gamma * (2 * followed - image.sum()) / count


def equivariant_term(restore: Restore, moved: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """Return |f(A(x2)) - x2|^2, mean over all pixels: a moved image x2 = T f(y) could have been measured, too.

    It is what says something of pixels that are never measured.

    Args:
        restore: f.
        moved: x2, Float["batch 3 H W"].
        mask: Float["batch 1 H W"].
        gamma: of the noise of the second measurement; 0 makes none.
    """
    again = measure_again(moved, mask, gamma) if gamma else mask * moved
    return mse_loss(restore(again, mask), moved)


def move(images: Tensor, transform: str, count: int) -> Tensor:
    """Move copies of square images at random, each move the same for the whole batch; torch's generator draws.

    Args:
        images: Float["batch 3 H W"].
        transform: shift (cyclic, by any number of rows and columns) or rotation (by 90, 180 or 270 degrees).
        count: how many moves.

    Returns:
        Float["count*batch 3 H W"].
    """
    if transform == "rotation":
        turns = torch.randint(1, 4, (count,)).tolist()
        return torch.cat([torch.rot90(images, turn, dims=(-2, -1)) for turn in turns])
    height, width = images.shape[-2:]
    rows, columns = (torch.randint(1, max(side, 2), (count,)).tolist() for side in (height, width))
    return torch.cat([torch.roll(images, places, dims=(-2, -1)) for places in zip(rows, columns, strict=True)])
