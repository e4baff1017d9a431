"""Pictures of inpainting: measurement, restored images and truth side by side, each with its PSNR in the corner."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from mar_pipeline.tasks.images.figure import Panel, panel_grid, show


def images_figure(panels: Sequence[Panel], title: str) -> Figure:
    """Return images of one size side by side, in bands of five at most.

    Args:
        panels: in order; 1 is white, shown clipped to 0..1.
        title: head of the figure.

    Returns:
        A figure with its own canvas: ``figure.savefig(path)``.
    """
    figure, axes = panel_grid(len(panels), panels[0].image.shape, title)
    for panel, (own,) in zip(panels, axes, strict=True):
        show(own, panel, np.clip(panel.image, 0, 1))
    return figure
