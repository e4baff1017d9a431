"""The relative penalty of whole maps with its gradient by formula, in a few passes over them.

Autograd over the definition in `penalty` costs a third of a training step; this costs about a tenth.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mar_pipeline.equivariance.fields import Fields, act
from mar_pipeline.equivariance.processes import gathered
from mar_pipeline.runtime.processes import joins

EPSILON = 1e-8


class RelativePenalty(torch.autograd.Function):
    """P = S / D of a = pi_n first and b = second, S = mean (a - b)^2, D = (var a + var b) / 2 + eps.

    With N values and the groups' means m,

        dP/da = 2 (a - b) / (N D) - S (a - m_a) / (N D^2),    dP/db = 2 (b - a) / (N D) - S (b - m_b) / (N D^2).

    Where several processes train together, S, D and m are those of all their maps, and N is the number in one of them,
    see `processes.gathered`.
    """

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, n: int, fields: Fields, group_order: int) -> Tensor:
        """Return the penalty.

        Args:
            ctx: what the backward pass needs.
            first: Float["batch C H W"].
            second: as `first`.
            n: the rotation of `second`.
            fields: (kind, count) of the channels, none of them free.
            group_order: t.

        Returns:
            Scalar, float32 or wider.

        Raises:
            ValueError: maps that have another shape after the turn.
        """
        wide = torch.promote_types(first.dtype, torch.float32)
        a, b = act(first.to(wide), n, fields, group_order).contiguous(), second.to(wide).contiguous()
        means_a, means_b = (_group_means(x, fields, group_order) for x in (a, b))
        difference = a - b
        square = _sum_of_squares(difference) / b.numel()
        centred = [_sum_of_squares(torch.sub(x, m, out=difference)) for x, m in ((a, means_a), (b, means_b))]
        spread = (centred[0] + centred[1]) / (2 * b.numel())
        if joins():
            square, spread, means_a, means_b = _of_all(square, spread, means_a, means_b)
        spread = spread + EPSILON
        ctx.save_for_backward(a, b, means_a, means_b, square, spread)
        ctx.action, ctx.types = (n, fields, group_order), (first.dtype, second.dtype)
        return square / spread

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return gradients for `first` and `second`.

        Args:
            ctx: of the forward pass.
            grad: of the penalty.
        """
        a, b, means_a, means_b, square, spread = ctx.saved_tensors
        n, fields, group_order = ctx.action
        apart = 2 * grad / (a.numel() * spread)
        shrink = grad * square / (a.numel() * spread**2)
        to_a = torch.addcmul(shrink * means_a, a, apart - shrink).addcmul_(b, -apart)
        to_b = torch.addcmul(shrink * means_b, b, apart - shrink).addcmul_(a, -apart)
        to_first = act(to_a, -n, fields, group_order).contiguous()
        return to_first.to(ctx.types[0]), to_b.to(ctx.types[1]), None, None, None


def _sum_of_squares(x: Tensor) -> Tensor:
    """Return norms of rows, which sum no more than a map in float32."""
    return torch.linalg.vector_norm(x.flatten(2), dim=-1).square().sum()


def _group_means(x: Tensor, fields: Fields, group_order: int) -> Tensor:
    """Mean of each regular group, or of each other channel, at its channels: Float["C 1 1"]."""
    means = x.mean(dim=(0, 2, 3))
    parts, start = [], 0
    for kind, count in fields:
        size = group_order if kind == "regular" else 1
        own = means[start : start + count * size].reshape(count, size).mean(dim=1)
        parts.append(own.repeat_interleave(size))
        start += count * size
    return torch.cat(parts)[:, None, None]


def _of_all(square: Tensor, spread: Tensor, *means: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the same numbers of the maps of all processes: what is about each one's means becomes about their mean.

    Args:
        square: mean square of the residual.
        spread: half the sum of the variances about the means.
        means: of a and of b, Float["C 1 1"].
    """
    both = torch.stack(means)
    numbers = gathered(torch.cat((torch.stack((square, spread)), both.flatten())))
    of_each = numbers[:, 2:].unflatten(1, both.shape)
    mean_a, mean_b = of_all = of_each.mean(dim=0)
    between = (of_each - of_all).square().mean()  # over processes, a and b, and channels, which weigh alike
    square, spread = numbers[:, :2].mean(dim=0)
    return square, spread + between, mean_a, mean_b
