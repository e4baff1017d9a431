"""Shapes of metal placed in slices: inside the body, one metal, one to five pieces, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import scipy.io

from simulation.errors import InputError, UsageError
from simulation.implants.library import ImplantLibrary
from simulation.implants.masks import MaskStack
from simulation.implants.placed import CHALLENGE_METALS, PlacedShapes, shapes_from
from simulation.physics.materials import METAL_CODES


def body(side: int = 128) -> np.ndarray:
    x, y = np.meshgrid(*[np.arange(side) - side / 2] * 2, indexing="ij")
    return np.where(np.hypot(x, 1.3 * y) < 0.4 * side, 0.2, 0).astype(np.float32)


def grey(count: int = 3) -> np.ndarray:
    images = np.zeros((count, 64, 64), np.uint8)
    for number in range(count):
        images[number, 10 : 20 + 5 * number, 30:40] = 200
    return images


@pytest.fixture
def shapes() -> PlacedShapes:
    return PlacedShapes(shapes_from(grey()))


def test_pieces_lie_in_the_body_and_are_of_one_metal(shapes: PlacedShapes) -> None:
    image, counts, metals = body(), set(), set()
    for seed in range(60):
        mask, description = shapes.sample(image, np.random.default_rng(seed))
        (code,) = set(np.unique(mask)) - {0}
        metals.add({value: name for name, value in METAL_CODES.items()}[int(code)])
        counts.add(len(description["parts"]))
        assert not mask[image == 0].any() and mask.dtype == np.uint8
        assert description["pixels"] == np.count_nonzero(mask) and {p["metal"] for p in description["parts"]} <= metals
    assert metals == set(CHALLENGE_METALS) and counts == {1, 2, 3, 4, 5}


def test_the_same_seed_gives_the_same_mask_and_sizes_span_a_decade(shapes: PlacedShapes) -> None:
    one, two = (shapes.sample(body(), np.random.default_rng(4))[0] for _ in range(2))
    np.testing.assert_array_equal(one, two)
    sizes = [
        part["pixels"]
        for seed in range(80)
        for part in shapes.sample(body(256), np.random.default_rng(seed))[1]["parts"]
    ]
    assert max(sizes) > 50 * min(sizes)
    assert np.sqrt(4 * max(sizes) / np.pi) < 0.115 * 256


def test_shapes_are_what_is_brighter_than_25() -> None:
    images = grey(1)
    images[0, 0, 0] = 25
    assert shapes_from(images)[0].shape == (10, 10)
    with pytest.raises(InputError, match="shape 1 has no pixel above 25"):
        shapes_from(np.concatenate([images, 0 * images]))
    with pytest.raises(InputError, match=r"got an array of shape \(64, 64\)"):
        shapes_from(images[0])


def test_matlab_files_of_both_kinds_are_read(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "metal_masks.mat", {"tumor_imgs": grey()})
    stack = np.zeros((512, 512, 2), np.uint8)
    stack[10:20, 30:40] = 1
    scipy.io.savemat(tmp_path / "SampleMasks.mat", {"CT_samples_bwMetal": stack.astype(float)})
    placed = ImplantLibrary.from_masks(tmp_path / "metal_masks.mat")
    assert isinstance(placed, PlacedShapes) and len(placed.shapes) == 3 and placed.metal == CHALLENGE_METALS
    given = ImplantLibrary.from_masks(tmp_path / "SampleMasks.mat")
    assert isinstance(given, MaskStack) and given.metal == "titanium"
    np.testing.assert_array_equal(given.stack, stack)


def test_matlab_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "other.mat", {"liver": grey()})
    (tmp_path / "broken.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    with pytest.raises(InputError, match="has liver; expected CT_samples_bwMetal"):
        ImplantLibrary.from_masks(tmp_path / "other.mat")
    for name, words in (("broken.mat", "no MATLAB file"), ("none.mat", "no such file")):
        with pytest.raises(InputError, match=words):
            ImplantLibrary.from_masks(tmp_path / name)
    scipy.io.savemat(tmp_path / "metal_masks.mat", {"tumor_imgs": grey()})
    with pytest.raises(UsageError, match="unknown metal 'wood'"):
        ImplantLibrary.from_masks(tmp_path / "metal_masks.mat", "wood")


def test_a_slice_without_a_body_is_refused(shapes: PlacedShapes) -> None:
    with pytest.raises(InputError):
        shapes.sample(np.zeros((64, 64), np.float32), np.random.default_rng(0))


@pytest.mark.shared_data
def test_the_challenges_shapes_are_placed(shared_data: Path) -> None:
    placed = ImplantLibrary.from_masks(shared_data / "ctmar" / "metal_masks.mat")
    assert isinstance(placed, PlacedShapes) and len(placed.shapes) == 97
    mask, description = placed.sample(body(512), np.random.default_rng(0))
    assert mask.any() and 1 <= len(description["parts"]) <= 5
