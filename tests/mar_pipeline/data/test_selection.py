"""Patterns, held-out patients, and a few pairs that span a set."""

from pathlib import Path

import pytest

from mar_pipeline.data.pairs import PairFile
from mar_pipeline.data.selection import choose_slices, held_out, spread_pairs
from simulation.errors import UsageError

NAMES = [f"{patient:06d}_{study:02d}_01/{number:03d}" for patient in range(5) for study in (1, 2) for number in (7, 9)]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (None, NAMES),
        (["000001_*"], NAMES[4:8]),
        (["000001_01_01"], NAMES[4:6]),
        (["000001_01_01/009"], NAMES[5:6]),
        (["!000001_*"], NAMES[:4] + NAMES[8:]),
        (["00000[01]_*", "!*/007"], [NAMES[1], NAMES[3], NAMES[5], NAMES[7]]),
    ],
)
def test_patterns(patterns, expected):
    assert choose_slices(NAMES, patterns, "--x") == expected


@pytest.mark.parametrize("pattern", ["000009_*", "!000009_*"])
def test_a_pattern_without_a_match_is_refused(pattern):
    with pytest.raises(
        UsageError, match=r"^--x: '!?000009_\*' matches none of 20 slices; the first one is 000000_01_01"
    ):
        choose_slices(NAMES, ["000001_*", pattern], "--x")


@pytest.mark.parametrize(("fraction", "patients"), [(0.01, 1), (0.2, 1), (0.4, 2), (0.99, 4)])
def test_whole_patients_are_held_out(fraction, patients):
    held = held_out(NAMES, fraction)
    assert len({name[:6] for name in held}) == patients and len(held) == 4 * patients
    assert not {name[:6] for name in held} & {name[:6] for name in set(NAMES) - set(held)}


def test_of_one_volume_slices_are_held_out():
    names = [f"volume/{number:03d}" for number in range(10)]
    assert len(held_out(names, 0.3)) == 3
    with pytest.raises(UsageError, match="got 1 slice, of which none can be held out"):
        held_out(names[:1], 0.3)


def pairs(slices, masks):
    return [PairFile("train", f"case{s}", "000", m, Path(f"{s}/{m}.h5")) for s in range(slices) for m in range(masks)]


@pytest.mark.parametrize("count", [3, 6, 10, 25])
def test_spread_pairs_span_slices_and_masks(count):
    chosen = spread_pairs(pairs(6, 5), count)
    assert len(chosen) == count == len(set(chosen))
    assert len({pair.case for pair in chosen}) == min(count, 6)
    assert len({pair.mask for pair in chosen}) == min(count, 5)


def test_all_pairs_where_there_are_not_more():
    assert spread_pairs(pairs(2, 2), 9) == spread_pairs(pairs(2, 2), None) == pairs(2, 2)
    uneven = pairs(1, 3) + pairs(4, 1)[1:]
    assert len(spread_pairs(uneven, 5)) == 5
