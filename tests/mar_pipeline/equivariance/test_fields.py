"""The action: a group's, and what the scanner does under a rotation of the image."""

import math

import pytest
import torch

from mar_pipeline.equivariance.fields import act, automatic_fields
from mar_pipeline.equivariance.rotation import disk, rotate

MIXED = [("regular", 2), ("trivial", 1), ("free", 2)]


def channels(fields, group_order):
    return sum(count * group_order if kind == "regular" else count for kind, count in fields)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("group_order", [2, 4])
def test_the_actions_compose_as_the_rotations_do(group_order):
    x = torch.randn(2, 3, channels(MIXED, group_order), 6, 6)

    for a in range(-1, group_order + 2):
        for b in range(group_order):
            twice = act(act(x, a, MIXED, group_order), b, MIXED, group_order)
            assert torch.equal(twice, act(x, a + b, MIXED, group_order))
    assert torch.equal(act(x, group_order, MIXED, group_order), x)


def test_each_kind_does_what_it_says():
    x = torch.randn(2, 11, 6, 6)
    moved = act(x, 1, MIXED)
    turned = torch.rot90(x, 1, (-2, -1))

    for group in (0, 4):
        for s in range(4):
            assert torch.equal(moved[:, group + s], turned[:, group + (s - 1) % 4])  # a roll by +1
    assert torch.equal(moved[:, 8], turned[:, 8])
    assert torch.equal(moved[:, 9:], x[:, 9:])


def test_half_turns_alone():
    x = torch.randn(1, 2, 5, 7)

    assert torch.equal(act(x, 1, [("regular", 1)], 2), torch.flip(x, (-2, -1)).flip(1))


def test_quarter_turns_among_eighths_move_pixels_onto_pixels():
    x = torch.randn(1, 8, 6, 6)

    assert torch.equal(act(x, 2, [("regular", 1)], 8), torch.rot90(x, 1, (-2, -1)).roll(2, 1))


def test_interpolated_rotation_agrees_with_rot90_where_both_are_defined():
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)

    for turns in range(4):
        torch.testing.assert_close(rotate(x, turns * math.pi / 2), torch.rot90(x, turns, (-2, -1)))


def blob(row, column, height, width):
    """A smooth spot at a place given from the middle of the image."""
    rows = torch.arange(height) - (height - 1) / 2
    columns = torch.arange(width) - (width - 1) / 2
    return torch.exp(-((rows[:, None] - row) ** 2 + (columns - column) ** 2) / 18)[None]


@pytest.mark.parametrize("shape", [(48, 48), (40, 72)])
@pytest.mark.parametrize("group_order", [3, 8])
def test_a_spot_moves_counter_clockwise_on_square_pixels(shape, group_order):
    angle = 2 * math.pi / group_order
    moved = act(blob(0, 10, *shape), 1, [("trivial", 1)], group_order)

    torch.testing.assert_close(moved, blob(-10 * math.sin(angle), 10 * math.cos(angle), *shape), atol=0.03, rtol=0)


def test_rotation_keeps_half_precision_and_refuses_labels():
    assert rotate(torch.rand(1, 8, 8).to(torch.bfloat16), 0.3).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="interpolates"):
        rotate(torch.ones(1, 8, 8, dtype=torch.bool), 0.3)


def test_the_disk_is_what_no_rotation_takes_outside():
    inside = disk(32, 40)
    turned = rotate(torch.ones(1, 32, 40), 0.7)[0]

    torch.testing.assert_close(turned[inside], torch.ones(int(inside.sum())))
    assert inside.sum() == pytest.approx(math.pi * (0.88 * 16) ** 2, rel=0.03)
    assert disk(32, 40, border=4).sum() < inside.sum()
    with pytest.raises(ValueError, match="holds no pixel"):
        disk(4, 4, border=3)


def test_a_rotated_image_has_its_views_shifted():
    from simulation.physics.geometry import FanBeam
    from simulation.physics.projector import Projector

    geometry = FanBeam(
        image_shape=(32, 32), pixel_mm=2.0, source_mm=300.0, detector_mm=300.0, views=640, bins=80, pitch_mm=2.0
    )
    projector = Projector(geometry, device="cpu", threads=1)
    image = torch.rand(1, 32, 32)
    sinogram = projector.forward(image)

    for n in (1, 2, 3):
        shifted = act(sinogram, n, [("views", 1)])
        assert torch.equal(shifted, sinogram.roll(160 * n, -2))
        torch.testing.assert_close(projector.forward(act(image, n, [("trivial", 1)])), shifted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "shape", "words"),
    [
        ([("regular", 2)], (7, 4, 4), "describe 8 channels .* but there are 7"),
        ([("scalar", 4)], (4, 4, 4), "unknown kind 'scalar'"),
        ([("regular", 0)], (4, 4, 4), "at least 1"),
        ([("trivial", True)], (1, 4, 4), "at least 1"),
        (["trivial"], (1, 4, 4), "pairs"),
        ([], (1, 4, 4), "describe 0 channels"),
        ([("views", 1), ("trivial", 1)], (2, 4, 4), "cannot stand beside"),
        ([("views", 1)], (1, 10, 4), "10 views are not a multiple"),
        ([("free", 1), ("trivial", 1)], (2, 4, 6), "square maps"),
        ([("trivial", 4)], (4, 4), "a map"),
    ],
)
def test_what_does_not_fit_is_refused(fields, shape, words):
    with pytest.raises(ValueError, match=words):
        act(torch.zeros(shape), 1, fields)


@pytest.mark.parametrize("group_order", [0, 1, 4.0, True])
def test_a_group_order_is_a_whole_number_above_one(group_order):
    with pytest.raises(ValueError, match="group_order"):
        act(torch.zeros(4, 4, 4), 1, [("trivial", 4)], group_order)


def test_automatic_fields(caplog):
    assert automatic_fields(32) == (("regular", 8),)
    assert automatic_fields(3) == (("trivial", 3),)
    assert automatic_fields(8, is_output=True) == (("trivial", 8),)
    assert automatic_fields(16, 8) == (("regular", 2),)
    assert not caplog.records
    caplog.set_level("INFO")
    for _ in range(2):
        assert automatic_fields(53) == (("regular", 13), ("trivial", 1))
    assert caplog.text.count("53 channels: 13 groups of 4, and the last 1 trivial") == 1
    with pytest.raises(ValueError, match="not a multiple"):
        automatic_fields(53, strict=True)
