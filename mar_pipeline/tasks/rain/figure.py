"""Pictures of rain removal: what each method leaves of the image, and the rain that it took out."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mar_pipeline.tasks.images.figure import Panel, columns_of, panel_grid, show
from mar_pipeline.tasks.rain.luminance import to_8bit

_BRIGHTEST_SHARE = 99.5
"""Percentile of the true rain, where there is any, that is shown white."""


def rain_layers_figure(panels: Sequence[Panel], title: str) -> Figure:
    """Return images above and below each its rain layer, the first image minus it, all layers at one brightness.

    More than five columns go on below. Where an answer is brighter than the input, its layer is black.

    Args:
        panels: the rainy image first, the truth last; all of one size, grey levels 0..255.
        title: head of the figure.

    Returns:
        A figure with its own canvas: ``figure.savefig(path)``.
    """
    rainy, truth = panels[0].image, panels[-1].image
    light = np.maximum(rainy - truth, 0)
    gain = 255 / np.percentile(light[light > 0], _BRIGHTEST_SHARE) if (light > 0).any() else 1.0
    figure, axes = panel_grid(len(panels), rainy.shape, title, rows=2, row_names=True)
    columns = columns_of(len(panels))
    for number, (panel, (upper, lower)) in enumerate(zip(panels, axes, strict=True)):
        show(upper, panel, to_8bit(panel.image))
        if number:
            lower.imshow(to_8bit(gain * (rainy - panel.image)), interpolation="nearest")
        else:
            _key(lower, gain)
        if number % columns == 0:
            upper.set_ylabel("Image", fontsize=8.5)
            if number:
                lower.set_ylabel("Rain layer", fontsize=8.5)
    return figure


def _key(axes: Axes, gain: float) -> None:
    """Return what the lower row shows, in the empty panel below the input."""
    text = f"Rain layer:\ninput minus image,\n{gain:.1f} times as bright"
    axes.text(0.5, 0.5, text, transform=axes.transAxes, fontsize=9, ha="center", va="center")
