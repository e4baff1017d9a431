"""A crop is one window of all planes, turned and mirrored alike."""

import numpy as np
import pytest

from mar_pipeline.data.crops import random_crop
from mar_pipeline.data.sample import KEYS, generator, to_sample
from simulation.errors import UsageError

ROWS, COLUMNS = 12, 10


def planes(rows=ROWS, columns=COLUMNS):
    """Four planes whose pixels tell where they were: plane k has k * 1000 more."""
    places = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    return np.stack([places + 1000 * plane for plane in range(4)])


def test_planes_stay_together():
    for seed in range(40):
        crop = random_crop(planes(), 5, generator(seed), flips=True, rotations=True)
        assert crop.shape == (4, 5, 5)
        for plane in range(4):
            np.testing.assert_array_equal(crop[plane], crop[0] + 1000 * plane)


def test_every_place_comes_up_and_no_pixel_is_out_of_place():
    corners = set()
    for seed in range(400):
        crop = random_crop(planes(), 8, generator(seed))[0]
        corners.add(float(crop[0, 0]))
        np.testing.assert_array_equal(crop - crop[0, 0], planes()[0, :8, :8])
    assert len(corners) == (ROWS - 8 + 1) * (COLUMNS - 8 + 1)


@pytest.mark.parametrize(
    ("flips", "rotations", "count"), [(False, False, 1), (True, False, 4), (False, True, 4), (True, True, 8)]
)
def test_the_symmetries_that_come_up(flips, rotations, count):
    square = planes(6, 6)
    seen = {random_crop(square, 0, generator(seed), flips, rotations).tobytes() for seed in range(100)}
    assert len(seen) == count


def test_the_same_generator_gives_the_same_crop():
    first, second, other = (random_crop(planes(), 5, generator(*key), True, True) for key in ((1, 2), (1, 2), (1, 3)))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_zero_is_the_whole_image():
    np.testing.assert_array_equal(random_crop(planes(), 0, generator(0)), planes())


def test_a_patch_larger_than_the_image_is_refused():
    with pytest.raises(UsageError, match="11 pixels are more than the images' 12 x 10; choose up to 10"):
        random_crop(planes(), 11, generator(0))


def test_whole_images_that_are_not_square_cannot_turn():
    with pytest.raises(UsageError, match="12 x 10 pixels cannot be turned"):
        random_crop(planes(), 0, generator(0), rotations=True)


def test_a_sample_is_a_copy_under_four_names():
    stored = planes()
    stored.flags.writeable = False
    sample = to_sample(stored[:, ::-1])
    assert tuple(sample) == KEYS
    for place, key in enumerate(KEYS):
        assert sample[key].shape == (1, ROWS, COLUMNS)
        np.testing.assert_array_equal(sample[key][0].numpy(), planes()[place, ::-1])
    sample[KEYS[0]] += 1
    np.testing.assert_array_equal(stored, planes())
