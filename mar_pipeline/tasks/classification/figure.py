"""Pictures of classifiers: accuracy against the angle that the images are turned by, and a sheet of answers."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from simulation.errors import InputError

_FULL_TURN_DEG = 360.0
_COLOURS = ("#4d4d4d", "#b07aa1", "#e08214", "#1f78b4", "#1b7837", "#c51b7d", "#8c6d31", "#17becf")
_MARKERS = "osD^vPX*"
_LINES = ("-", "--", "-.", ":", "-", "--", "-.", ":")
_RIGHT, _WRONG = "#1b7837", "#c51b1b"
_MOST_COLUMNS = 10


def accuracy_figure(curves: Mapping[str, Mapping[float, Sequence[float]]], title: str) -> Figure:
    """Draw accuracy against the angle of the images: the mean over the seeds, and +- 1 sample SD shaded.

    Args:
        curves: label -> angle in degrees, counter-clockwise -> one accuracy per seed, 0 to 1.
        title: head of the figure.

    Returns:
        A figure with its own canvas: ``figure.savefig(path)``.

    Raises:
        InputError: no curve, or one without a value.
    """
    if not curves or not all(curve and all(curve.values()) for curve in curves.values()):
        raise InputError("figure: got a curve without a value, or none; expected an accuracy at each angle")
    figure = Figure(figsize=(7.2, 3.7), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    seeds = set()
    for (label, curve), colour, marker, line in zip(
        curves.items(), cycle(_COLOURS), cycle(_MARKERS), cycle(_LINES), strict=False
    ):
        angles = sorted(curve)
        values = [[100 * value for value in curve[angle]] for angle in angles]
        seeds |= {len(own) for own in values}
        if angles[0] == 0:  # a whole turn is none
            angles, values = [*angles, _FULL_TURN_DEG], [*values, values[0]]
        mean = np.array([np.mean(own) for own in values])
        if min(len(own) for own in values) > 1:  # of one seed there is no deviation
            spread = np.array([np.std(own, ddof=1) for own in values])
            axes.fill_between(angles, mean - spread, mean + spread, color=colour, alpha=0.18, linewidth=0)
        axes.plot(angles, mean, label=label, color=colour, linestyle=line, marker=marker, markersize=4, linewidth=1.3)
    axes.set(
        xlabel="Rotation of the image (degrees)", ylabel="Accuracy (%)", xlim=(-6, _FULL_TURN_DEG + 6), ylim=(0, 102)
    )
    axes.set_xticks(np.arange(0, _FULL_TURN_DEG + 1, 30))
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(_head(title, seeds), fontsize=9.5)
    figure.legend(loc="outside right center", fontsize=8, frameon=False, handlelength=3)
    return figure


def answers_figure(images: np.ndarray, labels: np.ndarray, answers: np.ndarray, rows: int) -> Figure:
    """Return a sheet of images, each with the answer above it; where that is wrong, the right class beside it.

    Args:
        images: Float["count side side"], 1 is ink; consecutive ones stand below each other.
        labels: Int["count"], the right classes.
        answers: Int["count"].
        rows: of the sheet; what does not fill a column, or the tenth column, is left out.
    """
    rows = min(rows, len(images))
    columns = min(len(images) // rows, _MOST_COLUMNS)
    figure = Figure(figsize=(0.75 * columns, 0.92 * rows + 0.35), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle("Validation: answer (true class)", fontsize=8)
    panels = figure.subplots(rows, columns, squeeze=False)
    for panel, image, label, answer in zip(panels.T.flat, images, labels, answers, strict=False):
        panel.imshow(image, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        right = label == answer
        panel.set_title(
            f"{answer}" if right else f"{answer} ({label})", fontsize=8, pad=2, color=_RIGHT if right else _WRONG
        )
        panel.set(xticks=[], yticks=[])
    return figure


def _head(title: str, seeds: set[int]) -> str:
    if seeds == {1}:
        return title
    count = f"{min(seeds)}" if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)}"
    return f"{title}; mean and SD over {count} seeds"
