"""The judge on made-up slices whose answer is known: real streaks that go, anatomy that goes, streaks that come."""

import numpy as np
import pytest
from scipy import ndimage

from mar_pipeline.judge.verdict import WEIGHTS, Judge, judge

SIDE, MM = 200, (1.0, 1.0)
ROW, COLUMN = np.indices((SIDE, SIDE)) - SIDE // 2
AWAY = np.hypot(ROW, COLUMN)
METAL = AWAY <= 5
STREAKS = 60 * np.cos(24 * np.arctan2(ROW, COLUMN)) * (AWAY > 6) * (AWAY < 80)


def anatomy() -> np.ndarray:
    """Noisy tissue with a cavity, in air."""
    hu = np.where(AWAY < 90, 40.0, -1000.0) + np.random.default_rng(0).normal(0, 10, AWAY.shape)
    hu[np.hypot(ROW - 30, COLUMN + 30) < 12] = -950
    return hu


def with_metal(hu: np.ndarray, value: float = 9000) -> np.ndarray:
    return np.where(METAL, value, hu)


def test_real_streaks_that_are_removed_are_help() -> None:
    truth = with_metal(anatomy())
    verdict = judge(truth + STREAKS, truth + 0.2 * STREAKS, METAL, MM)
    assert verdict.helps and not verdict.harmful and "fell to" in verdict.reason
    assert judge(truth + STREAKS, truth + 0.6 * STREAKS, METAL, MM).score < verdict.score


def test_streaks_that_are_brought_are_harm() -> None:
    truth = with_metal(anatomy())
    verdict = judge(truth, truth + STREAKS, METAL, MM)
    assert not verdict.helps and verdict.harmful


def test_bone_is_not_corrected_even_where_streaks_go() -> None:
    bone = with_metal(anatomy(), 2700)
    assert not judge(bone, bone + 0.5 * STREAKS, METAL, MM).helps


@pytest.mark.parametrize("harm", ["cavity", "shading", "blur"])
def test_anatomy_must_stay_however_well_the_streaks_go(harm: str) -> None:
    """Each error is larger than what the removed streaks win."""
    truth = with_metal(anatomy())
    seen, result = truth + STREAKS, truth + 0.4 * STREAKS
    assert judge(seen, result, METAL, MM).helps
    if harm == "cavity":
        result = np.where(np.hypot(ROW - 30, COLUMN + 30) < 13, 40, result)
    elif harm == "shading":
        result = result + 400 * np.sin(ROW / 25) * (AWAY < 90) * ~METAL
    else:
        result = np.where(METAL, seen, ndimage.gaussian_filter(seen, 1.5))
    verdict = judge(seen, result, METAL, MM)
    error, before = (float(np.sqrt(np.mean((hu - truth)[~METAL] ** 2))) for hu in (result, seen))
    assert error > before
    assert verdict.vetoes and not verdict.helps and verdict.harmful


def test_metal_that_is_known_is_judged_by_the_change_alone() -> None:
    weak = with_metal(anatomy(), 2400)
    seen, result = weak + STREAKS, weak + 0.3 * STREAKS
    assert Judge(weak, METAL, MM, is_metal=True)(seen).score > Judge(weak, METAL, MM)(seen).score
    assert Judge(seen, METAL, MM, is_metal=True)(result).helps
    assert not Judge(weak, METAL, MM, is_metal=True)(weak + STREAKS).helps


def test_metal_outside_the_body_is_refused_however_well_streaks_go() -> None:
    truth = anatomy()
    outside = np.hypot(ROW - 96, COLUMN - 20) < 3
    slice_hu = np.where(outside, 9000, truth)
    verdict = judge(slice_hu + STREAKS, slice_hu, outside, MM)
    assert not verdict.helps and verdict.reason == "what was taken for metal lies outside the body"


def test_nothing_changed_is_neither() -> None:
    truth = with_metal(anatomy())
    verdict = judge(truth, truth, METAL, MM)
    assert not verdict.helps and not verdict.harmful and verdict.reason == "nothing changed"


def test_the_score_is_the_sum_of_its_terms() -> None:
    truth = with_metal(anatomy())
    verdict = judge(truth + STREAKS, truth, METAL, MM)
    other = judge(truth + STREAKS, truth + 0.5 * STREAKS, METAL, MM)
    difference = sum(weight * (verdict.terms[name] - other.terms[name]) for name, weight in WEIGHTS.items())
    assert verdict.score - other.score == pytest.approx(difference)


def test_the_spacing_counts_and_not_the_pixels() -> None:
    """Every voxel twice, at half the spacing: nearly the same score."""
    truth = with_metal(anatomy())
    one = judge(truth + STREAKS, truth + 0.3 * STREAKS, METAL, MM)
    twice = [np.kron(image, np.ones((2, 2))) for image in (truth + STREAKS, truth + 0.3 * STREAKS, METAL)]
    assert judge(*twice[:2], twice[2] > 0, (0.5, 0.5)).score == pytest.approx(one.score, abs=0.8)


@pytest.mark.parametrize(
    ("original", "result", "metal"),
    [
        (np.zeros((4, 4)), np.zeros((4, 5)), np.ones((4, 4), bool)),
        (np.zeros((4, 4)), np.zeros((4, 4)), np.zeros((4, 4), bool)),
        (np.full((4, 4), np.nan), np.zeros((4, 4)), np.ones((4, 4), bool)),
    ],
)
def test_what_cannot_be_judged_is_refused(original, result, metal) -> None:
    with pytest.raises(ValueError, match=r"^judge: "):
        judge(original, result, metal, MM)
