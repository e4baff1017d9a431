"""Equivariance of the weights themselves: how far they are from strict ones, and the nearest strict ones.

A layer is equivariant exactly if its weights are fixed under (n.W)[o,s;i,r] = rot90^n W[o,s-n;i,r-n], and the mean P
over n projects on such weights. Of a group order above 4 only the quarter turns in it move pixels of a kernel onto
pixels: P is the mean over those.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from mar_pipeline.equivariance.fields import Fields, act, automatic_fields, check_fields, quarter_turns, split, width
from mar_pipeline.equivariance.selection import Selector, check_keys, lookup, select_layers

Convolution: TypeAlias = nn.Conv2d | nn.ConvTranspose2d
CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
PER_CHANNEL = (_NormBase, nn.GroupNorm, nn.PReLU)
Ends: TypeAlias = tuple[Fields, Fields]


def exact_rotations(group_order: int) -> list[int]:
    """Return the n of 0..t-1 whose rotations by 360 n / t degrees are quarter turns.

    Raises:
        ValueError: there is none but 0.
    """
    rotations = [n for n in range(group_order) if quarter_turns(n, group_order) is not None]
    if len(rotations) < 2:
        raise ValueError(f"group_order {group_order} has no quarter or half turn; expected an even group order")
    return rotations


def weight_penalty(
    model: nn.Module,
    group_order: int = 4,
    layers: Selector | Sequence[Selector] | None = None,
    fields: Mapping[str, Ends] | None = None,
    exclude: str | Sequence[str] = (),
    strict: bool = False,
) -> Tensor:
    """||W - PW||^2 / ||W||^2, averaged over the convolutions: 0 exactly for strict layers, (t-1)/t for random ones.

    On white noise 2 t / (t-1) times this is the mean over n of the `relative` penalty of the layer's output, at the
    cost of no forward pass. Weights of free channels, and of views, are left out.

    Args:
        model: the network.
        group_order: t.
        layers: see `selection.select_layers`; None takes every Conv2d and ConvTranspose2d.
        fields: (fields of the input, fields of the output) under a layer's name or a pattern; others are automatic.
        exclude: names and patterns that are left out.
        strict: refuse channels that do not divide into regular groups.

    Returns:
        Scalar, differentiable.

    Raises:
        ValueError: no layer, fields that do not fit, kernels that are not square, groups that cut regular fields, or a
            group order without a half turn.
    """
    chosen = {
        name: layer
        for name, layer in select_layers(model, layers, exclude, CONVOLUTIONS).items()
        if isinstance(layer, CONVOLUTIONS)
    }
    if not chosen:
        raise ValueError("no convolution is left; name layers or exclude fewer")
    check_keys(fields or {}, chosen, "fields")
    penalties = []
    for name, layer in chosen.items():
        weight, projected, compared = _projection(
            name, layer, group_order, _ends(name, layer, group_order, fields, strict)
        )
        total = (weight * compared).square().sum()
        penalties.append((weight - projected).square().sum() / (total + torch.finfo(total.dtype).tiny))
    return torch.stack(penalties).mean()


@torch.no_grad()
def project_to_equivariant(
    model: nn.Module,
    group_order: int = 4,
    layers: Selector | Sequence[Selector] | None = None,
    fields: Mapping[str, Ends] | None = None,
    exclude: str | Sequence[str] = (),
    strict: bool = False,
) -> tuple[str, ...]:
    """Replace weights by the nearest strictly equivariant ones, in place: a soft network becomes a strict one.

    W becomes PW; biases, and the parameters and running statistics of norms and PReLU, become their mean over the
    orientations of each regular group. What `structure.check_structure` finds stays inexact.

    Args:
        model: the network.
        group_order: t.
        layers: see `selection.select_layers`; None takes every convolution, norm and PReLU of two dimensions.
        fields: (fields of the input, fields of the output) under a layer's name or a pattern; others are automatic.
        exclude: names and patterns that are left out.
        strict: refuse channels that do not divide into regular groups.

    Returns:
        Names of the layers that were projected.

    Raises:
        ValueError: as `weight_penalty`.
    """
    chosen = select_layers(model, layers, exclude, CONVOLUTIONS + PER_CHANNEL)
    check_keys(fields or {}, chosen, "fields")
    for name, layer in chosen.items():
        ends = _ends(name, layer, group_order, fields, strict)
        if isinstance(layer, CONVOLUTIONS):
            if nn.utils.parametrize.is_parametrized(layer, "weight"):
                raise ValueError(f"layer {name!r} has a parametrized weight; remove the parametrization or exclude it")
            dense = _projection(name, layer, group_order, ends)[1]
            layer.weight.copy_(_from_dense(dense, layer.groups))
        for values in _per_channel(layer):
            values.copy_(_over_orientations(values, ends[1], group_order))
    return tuple(chosen)


def _ends(name: str, layer: nn.Module, group_order: int, fields: Mapping[str, Ends] | None, strict: bool) -> Ends:
    channels_in, channels_out = _channels(layer)
    try:
        named = lookup(fields or {}, name)
        if named is None:
            automatic = [automatic_fields(c, group_order, strict=strict) for c in (channels_in, channels_out)]
            return automatic[0], automatic[1]
        check_fields(named[0], channels_in, group_order)
        check_fields(named[1], channels_out, group_order)
    except ValueError as error:
        raise ValueError(f"layer {name!r}: {error}") from error
    return named


def _channels(layer: nn.Module) -> tuple[int, int]:
    if isinstance(layer, CONVOLUTIONS):
        return layer.in_channels, layer.out_channels
    for attribute in ("num_features", "num_channels", "num_parameters"):
        if isinstance(count := getattr(layer, attribute, None), int):
            return count, count
    raise ValueError(f"{type(layer).__name__}: expected a convolution, a norm or PReLU; exclude this layer")


def _per_channel(layer: nn.Module) -> list[Tensor]:
    """Return what a layer holds of one number per output channel."""
    names = (
        ("bias", "running_mean", "running_var")
        if isinstance(layer, CONVOLUTIONS)
        else ("weight", "bias", "running_mean", "running_var")
    )
    found = [getattr(layer, name, None) for name in names]
    return [values for values in found if isinstance(values, Tensor)]


def _projection(name: str, layer: Convolution, group_order: int, ends: Ends) -> tuple[Tensor, Tensor, Tensor]:
    """W and PW, without groups, and 1 where weights are compared: Float["first second k k"]."""
    rows, columns = ends if isinstance(layer, nn.ConvTranspose2d) else (ends[1], ends[0])
    if group_order % 4 == 0 and layer.kernel_size[0] != layer.kernel_size[1]:
        raise ValueError(f"layer {name!r} has a kernel of {layer.kernel_size}, which no quarter turn keeps; exclude it")
    weight = _dense(layer.weight, layer.groups)
    block = _dense(torch.ones_like(layer.weight[:, :, :1, :1]), layer.groups)
    compared = (
        _asked(rows, group_order, weight)[:, None, None, None] * _asked(columns, group_order, weight)[:, None, None]
    )
    if not torch.equal(_mean_over_rotations(block, rows, columns, group_order) * compared, block * compared):
        raise ValueError(
            f"layer {name!r}: {layer.groups} groups cut through the orientations of {layer.in_channels} -> "
            f"{layer.out_channels} channels; exclude it"
        )
    projected = torch.where(compared > 0, _mean_over_rotations(weight, rows, columns, group_order), weight)
    return weight, projected, compared


def _mean_over_rotations(weight: Tensor, rows: Fields, columns: Fields, group_order: int) -> Tensor:
    rotations = exact_rotations(group_order)
    columns = [("free" if kind == "views" else kind, count) for kind, count in columns]
    turned = (_roll(act(weight, n, columns, group_order), n, rows, group_order) for n in rotations)
    return torch.stack(list(turned)).mean(0)


def _roll(weight: Tensor, n: int, rows: Fields, group_order: int) -> Tensor:
    """Return the orientations of the first axis rolled by n."""
    parts = [
        part.unflatten(-3, (-1, group_order)).roll(n, dims=-3).flatten(-4, -3) if kind == "regular" else part
        for kind, part in split(weight.transpose(0, 1), rows, group_order)
    ]
    return torch.cat(parts, dim=-3).transpose(0, 1)


def _asked(fields: Fields, group_order: int, like: Tensor) -> Tensor:
    """1 for channels of which equivariance is asked, 0 for free ones."""
    parts = [
        torch.full((width(kind, count, group_order),), float(kind in ("regular", "trivial"))) for kind, count in fields
    ]
    return torch.cat(parts).to(like)


def _over_orientations(values: Tensor, fields: Fields, group_order: int) -> Tensor:
    if values.numel() == 1:
        return values
    parts = []
    for kind, part in split(values[:, None, None], fields, group_order):
        if kind == "regular":
            groups = part.unflatten(0, (-1, group_order))
            part = groups.mean(1, keepdim=True).expand_as(groups).flatten(0, 1)
        parts.append(part)
    return torch.cat(parts).flatten()


def _dense(weight: Tensor, groups: int) -> Tensor:
    """Return weights of a grouped convolution as those of a full one, zero between groups."""
    if groups == 1:
        return weight
    blocks = weight.unflatten(0, (groups, -1))
    eye = torch.eye(groups, dtype=weight.dtype, device=weight.device)
    return torch.einsum("gfskl,gh->gfhskl", blocks, eye).flatten(2, 3).flatten(0, 1)


def _from_dense(weight: Tensor, groups: int) -> Tensor:
    if groups == 1:
        return weight
    return torch.einsum("gfgskl->gfskl", weight.unflatten(1, (groups, -1)).unflatten(0, (groups, -1))).flatten(0, 1)
