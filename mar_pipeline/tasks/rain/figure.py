"""Pictures of rain removal: what each method leaves of the image, and the rain that it took out."""

import math
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mar_pipeline.tasks.rain.luminance import to_8bit

_PANEL_INCH, _GAP_INCH, _NAME_INCH, _TOP_INCH, _LEFT_INCH, _EDGE_INCH = 2.4, 0.06, 0.25, 0.3, 0.25, 0.08
_PANEL_PIXELS = 480
_MOST_COLUMNS = 5
_LABEL_LETTERS = 34
_BRIGHTEST_SHARE = 99.5
"""Percentile of the true rain, where there is any, that is shown white."""


class Panel(NamedTuple):
    """A column of the figure.

    Attributes:
        label: above it.
        image: Float["H W 3"], grey levels 0..255.
        psnr: in dB, in its corner; None for the truth.
    """

    label: str
    image: np.ndarray
    psnr: float | None = None


def rain_layers_figure(panels: Sequence[Panel], title: str) -> Figure:
    """Images above and below each its rain layer, the first image minus it, all layers at one brightness.

    More than five columns go on below. Where an answer is brighter than the input, its layer is black.

    Args:
        panels: the rainy image first, the truth last; all of one size.
        title: head of the figure.

    Returns:
        A figure with its own canvas: ``figure.savefig(path)``.
    """
    rainy, truth = panels[0].image, panels[-1].image
    light = np.maximum(rainy - truth, 0)
    gain = 255 / np.percentile(light[light > 0], _BRIGHTEST_SHARE) if (light > 0).any() else 1.0
    figure, axes = _grid(len(panels), rainy.shape)
    figure.text(0.5, 1 - 0.16 / figure.get_figheight(), title, ha="center", va="center", fontsize=9.5)
    columns = _columns(len(panels))
    for number, (panel, (upper, lower)) in enumerate(zip(panels, axes, strict=True)):
        upper.imshow(to_8bit(panel.image), interpolation="nearest")
        upper.set_title(textwrap.shorten(panel.label, _LABEL_LETTERS, placeholder="..."), fontsize=9, pad=3)
        if panel.psnr is not None:
            _caption(upper, f"{panel.psnr:.2f} dB")
        if number:
            lower.imshow(to_8bit(gain * (rainy - panel.image)), interpolation="nearest")
        else:
            _key(lower, gain)
        if number % columns == 0:
            upper.set_ylabel("Image", fontsize=8.5)
            if number:
                lower.set_ylabel("Rain layer", fontsize=8.5)
    return figure


def _columns(count: int) -> int:
    return math.ceil(count / math.ceil(count / _MOST_COLUMNS))


def _grid(count: int, shape: tuple[int, ...]) -> tuple[Figure, list[tuple[Axes, Axes]]]:
    """Pairs of panels, one above the other, in bands; each pixel of the image a whole number of pixels wide."""
    rows, columns = shape[:2]
    tall = _PANEL_INCH * rows / columns
    across = _columns(count)
    bands = math.ceil(count / across)
    band = 2 * tall + _GAP_INCH + _NAME_INCH
    width = _LEFT_INCH + across * (_PANEL_INCH + _GAP_INCH) - _GAP_INCH + _EDGE_INCH
    height = _TOP_INCH + bands * band + _EDGE_INCH
    figure = Figure(figsize=(width, height), dpi=max(1, round(_PANEL_PIXELS / columns)) * columns / _PANEL_INCH)
    FigureCanvasAgg(figure)

    def panel(number: int, row: int) -> Axes:
        left = _LEFT_INCH + number % across * (_PANEL_INCH + _GAP_INCH)
        bottom = _EDGE_INCH + (bands - 1 - number // across) * band + (1 - row) * (tall + _GAP_INCH)
        axes = figure.add_axes((left / width, bottom / height, _PANEL_INCH / width, tall / height))
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)
        return axes

    return figure, [(panel(number, 0), panel(number, 1)) for number in range(count)]


def _caption(axes: Axes, text: str) -> None:
    box = {"facecolor": "black", "alpha": 0.65, "edgecolor": "none", "pad": 2}
    axes.text(0.98, 0.03, text, transform=axes.transAxes, fontsize=8.5, color="white", ha="right", bbox=box)


def _key(axes: Axes, gain: float) -> None:
    """What the lower row shows, in the empty panel below the input."""
    text = f"Rain layer:\ninput minus image,\n{gain:.1f} times as bright"
    axes.text(0.5, 0.5, text, transform=axes.transAxes, fontsize=9, ha="center", va="center")
