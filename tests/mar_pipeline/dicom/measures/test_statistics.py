"""Statistics of groups of voxels, alone and together."""

import numpy as np
import pytest

from mar_pipeline.dicom.measures.statistics import NO_VOXELS, pooled, statistics_of


def test_pooled_groups_are_what_numpy_says_of_all_voxels_in_one_array():
    rng = np.random.default_rng(0)
    groups = [
        rng.normal(mean, sd, size) for mean, sd, size in ((40, 5, 7), (-900, 80, 1), (2000, 1e-3, 4000), (0, 0, 3))
    ]
    together = np.concatenate(groups)
    found = pooled([NO_VOXELS, *map(statistics_of, groups)])
    assert found.count == together.size
    assert found.mean == pytest.approx(together.mean(), rel=1e-12)
    assert found.sd == pytest.approx(together.std(), rel=1e-12)
    assert (found.least, found.most) == (together.min(), together.max())


def test_a_uniform_group_has_no_spread_even_in_single_precision():
    found = statistics_of(np.full(100_000, 1234.567, np.float32))
    assert (found.sd, found.least) == (0, found.most)


def test_no_voxels_have_no_values():
    assert statistics_of(np.zeros(0)) == pooled([]) == pooled([NO_VOXELS]) == NO_VOXELS
    assert NO_VOXELS.mean is NO_VOXELS.sd is NO_VOXELS.least is NO_VOXELS.most is None
