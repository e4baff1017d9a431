"""Feature maps of an image beside those of the rotated image, rotated back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mar_pipeline.equivariance.fields import Fields, automatic_fields, check_fields
from mar_pipeline.equivariance.report import LAYER_TYPES, evaluation_mode, known_fields
from mar_pipeline.equivariance.residuals import ResidualSums, Turn
from mar_pipeline.equivariance.selection import select_layers, unwrap


@dataclass(frozen=True)
class TurnedMaps:
    """Some maps of a layer for an image, and those for the rotated image, rotated back.

    Args:
        layer: name.
        names: what each map is, such as ``group 3``.
        maps: Float["maps H W"], for the image.
        turned_back: Float["maps H W"], for the rotated image, by the inverse action; equal to ``maps`` if the layer is
            equivariant.
        compared: Bool["H W"], where both can be compared; None for everywhere.
        centred_error: of all maps of the layer, see `residuals.ResidualSums`.
        floor: the error that interpolation alone may make.
    """

    layer: str
    names: tuple[str, ...]
    maps: Tensor
    turned_back: Tensor
    compared: Tensor | None
    centred_error: float
    floor: float


@torch.no_grad()
def turned_maps(
    network: nn.Module,
    x: Tensor | Sequence[Tensor],
    angle_deg: float,
    layer: str | None = None,
    *,
    fields: Fields | None = None,
    input_fields: Sequence[Fields] | None = None,
    group_order: int = 4,
    count: int = 2,
    disk_margin: float = 0.12,
    border: float = 0.0,
) -> TurnedMaps:
    """Run a network on an image and on the rotated image, and compares maps of a layer, turned to the image.

    The maps are one orientation of the regular groups, and the trivial channels, that vary most. An angle that is no
    multiple of 360 / t degrees has no action on the orientations: each regular group then counts as their mean, which
    follows a rotation by any angle.

    Args:
        network: put into evaluation mode, and back.
        x: Float["batch channels H W"], or all inputs of the network; the first sample is taken.
        angle_deg: of the rotation, counter-clockwise.
        layer: name; None takes the last convolution with t channels or more.
        fields: of the layer's output; None takes those of a strict layer, else the automatic ones.
        input_fields: fields of each input, such as views for a sinogram; None takes all as images.
        group_order: t.
        count: number of maps; fewer where the layer has fewer.
        disk_margin: for interpolated rotations, the share of the radius that is not compared.
        border: and the pixels of the map as far as zero padding reaches into it.

    Raises:
        ValueError: an unknown layer, one that is not called or answers no maps, or fields that do not fit.
    """
    network, turn = unwrap(network), Turn.of(angle_deg)
    inputs = [image[:1] for image in ([x] if isinstance(x, Tensor) else x)]
    name, module = find_layer(network, layer, group_order)
    kinds_in = input_fields or [(("trivial", image.shape[1]),) for image in inputs]
    turned = [turn.act(image, kind, group_order) for image, kind in zip(inputs, kinds_in, strict=True)]
    with evaluation_mode(network):
        maps, of_turned = _answer(network, name, module, inputs), _answer(network, name, module, turned)
    own = fields or known_fields(name, module, None) or automatic_fields(maps.shape[1], group_order)
    check_fields(own, maps.shape[1], group_order)
    maps, kinds = turn.comparable(maps, own, group_order)
    of_turned, _ = turn.comparable(of_turned, own, group_order)
    back = Turn.of(-angle_deg).act(of_turned, kinds, group_order)
    pixels = turn.compared_pixels(maps.shape[-2], maps.shape[-1], disk_margin, border)
    sums, floor = ResidualSums(group_order), ResidualSums(group_order)
    sums.add(turn.act(maps, kinds, group_order), of_turned, kinds, pixels)
    if pixels is not None:
        floor.add(turn.there_and_back(maps), maps, kinds, pixels)
    chosen = _most_varying(maps, own, kinds, group_order, pixels, count)
    return TurnedMaps(
        layer=name,
        names=tuple(text for text, _ in chosen),
        maps=torch.stack([maps[0, channel] for _, channel in chosen]),
        turned_back=torch.stack([back[0, channel] for _, channel in chosen]),
        compared=pixels,
        centred_error=sums.centred_error,
        floor=floor.centred_error,
    )


def find_layer(network: nn.Module, layer: str | None, group_order: int) -> tuple[str, nn.Module]:
    """Return the one layer that is meant.

    Args:
        network: the network.
        layer: name; None takes the last convolution with t channels or more.
        group_order: t.

    Returns:
        Name and module.

    Raises:
        ValueError: no layer, or several.
    """
    chosen = select_layers(network, layer, default=LAYER_TYPES)
    if layer is None:
        wide = {name: module for name, module in chosen.items() if _channels(module, group_order) >= group_order}
        chosen = dict(list((wide or chosen).items())[-1:])
    if len(chosen) != 1:
        raise ValueError(f"layer: {layer!r} fits {len(chosen)} layers, expected one: {', '.join(chosen) or 'none'}")
    return next(iter(chosen.items()))


def _channels(module: nn.Module, group_order: int) -> int:
    own = known_fields("", module, None)
    if own is not None:
        return sum(number * (group_order if kind == "regular" else 1) for kind, number in own)
    return int(getattr(module, "out_channels", 0))


def _answer(network: nn.Module, name: str, module: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
    """Return what a layer answers when it is called first."""
    answers: list[Any] = []
    handle = module.register_forward_hook(lambda _, __, answer: answers.append(_copy(answer)))
    try:
        network(*inputs)
    finally:
        handle.remove()
    if not answers or not isinstance(answers[0], Tensor) or answers[0].ndim != 4:
        raise ValueError(f"layer {name}: {'answers no maps' if answers else 'is not called'}; name another layer")
    return answers[0]


def _copy(answer: Any) -> Any:
    """Return a copy, since an activation may write into it."""
    return answer.float().clone() if isinstance(answer, Tensor) else answer


def _most_varying(
    maps: Tensor, own: Fields, kinds: Fields, group_order: int, pixels: Tensor | None, count: int
) -> list[tuple[str, int]]:
    """Name and channel of those maps that vary most: a group's first orientation or mean, or a single channel."""
    candidates = []
    channel = group = 0
    for (kind, number), (shown, _) in zip(own, kinds, strict=True):
        for _ in range(number):
            if kind == "regular":
                candidates.append((f"group {group}" + ("" if shown == kind else ", mean"), channel))
                group += 1
            elif kind != "free":
                candidates.append((f"channel {channel}", channel))
            channel += group_order if shown == "regular" else 1
    if not candidates:
        raise ValueError("all channels are free: there is nothing to compare; name another layer")

    def variation(candidate: tuple[str, int]) -> float:
        values = maps[0, candidate[1]]
        return (values if pixels is None else values[pixels.to(values.device)]).std().item()

    return sorted(candidates, key=variation, reverse=True)[:count]
