"""Pictures of inpainting: measurement, restored images and truth side by side, each with its PSNR in the corner."""

import math
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_PANEL_INCH, _GAP_INCH, _NAME_INCH, _TOP_INCH, _EDGE_INCH = 2.4, 0.06, 0.25, 0.3, 0.08
_PANEL_PIXELS = 480
_MOST_COLUMNS = 5
_LABEL_LETTERS = 34


class Panel(NamedTuple):
    """One image of a figure.

    Attributes:
        label: above it.
        image: Float["3 H W"], 1 is white; shown clipped to 0..1.
        psnr: in dB, in its corner; None for the truth.
    """

    label: str
    image: np.ndarray
    psnr: float | None = None


def images_figure(panels: Sequence[Panel], title: str) -> Figure:
    """Images of one size side by side, in bands of five at most; each pixel a whole number of pixels wide.

    Args:
        panels: in order.
        title: head of the figure.

    Returns:
        A figure with its own canvas: ``figure.savefig(path)``.
    """
    bands = math.ceil(len(panels) / _MOST_COLUMNS)
    columns = math.ceil(len(panels) / bands)
    step, band = _PANEL_INCH + _GAP_INCH, _PANEL_INCH + _NAME_INCH
    width = columns * step - _GAP_INCH + 2 * _EDGE_INCH
    height = _TOP_INCH + bands * band + _EDGE_INCH
    side = max(panels[0].image.shape[-2:])
    figure = Figure(figsize=(width, height), dpi=max(1, round(_PANEL_PIXELS / side)) * side / _PANEL_INCH)
    FigureCanvasAgg(figure)
    figure.text(0.5, 1 - 0.16 / height, title, ha="center", va="center", fontsize=9.5)
    for number, panel in enumerate(panels):
        left = _EDGE_INCH + number % columns * step
        bottom = _EDGE_INCH + (bands - 1 - number // columns) * band
        axes = figure.add_axes((left / width, bottom / height, _PANEL_INCH / width, _PANEL_INCH / height))
        axes.axis("off")
        axes.imshow(np.clip(panel.image.transpose(1, 2, 0), 0, 1), interpolation="nearest")
        axes.set_title(textwrap.shorten(panel.label, _LABEL_LETTERS, placeholder="..."), fontsize=9, pad=3)
        if panel.psnr is not None:
            box = {"facecolor": "black", "alpha": 0.65, "edgecolor": "none", "pad": 2}
            caption = f"{panel.psnr:.2f} dB"
            axes.text(0.97, 0.03, caption, transform=axes.transAxes, fontsize=8.5, color="white", ha="right", bbox=box)
    return figure
