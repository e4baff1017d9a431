"""The figures that `mar equivariance` draws: one layer of every network for an image and for the turned image."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from mar_pipeline.equivariance.feature_maps import find_layer
from mar_pipeline.equivariance.fields import Fields
from mar_pipeline.equivariance.residuals import Turn
from mar_pipeline.networks.typed_fields import typed_layers
from mar_pipeline.sample import to_network
from simulation.files import whole_file
from simulation.units import hu_to_mu

FIGURES_DEG = {"figure_1.png": 90.0, "figure_2.png": 120.0}
"""The published figures: a quarter turn, and 2 pi / 3."""
_WINDOW_HU = (-175.0, 275.0)


def shown_fields(network: nn.Module, layer: str | None, group_order: int) -> Fields | None:
    """Return fields of the layer in the figures.

    Args:
        network: any.
        layer: its name; None takes the last convolution with a group of channels.
        group_order: t.

    Returns:
        (kind, count) in channel order; None leaves them to the layer itself.

    Raises:
        ValueError: no such layer, or one that is left out of the typed layers.
    """
    typed = typed_layers(network, group_order)
    name, _ = find_layer(network, layer, group_order)
    if any(name.startswith(f"{module}.") for module in typed.exclude):
        raise ValueError(
            f"how the channels of {name!r} turn is not known under the group order {group_order}; name another one"
        )
    return typed.outputs.get(name)


def turns_all(inputs: Sequence[Tensor], fields: Sequence[Fields], angle_deg: float) -> bool:
    """Return whether an angle shifts the views of every sinogram among the inputs by a whole number.

    Args:
        inputs: each Float["batch 1 H W"].
        fields: what a rotation does to them.
        angle_deg: the angle.
    """
    views = [x.shape[-2] for x, own in zip(inputs, fields, strict=True) if own[0][0] == "views"]
    return all(count % Turn.of(angle_deg).order == 0 for count in views)


def draw_figures(
    networks: Mapping[str, nn.Module],
    inputs: Mapping[str, Sequence[Tensor]],
    input_fields: Mapping[str, Sequence[Fields]],
    layer: str | None,
    group_order: int,
    maps: int,
    folder: Path,
) -> list[str]:
    """Write the figures of `FIGURES_DEG`.

    Args:
        networks: by label.
        inputs: label -> inputs of the network, each Float["batch 1 H W"]; the first sample is shown.
        input_fields: label -> what a rotation does to them.
        layer: see `shown_fields`.
        group_order: t.
        maps: number of maps of each network.
        folder: where to.

    Returns:
        Names of the files. A network whose sinograms an angle shifts by no whole number of views is left out there.

    Raises:
        ValueError: as `shown_fields`.
        OSError: a file cannot be written.
    """
    from mar_pipeline.equivariance.figures import feature_figure

    shown = {label: shown_fields(network, layer, group_order) for label, network in networks.items()}
    low, high = (float(to_network(hu_to_mu(np.array(hu)))) for hu in _WINDOW_HU)
    drawn = []
    for name, angle in FIGURES_DEG.items():
        turning = {
            label: own for label, own in networks.items() if turns_all(inputs[label], input_fields[label], angle)
        }
        if not turning:
            continue
        drawn.append(name)
        figure = feature_figure(
            turning,
            {label: [image[:1] for image in inputs[label]] for label in turning},
            angle,
            layer,
            fields={label: fields for label, fields in shown.items() if fields is not None},
            group_order=group_order,
            maps=maps,
            image_limits=(low, high),
            input_fields=input_fields,
        )
        with whole_file(folder / name) as partial:
            figure.savefig(partial, format="png")
    return drawn
