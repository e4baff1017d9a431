"""What the table says EQ-Reg brings follows from the seeds' paired differences, in both directions."""

import math

import pytest
from scipy import stats

from mar_pipeline.evaluation.trainings import plan
from mar_pipeline.evaluation.verdicts import Column, verdicts

BASE = "task: classification\nnetwork: {name: cnn}\ndata: {batch_size: 16}\nequivariance: {enabled: ENABLED}\n"
ARMS = {
    "base": {},
    "twice": {"data.batch_size": 32},
    "augmentation": {"data.rotations": True},
    "with EQ-Reg": {"data.rotations": True, "equivariance.enabled": True, "equivariance.weight": 2.0},
}


def runs_of(arms, folder, enabled="false"):
    base = folder / "base.yaml"
    base.write_text(BASE.replace("ENABLED", enabled))
    return plan(str(base), arms, (0,), 1, folder / "out")


@pytest.fixture
def line(tmp_path):
    """The cells of the only difference that some values of two arms have."""

    def cells(plain, regularised, lower_is_better=False):
        values = {"augmentation": dict(enumerate(plain)), "with EQ-Reg": dict(enumerate(regularised))}
        values["base"] = dict.fromkeys(range(len(plain)), -100.0)
        column = Column("PSNR (dB)", 2, lower_is_better, values)
        rows = verdicts(runs_of(ARMS, tmp_path), [column]).splitlines()
        assert len(rows) == 3
        return [cell.strip() for cell in rows[2].strip("|").split("|")]

    return cells


def test_the_arm_without_the_regulariser_is_what_it_is_compared_with(line):
    cells = line([30.0, 31.0, 32.0], [30.5, 31.6, 32.4])
    assert cells[0] == "with EQ-Reg − augmentation"
    assert cells[2] == "+0.50"


@pytest.mark.parametrize(("regularised", "word"), [([30.5, 31.6, 32.4], "helps"), ([29.5, 30.4, 31.6], "harms")])
def test_a_difference_beyond_the_seeds_spread_is_named(line, regularised, word):
    assert line([30.0, 31.0, 32.0], regularised)[-1] == word


def test_what_is_an_error_is_better_when_it_falls(line):
    assert line([0.4, 0.5, 0.45], [0.2, 0.25, 0.22], lower_is_better=True)[-1] == "helps"
    assert line([0.2, 0.25, 0.22], [0.4, 0.5, 0.45], lower_is_better=True)[-1] == "harms"


def test_a_difference_within_the_seeds_spread_is_none(line):
    """Unpaired, the same values of the arms would differ less still: the pairing counts."""
    assert line([30.0, 31.0, 32.0], [31.0, 30.9, 32.0])[-1].startswith("makes no difference")
    assert line([20.0, 30.0, 40.0], [20.5, 30.6, 40.4])[-1] == "helps"


def test_the_interval_is_that_of_the_paired_t_test(line):
    plain, regularised = [30.0, 31.0, 32.0, 30.5], [30.5, 31.2, 32.9, 30.4]
    interval = stats.ttest_rel(regularised, plain).confidence_interval(0.95)
    assert line(plain, regularised)[3] == f"{interval.low:+.2f} to {interval.high:+.2f}"


@pytest.mark.parametrize(
    ("differences", "told", "words"),
    [
        ([0.5], "+0.50", "too few seeds to tell"),
        ([0.5, 0.5], "+0.50", "no spread over the seeds to judge by"),
        ([0.0] * 5, "+0.00", "no spread over the seeds to judge by"),
        ([math.inf, 0.5], "+inf", "no spread over the seeds to judge by"),
    ],
)
def test_seeds_that_show_no_spread_tell_nothing(line, differences, told, words):
    plain = [30.0 + number for number in range(len(differences))]
    cells = line(plain, [value + more for value, more in zip(plain, differences, strict=True)])
    assert cells[2] == told
    assert cells[-1] == words


def test_seeds_that_one_arm_lacks_are_left_out(tmp_path):
    values = {"augmentation": {0: 30.0, 1: 31.0, 2: 20.0}, "with EQ-Reg": {0: 30.5, 1: 31.6}}
    cells = verdicts(runs_of(ARMS, tmp_path), [Column("PSNR (dB)", 2, False, values)]).splitlines()[2]
    assert "+0.55" in cells
    assert "| 2 |" in cells


def test_arms_without_a_regulariser_have_no_table(tmp_path):
    values = {"base": {0: 1.0}, "other": {0: 2.0}}
    runs = runs_of({"base": {}, "other": {"seed": 3}}, tmp_path)
    assert verdicts(runs, [Column("PSNR (dB)", 2, False, values)]) == ""


def partners(arms, folder, enabled="false"):
    """First cells of the table, and what is told below it."""
    column = Column("PSNR (dB)", 2, False, {arm: {0: 1.0, 1: 2.0} for arm in arms})
    table, _, rest = verdicts(runs_of(arms, folder, enabled), [column]).rpartition("\n\n")
    rows = (table or rest).splitlines()
    cells = [row.split("|")[1].strip() for row in rows[2:]] if "|" in rows[0] else rows
    return cells + ([rest] if table else [])


def test_an_arm_that_shows_as_many_images_is_a_partner_too(tmp_path):
    whole = {"equivariance.enabled": True, "equivariance.batch_fraction": 1.0}
    arms = {"plain": {}, "twice": {"data.batch_size": 32}, "thrice": {"data.batch_size": 48}, "EQ": whole}
    assert partners(arms, tmp_path) == ["EQ − plain", "EQ − twice"]
    half = whole | {"equivariance.batch_fraction": 0.5}
    assert partners(arms | {"EQ": half}, tmp_path) == ["EQ − plain"]


def test_what_counts_is_the_settings_not_the_words_of_the_arm(tmp_path):
    assert partners({"plain": {"equivariance.enabled": False}, "EQ": {}}, tmp_path, "true") == ["EQ − plain"]


def test_an_arm_without_a_partner_is_told(tmp_path):
    arms = {"plain": {"data.rotations": True}, "EQ": {"equivariance.enabled": True}}
    assert partners(arms, tmp_path) == ["No arm shows what EQ is without EQ-Reg."]
