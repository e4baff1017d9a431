"""What a rotation does to the channels of the networks here: the typed fields of their convolutions.

Without them EQ-Reg would take the image, channel 0 of ProxX, for the first orientation of a group.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast, runtime_checkable

from torch import nn

from mar_pipeline.equivariance import automatic_fields
from mar_pipeline.equivariance.fields import Fields
from mar_pipeline.equivariance.selection import Selector, lookup, select_layers
from mar_pipeline.equivariance.weight_space import Ends
from mar_pipeline.networks.acdnet import ACDNet
from mar_pipeline.networks.cnnmar import CNNMAR
from mar_pipeline.networks.dicdnet import DICDNet, DictionaryNetwork
from mar_pipeline.networks.dudonet import DuDoNet
from mar_pipeline.networks.field_patterns import chain_fields, unet_fields
from mar_pipeline.networks.indudonet import DualDomainNetwork, InDuDoNet, InDuDoNetPlus
from mar_pipeline.networks.oscnet import OSCNet, OSCNetPlus
from mar_pipeline.networks.unet import ResidualUNet


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
        """Name of a layer -> fields of its output."""
        return {name: after for name, (_, after) in self.ends.items()}


@runtime_checkable
class TypedNetwork(Protocol):
    """A network that says itself what a rotation does to its channels."""

    def typed_ends(self, group_order: int) -> tuple[dict[str, Ends], tuple[str, ...]]:
        """Name or pattern of a layer -> fields of its input and output, and the modules that are left out."""


def typed_layers(
    network: nn.Module, group_order: int = 4, layers: Selector | Sequence[Selector] | None = None
) -> TypedLayers:
    """Fields of the convolutions of one of `NETWORKS`; nothing for other networks, whose layers stay automatic.

    Images are trivial. The dual channels are regular groups, and so are DICDNet's maps: its kernels are free, so they
    can learn to be rotated copies. OSCNet's maps are regular groups of its own number of rotations, so they are left
    out under any other group order: a quarter turn rolls 8 rotations by 2, which no field of 4 orientations says.
    Left out are also ACDNet's maps, whose kernels are other ones for every image, and the features of OSCNet+'s
    predictor, whose mean over the image hardly changes when it is turned.

    Args:
        network: any.
        group_order: t.
        layers: the layers that are meant, see `selection.select_layers`; None takes every Conv2d.

    Raises:
        ValueError: a name or pattern in ``layers`` that fits no module, or no layer with t channels.
    """
    exclude: tuple[str, ...] = ()
    if isinstance(network, DictionaryNetwork):
        patterns, exclude = _dictionary_fields(network, group_order)
    elif isinstance(network, DualDomainNetwork):
        patterns = _dual_domain_fields(network, group_order)
    elif isinstance(network, DuDoNet):
        patterns = unet_fields(network.image_unet, group_order, "image_unet.")
        patterns |= _view_fields(network, ["sinogram_unet.*"])
    elif isinstance(network, ResidualUNet):
        patterns = unet_fields(network.unet, group_order, "unet.")
    elif isinstance(network, CNNMAR):
        patterns = chain_fields(network.body, "body", group_order)
    elif isinstance(network, TypedNetwork):
        patterns, exclude = network.typed_ends(group_order)
    else:
        return TypedLayers({}, ())
    chosen = select_layers(network, layers, exclude)
    found = {name: lookup(patterns, name) for name in chosen}
    if chosen and all(getattr(layer, "out_channels", group_order) < group_order for layer in chosen.values()):
        raise ValueError(
            f"group_order {group_order} fits no layer: all {len(chosen)} have fewer channels; use a smaller group "
            "order, more channels or other layers"
        )
    return TypedLayers({name: ends for name, ends in found.items() if ends is not None}, exclude)


def _dictionary_fields(network: DictionaryNetwork, group_order: int) -> tuple[dict[str, Ends], tuple[str, ...]]:
    image: Fields = (("trivial", 1),)
    dual = tuple(automatic_fields(network.dual.out_channels, group_order))
    state = (*image, *dual)
    patterns: dict[str, Ends] = {"dual": (image, dual)}
    patterns |= {f"{name}.*": (state, state) for name in ("first_prox", "image_proxes", "last_prox")}
    exclude: tuple[str, ...] = ()
    if isinstance(network, ACDNet):
        stages = range(len(network.adaptive_stages))
        patterns |= {f"adaptive_stages.{stage}.image_prox.*": (state, state) for stage in stages}
        exclude = ("map_proxes", "mixing", *(f"adaptive_stages.{stage}.map_prox" for stage in stages))
    elif _has_oriented_maps(network, group_order):
        maps = automatic_fields(len(network.initial_kernels), group_order)
        patterns["map_proxes.*"] = (maps, maps)
    else:
        exclude = ("map_proxes",)
    return patterns, (*exclude, "predictor") if isinstance(network, OSCNetPlus) else exclude


def _has_oriented_maps(network: DictionaryNetwork, group_order: int) -> bool:
    """Whether consecutive maps can be the t orientations of one kernel."""
    if isinstance(network, OSCNet | OSCNetPlus):
        return network.basis.shape[2] == group_order
    return isinstance(network, DICDNet)


def _dual_domain_fields(network: DualDomainNetwork, group_order: int) -> dict[str, Ends]:
    """Image and dual channels as in the dictionary networks; of sinograms and their dual channels the views shift."""
    image: Fields = (("trivial", 1),)
    dual = tuple(automatic_fields(network.dual.out_channels, group_order))
    state = (*image, *dual)
    patterns: dict[str, Ends] = {"dual": (image, dual)}
    patterns |= {f"{name}.*": (state, state) for name in ("first_prox", "stages.*.image_prox")}
    if isinstance(network, InDuDoNet):
        patterns |= unet_fields(network.prior, group_order, "prior.")
    elif isinstance(network, InDuDoNetPlus):
        patterns |= chain_fields(network.prior_weights, "prior_weights", group_order)
    sinograms = ("sinogram_dual", "first_sinogram_prox.*", "stages.*.sinogram_prox.*")
    return patterns | _view_fields(network, sinograms)


def _view_fields(network: nn.Module, layers: Sequence[str]) -> dict[str, Ends]:
    """All channels of these convolutions are sinograms, those of the norms between them too.

    Their zero padding does not wrap around the views, so a shift is not quite exact: 1.5 % for a block at 640 views.
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
