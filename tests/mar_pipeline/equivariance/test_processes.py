"""EQ-Reg in two processes is that of one process on the batch of both."""

import pytest
import torch
from regularised_process import CASES, regularised, start

WORLD = 2


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What one process finds on the whole batch, and what two find on its halves: by case."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(start, (WORLD, str(folder)), nprocs=WORLD)
    found = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]
    return {name: (regularised(case), [rank[name] for rank in found]) for name, case in CASES.items()}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one_on_the_same_global_batch(results, case):
    (loss, values, gradient), ranks = results[case]
    assert loss > 0.01
    for own_loss, own_values, own_gradient in ranks:
        torch.testing.assert_close(own_loss, loss, rtol=1e-5, atol=0)
        assert own_values.keys() == values.keys()
        for name, value in values.items():
            assert own_values[name] == pytest.approx(value, rel=1e-5)
        assert (own_gradient - gradient).norm() < 1e-5 * gradient.norm()


def test_the_penalty_of_the_whole_is_not_the_mean_over_the_halves(results):
    """What the law above would be worth if the penalty were a mean: nothing."""
    one, other = (regularised(CASES["relative"], part)[0] for part in (slice(0, 3), slice(3, 6)))
    assert (one + other) / 2 != pytest.approx(float(results["relative"][0][0]), rel=1e-3)
