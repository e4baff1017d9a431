"""The eight scores of the AAPM CT-MAR challenge: formulas by hand, anchors, and where automatic regions lie."""

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage
from square_case import square_case

from mar_pipeline.tasks.ctmar_scores import (
    ANCHORS,
    METRICS,
    RegionsOfInterest,
    automatic_regions,
    raw_values,
    scores,
    secondary,
)
from simulation.errors import InputError

SIDE, PIXEL_MM = 64, 2.0
OF_INPUT = set(METRICS) - set(ANCHORS)


def box(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[rows, columns] = True
    return mask


ALL = slice(None)
METAL, IN_BODY = box(slice(30, 34), slice(56, 60)), box(slice(30, 34), slice(10, 14))
REGIONS = RegionsOfInterest(
    body=box(ALL, slice(0, 40)),
    noise=box(slice(2, 8), slice(2, 8)),
    bone=box(slice(0, 20), slice(46, 50)),
    soft=box(slice(44, 64), slice(46, 50)),
    streak=box(slice(50, 60), slice(10, 20)),
    metal=ndimage.binary_dilation(METAL, iterations=4),
    target=box(slice(10, 21), slice(20, 30)),
)


def flat() -> np.ndarray:
    """Return 200 HU up to column 47, the body's 40 and an edge; 0 beyond, around the metal."""
    return np.where(box(ALL, slice(0, 48)), 200.0, 0.0)


def watery() -> np.ndarray:
    """Return 0 HU up to column 29, then 200: water where the beam runs, some bone beyond the target."""
    return np.where(box(ALL, slice(30, 48)), 200.0, 0.0)


def values(output, truth=None, metal=METAL, regions=REGIONS, **options) -> dict[str, float]:
    return raw_values(output, flat() if truth is None else truth, metal, PIXEL_MM, regions, **options)


def test_ct_number_is_the_root_mean_square_error_beyond_two_pixels_of_metal():
    output = np.where(REGIONS.body, 230.0, flat())
    assert values(output)["ct_number"] == pytest.approx(30)
    output = flat()
    output[30:34, 8:16] = output[28:36, 10:14] = 9999  # metal and two pixels around it
    assert values(output, metal=IN_BODY)["ct_number"] == 0
    output[30, 16] += 700  # the third; 16 pixels of metal, 16 + 16 around, 8 + 4 of the diamond's corners
    counted = 64 * 40 - 16 - 4 * 8 - 4
    assert values(output, metal=IN_BODY)["ct_number"] == pytest.approx(700 / math.sqrt(counted))


def test_noise_is_the_standard_deviation_of_the_output_in_its_region():
    output = flat() + 12 * (-1) ** np.indices((SIDE, SIDE)).sum(axis=0)
    assert values(output)["noise"] == values(output, output)["noise"] == pytest.approx(12)
    assert values(flat() + 50)["noise"] == 0


def test_sharpness_is_the_mean_ratio_of_the_edges_of_bone_and_soft_tissue():
    output = flat()
    output[:25] *= 0.5
    assert values(output)["sharpness"] == pytest.approx((0.5 + 1) / 2)
    output = flat()
    output[10, 40:48] = 5000  # 12 of 160 pixels become steeper: less than a tenth
    assert values(output, regions=_with(bone=box(slice(0, 40), slice(46, 50))))["sharpness"] == pytest.approx(1)
    assert values(output, regions=_with(bone=box(slice(0, 20), slice(46, 50))))["sharpness"] > 1.3


def _with(**regions) -> RegionsOfInterest:
    return dataclasses.replace(REGIONS, **regions)


def test_streaks_are_the_highest_five_percent_of_the_error_minus_the_lowest():
    output = flat()
    output[50:60, 10:20] += np.random.default_rng(0).permutation(100).reshape(10, 10)  # 95 .. 99 and 0 .. 4
    assert values(output)["streaks"] == pytest.approx(97 - 2)
    assert values(flat() + 40)["streaks"] == 0


def test_ssim_of_a_constant_shift_is_its_luminance_term_over_5000_hu():
    c1 = (0.01 * 5000) ** 2
    expected = (2 * 200 * 250 + c1) / (200**2 + 250**2 + c1)
    assert values(np.where(REGIONS.body, 250.0, flat()))["ssim"] == pytest.approx(expected, rel=2e-3)
    inner = _with(body=box(ALL, slice(0, 30)))
    assert values(np.where(REGIONS.body, 250.0, flat()), regions=inner)["ssim"] == pytest.approx(expected, rel=1e-9)


def test_ssim_does_not_see_metal():
    output = flat()
    output[29:35, 9:15] = 9999
    assert values(output, metal=IN_BODY)["ssim"] == pytest.approx(1)
    assert values(output)["ssim"] < 0.999


def test_metal_is_what_exceeds_the_highest_tissue_around_it_by_250_hu():
    output = flat()
    output[METAL] = 250.0  # as high as the threshold: not metal
    output[30:33, 56:60] = 251.0  # 12 of the 16 pixels
    output[28:30, 56:60] = 300.0  # 8 beside them
    output[5, 5] = 5000.0  # beyond the region
    found = values(output, insert_metal=False)
    assert (found["metal_volume"], found["metal_dice"]) == pytest.approx((20 / 16 - 1, 2 * 12 / (16 + 20)))
    found = values(output)  # all 16, and the 8
    assert (found["metal_volume"], found["metal_dice"]) == pytest.approx((24 / 16 - 1, 2 * 16 / (16 + 24)))


def test_bone_is_from_150_to_below_2500_hu_in_the_body_without_metal():
    output = flat()
    output[:6, :40], output[6:8, :40], output[8:10, :40], output[10, :40] = 149.9, 2500.0, 150.0, 2499.9
    output[30:34, 10:14] = 0.0
    true, found = 64 * 40 - 16, 64 * 40 - 16 - 8 * 40
    bone = values(output, metal=IN_BODY)
    assert (bone["bone_volume"], bone["bone_dice"]) == pytest.approx((1 - found / true, 2 * found / (true + found)))


STOPPING = 1.003 + 20 / 70 * (1.038 - 1.003)
"""Of water: 0 HU lies between -20 and 50."""


def changed(row: int, columns: slice = slice(10, 20)) -> np.ndarray:
    """Return water in which 20 mm of a row have 100 HU more."""
    output = watery()
    output[row, columns] += 100
    return output


def test_proton_range_is_the_largest_difference_over_the_longest_distance_to_the_target():
    expected = 20 * (1.084 - STOPPING) / (60 * STOPPING)
    assert values(changed(15), watery())["proton_range"] == pytest.approx(expected)
    assert values(changed(20), watery())["proton_range"] == pytest.approx(expected)
    assert values(changed(15) - changed(15) + changed(12), watery())["proton_range"] == pytest.approx(expected)
    for beside in (changed(9), changed(21), changed(15, slice(30, 40))):
        assert values(beside, watery())["proton_range"] == 0


def test_metal_in_the_beam_counts_as_the_tissue_that_it_replaced():
    output, metal = changed(15), box(slice(10, 21), slice(5, 8))
    output[metal] = 9000
    expected = 20 * (1.084 - STOPPING) / (60 * STOPPING)
    assert values(output, watery(), metal)["proton_range"] == pytest.approx(expected)


def test_the_official_quirks_leave_out_metal_the_last_row_and_the_last_pixel():
    output, metal = changed(15), box(slice(10, 21), slice(5, 8))
    output[metal] = 9000
    found = values(output, watery(), metal, official_quirks=True)["proton_range"]
    assert found == pytest.approx(20 * (1.084 - STOPPING) / ((60 - 6 - 2) * STOPPING))
    assert values(changed(20), watery(), official_quirks=True)["proton_range"] == pytest.approx(0)
    assert values(changed(19), watery(), official_quirks=True)["proton_range"] > 0.02


@pytest.mark.parametrize("quarters", range(4))
def test_a_beam_comes_from_each_side(quarters):
    """Turned clockwise, a beam from the left comes from the top."""
    turn = [np.rot90(mask, -quarters) for mask in (changed(15), watery(), METAL)]
    regions = _turned(REGIONS, -quarters, beam_deg=90.0 * quarters)
    assert values(*turn, regions=regions)["proton_range"] == pytest.approx(
        values(changed(15), watery())["proton_range"]
    )


def _turned(regions: RegionsOfInterest, quarters: int, beam_deg: float) -> RegionsOfInterest:
    masks = {name: np.rot90(mask, quarters) for name, mask in vars(regions).items() if name != "beam_deg"}
    return RegionsOfInterest(**masks, beam_deg=beam_deg)


def test_the_official_quirks_turn_the_image_but_not_the_body():
    """From the right: turned, the body lies in columns 0 to 39, but its mask stays in 24 to 63."""
    turn = [np.rot90(image, 2) for image in (changed(15, slice(24, 28)), watery(), METAL)]
    regions = _turned(REGIONS, 2, beam_deg=180.0)
    found = values(*turn, regions=regions, official_quirks=True)["proton_range"]
    assert found == pytest.approx(8 * (1.084 - STOPPING) / ((29 - 24) * 2 * STOPPING))
    assert values(*turn, regions=regions)["proton_range"] == pytest.approx(8 * (1.084 - STOPPING) / (60 * STOPPING))


# Scores


def ideal() -> dict[str, float]:
    return values(flat())


def test_anchors_are_met_and_joined_by_lines():
    truth = ideal()
    for name, raw, expected in [
        *(("sharpness", raw, score) for score, raw in enumerate((1.0, 0.94, 0.85, 0.67, 0.56))),
        *(("sharpness", raw, score) for raw, score in ((1.3, 0), (0.97, 0.5), (0.895, 1.5), (0.615, 3.5), (0.1, 4))),
        *(("proton_range", raw, score) for raw, score in ((0.0025, 0.5), (0.01, 2), (0.0175, 3.5), (0.02, 4), (1, 4))),
    ]:
        result = scores({**truth, name: raw}, truth, truth)
        assert result[name] == pytest.approx(expected), (name, raw)
        assert result["total"] == pytest.approx(expected / 8)


def test_the_input_is_the_anchor_of_the_others():
    truth = {**ideal(), "noise": 10.0}
    bad = {"ct_number": 200, "noise": 30, "streaks": 400, "ssim": 0.6, "metal_volume": 2, "metal_dice": 0.5}
    bad |= {"bone_volume": 0.4, "bone_dice": 0.8}
    of_input = {**truth, **bad}
    for share, expected in ((0, 0), (0.25, 1), (0.5, 2), (1, 4), (1.5, 4), (-1, 0)):
        output = {name: truth[name] + share * (raw - truth[name]) for name, raw in of_input.items()}
        result = scores(output, of_input, truth)
        assert {name: result[name] for name in OF_INPUT} == pytest.approx(dict.fromkeys(OF_INPUT, expected))
    only_dice = scores({**truth, "metal_dice": 0.75, "bone_dice": 0.9}, of_input, truth)
    assert (only_dice["metal"], only_dice["bone"]) == pytest.approx((1, 1))  # mean of 0 and 2


def test_what_is_worse_than_the_truth_is_worst_where_the_input_is_not():
    truth = {**ideal(), "noise": 10.0}
    quiet = {**truth, "noise": 9.0}
    assert [scores({**truth, "noise": raw}, quiet, truth)["noise"] for raw in (9.5, 10.0, 10.1)] == [0, 0, 4]


def test_anchors_can_be_given():
    truth = {**ideal(), "noise": 10.0}
    twice = {"noise": np.linspace(10, 20, 5)}
    assert scores({**truth, "noise": 15.0}, truth, truth, twice)["noise"] == pytest.approx(2)
    assert scores({**truth, "sharpness": 0.5}, truth, truth, {"sharpness": [1, 0.5, 0, 0, 0]})["sharpness"] == 1
    for wrong in (
        {"nois": twice["noise"]},
        {"noise": [48, 45, 64, 72, 80]},
        {"ssim": [0, 0.5, 1, 1, 1]},
        {"noise": [1]},
    ):
        with pytest.raises(InputError, match="anchors"):
            scores(truth, truth, truth, wrong)
    with pytest.raises(InputError, match="streaks"):
        scores({name: raw for name, raw in truth.items() if name != "streaks"}, truth, truth)


# A whole case


def with_error(truth: np.ndarray, metal: np.ndarray, size: float) -> np.ndarray:
    """Return streaks, noise and bloomed metal of a size from 0 to 1."""
    rows, columns = np.indices(truth.shape)
    streaks = 300 * np.sin(rows / 2) + np.random.default_rng(2).normal(0, 60, truth.shape)
    bloomed = ndimage.distance_transform_edt(~metal) <= 3 * size
    return np.where(bloomed, 5000.0, truth + size * streaks * (columns < 120))


def test_the_truth_scores_0_and_more_error_scores_more():
    truth, metal = square_case()
    regions = automatic_regions(truth, metal, 1.0)
    best = raw_values(truth, truth, metal, 1.0, regions)
    raw = [
        raw_values(with_error(truth, metal, k), truth, metal, 1.0, regions, insert_metal=False)
        for k in (0, 0.4, 0.7, 1)
    ]
    assert scores(best, raw[-1], best) == dict.fromkeys((*METRICS, "total"), 0.0)
    found = [scores(values, raw[-1], best) for values in raw]
    assert found[0]["total"] == 0
    for less, more in pairwise(found):
        assert less["total"] < more["total"]
        assert all(less[name] <= more[name] + 1e-9 for name in METRICS)
        assert all(less[name] < more[name] for name in OF_INPUT)
    assert {name: found[-1][name] for name in OF_INPUT} == pytest.approx(dict.fromkeys(OF_INPUT, 4))


def test_blur_costs_sharpness():
    truth, metal = square_case()
    regions = automatic_regions(truth, metal, 1.0)
    best = raw_values(truth, truth, metal, 1.0, regions)
    blurred = [raw_values(ndimage.gaussian_filter(truth, sigma), truth, metal, 1.0, regions) for sigma in (0.4, 0.7, 1)]
    found = [scores(raw, best, best)["sharpness"] for raw in blurred]
    assert 0 < found[0] < found[1] < found[2] <= 4


def test_bad_input_is_refused():
    truth, none = flat(), np.zeros_like(METAL)
    with pytest.raises(InputError, match="not finite"):
        values(np.where(METAL, np.nan, truth))
    for metal in (none, METAL.astype(int)):
        with pytest.raises(InputError, match="metal mask"):
            values(truth, metal=metal)
    with pytest.raises(InputError, match="shapes"):
        values(truth[:-1])
    with pytest.raises(InputError, match="pixel_mm"):
        secondary(truth, truth, METAL, 0.0)
    with pytest.raises(InputError, match="region noise"):
        _with(noise=none)
    with pytest.raises(InputError, match="whole body"):
        values(truth, metal=np.ones_like(METAL))
    with pytest.raises(InputError, match="flat"):
        values(truth, regions=_with(soft=REGIONS.noise))
    with pytest.raises(InputError, match="bone"):
        values(truth - 100, truth - 100)


def test_secondary_scores_of_a_constant_error_in_the_circle():
    """With pixels of 10 mm the circle has a radius of 23.5 pixels; outside everything may be wrong."""
    truth, metal, corner = np.zeros((SIDE, SIDE)), METAL[:, ::-1] & False, box(slice(0, 1), slice(0, 1))
    rows, columns = np.indices(truth.shape) - 31.5
    circle = np.hypot(rows, columns) < 23.5
    found = secondary(truth + 80, truth, corner, 10.0)
    c1 = (0.01 * 8000) ** 2
    ssim = (2 * 1000 * 1080 + c1) / (1000**2 + 1080**2 + c1)
    assert found == pytest.approx({"psnr": 20 * math.log10(100), "ssim": ssim, "rmse_hu": 80})
    metal = box(slice(30, 34), slice(30, 34))
    output = np.where(circle & ~metal, 80.0, 9e9)
    share = 1 - 16 / circle.sum()
    assert secondary(output, truth, metal, 10.0)["rmse_hu"] == pytest.approx(80 * math.sqrt(share))
    for hu, error in ((9000, 6000 - 1000), (-9000, -2000 - 1000)):
        assert secondary(truth + hu, truth, corner, 10.0)["rmse_hu"] == pytest.approx(abs(error))
