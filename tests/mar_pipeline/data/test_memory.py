"""Rows that a process and those it forks have in common."""

import multiprocessing
import pickle

import numpy as np
import pytest
from small_scanner import SMALL

from mar_pipeline.data.memory import SharedPairs, SharedTable
from mar_pipeline.sample import Layout, PairArrays


def test_a_row_is_absent_until_it_is_filled():
    table = SharedTable(3, (2, 2))
    assert table.get(1) is None
    table.put(1, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(table.get(1), [[1, 2], [3, 4]])
    assert table.get(0) is None and table.get(1).dtype == np.float32


def test_a_row_cannot_be_written_to_by_mistake():
    table = SharedTable(1, (2,))
    table.put(0, [1, 2])
    with pytest.raises(ValueError, match="read-only"):
        table.get(0)[0] = 5
    table.put(0, [3, 4])
    np.testing.assert_array_equal(table.get(0), [3, 4])


def test_rows_beyond_the_budget_are_not_kept():
    table = SharedTable(5, (250,), np.float32, budget_mb=0.002)
    for row in range(5):
        table.put(row, np.full(250, row))
    assert [table.get(row) is not None for row in range(5)] == [True, True, False, False, False]
    SharedTable(5, (250,), budget_mb=0).put(0, np.zeros(250))


def test_what_a_forked_process_fills_is_seen_here():
    table = SharedTable(2, (4,), np.uint8)
    process = multiprocessing.get_context("fork").Process(target=table.put, args=(1, np.arange(4)))
    process.start()
    process.join()
    np.testing.assert_array_equal(table.get(1), np.arange(4))


def test_a_pickled_table_comes_back_empty():
    table = SharedTable(2, (4,), np.uint8)
    table.put(0, 1)
    copy = pickle.loads(pickle.dumps(table))
    assert copy.get(0) is None
    copy.put(1, 2)
    np.testing.assert_array_equal(copy.get(1), [2, 2, 2, 2])
    assert table.get(1) is None


def test_pairs_keep_images_and_sinograms_apart():
    layout = Layout.of(["ma_sinogram", "metal_trace", "prior"])
    rng = np.random.default_rng(0)
    made = [PairArrays(rng.random((5, 64, 64), np.float32), rng.random((2, 64, 81), np.float32)) for _ in range(3)]
    size_mb = (5 * 64 * 64 + 2 * 64 * 81) * 4 / 1e6
    pairs = SharedPairs(3, layout, SMALL, budget_mb=2.5 * size_mb)
    assert pairs.get(0) is None
    for index, pair in enumerate(made):
        pairs.put(index, pair)
    for index, pair in enumerate(made[:2]):
        for kept, own in zip(pairs.get(index), pair, strict=True):
            np.testing.assert_array_equal(kept, own)
    assert pairs.get(2) is None
    with pytest.raises(ValueError, match="read-only"):
        pairs.get(0).sinograms[0, 0, 0] = 1
