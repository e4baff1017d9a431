"""PSNR and SSIM of Y against Matlab's own numbers and scikit-image."""

import math

import numpy as np
import pytest
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from mar_pipeline.tasks.rain.luminance import luminance, score, to_8bit
from simulation.errors import InputError

RNG = np.random.default_rng(0)
TRUTH = RNG.integers(0, 256, (40, 33, 3)).astype(float)
OUTPUT = TRUTH + RNG.normal(0, 20, TRUTH.shape)


@pytest.mark.parametrize(
    ("rgb", "y"),
    [((0, 0, 0), 16), ((255, 255, 255), 235), ((255, 0, 0), 81), ((0, 255, 0), 145), ((0, 0, 255), 41)],
)
def test_luminance_is_matlabs_rgb2ycbcr_of_uint8(rgb, y):
    assert luminance(np.array([[rgb]], np.uint8)) == y


def test_scores_are_scikit_images_of_rounded_luminance():
    eight_bit = np.clip(np.round(OUTPUT), 0, 255).astype(np.uint8)
    y, true = (np.round(rgb2ycbcr(image)[..., 0]).astype(np.uint8) for image in (eight_bit, TRUTH.astype(np.uint8)))
    found = score(OUTPUT, TRUTH)
    assert found["psnr"] == pytest.approx(peak_signal_noise_ratio(true, y, data_range=255), abs=1e-9)
    own = structural_similarity(true, y, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    assert found["ssim"] == pytest.approx(own, abs=1e-9)


def test_a_grey_level_of_difference_by_hand():
    """One level of Y everywhere is an MSE of 1: 20 log10(255) dB."""
    dark, light = np.full((12, 12, 3), 100.0), np.full((12, 12, 3), 101.0)
    levels = abs(luminance(to_8bit(dark))[0, 0] - luminance(to_8bit(light))[0, 0])
    assert levels == 1
    assert score(dark, light)["psnr"] == pytest.approx(20 * math.log10(255))


def test_equal_images_and_what_8_bit_hides():
    assert score(TRUTH, TRUTH) == {"psnr": math.inf, "ssim": 1}
    assert score(TRUTH + 0.4, TRUTH)["psnr"] == math.inf
    assert np.array_equal(to_8bit(np.array([-3.0, 0.4, 254.6, 300.0])), [0, 0, 255, 255])


@pytest.mark.parametrize("shape", [(10, 30, 3), (30, 10, 3)])
def test_images_smaller_than_the_window_are_refused(shape):
    with pytest.raises(InputError, match=rf"SSIM: got an image of {shape[0]} x {shape[1]} pixels, expected 11 or more"):
        score(np.zeros(shape), np.zeros(shape))
    assert score(np.zeros((11, 11, 3)), np.zeros((11, 11, 3)))["ssim"] == 1
