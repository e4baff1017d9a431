"""A crop is one window of all images, turned and mirrored alike; whole images take their sinograms along."""

import numpy as np
import pytest
from scipy import ndimage
from small_scanner import SMALL

from mar_pipeline.data.crops import mirrored, random_crop, turned
from mar_pipeline.sample import IMAGES_ONLY, KEYS, SINOGRAMS, Layout, PairArrays, generator, to_sample
from simulation.errors import UsageError
from simulation.physics.projector import Projector

ROWS, COLUMNS = 12, 10


def planes(rows=ROWS, columns=COLUMNS):
    """Four planes whose pixels tell where they were: plane k has k * 1000 more."""
    places = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    return np.stack([places + 1000 * plane for plane in range(4)])


def pair(rows=ROWS, columns=COLUMNS):
    """These planes, and no sinogram."""
    return PairArrays(planes(rows, columns), np.empty((0, 8, 5), np.float32))


def cropped(*arguments, **options):
    """The images of a crop."""
    return random_crop(*arguments, **options).images


def test_planes_stay_together():
    for seed in range(40):
        crop = cropped(pair(), 5, generator(seed), flips=True, rotations=True)
        assert crop.shape == (4, 5, 5)
        for plane in range(4):
            np.testing.assert_array_equal(crop[plane], crop[0] + 1000 * plane)


def test_every_place_comes_up_and_no_pixel_is_out_of_place():
    corners = set()
    for seed in range(400):
        crop = cropped(pair(), 8, generator(seed))[0]
        corners.add(float(crop[0, 0]))
        np.testing.assert_array_equal(crop - crop[0, 0], planes()[0, :8, :8])
    assert len(corners) == (ROWS - 8 + 1) * (COLUMNS - 8 + 1)


@pytest.mark.parametrize(
    ("flips", "rotations", "count"), [(False, False, 1), (True, False, 4), (False, True, 4), (True, True, 8)]
)
def test_the_symmetries_that_come_up(flips, rotations, count):
    square = pair(6, 6)
    seen = {cropped(square, 0, generator(seed), flips, rotations).tobytes() for seed in range(100)}
    assert len(seen) == count


def test_the_same_generator_gives_the_same_crop():
    first, second, other = (cropped(pair(), 5, generator(*key), True, True) for key in ((1, 2), (1, 2), (1, 3)))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_zero_is_the_whole_image():
    np.testing.assert_array_equal(cropped(pair(), 0, generator(0)), planes())


def test_a_patch_larger_than_the_image_is_refused():
    with pytest.raises(UsageError, match="11 pixels are more than the images' 12 x 10; choose up to 10"):
        random_crop(pair(), 11, generator(0))


def test_whole_images_that_are_not_square_cannot_turn():
    with pytest.raises(UsageError, match="12 x 10 pixels cannot be turned"):
        random_crop(pair(), 0, generator(0), rotations=True)


def test_a_sample_is_a_copy_under_four_names():
    stored = planes()
    stored.flags.writeable = False
    sample = to_sample(PairArrays(stored[:, ::-1], pair().sinograms), IMAGES_ONLY)
    assert tuple(sample) == KEYS
    for place, key in enumerate(KEYS):
        assert sample[key].shape == (1, ROWS, COLUMNS)
        np.testing.assert_array_equal(sample[key][0].numpy(), planes()[place, ::-1])
    sample[KEYS[0]] += 1
    np.testing.assert_array_equal(stored, planes())


def test_sinograms_stand_beside_the_images_under_their_names():
    layout = Layout.of(["metal_trace", "prior", "ma_sinogram"])
    assert layout == (("image", "li", "target", "metal_mask", "prior"), ("ma_sinogram", "metal_trace"))
    arrays = PairArrays(np.zeros((5, 4, 4)), np.stack([np.full((8, 3), value) for value in (1.0, 2.0)]))
    sample = to_sample(arrays, layout)
    assert tuple(sample) == (*layout.images, *layout.sinograms)
    assert sample["prior"].shape == (1, 4, 4)
    for name, value in (("ma_sinogram", 1), ("metal_trace", 2)):
        assert sample[name].shape == (1, 8, 3) and name in SINOGRAMS
        assert (sample[name] == value).all()


@pytest.fixture(scope="module")
def projector():
    return Projector(SMALL, "cpu", threads=1)


@pytest.fixture(scope="module")
def scene(projector):
    """An image without any symmetry, and its sinogram."""
    image = ndimage.gaussian_filter(np.random.default_rng(0).random(SMALL.image_shape), 2).astype(np.float32)
    return image, projector.forward(image)


def off(sinogram, expected):
    return np.linalg.norm(sinogram - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize(("up_down", "left_right"), [(True, False), (False, True), (True, True)])
def test_mirrored_sinograms_are_those_of_the_mirrored_image(projector, scene, up_down, left_right):
    image, sinogram = scene
    expected = projector.forward(image[:: -1 if up_down else 1, :: -1 if left_right else 1])
    assert off(mirrored(sinogram, up_down, left_right), expected) < 1e-5
    assert off(sinogram, expected) > 0.01
    assert off(mirrored(sinogram, left_right, up_down), expected) > 0.01 or up_down == left_right


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_turned_sinograms_are_those_of_the_turned_image(projector, scene, quarters):
    image, sinogram = scene
    expected = projector.forward(np.rot90(image, quarters))
    assert off(turned(sinogram, quarters), expected) < 1e-5
    assert off(turned(sinogram, quarters + 1), expected) > 0.01


def test_sinograms_go_along_with_whole_images(projector, scene):
    """All eight symmetries."""
    image, sinogram = scene
    whole = PairArrays(image[None], np.stack([sinogram, sinogram > 1]).astype(np.float32))
    seen = set()
    for seed in range(30):
        images, sinograms = random_crop(whole, 0, generator(seed), flips=True, rotations=True)
        assert off(sinograms[0], projector.forward(images[0])) < 1e-5
        np.testing.assert_array_equal(sinograms[1], sinograms[0] > 1)
        seen.add(images.tobytes())
    assert len(seen) == 8


def test_turns_that_are_no_whole_number_of_views_are_refused():
    sinograms = np.zeros((1, 6, 3))
    assert turned(sinograms, 2).shape == sinograms.shape
    with pytest.raises(UsageError, match=r"90 degrees are no whole number of 6 views; set --data\.rotations false"):
        turned(sinograms, 1)
    with pytest.raises(UsageError, match="180 degrees are no whole number of 7 views"):
        mirrored(np.zeros((1, 7, 3)), up_down=False, left_right=True)
