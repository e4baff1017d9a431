"""Decisions along a series: no slice flickers between its neighbours, and no harm is done for their sake."""

from dataclasses import replace

import pytest

from mar_pipeline.dicom.trials import Trial, steadied
from mar_pipeline.judge.verdict import Judgement


def trials(*strengths: float, score: float = -0.5) -> list[Trial]:
    return [Trial(n, s, Judgement(1.0 if s else score, {}, {}, (), "")) for n, s in enumerate(strengths)]


def strengths(made: list[Trial], gap_mm: float = 2.0) -> list[float]:
    decided = steadied(made, [gap_mm * n for n in range(len(made))])
    return [decided[trial.number] for trial in made]


@pytest.mark.parametrize(
    ("tried", "decided"),
    [
        ((1, 1, 1), [1, 1, 1]),
        ((1, 0, 1), [1, 1, 1]),
        ((0, 1, 0), [0, 0, 0]),
        ((1, 0.5, 1), [1, 1, 1]),
        ((0, 0, 1, 1), [0, 0, 1, 1]),
        ((0,), [0]),
        ((1, 0, 1, 0, 1), [1, 1, 1, 1, 1]),
        ((0, 1, 0, 1, 0, 1), [0, 0, 0, 0.5, 0.5, 1]),
        ((1, 0, 0, 1), [1, 0, 0, 1]),
        ((1, 0.5, 0.5, 1), [1, 0.5, 0.5, 1]),
    ],
)
def test_no_slice_stands_alone_between_its_neighbours(tried, decided: list[float]) -> None:
    assert strengths(trials(*tried)) == decided


@pytest.mark.parametrize("own", [0, 0.5])
def test_what_is_clearly_harmful_at_full_strength_is_not_lifted(own: float) -> None:
    made = trials(1, own, 1)
    made[1] = replace(made[1], most=own)
    assert strengths(made) == [1, own, 1]


def test_slices_far_apart_decide_alone() -> None:
    assert strengths(trials(1, 0, 1), gap_mm=20) == [1, 0, 1]


def test_a_slice_that_could_not_be_corrected_stays_the_original() -> None:
    made = [*trials(1), Trial(1, 0.0, reason="metal hides too much"), Trial(2, 1.0, Judgement(1, {}, {}, (), ""))]
    assert strengths(made) == [1, 0, 1]
