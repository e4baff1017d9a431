"""Laws of the pictures of classifiers."""

import statistics

import numpy as np
import pytest

from mar_pipeline.tasks.classification.figure import accuracy_figure, answers_figure
from simulation.errors import InputError

CURVES = {"base": {0.0: [0.9, 0.8], 90.0: [0.2, 0.3]}, "strict C4": {0.0: [0.9], 90.0: [0.9]}}


def test_one_line_for_each_arm_at_the_mean_over_its_seeds() -> None:
    (axes,) = accuracy_figure(CURVES, "digits").axes
    lines = {line.get_label(): line.get_xydata() for line in axes.lines}
    np.testing.assert_allclose(lines["base"], [[0, 85], [90, 25], [360, 85]])
    np.testing.assert_allclose(lines["strict C4"], [[0, 90], [90, 90], [360, 90]])


def test_the_shade_is_one_sample_standard_deviation_to_both_sides() -> None:
    values = [0.4, 0.5, 0.6]
    (axes,) = accuracy_figure({"base": {0.0: values, 180.0: values}, "one seed": {0.0: [0.9]}}, "digits").axes
    (shade,) = axes.collections
    heights, spread = shade.get_paths()[0].vertices[:, 1], 100 * statistics.stdev(values)
    assert (heights.min(), heights.max()) == pytest.approx((50 - spread, 50 + spread))


def test_the_head_counts_the_seeds() -> None:
    assert accuracy_figure(CURVES, "digits").axes[0].get_title() == "digits; mean and SD over 1 to 2 seeds"
    assert accuracy_figure({"one": {0.0: [0.9]}}, "digits").axes[0].get_title() == "digits"


@pytest.mark.parametrize("curves", [{}, {"base": {}}, {"base": {0.0: []}}])
def test_nothing_to_draw_is_refused(curves: dict[str, dict[float, list[float]]]) -> None:
    with pytest.raises(InputError, match="expected an accuracy at each angle"):
        accuracy_figure(curves, "digits")


def test_answers_stand_above_their_images_and_wrong_ones_name_the_class() -> None:
    images = np.linspace(0, 1, 8)[:, None, None] * np.ones((8, 3, 3))
    labels = np.arange(8)
    answers = labels.copy()
    answers[5] = 2
    figure = answers_figure(images, labels, answers, rows=4)
    titles = {panel.get_title(): panel.images[0].get_array()[0, 0] for panel in figure.axes}
    assert list(titles) == ["0", "4", "1", "2 (5)", "2", "6", "3", "7"]
    assert titles["2 (5)"] == pytest.approx(5 / 7)


def test_what_fills_no_column_is_left_out() -> None:
    figure = answers_figure(np.zeros((9, 2, 2)), np.zeros(9, int), np.zeros(9, int), rows=4)
    assert len(figure.axes) == 8
