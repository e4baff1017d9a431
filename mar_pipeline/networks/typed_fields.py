"""What a rotation does to the channels of the networks here: the typed fields of their convolutions.

Without them EQ-Reg would take the image, channel 0 of ProxX, for the first orientation of a group.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from torch import nn

from mar_pipeline.equivariance.fields import Fields
from mar_pipeline.equivariance.selection import Selector, lookup, select_layers
from mar_pipeline.equivariance.weight_space import Ends
from mar_pipeline.networks.field_patterns import TypedEnds


class TypedLayers(NamedTuple):
    """Fields of a network's layers, and the layers that have none.

    Attributes:
        ends: name of a layer -> (fields of its input, fields of its output); layers that are missing are automatic.
        exclude: names of modules of which no equivariance can be asked, with everything inside.
    """

    ends: dict[str, Ends]
    exclude: tuple[str, ...]

    @property
    def outputs(self) -> dict[str, Fields]:
        """Return the name of a layer -> fields of its output."""
        return {name: after for name, (_, after) in self.ends.items()}


@runtime_checkable
class TypedNetwork(Protocol):
    """A network that says itself what a rotation does to its channels."""

    def typed_ends(self, group_order: int) -> TypedEnds:
        """Return name or pattern of a layer -> fields of its input and output, and the modules that are left out."""


def typed_layers(
    network: nn.Module, group_order: int = 4, layers: Selector | Sequence[Selector] | None = None
) -> TypedLayers:
    """Return the fields of a network's convolutions as its class says; nothing where it does not: they stay automatic.

    Args:
        network: any.
        group_order: t.
        layers: the layers that are meant, see `selection.select_layers`; None takes every Conv2d.

    Raises:
        ValueError: a name or pattern in ``layers`` that fits no module, or no layer with t channels.
    """
    if not isinstance(network, TypedNetwork):
        return TypedLayers({}, ())
    patterns, exclude = network.typed_ends(group_order)
    chosen = select_layers(network, layers, exclude)
    found = {name: lookup(patterns, name) for name in chosen}
    if chosen and all(getattr(layer, "out_channels", group_order) < group_order for layer in chosen.values()):
        raise ValueError(
            f"group_order {group_order} fits no layer: all {len(chosen)} have fewer channels; use a smaller group "
            "order, more channels or other layers"
        )
    return TypedLayers({name: ends for name, ends in found.items() if ends is not None}, exclude)
