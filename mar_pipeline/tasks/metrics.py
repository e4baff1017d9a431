"""Scores of a corrected image against the truth, under the three protocols in which the field reports them.

Every protocol first clips both images to mu in [0, 0.5] /cm and sets the metal pixels of both to zero, so metal never
counts as an error but does count as pixels. They differ in quantisation and in the SSIM: see `PROTOCOLS`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import uniform_filter
from skimage.metrics import structural_similarity

from mar_pipeline.tasks.ctmar_regions import automatic_regions
from mar_pipeline.tasks.ctmar_scores import raw_values
from mar_pipeline.tasks.ctmar_scores import scores as ctmar_scores
from simulation.errors import InputError, UsageError
from simulation.physics.arrays import like, to_numpy
from simulation.units import MU_WATER_PER_CM, check_mu, mu_to_hu

MU_RANGE_PER_CM = 0.5
"""Upper end of the clipped range [0, 0.5] /cm, about -1000 to 1604 HU; the public code of the field uses the same."""

_SSIM_PIXELS = 11
_SSIM_SIGMA = 1.5


def to_float(image_mu: np.ndarray) -> np.ndarray:
    """Clip to [0, 0.5] /cm and divide by 0.5: range 0..1, not quantised.

    Args:
        image_mu: (H, W), 1/cm.
    """
    return np.clip(image_mu, 0, MU_RANGE_PER_CM) / MU_RANGE_PER_CM


def to_uint8(image_mu: np.ndarray) -> np.ndarray:
    """Return round(255 clip(mu, 0, 0.5) / 0.5): range 0..255, one grey level is 0.00196 /cm or 10.2 HU.

    Args:
        image_mu: (H, W), 1/cm.
    """
    return np.round(255 * to_float(image_mu))


def to_imsave(image_mu: np.ndarray) -> np.ndarray:
    """Return the 8-bit grey levels of matplotlib's `imsave` for the clipped image, over 255: range 0..1, quantised.

    x = clip(mu, 0, 0.5), scaled by its own minimum and maximum over the whole image, metal included, then
    min(floor(256 x), 255) / 255. An image of one value becomes zero, as in matplotlib.

    Matplotlib then looks the level up in its "gray" table, which float rounding makes one lower at 24 of its 256
    entries. Leaving that out is what reproduces the reference figures; with it they move by up to 0.03 dB, 0.0005 SSIM.

    Args:
        image_mu: (H, W), 1/cm.
    """
    clipped = to_float(image_mu)
    low, high = clipped.min(), clipped.max()
    if high == low:
        return np.zeros_like(clipped)
    return np.minimum(np.floor(256 * (clipped - low) / (high - low)), 255) / 255


def psnr(output: np.ndarray, truth: np.ndarray, peak: float) -> float:
    """Return 10 log10(peak^2 / MSE) over all pixels; identical images (MSE 0) give infinity.

    Args:
        output: (H, W), range 0..peak.
        truth: the same.
        peak: largest value of the range.
    """
    mse = float(np.mean((output - truth) ** 2))
    return math.inf if mse == 0 else 10 * math.log10(peak**2 / mse)


def gaussian_ssim(output: np.ndarray, truth: np.ndarray, peak: float) -> float:
    """Return SSIM with an 11 x 11 Gaussian window of sigma 1.5, averaged where the window fits (5 pixels cropped).

    K1 = 0.01, K2 = 0.03, biased variances. It equals the OpenCV port used by the dictionary networks' training code.

    Z. Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE TIP 13(4), 2004.

    Args:
        output: (H, W), range 0..peak, both sides at least 11.
        truth: the same.
        peak: largest value of the range.
    """
    ssim = structural_similarity(
        output, truth, data_range=peak, gaussian_weights=True, sigma=_SSIM_SIGMA, use_sample_covariance=False
    )
    return float(ssim)


def matlab_ssim(output: np.ndarray, truth: np.ndarray, peak: float) -> float:
    """Return `gaussian_ssim` after the automatic downsampling of the authors' own ssim.m (version 1.0, 2009).

    f = max(1, round(min(H, W) / 256)), halves rounded up: average over f x f (symmetric border), keep every f-th pixel.

    Args:
        output: (H, W), range 0..peak, both sides at least 11 after downsampling.
        truth: the same.
        peak: largest value of the range.
    """
    factor = max(1, math.floor(min(output.shape) / 256 + 0.5))
    return gaussian_ssim(_downsample(output, factor), _downsample(truth, factor), peak)


def _downsample(image: np.ndarray, factor: int) -> np.ndarray:
    # For an even box Matlab's imfilter starts at the pixel itself, scipy one before it.
    origin = (factor - 1) // 2 - factor // 2
    return uniform_filter(image, factor, mode="reflect", origin=origin)[::factor, ::factor]


@dataclass(frozen=True)
class Protocol:
    """How images become scores.

    Args:
        scale: (H, W) mu in 1/cm -> (H, W) in 0..peak; the metal pixels are zeroed afterwards.
        peak: largest value of the scaled range.
        ssim: (output, truth, peak) -> SSIM.
        states: value range, mask and quantisation in words, for the head of every table.
    """

    scale: Callable[[np.ndarray], np.ndarray]
    peak: float
    ssim: Callable[[np.ndarray, np.ndarray, float], float]
    states: str


_MASK = "metal pixels set to 0 in both images and counted"
_RMSE = "RMSE in HU over the non-metal pixels of the clipped images, never quantised."

PROTOCOLS: dict[str, Protocol] = {
    "float": Protocol(
        scale=to_float,
        peak=1.0,
        ssim=matlab_ssim,
        states=f"Range: mu clipped to [0, 0.5] /cm, scaled to 0..1. Mask: {_MASK}. Not quantised. PSNR peak 1; SSIM of "
        f"ssim.m (Gaussian 11 x 11, sigma 1.5, after automatic downsampling). {_RMSE}",
    ),
    # ACDNet / DICDNet / OSCNet, validation in train.py: tensor2uint, then the mask, then the cv2-style functions.
    "uint8": Protocol(
        scale=to_uint8,
        peak=255.0,
        ssim=gaussian_ssim,
        states=f"Range: mu clipped to [0, 0.5] /cm, scaled to 0..255. Mask: {_MASK}. Quantised: rounded to 8 bit. PSNR "
        f"peak 255; cv2-style SSIM (Gaussian 11 x 11, sigma 1.5, no downsampling). {_RMSE}",
    ),
    # The published tables: test.py saves PNGs with imsave, statistic.m masks and scores them.
    "imsave": Protocol(
        scale=to_imsave,
        peak=1.0,
        ssim=matlab_ssim,
        states="Range: mu clipped to [0, 0.5] /cm, then each image stretched from its own minimum and maximum (metal "
        f"included) to 0..255. Mask: {_MASK}, after the stretch. Quantised: 8 bit, truncated (matplotlib's imsave). "
        f"PSNR peak 255; SSIM of ssim.m. Only for comparison with published tables. {_RMSE}",
    ),
}


CTMAR = "ctmar"
_CTMAR_PIXEL_MM = 400 / 512


def score(
    output_mu: Any,
    truth_mu: Any,
    metal_mask: Any,
    protocol: str = "float",
    *,
    input_mu: Any = None,
    pixel_mm: float = _CTMAR_PIXEL_MM,
) -> dict[str, Any]:
    """Return PSNR (dB), SSIM and RMSE (HU) of an image against the truth outside the metal.

    - ``float``: clip(mu, 0, 0.5) / 0.5, times (1 - mask). PSNR = 10 log10(1 / MSE) over all pixels; `matlab_ssim`.
    - ``uint8``: round(255 clip(mu, 0, 0.5) / 0.5), times (1 - mask). PSNR with peak 255; `gaussian_ssim`.
    - ``imsave``: clip(mu, 0, 0.5), stretched from the minimum to the maximum of the whole image (metal included, output
      and truth each by its own), truncated to 8 bit as matplotlib's imsave does (min(floor(256 x), 255)), and only then
      times (1 - mask). PSNR with peak 255; `matlab_ssim`. This variant reproduces the published figures; rounding
      instead of truncating misses them by up to 0.06 dB and 0.02 SSIM, floor(255 x) by 0.04 dB.

    RMSE = 1000 / 0.192 sqrt(mean over non-metal pixels of (clip(output) - clip(truth))^2), never quantised, in all.

    - ``ctmar``: what the eight metrics of the AAPM CT-MAR challenge measure in regions that are found in the truth, see
      `mar_pipeline.tasks.ctmar_scores`: ``raw_ct_number`` and so on, and, where the uncorrected image is given, the
      scores made of them, 0 best to 4 worst, and their mean ``total``.

    Args:
        output_mu: (..., H, W), 1/cm, numpy or torch, H and W at least 11.
        truth_mu: the same shape, 1/cm.
        metal_mask: the same shape, nonzero where metal is (bool, metal codes, or floats of exactly 0 and 1).
        protocol: a key of `PROTOCOLS`, or ctmar.
        input_mu: of ctmar, the uncorrected image, which scores 4.
        pixel_mm: of ctmar, the side of a pixel.

    Returns:
        ``{"psnr", "ssim", "rmse_hu"}``, or what ctmar has: floats for one image; for leading batch dimensions float64
        arrays of their shape (torch tensors on output_mu's device if that is a tensor). PSNR is infinite for equal
        images.

    Raises:
        InputError: shapes differ or are too small, a value is not finite, or no pixel is free of metal; for ctmar also
            an image without the tissue that its metrics need.
        UsageError: the protocol is unknown.

    Example:
        >>> truth_mu = np.full((16, 16), 0.2)
        >>> metal_mask = np.zeros((16, 16), bool)
        >>> found = score(truth_mu + 0.005, truth_mu, metal_mask)
        >>> {name: round(value, 2) for name, value in found.items()}
        {'psnr': 40.0, 'ssim': 1.0, 'rmse_hu': 26.04}
    """
    if protocol not in (*PROTOCOLS, CTMAR):
        raise UsageError(f"unknown protocol {protocol!r}; expected one of {', '.join((*PROTOCOLS, CTMAR))}")
    if input_mu is not None and protocol != CTMAR:
        raise UsageError(f"protocol {protocol}: takes no input_mu; leave it out")
    output, truth, mask, given = map(
        to_numpy, (output_mu, truth_mu, metal_mask, truth_mu if input_mu is None else input_mu)
    )
    _check_shapes(output, truth, mask)
    _check_shapes(given, truth, mask)
    batch, image_shape = output.shape[:-2], output.shape[-2:]
    images = (a.reshape(-1, *image_shape) for a in (output, truth, mask, given))
    scores = [
        _score_ctmar(o, t, m, None if input_mu is None else i, pixel_mm)
        if protocol == CTMAR
        else _score_image(o, t, m, PROTOCOLS[protocol])
        for o, t, m, i in zip(*images, strict=True)
    ]
    if not batch:
        return scores[0]
    return {name: like(np.array([s[name] for s in scores]).reshape(batch), output_mu) for name in scores[0]}


def _score_image(output_mu: np.ndarray, truth_mu: np.ndarray, mask: np.ndarray, protocol: Protocol) -> dict[str, float]:
    metal_mask = _check_values(output_mu, truth_mu, mask)
    output_mu, truth_mu = output_mu.astype(np.float64), truth_mu.astype(np.float64)
    output = np.where(metal_mask, 0.0, protocol.scale(output_mu))
    truth = np.where(metal_mask, 0.0, protocol.scale(truth_mu))
    difference_mu = (to_float(output_mu) - to_float(truth_mu))[~metal_mask] * MU_RANGE_PER_CM
    return {
        "psnr": psnr(output, truth, protocol.peak),
        "ssim": protocol.ssim(output, truth, protocol.peak),
        "rmse_hu": 1000 / MU_WATER_PER_CM * float(np.sqrt(np.mean(difference_mu**2))),
    }


def _score_ctmar(
    output_mu: np.ndarray, truth_mu: np.ndarray, mask: np.ndarray, input_mu: np.ndarray | None, pixel_mm: float
) -> dict[str, float]:
    metal_mask = _check_values(output_mu, truth_mu, mask)
    output, truth = mu_to_hu(output_mu), mu_to_hu(truth_mu)
    regions = automatic_regions(truth, metal_mask, pixel_mm)
    raw = raw_values(output, truth, metal_mask, pixel_mm, regions)
    found = {f"raw_{name}": value for name, value in raw.items()}
    if input_mu is None:
        return found
    of_input = raw_values(mu_to_hu(input_mu), truth, metal_mask, pixel_mm, regions, insert_metal=False)
    return found | ctmar_scores(raw, of_input, raw_values(truth, truth, metal_mask, pixel_mm, regions))


def _check_shapes(output: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> None:
    if not output.shape == truth.shape == mask.shape:
        raise InputError(
            f"score: output {output.shape}, truth {truth.shape} and metal mask {mask.shape} differ in shape; "
            "bring all three to one (..., H, W)"
        )
    if output.ndim < 2 or min(output.shape[-2:]) < _SSIM_PIXELS or output.size == 0:
        raise InputError(
            f"score: got shape {output.shape}, expected (..., H, W) with at least {_SSIM_PIXELS} pixels on each side "
            "(the window of SSIM)"
        )


def _check_values(output: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the mask as bool, after checking all three images."""
    for name, values in (("output", output), ("truth", truth), ("metal mask", mask)):
        if values.dtype.kind not in "buif":
            raise InputError(f"score: the {name} has dtype {values.dtype}; expected real numbers")
        bad = int(np.count_nonzero(~np.isfinite(values)))
        if bad:
            raise InputError(f"score: the {name} has {bad} values that are not finite; repair the image first")
    if mask.dtype.kind == "f" and not np.isin(mask, (0, 1)).all():
        raise InputError("score: the metal mask has values between 0 and 1; threshold it first (true where metal is)")
    check_mu(truth, "score: truth")
    metal_mask = mask != 0
    if metal_mask.all():
        raise InputError(f"score: all {metal_mask.size} pixels are metal; is the mask inverted (true where metal is)?")
    return metal_mask
