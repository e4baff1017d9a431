"""Body and rings around metal."""

import numpy as np
import pytest
from metal_slices import discs

from mar_pipeline.dicom.measures.rings import RINGS_MM, find_body, ring_masks


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0), (2.5, 1.5)])
def test_rings_are_what_counting_every_pair_of_voxels_gives(spacing_mm):
    rng = np.random.default_rng(3)
    metal = np.zeros((50, 70), bool)
    metal[20:23, 30:36] = metal[5, 60] = True
    body = rng.random(metal.shape) < 0.8
    places_mm = np.argwhere(np.ones_like(metal)) * spacing_mm
    apart_mm = np.linalg.norm(places_mm[:, None] - np.argwhere(metal) * spacing_mm, axis=2).min(axis=1)
    masks = ring_masks(metal, body, spacing_mm)
    for (low, high), mask in zip(RINGS_MM, masks.values(), strict=True):
        expected = (apart_mm > low) & (apart_mm <= high) & body.ravel()
        np.testing.assert_array_equal(mask.ravel(), expected)
    assert sum(masks.values()).max() == 1  # no voxel belongs to two


def test_without_metal_there_is_no_ring():
    nothing = np.zeros((8, 8), bool)
    assert not any(mask.any() for mask in ring_masks(nothing, ~nothing, (1, 1)).values())


def test_the_body_is_the_patient_with_the_lungs_and_without_the_table():
    shape, spacing = (120, 120), 3.0
    trunk, lung = discs(shape, spacing, (0, -20, 110)), discs(shape, spacing, (30, -20, 30))
    hu = np.where(trunk, 40.0, -1000.0)
    hu[lung] = -850
    metal = discs(shape, spacing, (-60, -20, 9))
    hu[metal] = 8000
    table = np.zeros(shape, bool)
    table[108] = True  # one row, 3 mm thick
    hu[table] = 200
    body = find_body(hu, np.ones(shape, bool), metal, (spacing, spacing))
    assert (body ^ trunk).sum() == 0
    assert body[lung].all() and not body[table].any()


def test_a_slice_of_air_has_no_body():
    nothing = np.zeros((20, 20), bool)
    assert not find_body(np.full(nothing.shape, -1000.0), ~nothing, nothing, (1, 1)).any()
