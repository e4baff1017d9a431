"""The eight scores of the AAPM CT-MAR challenge, for any image whose metal-free truth is known.

The challenge drew its regions and set its anchors by hand, for 29 cases. Here regions come from the truth and most
anchors from the uncorrected image. Totals compare methods with each other, not with the challenge's table.

Where metal lies: the truth has none, and the challenge's images must contain it. CT number and SSIM leave out the metal
and 2 pixels around it; bone is sought outside the metal; along the proton beam metal counts as the tissue that it
replaced; only the metric `metal` looks at it, and compares it with the mask.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage
from skimage.filters import sobel
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from mar_pipeline.tasks.ctmar_regions import RegionsOfInterest, check_images, disc
from mar_pipeline.tasks.ctmar_regions import automatic_regions as automatic_regions
from simulation.errors import InputError
from simulation.units import stopping_power

METRICS = ("ct_number", "noise", "sharpness", "streaks", "ssim", "metal", "bone", "proton_range")
"""The eight scores, in the challenge's order; `metal` and `bone` are means over their volume and their Dice."""
ANCHORS = {"sharpness": (1.0, 0.94, 0.85, 0.67, 0.56), "proton_range": (0.0, 0.005, 0.01, 0.015, 0.02)}
"""Raw values that score 0, 1, 2, 3 and 4, the same in all cases of the challenge."""

_Values = Mapping[str, float]
_PARTS = {"metal": ("metal_volume", "metal_dice"), "bone": ("bone_volume", "bone_dice")}
_HIGHER_IS_BETTER = {"sharpness", "ssim", "metal_dice", "bone_dice"}
_NAMES = {part for metric in METRICS for part in _PARTS.get(metric, (metric,))}
_POINTS = np.arange(5)
_BONE_HU, _BONE_END_HU, _METAL_ABOVE_HU = 150.0, 2500.0, 250.0
_DILATED, _MASKED_HU, _SSIM_RANGE_HU, _SSIM_SIGMA = 2, 100.0, 5000.0, 1.5
_STREAK_SHARE, _SOBEL_PERCENTILE = 0.05, 90
_SECONDARY_HU, _CIRCLE_MM = (-2000.0, 6000.0), 470.0


def raw_values(
    output_hu: np.ndarray,
    truth_hu: np.ndarray,
    metal_mask: np.ndarray,
    pixel_mm: float,
    regions: RegionsOfInterest,
    *,
    insert_metal: bool = True,
    official_quirks: bool = False,
) -> dict[str, float]:
    """Return what the eight metrics measure in an image, before it becomes scores.

    - ct_number: root mean square error in the body without dilated metal, HU.
    - noise: standard deviation in its region, HU.
    - sharpness: 90th percentile of the Sobel magnitude over the truth's, mean of the bone's and the soft region.
    - streaks: mean of the highest 5 % of the error in its region minus that of the lowest 5 %, HU.
    - ssim: Gaussian of 1.5 pixels, range 5000 HU, dilated metal at 100 HU in both; mean where ct_number is measured.
    - metal_volume, metal_dice: |1 - V / V0| and Dice, against the mask, of the pixels in the metal's region above the
      truth's highest value there plus 250 HU.
    - bone_volume, bone_dice: the same of 150 <= HU < 2500 in the body without metal.
    - proton_range: largest difference of the water-equivalent distance to the target's far side, over the beam's rows,
      as a share of the truth's largest distance.

    Args:
        output_hu: Float["rows columns"], at least 11 x 11, the image to be measured.
        truth_hu: the same, without metal.
        metal_mask: Bool["rows columns"], not empty.
        pixel_mm: size of a pixel.
        regions: found by `automatic_regions`, or drawn.
        insert_metal: let `metal` see the mask's pixels 1 HU above the threshold, where the challenge advises to set
            them; for images without metal, such as the truth. Say False of the uncorrected image.
        official_quirks: measure proton_range as the public scorer does: its body mask lacks the metal, which adds
            nothing to a distance; images (cubic splines, 0 HU beyond) and target are turned by the beam's angle, the
            body mask is not; the target's last row is skipped; distances end before the target's last pixel.
            Exceptions for single cases (3's filled metal, 23's unordered anchors) are not copied.

    Raises:
        InputError: if an argument is wrong, or the truth has nothing to compare with.

    >>> image, metal = np.random.default_rng(0).normal(0, 200, (32, 32)), np.eye(32, dtype=bool)
    >>> values = raw_values(image, image, metal, 1.0, RegionsOfInterest(*[~metal] * 7))
    >>> values["ct_number"], values["sharpness"], values["bone_dice"]
    (0.0, 1.0, 1.0)
    """
    check_images(metal_mask, pixel_mm, output_hu, truth_hu, regions.body)
    output, truth = output_hu.astype(np.float64), truth_hu.astype(np.float64)
    threshold = truth[regions.metal].max() + _METAL_ABOVE_HU
    shown = np.where(metal_mask, threshold + 1, output) if insert_metal else output
    dilated = ndimage.binary_dilation(metal_mask, iterations=_DILATED)
    measured = regions.body & ~dilated
    if not measured.any():
        raise InputError("metal mask: it covers the whole body; expected some tissue to measure")
    bone, true_bone = ((hu >= _BONE_HU) & (hu < _BONE_END_HU) & regions.body & ~metal_mask for hu in (output, truth))
    metal = (shown > threshold) & (regions.metal | metal_mask)
    masked = [np.where(dilated, _MASKED_HU, hu) for hu in (output, truth)]
    return {
        "ct_number": float(np.sqrt(mean_squared_error(output[measured], truth[measured]))),
        "noise": float(output[regions.noise].std()),
        "sharpness": _sharpness((output, truth), regions),
        "streaks": _streak_amplitude((output - truth)[regions.streak]),
        "ssim": float(_ssim_map(masked, _SSIM_RANGE_HU)[measured].mean()),
        **_volume_and_dice(metal, metal_mask, "metal"),
        **_volume_and_dice(bone, true_bone, "bone"),
        "proton_range": _range_error((output, truth), metal_mask, pixel_mm, regions, official_quirks),
    }


def _sharpness(images: Sequence[np.ndarray], regions: RegionsOfInterest) -> float:
    edges = (regions.bone, regions.soft)
    steep, true = (np.array([np.percentile(sobel(hu)[edge], _SOBEL_PERCENTILE) for edge in edges]) for hu in images)
    if not true.all():
        raise InputError("truth: its bone or soft region is flat; expected an edge in each")
    return float((steep / true).mean())


def _streak_amplitude(error_hu: np.ndarray) -> float:
    ordered = np.sort(error_hu)
    count = max(1, int(_STREAK_SHARE * ordered.size))
    return float(ordered[-count:].mean() - ordered[:count].mean())


def _ssim_map(images: Sequence[np.ndarray], peak: float) -> np.ndarray:
    gaussian = {"gaussian_weights": True, "sigma": _SSIM_SIGMA, "use_sample_covariance": False}
    return structural_similarity(*images, data_range=peak, full=True, **gaussian)[1]


def _volume_and_dice(found: np.ndarray, expected: np.ndarray, what: str) -> dict[str, float]:
    if not expected.any():
        raise InputError(f"{what}: the truth has none; expected some to compare with")
    volume, true, both = (int(mask.sum()) for mask in (found, expected, found & expected))
    return {f"{what}_volume": abs(1 - volume / true), f"{what}_dice": 2 * both / (volume + true)}


def _range_error(
    images: Sequence[np.ndarray], metal_mask: np.ndarray, pixel_mm: float, regions: RegionsOfInterest, quirks: bool
) -> float:
    """Return the largest difference of two images' water-equivalent distance over the largest of the second."""
    angle = regions.beam_deg
    turned = ndimage.rotate(regions.target.astype(np.float64), angle, reshape=not quirks, order=1) > 0.5
    rows = np.flatnonzero(turned.any(axis=1))[: -1 if quirks else None]
    if quirks:
        hu = [ndimage.rotate(image, angle, reshape=False) for image in images]
        relative = [np.where(regions.body & ~metal_mask, stopping_power(image), 0) for image in hu]
    else:
        hu = [np.where(metal_mask, images[1], image) for image in images]
        inside = [np.where(regions.body, stopping_power(image), 0) for image in hu]
        relative = [ndimage.rotate(image, angle, order=1) for image in inside]
    columns = np.arange(turned.shape[1])
    ends = np.where(turned, columns, -1).max(axis=1, keepdims=True)
    before = columns < ends if quirks else columns <= ends
    measured, true = (pixel_mm * np.where(before, image, 0).sum(axis=1)[rows] for image in relative)
    longest = true.max(initial=0.0)
    if longest <= 0:
        raise InputError("target: no tissue lies in the beam to it; expected a target in the body")
    return float(np.abs(measured - true).max() / longest)


def scores(
    raw_output: _Values, raw_input: _Values, raw_truth: _Values, anchors: Mapping[str, Sequence[float]] | None = None
) -> dict[str, float]:
    """Return the eight scores of an image, 0 best to 4 worst, and their plain mean `total`.

    A score is linear between the raw values that score 0, 1, 2, 3 and 4, and ends there. Sharpness and proton_range
    have the challenge's (`ANCHORS`). It set the others by hand for each of its own cases; here the truth's own value
    scores 0 and the uncorrected image's 4. Where the uncorrected image is no worse than the truth, whatever is worse
    than the truth scores 4. Less noise or more sharpness than the truth's scores 0.

    Args:
        raw_output: from `raw_values`, of the image.
        raw_input: of the uncorrected image, with `insert_metal=False`.
        raw_truth: of the truth itself.
        anchors: raw value -> five values that score 0 to 4, in place of the above. By the challenge's description
            noise scores 4 at twice the truth's: `{"noise": np.linspace(1, 2, 5) * raw_truth["noise"]}`.

    Raises:
        InputError: if a raw value is missing, an anchor's name is unknown, or its values do not go from good to bad.

    >>> ideal = dict.fromkeys(["ct_number", "noise", "streaks", "metal_volume", "bone_volume", "proton_range"], 0.0)
    >>> ideal |= dict.fromkeys(["sharpness", "ssim", "metal_dice", "bone_dice"], 1.0)
    >>> result = scores({**ideal, "ct_number": 50.0}, {**ideal, "ct_number": 200.0}, ideal)
    >>> result["ct_number"], result["total"]
    (1.0, 0.125)
    """
    given = {**ANCHORS, **(anchors or {})}
    if unknown := given.keys() - _NAMES:
        raise InputError(f"anchors: got {sorted(unknown)}; expected names among {sorted(_NAMES)}")
    if missing := {name for raw in (raw_output, raw_input, raw_truth) for name in _NAMES - raw.keys()}:
        raise InputError(f"raw values: {sorted(missing)} missing; expected all that raw_values returns")
    single = {}
    for name in _NAMES:
        anchors_of = given[name] if name in given else np.linspace(raw_truth[name], raw_input[name], _POINTS.size)
        single[name] = _score(name, raw_output[name], anchors_of, name in given)
    result = {name: float(np.mean([single[part] for part in _PARTS.get(name, (name,))])) for name in METRICS}
    return {**result, "total": float(np.mean(list(result.values())))}


def _score(name: str, value: float, anchors: Sequence[float] | np.ndarray, given: bool) -> float:
    sign = -1 if name in _HIGHER_IS_BETTER else 1
    values = sign * np.asarray(anchors, np.float64)
    if given and (values.shape != _POINTS.shape or (np.diff(values) < 0).any()):
        raise InputError(f"anchors of {name}: got {list(anchors)}; expected 5 values from good to bad")
    if sign * value <= values[0]:
        return 0.0
    return 4.0 if values[-1] <= values[0] else float(np.interp(sign * value, values, _POINTS))


def secondary(output_hu: np.ndarray, truth_hu: np.ndarray, metal_mask: np.ndarray, pixel_mm: float) -> dict[str, float]:
    """Return psnr (dB, infinite for equal images), ssim and rmse_hu of the second public test on the challenge's data.

    Both images become HU + 1000, clipped to -2000 .. 6000, 0 where metal lies; the pixels in the circle of 470 mm
    diameter around the image's middle count. The peak (8000 HU, the range) and SSIM's Gaussian (1.5 pixels) are choices
    made here. Arguments and errors are those of `raw_values`.

    >>> image, metal = np.zeros((32, 32)), np.eye(32, dtype=bool)
    >>> secondary(image, image, metal, 1.0)
    {'psnr': inf, 'ssim': 1.0, 'rmse_hu': 0.0}
    """
    check_images(metal_mask, pixel_mm, output_hu, truth_hu)
    low, high = _SECONDARY_HU
    output, truth = (np.where(metal_mask, 0, np.clip(hu + 1000.0, low, high)) for hu in (output_hu, truth_hu))
    circle = disc(truth.shape, (np.array(truth.shape) - 1) / 2, _CIRCLE_MM / 2 / pixel_mm)
    inside = truth[circle], output[circle]
    with np.errstate(divide="ignore"):
        psnr = float(peak_signal_noise_ratio(*inside, data_range=high - low))
    ssim = float(_ssim_map((output, truth), high - low)[circle].mean())
    return {"psnr": psnr, "ssim": ssim, "rmse_hu": float(np.sqrt(mean_squared_error(*inside)))}
