"""Where the panels of a figure stand, and what is written on them."""

from itertools import pairwise

import numpy as np
import pytest

from mar_pipeline.tasks.images.figure import Panel, columns_of, panel_grid, show

NAME_INCH = 0.2
"""Room that a panel's name takes above it."""


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("count", [1, 3, 5, 6, 11])
@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (16, 16)])
def test_columns_go_down_and_bands_go_on_below_with_room_for_names(count, rows, shape):
    figure, axes = panel_grid(count, shape, "title", rows, row_names=rows == 2)
    assert [len(column) for column in axes] == [rows] * count
    boxes = [[own.get_position() for own in column] for column in axes]
    height, across = figure.get_figheight(), columns_of(count)
    assert across <= 5
    for number, column in enumerate(boxes):
        assert all(upper.y0 > lower.y1 for upper, lower in pairwise(column))
        assert min(own.x0 for own in column) >= 0 <= column[-1].y0 and column[0].x1 <= 1
        above = boxes[number - across][-1].y0 if number >= across else 1
        assert (above - column[0].y1) * height > NAME_INCH
        assert number % across == 0 or column[0].x0 > boxes[number - 1][0].x1


@pytest.mark.parametrize("shape", [(20, 30), (100, 300), (700, 500)])
def test_each_pixel_is_a_whole_number_of_pixels(shape):
    figure, [[axes]] = panel_grid(1, shape, "title")
    box = axes.get_position()
    wide, tall = box.width * figure.get_figwidth() * figure.dpi, box.height * figure.get_figheight() * figure.dpi
    assert wide / shape[1] == pytest.approx(tall / shape[0])
    assert wide / shape[1] == pytest.approx(round(wide / shape[1]))


def test_a_panel_has_its_name_and_its_score():
    image = np.zeros((4, 4, 3))
    _, [[scored], [truth]] = panel_grid(2, image.shape, "title")
    show(scored, Panel("network", image, 31.256), image)
    show(truth, Panel("Truth", image), image)
    assert [own.get_title() for own in (scored, truth)] == ["network", "Truth"]
    assert [[text.get_text() for text in own.texts] for own in (scored, truth)] == [["31.26 dB"], []]
