"""A batch and its rotated copy in one."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mar_pipeline.equivariance.fields import Fields, act, check_fields


def samples_kept(images: Sequence[Tensor], fraction: float) -> int:
    """Sample of a batch that are kept beside their rotated copies: round(fraction B).

    Args:
        images: the tensors of one batch.
        fraction: above 0, at most 1.

    Raises:
        ValueError: no images, images of unequal number, or none left.
    """
    if not images:
        raise ValueError("prepare() needs at least one tensor")
    sizes = {x.shape[0] if x.ndim else 0 for x in images}
    if len(sizes) > 1:
        raise ValueError(f"the tensors of one batch hold {sorted(sizes)} samples, expected as many each")
    size = sizes.pop()
    kept = round(fraction * size)
    if kept < 1:
        raise ValueError(
            f"batch_fraction {fraction:g} of a batch of {size} leaves no sample; use a larger batch or batch_fraction=1"
        )
    return kept


def double(x: Tensor, n: int, fields: Fields | None, group_order: int) -> Tensor:
    """cat(x, pi_n x).

    Args:
        x: Float["B C H W"]; or "B" and "B K", which are repeated.
        n: the rotation.
        fields: fields of the channels; None takes all as trivial.
        group_order: t.

    Returns:
        Float["2B ..."].

    Raises:
        ValueError: neither maps nor numbers, fields that do not fit, or images that are not square.
    """
    if x.ndim in (1, 2) and fields is None:
        return torch.cat((x, x))
    if x.ndim != 4:
        raise ValueError(f"got a tensor {tuple(x.shape)}, expected images [B, C, H, W], or [B] and [B, K]")
    fields = [("trivial", x.shape[1])] if fields is None else fields
    check_fields(fields, x.shape[1], group_order)
    height, width = x.shape[-2:]
    rotates = any(kind in ("regular", "trivial") for kind, _ in fields)
    if rotates and height != width and group_order % 4 == 0:
        raise ValueError(
            f"images of {height} x {width} do not fit into one batch with their quarter turns; "
            "use square images, or group_order=2, half turns alone"
        )
    return torch.cat((x, act(x, n, fields, group_order)))
