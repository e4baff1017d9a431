"""Pictures of equivariance: feature maps of several networks for an image and for the rotated image, side by side.

They are figures 1 and 2 of Bai, Fu, Xie and Meng, "A Regularization-Guided Equivariant Approach for Image Restoration",
CVPR 2025 (arXiv 2505.19799). This module needs matplotlib; the rest of the package does not.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor, nn

from mar_pipeline.equivariance.feature_maps import TurnedMaps, turned_maps
from mar_pipeline.equivariance.fields import Fields
from mar_pipeline.equivariance.report_tables import short
from mar_pipeline.equivariance.residuals import Turn

_PANEL_INCH, _GAP_INCH, _BLOCK_GAP_INCH = 1.75, 0.05, 0.22
_LEFT_INCH, _TOP_INCH, _EDGE_INCH = 0.42, 1.15, 0.1
_MAPS, _DIFFERENCES, _IMAGE = "viridis", "RdBu_r", "gray"
_LETTERS_PER_INCH = 14
"""That fit above a block, in the small size."""
_NOT_COMPARED = "#dedede"
_GREY = "#555555"
_LOW, _HIGH = 1.0, 99.0
"""Percentiles between which a map is shown."""


def feature_figure(
    networks: Mapping[str, nn.Module],
    x: Tensor | Sequence[Tensor] | Mapping[str, Sequence[Tensor]],
    angle_deg: float = 90.0,
    layers: str | Mapping[str, str] | None = None,
    *,
    fields: Fields | Mapping[str, Fields] | None = None,
    group_order: int = 4,
    maps: int = 2,
    image_limits: tuple[float, float] | None = None,
    input_fields: Mapping[str, Sequence[Fields]] | None = None,
    disk_margin: float = 0.12,
    border: float = 0.0,
) -> Figure:
    """Return a layer of several networks: its maps of an image, of the rotated image turned back, the difference.

    Each column of maps has its own scale, the same for both rows; the difference is shown at half of it to both sides.
    The head of each network says the relative error of all maps of the layer, centred: 0 for an equivariant layer,
    1.41 for unrelated maps.

    Args:
        networks: label -> network, in the order of the blocks.
        x: Float["batch channels H W"], or all inputs of the networks, for all or by label; the first channel of the
            first is shown.
        angle_deg: of the rotation; 120 is the paper's 2 pi / 3, at which groups of 4 orientations show their mean.
        layers: name of the layer, for all networks or by label; None takes the last one with t channels
            or more.
        fields: of the layer's output, for all networks or by label; where there are none, those of a strict layer, else
            the automatic ones.
        group_order: t of regular fields.
        maps: number of maps of each network.
        image_limits: black and white of the image; None takes its 1st and 99th percentile.
        input_fields: fields of the inputs by label, such as views for a sinogram; without them all are images.
        disk_margin: for interpolated rotations, the share of the radius that is not compared.
        border: and the pixels as far as zero padding reaches.

    Returns:
        A figure with its own canvas: ``figure.savefig(path)``.

    Raises:
        ValueError: no network or map asked for, or as `feature_maps.turned_maps`.
    """
    if not networks or maps < 1:
        raise ValueError(f"figure: got {len(networks)} networks and {maps} maps, expected at least one of each")
    shown = {
        label: turned_maps(
            network,
            x[label] if isinstance(x, Mapping) else x,
            angle_deg,
            layers if layers is None or isinstance(layers, str) else layers.get(label),
            fields=fields.get(label) if isinstance(fields, Mapping) else fields,
            group_order=group_order,
            input_fields=None if input_fields is None else input_fields.get(label),
            count=maps,
            disk_margin=disk_margin,
            border=border,
        )
        for label, network in networks.items()
    }
    first = next(iter(x.values())) if isinstance(x, Mapping) else x
    image = (first if isinstance(first, Tensor) else first[0])[:1, :1]
    turned = Turn.of(angle_deg).act(torch.cat([image, torch.ones_like(image)]), [("trivial", 1)], group_order)
    turned_image = _masked(_plain(turned[0, 0]), _plain(turned[1, 0] < 0.5))
    layout = _Layout([1, *(len(one.maps) for one in shown.values())])
    grey = _draw_image(layout, _plain(image[0, 0]), turned_image, angle_deg, image_limits)
    for block, (label, one) in enumerate(shown.items(), start=1):
        viridis, differences = _draw_network(layout, block, label, one)
    _draw_key(layout, grey, viridis, differences)
    return layout.figure


class _Layout:
    """Three rows of square panels in blocks of columns, all lengths in inches, so that nothing moves or overlaps."""

    def __init__(self, blocks: Sequence[int]) -> None:
        lefts, left = [], _LEFT_INCH
        for columns in blocks:
            lefts.append([left + column * (_PANEL_INCH + _GAP_INCH) for column in range(columns)])
            left += columns * (_PANEL_INCH + _GAP_INCH) - _GAP_INCH + _BLOCK_GAP_INCH
        self.lefts = lefts
        self.width = left - _BLOCK_GAP_INCH + _EDGE_INCH
        self.height = _TOP_INCH + 3 * _PANEL_INCH + 2 * _GAP_INCH + _EDGE_INCH
        self.figure = Figure(figsize=(self.width, self.height), dpi=200)
        FigureCanvasAgg(self.figure)

    def panel(self, row: int, block: int, column: int) -> Axes:
        """Empty axes without ticks."""
        left, bottom = self.lefts[block][column], _EDGE_INCH + (2 - row) * (_PANEL_INCH + _GAP_INCH)
        size = (_PANEL_INCH / self.width, _PANEL_INCH / self.height)
        axes = self.figure.add_axes((left / self.width, bottom / self.height, *size))
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_linewidth(0.4)
        return axes

    def head(self, block: int, lines: Sequence[tuple[str, float, str]]) -> None:
        """Write lines (text, size, weight) above a block, the first one a title over a thin rule."""
        left, right = self.lefts[block][0], self.lefts[block][-1] + _PANEL_INCH
        middle = (left + right) / 2 / self.width
        for number, (text, size, weight) in enumerate(lines):
            letters = int((right - left) * _LETTERS_PER_INCH * (1.0 if number else 0.75))
            y = 1 - (0.2 + 0.21 * number) / self.height
            colour = "black" if number == 0 else _GREY
            self.figure.text(
                middle, y, _shorten(text, letters), ha="center", va="center", fontsize=size, weight=weight, color=colour
            )

    def row_label(self, row: int, text: str) -> None:
        """Text left of a row, upwards."""
        bottom = _EDGE_INCH + (2 - row + 0.5) * _PANEL_INCH + (2 - row) * _GAP_INCH
        x, y = (_LEFT_INCH - 0.1) / self.width, bottom / self.height
        self.figure.text(x, y, text, rotation=90, ha="right", va="center", ma="center", fontsize=7.5, linespacing=1.25)


def _draw_image(
    layout: _Layout, image: np.ndarray, turned: np.ndarray, angle_deg: float, limits: tuple[float, float] | None
) -> AxesImage:
    """Return the image above the rotated image."""
    low, high = limits or _limits(image)
    layout.head(0, [("Input", 9, "bold"), (f"below: rotated by {angle_deg:g}°", 7.5, "normal")])
    for row, values in enumerate((image, turned)):
        drawn = layout.panel(row, 0, 0).imshow(values, cmap=_with_grey(_IMAGE), vmin=low, vmax=high)
    layout.row_label(0, "Input\nand its maps")
    layout.row_label(1, "Rotated input, and its\nmaps rotated back")
    layout.row_label(2, "Difference")
    return drawn


def _draw_network(layout: _Layout, block: int, label: str, one: TurnedMaps) -> tuple[AxesImage, AxesImage]:
    """Return the block of a network: its maps, those rotated back, and their difference."""
    lines = [f"layer {one.layer}", f"relative error {short(one.centred_error)}"]
    lines += [f"floor {short(one.floor)}"] if one.floor else []
    layout.head(block, [(label, 9, "bold"), *((line, 7.5, "normal") for line in lines)])
    outside = None if one.compared is None else ~_plain(one.compared)
    for column, name in enumerate(one.names):
        before, after = _plain(one.maps[column]), _plain(one.turned_back[column])
        low, high = _limits(before if outside is None else before[~outside])
        span = (high - low) / 2
        panels = [layout.panel(row, block, column) for row in range(3)]
        panels[0].set_title(name, fontsize=7.5, pad=3, color=_GREY)
        drawn = [
            panels[0].imshow(before, cmap=_MAPS, vmin=low, vmax=high),
            panels[1].imshow(_masked(after, outside), cmap=_with_grey(_MAPS), vmin=low, vmax=high),
            panels[2].imshow(_masked(after - before, outside), cmap=_with_grey(_DIFFERENCES), vmin=-span, vmax=span),
        ]
    return drawn[0], drawn[2]


def _draw_key(layout: _Layout, grey: AxesImage, maps: AxesImage, differences: AxesImage) -> None:
    """Colour bars in the empty panel below the images."""
    axes = layout.panel(2, 0, 0)
    axes.axis("off")
    bars = (
        (0.78, "Input", grey, ["low", "high"]),
        (0.47, "Maps, each at its scale", maps, ["low", "high"]),
        (0.16, "Difference, half that scale", differences, ["−½ span", "0", "+½ span"]),
    )
    for bottom, label, drawn, names in bars:
        bar = axes.inset_axes((0.06, bottom, 0.88, 0.06))
        low, high = drawn.get_clim()
        layout.figure.colorbar(drawn, cax=bar, orientation="horizontal", ticks=list(np.linspace(low, high, len(names))))
        bar.set_xticklabels(names, fontsize=6.5)
        bar.tick_params(length=2, width=0.5)
        bar.set_title(label, fontsize=7, pad=3)
        bar.get_xticklabels()[0].set_horizontalalignment("left")
        bar.get_xticklabels()[-1].set_horizontalalignment("right")


def _limits(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, [_LOW, _HIGH]).tolist()
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _plain(values: Tensor) -> np.ndarray:
    plain: np.ndarray = values.detach().cpu().numpy()
    return plain


def _masked(values: np.ndarray, outside: np.ndarray | None) -> np.ndarray:
    return values if outside is None else np.where(outside, np.nan, values)


def _with_grey(name: str) -> Colormap:
    return colormaps[name].with_extremes(bad=_NOT_COMPARED)


def _shorten(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[: letters // 3]}…{text[letters // 3 - letters + 1 :]}"
