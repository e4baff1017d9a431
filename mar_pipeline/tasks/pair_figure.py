"""Pictures of one case: what each method gives, and how far it is from the truth."""

import math
import textwrap
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from simulation.errors import InputError
from simulation.implants.anatomy import find_body
from simulation.units import mu_to_hu

SOFT_TISSUE_WINDOW_HU = (-175.0, 275.0)
"""The window in which the public MAR papers show their images."""

_METAL_COLOUR = "#e6261f"
_METAL_IN_DIFFERENCES = "#3f3f3f"
_PANEL_INCH, _GAP_INCH = 2.4, 0.06
_PANEL_PIXELS = 480
_MARGIN = 0.04
"""Air kept on each side of the body, as a share of its longer side."""
_LEFT_INCH, _TOP_INCH, _NAME_INCH, _EDGE_INCH = 0.5, 0.3, 0.25, 0.08
_MOST_COLUMNS = 5
_TITLE_LETTERS = 34
"""What fits above a panel."""


def case_figure(
    images_mu: Mapping[str, np.ndarray],
    truth_mu: np.ndarray,
    metal_mask: np.ndarray,
    captions: Mapping[str, str],
    title: str,
    window_hu: tuple[float, float] = SOFT_TISSUE_WINDOW_HU,
    difference_hu: float = 200.0,
) -> Figure:
    """Draw methods and truth at one HU window with the metal in red; below each method its difference to the truth.

    More than four methods go on below, in bands of five panels at most.

    What is shown is the square around the body; the label says so where it is not all of the image.

    Args:
        images_mu: method name -> (H, W), 1/cm, in the order of the panels.
        truth_mu: (H, W), 1/cm, the last panel.
        metal_mask: (H, W), true where metal is.
        captions: method name -> text in the corner of its image, such as its PSNR.
        title: head of the figure.
        window_hu: darkest and brightest HU of the top row.
        difference_hu: the differences are shown from minus to plus this many HU.

    Returns:
        A figure with its own canvas: ``figure.savefig(path)``.

    Raises:
        InputError: a window is empty or an image has another shape than the truth.
    """
    _check(images_mu, truth_mu, metal_mask, window_hu, difference_hu)
    box = _square_around_body(truth_mu, metal_mask)
    image_label = "Image" if truth_mu[box].shape == truth_mu.shape else "Image (cropped to the body)"
    images_mu = {name: image[box] for name, image in images_mu.items()}
    truth_mu, metal_mask = truth_mu[box], metal_mask[box]
    shown = [*images_mu.items(), ("Truth", truth_mu)]
    figure, panels = _grid(len(shown), max(truth_mu.shape))
    figure.text(0.5, 1 - 0.16 / figure.get_figheight(), title, ha="center", va="center", fontsize=9.5)
    truth_hu = mu_to_hu(truth_mu)
    limits_hu = (-difference_hu, difference_hu)
    window = f"{_number(window_hu[0])} to {_number(window_hu[1])} HU"
    for number, ((name, image_mu), (upper, lower)) in enumerate(zip(shown, panels, strict=True), start=1):
        image_hu = mu_to_hu(image_mu)
        grey = _panel(upper, image_hu, metal_mask, window_hu, "gray", _METAL_COLOUR)
        upper.set_title(textwrap.shorten(name, _TITLE_LETTERS, placeholder="..."), fontsize=9, pad=3)
        if number < len(shown):
            _caption(upper, captions.get(name, ""))
            colour = _panel(lower, image_hu - truth_hu, metal_mask, limits_hu, "RdBu_r", _METAL_IN_DIFFERENCES)
        if number % _columns(len(shown)) == 1 or number == 1:
            upper.set_ylabel(f"{image_label}\n{window}", fontsize=8.5)
            lower.set_ylabel(f"Difference to truth\n\N{PLUS-MINUS SIGN}{difference_hu:g} HU", fontsize=8.5)
    _key(panels[-1][1], grey, window_hu, colour, limits_hu)
    return figure


def _square_around_body(truth_mu: np.ndarray, metal_mask: np.ndarray) -> tuple[slice, slice]:
    """Return rows and columns of the smallest square that holds body and metal; all of an image without body."""
    try:
        body = metal_mask | find_body(truth_mu)
    except InputError:
        body = np.ones_like(metal_mask)
    rows, columns = np.flatnonzero(body.any(axis=1)), np.flatnonzero(body.any(axis=0))
    longer = max(np.ptp(rows), np.ptp(columns)) + 1
    side = min(round((1 + 2 * _MARGIN) * longer), *truth_mu.shape)

    def span(places: np.ndarray, length: int) -> slice:
        start = (places[0] + places[-1] + 1 - side) // 2
        start = min(max(start, 0), length - side)
        return slice(start, start + side)

    return span(rows, truth_mu.shape[0]), span(columns, truth_mu.shape[1])


def _columns(count: int) -> int:
    """Return how many panels go side by side: all, or as many that the rows are of one length or nearly so."""
    return math.ceil(count / math.ceil(count / _MOST_COLUMNS))


def _grid(count: int, image_pixels: int) -> tuple[Figure, list[tuple[Axes, Axes]]]:
    """Make pairs of square panels, one above the other, in bands; pixels are a whole number of pixels wide.

    Lengths are in inches, so that nothing moves or overlaps with the number of methods.
    """
    step, columns = _PANEL_INCH + _GAP_INCH, _columns(count)
    bands = math.ceil(count / columns)
    band_inch = 2 * step + _NAME_INCH
    width = _LEFT_INCH + columns * step - _GAP_INCH + _EDGE_INCH
    height = _TOP_INCH + bands * band_inch - _GAP_INCH + _EDGE_INCH
    dpi = max(1, round(_PANEL_PIXELS / image_pixels)) * image_pixels / _PANEL_INCH
    figure = Figure(figsize=(width, height), dpi=dpi)
    FigureCanvasAgg(figure)

    def panel(index: int, row: int) -> Axes:
        left = _LEFT_INCH + index % columns * step
        bottom = _EDGE_INCH + (bands - 1 - index // columns) * band_inch + (1 - row) * step
        return figure.add_axes((left / width, bottom / height, _PANEL_INCH / width, _PANEL_INCH / height))

    return figure, [(panel(index, 0), panel(index, 1)) for index in range(count)]


def _check(
    images_mu: Mapping[str, np.ndarray],
    truth_mu: np.ndarray,
    metal_mask: np.ndarray,
    window_hu: tuple[float, float],
    difference_hu: float,
) -> None:
    if not window_hu[0] < window_hu[1] or not difference_hu > 0:
        raise InputError(
            f"figure: got window {window_hu[0]:g} to {window_hu[1]:g} HU and differences of {difference_hu:g} HU; "
            "expected a rising window and a positive difference"
        )
    if not images_mu:
        raise InputError("figure: got no image; expected at least one method")
    for name, image in {**images_mu, "metal mask": metal_mask}.items():
        if image.shape != truth_mu.shape:
            raise InputError(f"figure: {name} has shape {image.shape}, the truth {truth_mu.shape}; they must agree")


def _panel(
    axes: Axes, values: np.ndarray, metal_mask: np.ndarray, limits: tuple[float, float], cmap: str, metal: str
) -> AxesImage:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_linewidth(0.4)
    shown = axes.imshow(values, cmap=cmap, vmin=limits[0], vmax=limits[1], interpolation="nearest")
    overlay = np.ma.masked_where(~metal_mask, metal_mask)
    axes.imshow(overlay, cmap=ListedColormap([metal]), interpolation="nearest")
    return shown


def _caption(axes: Axes, text: str) -> None:
    outline = [withStroke(linewidth=1.8, foreground="black")]
    axes.text(
        0.03, 0.03, text, transform=axes.transAxes, fontsize=7.5, color="white", va="bottom", path_effects=outline
    )


def _key(
    axes: Axes, grey: AxesImage, window_hu: tuple[float, float], colour: AxesImage, limits_hu: tuple[float, float]
) -> None:
    """Return colour bars and the metal's colours, in the empty panel below the truth."""
    axes.axis("off")
    bars = ((0.76, "Image (HU)", grey, window_hu, 3), (0.42, "Difference to truth (HU)", colour, limits_hu, 5))
    for bottom, label, shown, limits, count in bars:
        bar = axes.inset_axes((0.1, bottom, 0.8, 0.055))
        ticks = np.linspace(*limits, count)
        colorbar = axes.figure.colorbar(shown, cax=bar, orientation="horizontal", extend="both", ticks=ticks)
        colorbar.ax.set_xticklabels([_number(round(tick, 1)) for tick in ticks])
        colorbar.ax.tick_params(labelsize=7, length=2, width=0.5)
        colorbar.outline.set_linewidth(0.5)
        bar.set_title(label, fontsize=8, pad=4)
    handles = [
        Patch(color=_METAL_COLOUR, label="metal in images"),
        Patch(color=_METAL_IN_DIFFERENCES, label="metal in differences"),
    ]
    axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 0.06), fontsize=7.5, frameon=False)


def _number(value: float) -> str:
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")
