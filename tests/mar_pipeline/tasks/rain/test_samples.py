"""Crops and whole images: the same bytes for the same key, new rain for another."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from mar_pipeline.tasks.images.embedded import TEST_IMAGES, TRAIN_IMAGES, embedded_image
from mar_pipeline.tasks.images.loading import training_loaders
from mar_pipeline.tasks.rain.samples import samples_to_test, training_samples
from mar_pipeline.tasks.rain.settings import RainData, RainSet
from simulation.errors import UsageError

DATA = RainData(patch=32, batch_size=4, batches_per_epoch=3)


def rain_of(sample):
    return sample["image"] - sample["target"]


def test_a_key_decides_a_crop_and_its_rain():
    """Where streaks lie, whatever the image below them."""
    data = dataclasses.replace(DATA, flips=False)
    crops, _ = training_samples(data, 3)
    first = crops[2, 5, 1]
    again = training_samples(data, 3)[0][2, 5, 1]
    assert all(torch.equal(first[name], again[name]) for name in first)
    for other in (crops[3, 5, 1], crops[2, 6, 1], training_samples(data, 4)[0][2, 5, 1]):
        assert not torch.equal(first["target"], other["target"])
        assert ((rain_of(first) > 5) != (rain_of(other) > 5)).float().mean() > 0.02


def test_crops_are_parts_of_the_image_with_rain_added():
    crops, _ = training_samples(dataclasses.replace(DATA, flips=False), 0)
    for number in range(5):
        sample = crops[0, number, 0]
        assert sample["image"].dtype == torch.float32
        assert rain_of(sample).min() == 0
        windows = np.lib.stride_tricks.sliding_window_view(embedded_image("astronaut")[..., 0], (32, 32))
        assert (windows == sample["target"][0].numpy()).all((-2, -1)).any()
    assert max(rain_of(crops[0, number, 0]).max() for number in range(5)) > 30


def test_flips_are_left_right_and_rotations_turn_the_rain_too():
    plain, flipped, turned = (
        training_samples(dataclasses.replace(DATA, flips=flips, rotations=rotations), 0)[0]
        for flips, rotations in ((False, False), (True, False), (False, True))
    )
    seen = set()
    for number in range(24):
        sample, mirrored, rotated = (crops[0, number, 0] for crops in (plain, flipped, turned))
        for name in sample:
            assert torch.equal(sample[name], mirrored[name]) or torch.equal(sample[name].flip(-1), mirrored[name])
        quarters = [n for n in range(4) if torch.equal(torch.rot90(sample["image"], n, (1, 2)), rotated["image"])]
        assert torch.equal(torch.rot90(sample["target"], quarters[0], (1, 2)), rotated["target"])
        seen |= set(quarters)
    assert seen == {0, 1, 2, 3}


def test_batches_do_not_depend_on_the_workers():
    def epoch(workers):
        loader = training_loaders(*training_samples(DATA, 0), 0, 4, 3, workers=workers).train
        loader.set_epoch(1)
        return list(loader)

    for own, other in zip(epoch(0), epoch(2), strict=True):
        assert all(torch.equal(own[name], other[name]) for name in own)


def test_validation_is_held_out_and_its_rain_knows_no_seed():
    crops, validation = training_samples(DATA, 0)
    assert validation.names == ["rocket", "page"]
    assert len(crops) == len(TRAIN_IMAGES) - 2 and crops.facts() == {"images": 7}
    other = training_samples(DATA, 1)[1]
    assert torch.equal(validation[0, 0, 1]["image"], other[7, 3, 1]["image"])
    assert np.array_equal(validation[0, 0, 0]["target"].permute(1, 2, 0).numpy(), embedded_image("rocket"))


def test_the_test_set_is_fixed_and_its_images_have_rains_of_their_own():
    samples = samples_to_test(RainSet())
    assert tuple(samples.names) == TEST_IMAGES and len(samples) == 5
    assert torch.equal(samples[0, 0, 0]["image"], samples_to_test(RainSet())[1, 4, 0]["image"])
    moon, gravel = (rain_of(samples[0, index, index]) for index in (2, 4))
    assert moon.shape == gravel.shape and not torch.equal(moon, gravel)
    heavy = samples_to_test(RainSet("heavy"))
    assert rain_of(heavy[0, 2, 2]).mean() > 4 * moon.mean()


def test_pairs_on_disk_are_cropped_together(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(3):
        clean = rng.integers(0, 200, (40, 50, 3), dtype=np.uint8)
        for folder, image in (("norain", clean), ("rain", clean + 10)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(image).save(tmp_path / folder / f"{number}.png")
    crops, validation = training_samples(RainData(str(tmp_path), val_images=1, patch=16, rotations=True), 0)
    for number in range(6):
        assert torch.equal(rain_of(crops[0, number, 0]), torch.full((3, 16, 16), 10.0))
    assert rain_of(validation[0, 0, 0]).shape == (3, 40, 50)
    assert (len(crops), len(validation)) == (1, 1)


def test_samples_of_one_name_are_told_apart(tmp_path):
    for number in (1, 2):
        for folder in ("rain", "clean"):
            (tmp_path / folder / f"{number}").mkdir(parents=True)
            Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / folder / f"{number}" / "a.png")
    line = "rain/{0}/a.png clean/{0}/a.png"
    (tmp_path / "test.txt").write_text("\n".join(line.format(number) for number in (1, 2)))
    (tmp_path / "train.txt").write_text(line.format(1))
    assert samples_to_test(RainSet(str(tmp_path))).names == ["a", "a_2"]


def test_patches_larger_than_an_image_are_refused():
    crops, _ = training_samples(dataclasses.replace(DATA, patch=1000), 0)
    with pytest.raises(UsageError, match=r"--data\.patch: 1000 pixels are more than the images'"):
        crops[0, 0, 0]
