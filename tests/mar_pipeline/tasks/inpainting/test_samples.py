"""Which images are trained and tested on, how they are measured, and that a key decides every byte."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from mar_pipeline.tasks.images.embedded import TEST_IMAGES, TRAIN_IMAGES
from mar_pipeline.tasks.images.loading import training_loaders
from mar_pipeline.tasks.inpainting.samples import (
    TrainingImages,
    images_to_test,
    to_square,
    training_images,
    validation_images,
)
from mar_pipeline.tasks.inpainting.settings import InpaintingData, InpaintingSet
from simulation.errors import InputError, UsageError

SIZE = 32


@pytest.fixture
def folder(tmp_path):
    """Twenty images whose brightness is their number."""
    for number in range(20):
        pixels = np.full((40, 50 + number, 3), 10 * number + 20, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"img_{number}.png")
    return tmp_path


def settings(folder, **others):
    return InpaintingData(source=str(folder), image_size=SIZE, **others)


def training(data, seed=0):
    return TrainingImages(training_images(data)[0], data, seed)


def equal(one, other):
    return {name: torch.equal(one[name], other[name]) for name in ("image", "target", "mask")}


def test_the_last_tenth_in_natural_order_is_tested_on(folder):
    train, held_out = training_images(settings(folder, val_images=3))
    test = images_to_test(settings(folder))
    assert train.names == tuple(f"img_{number}" for number in range(15))
    assert held_out.names == ("img_15", "img_16", "img_17")
    assert test.names == ("img_18", "img_19")
    assert float(test[0, 0, 1]["target"][0, 0, 0]) == pytest.approx((10 * 19 + 20) / 255)


def test_images_of_one_name_are_told_apart(tmp_path):
    for name in ("x.png", "x.jpg", "y.png", "z.png"):
        Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / name)
    train, held_out = training_images(settings(tmp_path, val_images=1))
    assert (train.names, held_out.names) == (("x", "x_2"), ("y",))


def test_embedded_images_are_split_as_listed():
    data = InpaintingData(image_size=SIZE, val_images=2)
    train, held_out = training_images(data)
    assert train.names + held_out.names == TRAIN_IMAGES
    assert len(held_out.names) == 2
    assert images_to_test(InpaintingSet(image_size=SIZE)).names == TEST_IMAGES


def test_a_square_is_the_centre():
    image = np.zeros((6, 10, 3), np.uint8)
    image[:, 2:8] = 255
    np.testing.assert_array_equal(to_square(image, 512, 6), np.ones((3, 6, 6)))
    np.testing.assert_array_equal(to_square(image, 4, 4), np.ones((3, 4, 4)))
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    np.testing.assert_array_equal(to_square(image, 8, 8), image.transpose(2, 0, 1) / np.float32(255))


def test_one_mask_for_all_or_one_for_each(folder):
    for kind in ("fixed", "random"):
        data = settings(folder, mask=kind)
        train, held_out = training_images(data)
        masks = [TrainingImages(train, dataclasses.replace(data, noise="fixed"), 0)[0, 0, i]["mask"] for i in (0, 1)]
        masks += [own[0, 0, 0]["mask"] for own in (validation_images(held_out, data), images_to_test(data))]
        pairs = [(a, b) for number, a in enumerate(masks) for b in masks[:number]]
        assert all(torch.equal(a, b) == (kind == "fixed") for a, b in pairs)


def test_measurements_of_train_validation_and_test_are_independent(tmp_path):
    for number in range(20):
        Image.fromarray(np.full((SIZE, SIZE, 3), 99, np.uint8)).save(tmp_path / f"{number}.png")
    data = settings(tmp_path, noise="fixed")
    train, held_out = training_images(data)
    sets = (TrainingImages(train, data, 0), validation_images(held_out, data), images_to_test(data))
    seen = [own[0, 0, index]["image"] for own in sets for index in range(len(own))]
    assert len(seen) == 20
    assert len({tuple(own.flatten().tolist()) for own in seen}) == 20


@pytest.mark.parametrize("loss", ["supervised", "sure", "robust_equivariant_imaging"])
@pytest.mark.parametrize("noise", ["auto", "fresh", "fixed"])
@pytest.mark.parametrize("mask", ["fixed", "random"])
def test_an_image_is_measured_once_or_whenever_it_is_shown(folder, loss, noise, mask):
    own = training(settings(folder, loss=loss, noise=noise, mask=mask))
    fresh = noise == "fresh" or (noise == "auto" and loss == "supervised")
    assert equal(own[0, 0, 3], own[1, 0, 3]) == {
        "image": not fresh,
        "target": True,
        "mask": not fresh or mask == "fixed",
    }
    assert equal(own[1, 2, 3], own[1, 2, 3]) == {"image": True, "target": True, "mask": True}


@pytest.mark.parametrize("noise", ["fresh", "fixed"])
def test_measurement_truth_and_mask_are_cropped_and_turned_together(noise):
    data = InpaintingData(gamma=1e-7, image_size=64, patch=24, flips=True, rotations=True, noise=noise)
    own = training(data)
    seen = [own[epoch, number, number] for epoch in range(4) for number in range(3)]
    for sample in seen:
        assert [tuple(sample[name].shape) for name in ("image", "target", "mask")] == [(3, 24, 24)] * 2 + [(1, 24, 24)]
        torch.testing.assert_close(sample["image"], sample["mask"] * sample["target"], atol=2e-3, rtol=0)
    assert len({tuple(sample["mask"].flatten().tolist()) for sample in seen}) == len(seen)


def test_seeds_of_training_and_measurement_decide_their_own(folder):
    data = settings(folder, noise="fixed")
    assert equal(training(data, 0)[0, 0, 0], training(data, 1)[0, 0, 0])["image"]
    other = dataclasses.replace(data, measurement_seed=1)
    assert equal(training(data)[0, 0, 0], training(other)[0, 0, 0]) == {"image": False, "target": True, "mask": False}
    fresh = settings(folder)
    assert equal(training(fresh, 0)[0, 0, 0], training(fresh, 1)[0, 0, 0]) == {
        "image": False,
        "target": True,
        "mask": True,
    }


def test_batches_do_not_depend_on_the_number_of_workers(folder):
    data = settings(folder, patch=16, flips=True, rotations=True)
    train, held_out = training_images(data)
    batches = []
    for workers in (0, 2):
        loaders = training_loaders(
            TrainingImages(train, data, 7), validation_images(held_out, data), 7, 4, None, workers
        )
        loaders.train.set_epoch(3)
        batches.append(list(loaders.train))
    assert len(batches[0]) == 5
    for one, other in zip(*batches, strict=True):
        assert all(equal(one, other).values())


def test_refuses_sources_that_cannot_be_split(folder, tmp_path_factory):
    with pytest.raises(UsageError, match="val_images: got 18"):
        training_images(settings(folder, val_images=18))
    alone = tmp_path_factory.mktemp("alone")
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(alone / "a.png")
    with pytest.raises(InputError, match="got 1 image"):
        training_images(settings(alone))
