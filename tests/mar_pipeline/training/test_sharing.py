"""One network in two processes: gradients, recomputed stages and running statistics."""

import pytest
import torch
from sharing_process import part_of, start, stepped
from small_scans import DUAL

WORLD = 2


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What two processes find on their halves of a batch: a list by network."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(start, (WORLD, str(folder)), nprocs=WORLD)
    ranks = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]
    return {name: [rank[name] for rank in ranks] for name in DUAL}


@pytest.mark.parametrize("name", DUAL)
def test_gradients_are_those_of_one_process_where_norms_are_fixed(found, name):
    expected, *_ = stepped(name)
    for fixed, own, *_ in found[name]:
        assert (fixed - expected).norm() < 1e-5 * expected.norm()
        assert torch.equal(own, found[name][0][1])


@pytest.mark.parametrize("name", DUAL)
def test_running_statistics_become_the_mean_of_both(found, name):
    (*_, first, shared), (*_, second, other) = found[name]
    for key, value in shared.items():
        assert torch.equal(value, other[key])
        mean = (first[key] + second[key]) / 2 if key.endswith(("running_mean", "running_var")) else first[key]
        torch.testing.assert_close(value, mean)
    for rank, before in enumerate((first, second)):  # until then each has seen its own samples alone
        *_, expected, _ = stepped(name, part_of(rank, WORLD))
        for key, value in expected.items():
            torch.testing.assert_close(before[key], value)
    differ = [key for key in first if not torch.equal(first[key], second[key])]
    assert all(key.endswith(("running_mean", "running_var")) for key in differ)
    assert bool(differ) == any(key.endswith("running_var") for key in first)
