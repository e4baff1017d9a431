"""Panels of a figure: images of one size side by side, in bands, each pixel a whole number of pixels wide."""

import math
import textwrap
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_PANEL_INCH, _GAP_INCH, _NAME_INCH, _TOP_INCH, _EDGE_INCH, _ROW_NAME_INCH = 2.4, 0.06, 0.25, 0.3, 0.08, 0.25
_PANEL_PIXELS = 480
_MOST_COLUMNS = 5
_LABEL_LETTERS = 34


class Panel(NamedTuple):
    """A column of a figure.

    Attributes:
        label: above it.
        image: Float["H W 3"], in the units of the task.
        psnr: in dB, in its corner; None for the truth.
    """

    label: str
    image: np.ndarray
    psnr: float | None = None


def columns_of(count: int) -> int:
    """Return panels side by side, five at most, the bands about equally full."""
    return math.ceil(count / math.ceil(count / _MOST_COLUMNS))


def panel_grid(
    count: int, shape: tuple[int, ...], title: str, rows: int = 1, row_names: bool = False
) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure of empty panels.

    Args:
        count: of columns; more than five go on in a band below.
        shape: rows and columns of every image.
        title: head of the figure.
        rows: of each band.
        row_names: whether there is room for names on the left.

    Returns:
        The figure, with its own canvas, and the panels of each column from top to bottom.
    """
    height_pixels, width_pixels = shape[:2]
    tall = _PANEL_INCH * height_pixels / width_pixels
    across = columns_of(count)
    bands = math.ceil(count / across)
    band = rows * (tall + _GAP_INCH) - _GAP_INCH + _NAME_INCH
    edge = _ROW_NAME_INCH if row_names else _EDGE_INCH
    width = edge + across * (_PANEL_INCH + _GAP_INCH) - _GAP_INCH + _EDGE_INCH
    height = _TOP_INCH + bands * band + _EDGE_INCH
    dots = max(1, round(_PANEL_PIXELS / width_pixels)) * width_pixels
    figure = Figure(figsize=(width, height), dpi=dots / _PANEL_INCH)
    FigureCanvasAgg(figure)
    figure.text(0.5, 1 - 0.16 / height, title, ha="center", va="center", fontsize=9.5)

    def panel(number: int, row: int) -> Axes:
        left = edge + number % across * (_PANEL_INCH + _GAP_INCH)
        bottom = _EDGE_INCH + (bands - 1 - number // across) * band + (rows - 1 - row) * (tall + _GAP_INCH)
        axes = figure.add_axes((left / width, bottom / height, _PANEL_INCH / width, tall / height))
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        return axes

    return figure, [[panel(number, row) for row in range(rows)] for number in range(count)]


def show(axes: Axes, panel: Panel, pixels: np.ndarray) -> None:
    """Return an image, its name above it and its PSNR in the corner.

    Args:
        axes: of the panel.
        panel: name and PSNR.
        pixels: what is shown of its image, UInt8["H W 3"], or Float of 0..1.
    """
    axes.imshow(pixels, interpolation="nearest")
    axes.set_title(textwrap.shorten(panel.label, _LABEL_LETTERS, placeholder="..."), fontsize=9, pad=3)
    if panel.psnr is not None:
        box = {"facecolor": "black", "alpha": 0.65, "edgecolor": "none", "pad": 2}
        caption = f"{panel.psnr:.2f} dB"
        axes.text(0.98, 0.03, caption, transform=axes.transAxes, fontsize=8.5, color="white", ha="right", bbox=box)
