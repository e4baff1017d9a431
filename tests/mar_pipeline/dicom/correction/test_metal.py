"""What is metal in a series: evidence for and against, growth, connection from slice to slice, reasons."""

import numpy as np
import pytest

from mar_pipeline.dicom.correction.metal import Metal, decide
from mar_pipeline.dicom.correction.parts import find_candidates
from simulation.implants.masks import PackedMask

SIDE, MM = 160, 1.0
MIDDLE = (80, 80)


def disc(place: tuple[int, int], radius: float) -> np.ndarray:
    row, column = np.ogrid[:SIDE, :SIDE]
    return np.hypot(row - place[0], column - place[1]) <= radius


def body(*pieces: tuple[np.ndarray, float], streaks: float = 0.0, seed: int = 0) -> np.ndarray:
    """A disc of noisy tissue in air with pieces of some HU; streaks leave the middle."""
    hu = np.full((SIDE, SIDE), 40.0) + np.random.default_rng(seed).normal(0, 10, (SIDE, SIDE))
    angle = np.arctan2(*(np.mgrid[:SIDE, :SIDE] - np.reshape(MIDDLE, (2, 1, 1))))
    hu += streaks * np.cos(24 * angle)
    hu[~disc(MIDDLE, 70)] = -1000
    for where, value in pieces:
        hu[where] = value
    return hu.astype(np.float32)


def metal_of(*slices: np.ndarray, gap_mm: float = 2.0, least_mm2: float = 4.0, **options) -> Metal:
    found = [
        find_candidates(hu, np.ones(hu.shape, bool), (MM, MM), 2500, options.get("brightest_hu", np.inf))
        for hu in slices
    ]
    positions_mm = [gap_mm * number for number in range(len(slices))]
    return decide(found, positions_mm, 2500, least_mm2, options.get("all_candidates", False))


def areas(metal: Metal) -> list[int]:
    return [int(mask.unpack().sum()) for mask in metal.masks]


BLOCK = disc(MIDDLE, 4)


def test_a_packed_mask_is_the_mask() -> None:
    mask = np.random.default_rng(0).random((7, 13)) > 0.5
    np.testing.assert_array_equal(PackedMask.of(mask).unpack(), mask)
    np.testing.assert_array_equal(PackedMask.of(mask).union(PackedMask.of(~mask)).unpack(), np.ones((7, 13)))


def test_the_place_of_the_body_in_the_slice_changes_nothing() -> None:
    """The search looks at the body's box alone: masks and middles come back to where they were."""
    hu = body((BLOCK, 9000), (disc((60, 100), 3), 2800), streaks=60)
    moved = np.pad(hu, ((37, 5), (11, 50)), constant_values=-1000)
    one, other = metal_of(hu), metal_of(moved)
    np.testing.assert_array_equal(other.masks[0].unpack(), np.pad(one.masks[0].unpack(), ((37, 5), (11, 50))))
    for before, after in zip(one.components, other.components, strict=True):
        assert after.kept == before.kept and after.reason == before.reason
        assert after.centre == (before.centre[0] + 37, before.centre[1] + 11)


def test_what_is_far_brighter_than_bone_is_metal_without_streaks() -> None:
    metal = metal_of(body((BLOCK, 9000)))
    np.testing.assert_array_equal(metal.masks[0].unpack(), BLOCK)
    np.testing.assert_array_equal(metal.sure[0].unpack(), BLOCK)
    (component,) = metal.components
    assert component.kept and "far above bone" in component.reason
    assert component.centre == MIDDLE and component.peak_hu == 9000 and component.area_mm2 == BLOCK.sum()


@pytest.mark.parametrize(("hu", "reason"), [(2900, "no brighter than dense bone"), (3900, "no streaks leave it")])
def test_dense_bone_and_enamel_are_left_alone(hu: float, reason: str) -> None:
    metal = metal_of(body((BLOCK, hu)))
    assert areas(metal) == [0]
    assert not metal.components[0].kept and reason in metal.components[0].reason


def test_streaks_make_metal_of_what_enamel_could_be_and_not_of_what_contrast_is() -> None:
    metal = metal_of(body((BLOCK, 3900), streaks=40))
    assert areas(metal) == [BLOCK.sum()]
    assert "streaks leave it" in metal.components[0].reason
    assert not metal.sure[0].unpack().any()
    assert areas(metal_of(body((BLOCK, 2900), streaks=40))) == [0]


def test_a_plateau_at_the_end_of_the_scanners_range_is_metal_and_a_peak_is_not() -> None:
    """With streaks that one slice alone would not prove."""
    plateau = body((disc(MIDDLE, 5), 3071), streaks=10)
    row, column = np.ogrid[:SIDE, :SIDE]
    peak = np.minimum(3100 - 10 * np.hypot(row - 80, column - 80) ** 2, 3071)
    assert "plateau" in metal_of(plateau).components[0].reason
    bone = body(streaks=0)
    bone[disc(MIDDLE, 5)] = peak[disc(MIDDLE, 5)]
    assert bone.max() == 3071 and areas(metal_of(bone)) == [0]
    assert areas(metal_of(body((disc(MIDDLE, 5), 3072), streaks=0))) == [0]  # an extended scale ends nowhere near


def test_a_plateau_without_streaks_may_be_the_skulls_base_however_large() -> None:
    skull_base = disc(MIDDLE, 12)
    assert areas(metal_of(body((skull_base, 3071)))) == [0]
    assert areas(metal_of(body((skull_base, 3071), streaks=20))) == [skull_base.sum()]


def test_none_of_many_teeth_becomes_metal_because_others_were_looked_at_first() -> None:
    teeth = [
        disc((80 + round(45 * np.cos(a)), 80 + round(45 * np.sin(a))), 3) for a in np.linspace(0, 2 * np.pi, 20)[:-1]
    ]
    assert areas(metal_of(body(*((tooth, 3071) for tooth in teeth)))) == [0]


def test_what_is_certain_is_what_proves_itself_and_not_what_it_touches() -> None:
    """A crown in one slice makes the tooth in the next metal, but not certain: it can be left out on trial."""
    metal = metal_of(body((BLOCK, 3500)), body((BLOCK, 9000)), body((BLOCK, 3500)))
    assert areas(metal) == [BLOCK.sum()] * 3
    assert [int(mask.unpack().sum()) for mask in metal.sure] == [0, BLOCK.sum(), 0]


def test_a_scale_of_fractions_ends_where_its_bits_do() -> None:
    """4095 steps of .488281 from -1000.3 HU, as float32."""
    highest = 0.488281 * 4095 - 1000.3
    hu = body((disc(MIDDLE, 5), highest), streaks=10)
    found = find_candidates(hu, np.ones(hu.shape, bool), (MM, MM), 900, highest)
    assert found.parts[0].saturated_share == 1


def test_what_lies_outside_the_body_is_left_alone_unless_it_is_asked_for() -> None:
    shield = np.zeros((SIDE, SIDE), bool)
    shield[2:5, 40:120] = True
    outside = body((shield, 3071), (disc((150, 150), 3), 9000))
    metal = metal_of(outside)
    assert areas(metal) == [0]
    assert {component.reason for component in metal.components} == {"outside the body"}
    everything = metal_of(outside, all_candidates=True)
    assert areas(everything) == [shield.sum() + disc((150, 150), 3).sum()]


def test_metal_grows_into_its_blurred_rim_and_not_into_the_bone_beside_it() -> None:
    """Two voxels of 2550 HU in a disc of 2100 HU are no metal, and steel in it takes 2 mm of it."""
    bone = (disc(MIDDLE, 20), 2100.0)
    two = np.zeros((SIDE, SIDE), bool)
    two[80, 80:82] = True
    assert areas(metal_of(body(bone, (two, 2550)))) == [0]
    assert areas(metal_of(body(bone, (BLOCK, 9000))))[0] <= disc(MIDDLE, 7).sum()


def test_what_bone_can_be_does_not_depend_on_the_threshold() -> None:
    hu = body((BLOCK, 2900))
    found = [find_candidates(hu, np.ones(hu.shape, bool), (MM, MM), 1500)]
    assert areas(decide(found, [0.0], 1500, 4.0)) == [0]


def test_the_least_area_is_in_square_millimetres() -> None:
    hu = body((BLOCK, 9000))
    assert areas(metal_of(hu, least_mm2=float(BLOCK.sum()))) == [BLOCK.sum()]
    refused = metal_of(hu, least_mm2=BLOCK.sum() + 0.1)
    assert areas(refused) == [0] and refused.components[0].reason.startswith("smaller than")


def test_what_is_known_of_one_slice_counts_for_the_next_but_not_across_a_gap() -> None:
    sure, doubtful = body((BLOCK, 9000)), body((BLOCK, 3500))
    assert areas(metal_of(doubtful, sure, doubtful)) == [BLOCK.sum()] * 3
    assert areas(metal_of(doubtful, sure, doubtful, gap_mm=12)) == [0, BLOCK.sum(), 0]
    (component,) = metal_of(doubtful, sure, doubtful).components
    assert (component.first_slice, component.last_slice) == (0, 2)


def test_bone_that_touches_metal_of_the_next_slice_stays_bone_and_is_told() -> None:
    metal = metal_of(body((BLOCK, 9000)), body((BLOCK, 2950)))
    assert [(one.kept, one.first_slice, one.last_slice) for one in metal.components] == [(True, 0, 0), (False, 1, 1)]
    assert "touches metal" in metal.components[1].reason
    assert areas(metal_of(body((BLOCK, 9000)), body((disc(MIDDLE, 12), 2700))))[1] <= BLOCK.sum()


def test_partial_volume_beside_the_end_of_metal_belongs_to_it() -> None:
    faint = body((disc(MIDDLE, 10), 2200))
    assert areas(metal_of(faint, body((BLOCK, 9000)), faint)) == [BLOCK.sum()] * 3
    assert areas(metal_of(faint, faint)) == [0, 0]


def test_a_piece_that_turns_back_is_one_component() -> None:
    """A hook: down on the left, across below, and up again on the right."""
    left, right = disc((80, 60), 4), disc((80, 100), 4)
    across = np.zeros((SIDE, SIDE), bool)
    across[78:83, 58:103] = True
    metal = metal_of(body((left, 9000), (right, 3500)), body((left, 9000), (right, 3500)), body((across, 9000)))
    assert len(metal.components) == 1
    assert areas(metal)[0] == left.sum() + right.sum()


def test_a_series_without_metal_and_an_empty_one() -> None:
    assert areas(metal_of(body(), body())) == [0, 0]
    assert metal_of() == Metal((), (), ())
