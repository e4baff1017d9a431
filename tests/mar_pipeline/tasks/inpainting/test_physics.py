"""y = mask * gamma * Poisson(x / gamma): its mean, its variance, and where it is zero."""

import numpy as np
import pytest
import torch

from mar_pipeline.sample import generator
from mar_pipeline.tasks.inpainting.physics import measure, measure_again, random_mask

DRAWS, LEVELS = 40_000, (0.0, 0.1, 0.5, 1.0)


@pytest.mark.parametrize("gamma", [0.01, 0.05, 0.1])
@pytest.mark.parametrize("again", [False, True])
def test_mean_is_the_image_and_variance_gamma_times_it(gamma, again):
    torch.manual_seed(0)
    image = np.broadcast_to(np.array(LEVELS, np.float32)[None, :, None], (3, len(LEVELS), DRAWS))
    mask = np.ones((1, len(LEVELS), DRAWS), np.float32)
    if again:
        y = measure_again(torch.from_numpy(image.copy())[None], torch.from_numpy(mask)[None], gamma)[0].numpy()
    else:
        y = measure(image, mask, gamma, generator(0))
    assert y.dtype == np.float32
    means, variances = y.mean(axis=(0, 2)), y.var(axis=(0, 2), dtype=np.float64)
    np.testing.assert_allclose(means, LEVELS, atol=5 * np.sqrt(gamma / (3 * DRAWS)))
    np.testing.assert_allclose(variances, gamma * np.array(LEVELS), rtol=0.03, atol=1e-12)
    np.testing.assert_allclose(y / gamma, np.round(y / gamma), atol=1e-3)


def test_a_dropped_pixel_is_zero_in_all_channels():
    mask = random_mask(64, 0.3, generator(1))
    y = measure(np.full((3, 64, 64), 5.0, np.float32), mask, 0.05, generator(2))
    np.testing.assert_array_equal(y > 0, np.broadcast_to(mask > 0, y.shape))


def test_as_many_pixels_are_dropped_as_said():
    for missing in (0.0, 0.3, 0.9):
        mask = random_mask(512, missing, generator(3))
        assert mask.shape == (1, 512, 512)
        assert set(np.unique(mask)) <= {0.0, 1.0}
        assert abs(1 - mask.mean() - missing) <= 5 * np.sqrt(missing * (1 - missing)) / 512


def test_a_negative_answer_counts_as_black_and_passes_no_gradient():
    image = torch.tensor([-0.5, 0.5]).reshape(1, 1, 1, 2).expand(1, 3, 1, 2).clone().requires_grad_()
    y = measure_again(image, torch.ones(1, 1, 1, 2), 0.05)
    assert not y[..., 0].any()
    assert not y.requires_grad
