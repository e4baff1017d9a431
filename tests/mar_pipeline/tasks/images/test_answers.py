"""What counts as an answer."""

import pytest
import torch

from mar_pipeline.tasks.images.answers import IMAGES, checked_answer
from simulation.errors import UsageError


def test_the_right_shape_goes_through_as_it_is():
    image = torch.rand(2, 3, 4, 5)
    assert checked_answer(image, IMAGES) is image
    assert checked_answer(image, image.shape) is image


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        (torch.zeros(2, 1, 4, 5), r"\[2, 1, 4, 5\]"),
        (torch.zeros(3, 4, 5), r"\[3, 4, 5\]"),
        (torch.zeros(2, 3, 4), r"\[2, 3, 4\]"),
        ((torch.zeros(2, 3, 4, 5),), "tuple"),
        (None, "NoneType"),
    ],
)
def test_others_are_named(answer, got):
    with pytest.raises(UsageError, match=rf"^network: answers {got}, expected \[batch, 3, height, width\]; give it"):
        checked_answer(answer, IMAGES)
