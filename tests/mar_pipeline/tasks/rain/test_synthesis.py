"""Synthetic rain: its strength, its direction, its distribution."""

import numpy as np
import pytest
from skimage.measure import label, regionprops

from mar_pipeline.tasks.images.embedded import TEST_IMAGES, TRAIN_IMAGES, embedded_image
from mar_pipeline.tasks.rain.luminance import score
from mar_pipeline.tasks.rain.samples import samples_to_test
from mar_pipeline.tasks.rain.settings import RainSet
from mar_pipeline.tasks.rain.synthesis import RAINS, Rain, rain_layer, streak, with_rain


@pytest.mark.parametrize(("kind", "decibel"), [("light", 26.6), ("heavy", 13.0)])
def test_rain_is_as_strong_as_it_is_said_to_be(kind, decibel):
    """Mean Y-PSNR over all embedded images under many rains."""
    crops = [embedded_image(name)[:160, :160] for name in (*TRAIN_IMAGES, *TEST_IMAGES)]
    found = [
        score(with_rain(crop, RAINS[kind], np.random.default_rng([number, turn])), crop)["psnr"]
        for number, crop in enumerate(crops)
        for turn in range(4)
    ]
    assert np.mean(found) == pytest.approx(decibel, abs=0.9)


def test_the_test_set_is_as_strong_too():
    for kind, decibel in (("light", 26.6), ("heavy", 13.0)):
        samples = samples_to_test(RainSet(kind))
        pairs = [samples[0, index, index] for index in range(len(samples))]
        found = [score(*(pair[key].permute(1, 2, 0).numpy() for key in ("image", "target")))["psnr"] for pair in pairs]
        assert np.mean(found) == pytest.approx(decibel, abs=1.5)


@pytest.mark.parametrize("angle_deg", [-35, -10, 0, 20])
def test_streaks_have_their_length_width_and_direction(angle_deg):
    kernel = streak(30, angle_deg, 0.8)
    middle = len(kernel) // 2
    assert kernel.max() == kernel[middle, middle] == 1
    (region,) = regionprops(label(kernel > 0.5))
    assert np.degrees(region.orientation) == pytest.approx(-angle_deg, abs=2)  # counter-clockwise from the vertical
    line = region.axis_major_length * np.sqrt(12) / 4  # of a thin line with the region's moments
    assert line == pytest.approx(0.75 * 30, rel=0.1)  # it has half its brightness 3/4 of the length apart
    assert kernel[:, 0].max() < 0.02
    assert kernel.sum() == pytest.approx(0.75 * 30 * 0.8 * np.sqrt(2 * np.pi), rel=0.02)
    right = np.argwhere(kernel[:middle] > 0.1)[:, 1].mean() - middle
    assert np.sign(round(right, 6)) == np.sign(angle_deg)


def test_seeds_lie_as_densely_inside_as_at_the_border():
    """Streaks reach in from beyond the border, or the edges would be dry."""
    rain = Rain((0.02, 0.02), (30, 30), 5, (1.0, 1.0), (0.3, 0.3), layers=1)
    light = np.mean([rain_layer((60, 60), rain, np.random.default_rng(seed)) for seed in range(150)], axis=0)
    expected = 0.02 * 0.75 * 0.3 * streak(30, 0, 1.0).sum()
    assert light.mean() == pytest.approx(expected, rel=0.03)
    edges = np.concatenate([light[:3].ravel(), light[-3:].ravel(), light[:, :3].ravel(), light[:, -3:].ravel()])
    assert edges.mean() == pytest.approx(expected, rel=0.08)


def test_rain_is_colourless_only_brightens_and_is_clipped():
    clean = np.full((64, 64, 3), 100, np.uint8)
    light = with_rain(clean, RAINS["heavy"], np.random.default_rng(0)).astype(int) - clean
    assert light.min() == 0 and light.max() == 155
    assert np.array_equal(light[..., 0], light[..., 2])
    white = np.full((64, 64, 3), 255, np.uint8)
    assert np.array_equal(with_rain(white, RAINS["heavy"], np.random.default_rng(0)), white)


def test_no_two_crops_have_the_same_rain():
    first, again, other = (rain_layer((32, 32), RAINS["light"], np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
