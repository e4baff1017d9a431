"""Typed fields: what a rotation of the input does to the channels of an image, a sinogram or a feature map.

A rotation by 360 / t degrees generates the cyclic group of order t, the group order. The channels of a map are divided,
in order, into fields (kind, count):

- regular: `count` groups of t channels, the orientation fastest: channel g t + s. Rotated, and its orientations rolled.
- trivial: `count` channels that are only rotated: an image, or a feature without an orientation.
- free: `count` channels of which nothing is asked: never acted on, and left out of every comparison.
- views: `count` channels of a full-scan sinogram [..., views, bins], whose views are shifted cyclically.

T. S. Cohen, M. Welling, "Group equivariant convolutional networks", ICML 2016, has the regular and trivial kinds.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import TypeAlias

import torch
from torch import Tensor

from mar_pipeline.equivariance.rotation import rotate

logger = logging.getLogger(__name__)

Fields: TypeAlias = Sequence[tuple[str, int]]
KINDS = ("regular", "trivial", "free", "views")


def quarter_turns(n: int, group_order: int) -> int | None:
    """Quarter turns, 0 to 3, in the rotation by 360 n / t degrees; None if it is not made of whole ones."""
    turns, rest = divmod(4 * (n % group_order), group_order)
    return turns if rest == 0 else None


def check_group_order(group_order: int) -> None:
    """Refuse a group order that is not a whole number above 1.

    Raises:
        ValueError: so it is.
    """
    if isinstance(group_order, bool) or not isinstance(group_order, int) or group_order < 2:
        raise ValueError(f"group_order: got {group_order!r}, expected a whole number of at least 2")


def width(kind: str, count: int, group_order: int) -> int:
    """Return channels of a field."""
    return count * group_order if kind == "regular" else count


def check_fields(fields: Fields, channels: int, group_order: int) -> None:
    """Refuse fields that do not describe so many channels.

    Args:
        fields: (kind, count) in channel order.
        channels: number of channels to describe.
        group_order: t.

    Raises:
        ValueError: no or an unknown field, a count that is not positive, a sum that differs from the channels, or views
            beside rotated fields.
    """
    check_group_order(group_order)
    for field in fields:
        if isinstance(field, str) or len(field) != 2:
            raise ValueError(f"fields: got {field!r}, expected pairs (kind, count), kind one of {', '.join(KINDS)}")
        kind, count = field
        if kind not in KINDS:
            raise ValueError(f"fields: unknown kind {kind!r}; expected one of {', '.join(KINDS)}")
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"fields: got {count!r} for {kind}, expected a whole number of at least 1")
    described = sum(width(kind, count, group_order) for kind, count in fields)
    if described != channels:
        raise ValueError(
            f"fields {_text(fields)} describe {described} channels for the group order {group_order}, "
            f"but there are {channels}; regular counts groups of {group_order} channels"
        )
    kinds = {kind for kind, _ in fields}
    if "views" in kinds and kinds & {"regular", "trivial"}:
        raise ValueError(f"fields {_text(fields)}: a sinogram's views cannot stand beside channels of images")


def automatic_fields(channels: int, group_order: int = 4, is_output: bool = False, strict: bool = False) -> Fields:
    """Return fields of a layer of which nothing is known: floor(C / t) regular groups, and the rest trivial.

    An output layer, and one of fewer channels than t, is an image: all trivial.

    Args:
        channels: C.
        group_order: t.
        is_output: the channels are those of an image.
        strict: refuse a rest instead of writing it to the log.

    Returns:
        (kind, count) in channel order.

    Raises:
        ValueError: `strict`, and C is not divisible by t.
    """
    check_group_order(group_order)
    if is_output or channels < group_order:
        return (("trivial", channels),)
    groups, rest = divmod(channels, group_order)
    if rest == 0:
        return (("regular", groups),)
    if strict:
        raise ValueError(
            f"{channels} channels are not a multiple of the group order {group_order}: {rest} are left over; "
            f"name the fields, use a multiple, or strict=False to take the last {rest} as trivial"
        )
    _log_rest(channels, group_order)
    return (("regular", groups), ("trivial", rest))


@cache
def _log_rest(channels: int, group_order: int) -> None:
    """Once for each width: the weight penalty asks for the fields in every step."""
    groups, rest = divmod(channels, group_order)
    logger.info("%d channels: %d groups of %d, and the last %d trivial", channels, groups, group_order, rest)


def split(x: Tensor, fields: Fields, group_order: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the kind and the channels of each field of a map [..., C, A, B]."""
    parts = x.split([width(kind, count, group_order) for kind, count in fields], dim=-3)
    yield from zip((kind for kind, _ in fields), parts, strict=True)


def act(x: Tensor, n: int, fields: Fields, group_order: int = 4) -> Tensor:
    """Return the action pi_n: what the rotation of the scene by 360 n / t degrees, counter-clockwise, does to a map.

    Trivial: rot90 or, between quarter turns, a bilinear rotation. Regular: that, and a roll by +n of the orientations.
    Views: a roll by n views / t. Free: nothing.

    Args:
        x: Float["... C H W"], for views Float["... C views bins"].
        n: the rotation, any whole number; n and n + t are the same.
        fields: (kind, count) in channel order.
        group_order: t.

    Returns:
        Float["... C H W"]; an odd quarter turn of a map that is not square swaps H and W.

    Raises:
        ValueError: the fields do not describe the channels; the views are not a multiple of t; free channels beside
            rotated ones that change their shape.

    Example:
        >>> image = torch.arange(4.0).reshape(1, 2, 2)
        >>> act(image, 1, [("trivial", 1)]).tolist()
        [[[1.0, 3.0], [0.0, 2.0]]]
        >>> feature_map = torch.arange(4.0).reshape(4, 1, 1)  # one group: four orientations of one pixel
        >>> act(feature_map, 1, [("regular", 1)]).flatten().tolist()
        [3.0, 0.0, 1.0, 2.0]
    """
    if x.ndim < 3:
        raise ValueError(f"expected a map [..., C, H, W], got the shape {tuple(x.shape)}")
    check_fields(fields, x.shape[-3], group_order)
    turns = quarter_turns(n, group_order)
    kinds = {kind for kind, _ in fields}
    if turns is not None and turns % 2 and x.shape[-1] != x.shape[-2] and "free" in kinds and kinds != {"free"}:
        raise ValueError(f"an odd quarter turn of {x.shape[-2]} x {x.shape[-1]} maps: free channels need square maps")
    if turns is not None and kinds <= {"regular", "trivial"}:
        return torch.rot90(_reordered(x, n, fields, group_order), turns, (-2, -1))
    parts = [_act_on_field(part, n, kind, group_order) for kind, part in split(x, fields, group_order)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-3)


def _reordered(x: Tensor, n: int, fields: Fields, group_order: int) -> Tensor:
    """Return the channels with the orientations of every regular group rolled by +n: one copy, whatever the fields."""
    if n % group_order == 0 or all(kind == "trivial" for kind, _ in fields):
        return x
    return x.index_select(-3, _order(tuple(map(tuple, fields)), n % group_order, group_order).to(x.device))


@lru_cache(maxsize=256)
def _order(fields: Fields, n: int, group_order: int) -> Tensor:
    """Return number of the channel that comes to each place."""
    numbers = torch.arange(sum(width(kind, count, group_order) for kind, count in fields))
    parts = []
    for kind, part in zip(
        (kind for kind, _ in fields), numbers.split([width(*f, group_order) for f in fields]), strict=True
    ):
        parts.append(part.view(-1, group_order).roll(n, dims=1).flatten() if kind == "regular" else part)
    return torch.cat(parts)


def _act_on_field(x: Tensor, n: int, kind: str, group_order: int) -> Tensor:
    n %= group_order
    if kind == "free" or n == 0:
        return x
    if kind == "views":
        return _shift_views(x, n, group_order)
    turned = _turn(x, n, group_order)
    if kind == "regular":
        turned = turned.unflatten(-3, (-1, group_order)).roll(n, dims=-3).flatten(-4, -3)
    return turned


def _turn(x: Tensor, n: int, group_order: int) -> Tensor:
    turns = quarter_turns(n, group_order)
    if turns is None:
        return rotate(x, 2 * math.pi * n / group_order)
    return torch.rot90(x, turns, (-2, -1))


def _shift_views(x: Tensor, n: int, group_order: int) -> Tensor:
    views = x.shape[-2]
    if views % group_order:
        raise ValueError(
            f"{views} views are not a multiple of the group order {group_order}: "
            f"a rotation by {360 / group_order:g} degrees is no whole shift; use another group order"
        )
    return x.roll(n * views // group_order, dims=-2)


def _text(fields: Fields) -> str:
    return "[" + ", ".join(f"({kind}, {count})" for kind, count in fields) + "]"
