"""The split of a set that has none."""

import pytest

from mar_pipeline.tasks.images.split import training_count
from simulation.errors import InputError


def test_nine_tenths_and_one_for_each_part_at_least():
    assert [training_count("set", count) for count in (2, 9, 10, 11, 20, 100)] == [1, 8, 9, 9, 18, 90]
    for count in range(2, 2000):
        assert training_count("set", count) == int(0.9 * count) < count


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_are_refused(count):
    with pytest.raises(InputError, match=f"set: got {count} image"):
        training_count("set", count)
