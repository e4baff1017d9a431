"""What the table says EQ-Reg brings follows from the seeds' paired differences, in both directions."""

import pytest
from scipy import stats

from mar_pipeline.comparison.verdicts import Column, verdicts

ARMS = {
    "base": {},
    "twice": {"data.batch_size": 32},
    "augmentation": {"data.rotations": True},
    "with EQ-Reg": {"data.rotations": True, "equivariance.enabled": True, "equivariance.weight": 2.0},
}


def line(plain, regularised, lower_is_better=False):
    """The cells of the only difference that these arms have."""
    values = {"augmentation": dict(enumerate(plain)), "with EQ-Reg": dict(enumerate(regularised))}
    values["base"] = dict.fromkeys(range(len(plain)), -100.0)
    rows = verdicts(ARMS, [Column("PSNR (dB)", 2, lower_is_better, values)]).splitlines()
    assert len(rows) == 3
    return [cell.strip() for cell in rows[2].strip("|").split("|")]


def test_the_arm_without_the_regulariser_is_what_it_is_compared_with():
    cells = line([30.0, 31.0, 32.0], [30.5, 31.6, 32.4])
    assert cells[0] == "with EQ-Reg − augmentation"
    assert cells[2] == "+0.50"


@pytest.mark.parametrize(("regularised", "word"), [([30.5, 31.6, 32.4], "helps"), ([29.5, 30.4, 31.6], "harms")])
def test_a_difference_beyond_the_seeds_spread_is_named(regularised, word):
    assert line([30.0, 31.0, 32.0], regularised)[-1] == word


def test_what_is_an_error_is_better_when_it_falls():
    assert line([0.4, 0.5, 0.45], [0.2, 0.25, 0.22], lower_is_better=True)[-1] == "helps"
    assert line([0.2, 0.25, 0.22], [0.4, 0.5, 0.45], lower_is_better=True)[-1] == "harms"


def test_a_difference_within_the_seeds_spread_is_none():
    """Unpaired, the same values of the arms would differ less still: the pairing counts."""
    assert line([30.0, 31.0, 32.0], [31.0, 30.9, 32.0])[-1].startswith("makes no difference")
    assert line([20.0, 30.0, 40.0], [20.5, 30.6, 40.4])[-1] == "helps"


def test_the_interval_is_that_of_the_paired_t_test():
    plain, regularised = [30.0, 31.0, 32.0, 30.5], [30.5, 31.2, 32.9, 30.4]
    interval = stats.ttest_rel(regularised, plain).confidence_interval(0.95)
    assert line(plain, regularised)[3] == f"{interval.low:+.2f} to {interval.high:+.2f}"


@pytest.mark.parametrize("differences", [[0.5], [0.5, 0.5]])
def test_seeds_that_show_no_spread_tell_nothing(differences):
    plain = [30.0 + number for number in range(len(differences))]
    cells = line(plain, [value + more for value, more in zip(plain, differences, strict=True)])
    assert cells[2] == "+0.50"
    assert cells[-1] == "too few seeds to tell"


def test_seeds_that_one_arm_lacks_are_left_out():
    values = {"augmentation": {0: 30.0, 1: 31.0, 2: 20.0}, "with EQ-Reg": {0: 30.5, 1: 31.6}}
    cells = verdicts(ARMS, [Column("PSNR (dB)", 2, False, values)]).splitlines()[2]
    assert "+0.55" in cells
    assert "| 2 |" in cells


def test_arms_without_a_regulariser_have_no_table():
    assert verdicts({"base": {}, "other": None}, [Column("PSNR (dB)", 2, False, {"base": {0: 1.0}})]) == ""
