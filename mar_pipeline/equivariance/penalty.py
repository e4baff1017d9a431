"""How far two maps are from each other's rotation: the residual r = pi_n f(x) - f(pi_n x) as one number."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, cast

import torch
from torch import Tensor

from mar_pipeline.equivariance.fields import Fields, act, split
from mar_pipeline.equivariance.processes import mean_of_all, norm_of_all
from mar_pipeline.equivariance.relative import EPSILON, RelativePenalty
from mar_pipeline.equivariance.rotation import disk

Mode = Literal["relative", "mse", "paper"]


def exact(group_order: int) -> bool:
    """Whether all rotations of the group are quarter turns, which move pixels onto pixels."""
    return 4 % group_order == 0


def residual_penalty(
    first: Tensor,
    second: Tensor,
    n: int,
    fields: Fields,
    group_order: int = 4,
    mode: Mode = "relative",
    pixels: Tensor | None = None,
) -> Tensor:
    """Penalty of the residual r = pi_n a - b between what a layer answers to x, a, and to pi_n x, b.

    - relative: mean r^2 / ((var a + var b) / 2), the variances taken about the mean of each regular group or single
      channel: 0 for an equivariant layer, 2 for uncorrelated maps, whatever the batch, size and scale (zero padding
      weighs more in small maps: up to 15 % between 32 and 128 pixels on smooth images). Gradients reach the denominator
      too: without them the network shrinks its features instead.
    - mse: mean r^2.
    - paper: ||r||_2, not squared (Bai, Fu, Xie, Meng, CVPR 2025, arXiv 2505.19799).

    Free channels are left out. Computed in float32 at least, with autocast off. Where several processes train together
    it is the penalty of all their maps, the same number in each; the maps are of one shape.

    Args:
        first: a, Float["... C H W"].
        second: b, Float["... C H W"].
        n: the rotation of b.
        fields: (kind, count) of the channels.
        group_order: t.
        mode: one of the above.
        pixels: Int["P"], the pixels of a row-major map that are compared; None for all.

    Returns:
        Scalar, float32 or wider.

    Raises:
        ValueError: shapes that cannot be compared, or nothing but free channels.
    """
    wide = torch.promote_types(first.dtype, torch.float32)
    if mode == "relative" and pixels is None and first.ndim == 4 and _quick(first, fields):
        with torch.autocast(first.device.type, enabled=False):
            return cast(Tensor, RelativePenalty.apply(first, second, n, fields, group_order))
    with torch.autocast(first.device.type, enabled=False):
        moved, second = act(first.to(wide), n, fields, group_order), second.to(wide)
        if moved.shape != second.shape:
            raise ValueError(
                f"{tuple(first.shape[-2:])} maps cannot be compared after a turn by {360 * n / group_order:g} degrees; "
                "use square images or group_order=2, or exclude this layer"
            )
        sides = (_compared(x, fields, group_order, pixels) for x in (moved, second))
        pairs = list(zip(*sides, strict=True))
        if not pairs:
            raise ValueError("all channels are free: there is nothing to compare; exclude this layer")
        residuals = [a - b for a, b in pairs]
        if mode == "paper":
            norms = torch.stack([torch.linalg.vector_norm(r) for r in residuals])
            return norm_of_all(torch.linalg.vector_norm(norms))
        square = mean_of_all(_mean([_mean_square(r) for r in residuals], residuals))
        if mode == "mse":
            return square
        variances = [(_variance(a) + _variance(b)) / 2 for a, b in pairs]
        return square / (mean_of_all(_mean(variances, residuals)) + EPSILON)


def _quick(x: Tensor, fields: Fields) -> bool:
    """Whether `RelativePenalty` serves: every channel counts, and a quarter turn keeps the shape."""
    kinds = {kind for kind, _ in fields}
    return "free" not in kinds and ("views" in kinds or x.shape[-2] == x.shape[-1])


@lru_cache(maxsize=64)
def kept_pixels(height: int, width: int, margin: float, border: float) -> Tensor:
    """Row-major numbers of the pixels of `rotation.disk`: Int["P"] on the CPU."""
    return disk(height, width, margin, border).flatten().nonzero().flatten()


def _compared(x: Tensor, fields: Fields, group_order: int, pixels: Tensor | None) -> list[Tensor]:
    """Each field that is compared as Float["batch groups values"]."""
    parts = []
    for kind, part in split(x, fields, group_order):
        if kind == "free":
            continue
        size = group_order if kind == "regular" else 1
        values = part.flatten(-2)
        if pixels is not None and kind != "views":
            values = values.index_select(-1, pixels)
        parts.append(values.reshape(-1, part.shape[-3] // size, size * values.shape[-1]))
    return parts


def _mean_square(values: Tensor) -> Tensor:
    """Mean of the squares: norms of rows, which make no map of squares and sum no more than a group in float32."""
    return torch.linalg.vector_norm(values, dim=-1).square().sum() / values.numel()


def _variance(values: Tensor) -> Tensor:
    """Variance about the mean of each group, averaged over the groups.

    Where the mean stands does not change the variance to first order, so its gradient needs no graph.
    """
    return _mean_square(values - mean_of_all(values.detach().mean(dim=(0, 2), keepdim=True)))


def _mean(means: Sequence[Tensor], parts: Sequence[Tensor]) -> Tensor:
    """Mean over all values of parts of unequal size."""
    total = sum(part.numel() for part in parts)
    return torch.stack([mean * (part.numel() / total) for mean, part in zip(means, parts, strict=True)]).sum()
