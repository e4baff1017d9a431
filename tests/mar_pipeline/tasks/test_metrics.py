"""Laws of the scores: what must count, what must not, and the reference figures on real files."""

import math

import h5py
import numpy as np
import pytest
import torch
from matplotlib import colormaps
from matplotlib.image import imsave
from PIL import Image
from skimage.metrics import structural_similarity

from mar_pipeline.tasks.metrics import PROTOCOLS, gaussian_ssim, matlab_ssim, score
from simulation.errors import InputError, UsageError

SHAPE = (64, 72)
HU = 0.192 / 1000


@pytest.fixture
def truth_mu() -> np.ndarray:
    rng = np.random.default_rng(0)
    smooth = np.add.outer(np.linspace(0, 0.2, SHAPE[0]), np.linspace(0, 0.2, SHAPE[1]))
    return smooth + rng.uniform(0.02, 0.06, SHAPE)


@pytest.fixture
def metal_mask() -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[30:36, 40:50] = True
    return mask


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_identical_images_are_perfect(truth_mu: np.ndarray, metal_mask: np.ndarray, protocol: str) -> None:
    assert score(truth_mu, truth_mu, metal_mask, protocol) == {"psnr": math.inf, "ssim": 1.0, "rmse_hu": 0.0}


def test_psnr_of_a_constant_error(truth_mu: np.ndarray, metal_mask: np.ndarray) -> None:
    """An error of e/0.5 on a fraction q of the pixels has MSE q (e/0.5)^2: masked pixels count as zeros."""
    free = 1 - metal_mask.mean()
    psnr = score(truth_mu + 0.01, truth_mu, metal_mask)["psnr"]
    assert psnr == pytest.approx(10 * math.log10(1 / (free * 0.02**2)), abs=1e-9)


def test_uint8_psnr_of_one_grey_level() -> None:
    truth_mu = np.full(SHAPE, 100 / 255 * 0.5)
    psnr = score(truth_mu + 0.5 / 255, truth_mu, np.zeros(SHAPE, bool), "uint8")["psnr"]
    assert psnr == pytest.approx(20 * math.log10(255), abs=1e-9)


def test_uint8_rounds_to_the_nearest_grey_level() -> None:
    truth_mu = np.full(SHAPE, 100 / 255 * 0.5)
    assert score(truth_mu + 0.4 * 0.5 / 255, truth_mu, np.zeros(SHAPE), "uint8")["psnr"] == math.inf
    assert score(truth_mu + 0.6 * 0.5 / 255, truth_mu, np.zeros(SHAPE), "uint8")["psnr"] < 50


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_rmse_of_a_10_hu_offset_is_10_hu(truth_mu: np.ndarray, metal_mask: np.ndarray, protocol: str) -> None:
    output_mu = truth_mu + 10 * HU
    assert score(output_mu, truth_mu, metal_mask, protocol)["rmse_hu"] == pytest.approx(10, abs=1e-9)


@pytest.mark.parametrize("protocol", ["float", "uint8"])
def test_what_is_under_metal_does_not_matter(truth_mu: np.ndarray, metal_mask: np.ndarray, protocol: str) -> None:
    output_mu = truth_mu + np.random.default_rng(1).normal(0, 0.01, SHAPE)
    under_metal = np.where(metal_mask, 7.0, output_mu)
    assert score(under_metal, truth_mu, metal_mask, protocol) == score(output_mu, truth_mu, metal_mask, protocol)
    assert score(under_metal, truth_mu, ~metal_mask, protocol) != score(output_mu, truth_mu, ~metal_mask, protocol)


def test_imsave_depends_on_one_maximum_under_the_metal(truth_mu: np.ndarray, metal_mask: np.ndarray) -> None:
    """The stretch comes before the mask: this is what the published tables measured."""
    output_mu = truth_mu + np.random.default_rng(1).normal(0, 0.01, SHAPE)
    under_metal = np.where(metal_mask, 7.0, output_mu)
    scores = [score(image, truth_mu, metal_mask, "imsave")["psnr"] for image in (output_mu, under_metal)]
    assert abs(scores[0] - scores[1]) > 0.1


def test_imsave_does_not_see_a_change_of_scale(truth_mu: np.ndarray, metal_mask: np.ndarray) -> None:
    assert score(truth_mu / 2, truth_mu, metal_mask, "imsave")["psnr"] == math.inf
    assert score(truth_mu / 2, truth_mu, metal_mask, "float")["psnr"] < 20


def test_imsave_computes_the_grey_levels_of_matplotlib(tmp_path, truth_mu: np.ndarray) -> None:
    """Up to matplotlib's own table, which is one level low here and there."""
    imsave(tmp_path / "x.png", np.clip(truth_mu, 0, 0.5), cmap="gray")
    with Image.open(tmp_path / "x.png") as png:
        written = np.asarray(png)[..., 0]
    levels = np.round(PROTOCOLS["imsave"].scale(truth_mu) * 255).astype(int)
    np.testing.assert_array_equal(colormaps["gray"](np.arange(256), bytes=True)[levels, 0], written)


def test_values_outside_the_range_are_clipped(metal_mask: np.ndarray) -> None:
    truth_mu = np.where(np.arange(SHAPE[1]) < 40, 0.0, 0.5) * np.ones(SHAPE)
    output_mu = np.where(truth_mu > 0, 3.0, -1.0)
    assert score(output_mu, truth_mu, metal_mask)["psnr"] == math.inf


def test_small_images_are_not_downsampled(truth_mu: np.ndarray) -> None:
    """Below 384 pixels ssim.m is scikit-image's Gaussian SSIM on its 'valid' region, here averaged by hand."""
    a, b = truth_mu, truth_mu + np.random.default_rng(2).normal(0, 0.05, SHAPE)
    _, ssim_map = structural_similarity(
        a, b, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    assert matlab_ssim(a, b, 1.0) == pytest.approx(ssim_map[5:-5, 5:-5].mean(), abs=1e-12)


@pytest.mark.parametrize(("side", "factor"), [(383, 1), (384, 2), (416, 2), (640, 3)])
def test_downsampling_averages_blocks(side: int, factor: int) -> None:
    """Halves round up, and an even box covers exactly the pixels that it replaces."""
    a, b = np.random.default_rng(3).uniform(0, 1, (2, side, side))
    if factor == 1:
        expected = gaussian_ssim(a, b, 1.0)
    elif factor == 2:
        expected = gaussian_ssim(*(x.reshape(side // 2, 2, side // 2, 2).mean((1, 3)) for x in (a, b)), 1.0)
    else:
        padded = [np.pad(x, 1, mode="symmetric") for x in (a, b)]
        boxes = [sum(p[i : i + side, j : j + side] for i in range(3) for j in range(3)) / 9 for p in padded]
        expected = gaussian_ssim(*(x[::3, ::3] for x in boxes), 1.0)
    assert matlab_ssim(a, b, 1.0) == pytest.approx(expected, abs=1e-9)


def test_a_batch_is_its_images(truth_mu: np.ndarray, metal_mask: np.ndarray) -> None:
    output = truth_mu + np.random.default_rng(4).normal(0, 0.02, (2, 3, *SHAPE))
    truth, mask = np.broadcast_to(truth_mu, output.shape), np.broadcast_to(metal_mask, output.shape)
    batch = score(output, truth, mask)
    tensors = score(torch.from_numpy(output), torch.tensor(truth), torch.tensor(mask))
    for name, values in batch.items():
        assert values.shape == (2, 3)
        assert values[1, 2] == score(output[1, 2], truth_mu, metal_mask)[name]
        torch.testing.assert_close(tensors[name], torch.from_numpy(values), rtol=0, atol=0)


def test_bad_input_is_refused(truth_mu: np.ndarray, metal_mask: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"unknown protocol 'png'.*imsave"):
        score(truth_mu, truth_mu, metal_mask, "png")
    with pytest.raises(InputError, match="differ in shape"):
        score(truth_mu[:-1], truth_mu, metal_mask)
    with pytest.raises(InputError, match="at least 11 pixels"):
        score(truth_mu[:8], truth_mu[:8], metal_mask[:8])
    with pytest.raises(InputError, match="output has 1 values that are not finite"):
        score(np.where(np.arange(truth_mu.size).reshape(SHAPE) == 5, np.nan, truth_mu), truth_mu, metal_mask)
    with pytest.raises(InputError, match="all 4608 pixels are metal"):
        score(truth_mu, truth_mu, np.ones(SHAPE, bool))
    with pytest.raises(InputError, match="threshold"):
        score(truth_mu, truth_mu, metal_mask * 0.5)


REFERENCE = [  # case, mask, protocol, input PSNR / SSIM, LI PSNR / SSIM (specs/metrics.md)
    ("000321_03_01/011", 0, "float", (29.94, 0.7841), (35.29, 0.8976)),
    ("000321_03_01/011", 1, "float", (24.94, 0.7478), (29.41, 0.8511)),
    ("000195_02_02/202", 0, "float", (30.52, 0.8021), (37.36, 0.8979)),
    ("000321_03_01/011", 0, "imsave", (29.98, 0.7811), (35.32, 0.9144)),
    ("000321_03_01/011", 1, "imsave", (24.94, 0.7433), (29.40, 0.8572)),
    ("000195_02_02/202", 0, "imsave", (28.14, 0.8029), (33.16, 0.9103)),
]


@pytest.mark.shared_data
@pytest.mark.parametrize(("case", "index", "protocol", "of_input", "of_li"), REFERENCE)
def test_reference_figures(shared_data, case: str, index: int, protocol: str, of_input: tuple, of_li: tuple) -> None:
    folder = shared_data / "syndeeplesion"
    mask_512 = np.load(folder / "testmask.npy")[:, :, index]
    mask = np.asarray(Image.fromarray(mask_512).resize((416, 416), Image.Resampling.BILINEAR))
    slice_folder = folder / "train" / "train_640geo" / case
    with h5py.File(slice_folder / "gt.h5") as gt, h5py.File(slice_folder / f"{index}.h5") as pair:
        truth_mu, images = gt["image"][:], {"ma_CT": of_input, "LI_CT": of_li}
        for name, (psnr_db, ssim) in images.items():
            scores = score(pair[name][:], truth_mu, mask, protocol)
            assert scores["psnr"] == pytest.approx(psnr_db, abs=0.02), name
            assert scores["ssim"] == pytest.approx(ssim, abs=0.0005), name
