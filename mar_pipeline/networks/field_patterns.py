"""Typed fields of networks that are built like others: chains of convolutions, U-Nets, nets of sinograms."""

from collections.abc import Sequence
from typing import cast

from torch import nn

from mar_pipeline.equivariance.fields import Fields, automatic_fields
from mar_pipeline.equivariance.selection import select_layers
from mar_pipeline.equivariance.weight_space import Ends

TypedEnds = tuple[dict[str, Ends], tuple[str, ...]]
"""What `typed_ends` of a network returns: name or pattern of a layer -> fields of its input and output; and the names
of the modules that are left out."""

IMAGE_FIELDS: Fields = (("trivial", 1),)
"""Fields of an image."""


def chain_fields(chain: nn.Sequential, prefix: str, group_order: int) -> dict[str, Ends]:
    """Return fields of convolutions one after another: automatic ones, but the images that come in.

    Args:
        chain: the convolutions, whatever else is between them.
        prefix: its name in the network.
        group_order: t.

    Returns:
        Name of a convolution -> fields of its input and of its output.
    """
    ends: dict[str, Ends] = {}
    before: Fields = ()
    for name, layer in chain.named_children():
        if isinstance(layer, nn.Conv2d):
            after = tuple(automatic_fields(layer.out_channels, group_order))
            ends[f"{prefix}.{name}"] = (before or (("trivial", layer.in_channels),), after)
            before = after
    return ends


def unet_fields(unet: nn.Module, group_order: int, prefix: str = "") -> dict[str, Ends]:
    """Return fields of a U-Net's convolutions: automatic ones, but images, and the decoder's inputs.

    A decoder's input is a skip, and as many channels from below.

    Args:
        unet: with the convolutions ``first.0``, ``last`` and, on each level, ``up.N.0``.
        group_order: t.
        prefix: its name in the network, with a dot; empty where it is the network.

    Returns:
        Name of a convolution -> fields of its input and of its output.
    """

    def of(channels: int) -> Fields:
        return tuple(automatic_fields(channels, group_order))

    layers = {name: layer for name, layer in unet.named_modules() if isinstance(layer, nn.Conv2d)}
    ends: dict[str, Ends] = {name: (of(layer.in_channels), of(layer.out_channels)) for name, layer in layers.items()}
    for number, _ in enumerate(unet.get_submodule("up").children()):
        name = f"up.{number}.0"
        half = of(layers[name].in_channels // 2)
        ends[name] = ((*half, *half), ends[name][1])
    first, last = "first.0", "last"
    ends[first] = ((("trivial", layers[first].in_channels),), ends[first][1])
    ends[last] = (ends[last][0], (("trivial", layers[last].out_channels),))
    return {f"{prefix}{name}": own for name, own in ends.items()}


def view_fields(network: nn.Module, layers: Sequence[str]) -> dict[str, Ends]:
    """Return the fields of convolutions and norms all of whose channels are sinograms.

    Their zero padding does not wrap around the views, so a shift is not quite exact: 1.5 % for a block at 640 views.

    Args:
        network: that they belong to.
        layers: their names or patterns.

    Returns:
        Name -> fields of its input and of its output.
    """
    ends: dict[str, Ends] = {}
    for name, layer in select_layers(network, layers, default=(nn.Conv2d, nn.BatchNorm2d)).items():
        before, after = (
            (layer.num_features, layer.num_features)
            if isinstance(layer, nn.BatchNorm2d)
            else (cast(nn.Conv2d, layer).in_channels, cast(nn.Conv2d, layer).out_channels)
        )
        ends[name] = ((("views", before),), (("views", after),))
    return ends
