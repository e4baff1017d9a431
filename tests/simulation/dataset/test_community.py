"""One slice of a data set: deterministic by (seed, slice, mask), complete or not in the set, in its real size."""

import errno
import json
import os

import numpy as np
import pytest
from small_scanner import body_hu, disc

from simulation.dataset.community import CommunityBuilder
from simulation.dataset.community_set import CommunitySet
from simulation.dataset.manifest import CASE_RECORD, Identity
from simulation.dataset.pairs import PairMaker
from simulation.dataset.reader import read_pair
from simulation.errors import InputError, UsageError
from simulation.files import sha256_of
from simulation.implants.library import ImplantLibrary
from simulation.implants.masks import MaskStack
from simulation.physics import protocols
from simulation.physics.grid import to_grid
from simulation.physics.protocols import PROTOCOLS
from simulation.simulator import Simulator
from simulation.sources import SliceRef
from simulation.units import hu_to_mu

pytestmark = pytest.mark.usefixtures("small_scanner")


def body(kind="clean"):
    return hu_to_mu(body_hu(kind)).astype(np.float32)


def read(kind):
    if kind == "broken":
        raise InputError("a.png: broken or truncated")
    return body(kind), 0.8


def slice_ref(kind="clean", case="a"):
    return SliceRef(case, "000", f"{case}.png", read, (kind,))


def stack(*centres):
    return np.stack([disc(20, 512, *centre) for centre in centres], axis=2).astype(np.uint8)


THREE = stack((0, 0), (60, -40), (-80, 30))


def builder(root, library=None, masks=3, seed=0):
    root.mkdir(exist_ok=True)
    library = library or MaskStack(stack=THREE, metal="titanium")
    identity = Identity("syndeeplesion", "p", "s", "m", "titanium", "", masks, seed, "cpu", False, 0)
    pairs = PairMaker(library, masks, seed, Simulator(device="cpu", threads=1))
    return CommunityBuilder(CommunitySet(root, "train", identity), [], pairs, compression=0)


def build(made, ref, number):
    """The slice, wherever in a plan it is."""
    plan = CommunityBuilder(made.folder, [None] * number + [ref], made.pairs, compression=0)
    (result,) = plan.build(number)
    return result


def folder_of(made, case="a"):
    return made.folder.root / "train_640geo" / case / "000"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_slice_is_made_whole(tmp_path):
    made = builder(tmp_path)
    result = build(made, slice_ref(), 5)
    assert (result.name, result.pairs, result.skipped, result.failed) == ("a/000", 3, "", ())
    folder = folder_of(made)
    assert set(contents(folder)) == {"gt.h5", "0.h5", "1.h5", "2.h5", CASE_RECORD}
    record = json.loads((folder / CASE_RECORD).read_text())
    assert (record["number"], record["origin"], record["pixel_mm"]) == (5, "a.png", 0.8)
    assert record["files"] == {name: sha256_of(folder / name) for name in ("gt.h5", "0.h5", "1.h5", "2.h5")}
    assert set(record["implants"]) == {"0", "1", "2"}
    assert made.folder.is_done(slice_ref())
    np.testing.assert_array_equal(read_pair(folder / "0.h5").image, body())  # already on the grid: bit for bit


def test_procedural_masks_are_numbered_through_the_set_and_described(tmp_path):
    made = builder(tmp_path, ImplantLibrary(("needle", "electrodes")), 2, seed=4)
    result = build(made, slice_ref(), 3)
    assert (result.pairs, result.failed) == (2, ())
    record = json.loads((folder_of(made) / CASE_RECORD).read_text())
    assert set(record["implants"]) == {"6", "7"}
    assert record["files"]["masks.npz"] == sha256_of(folder_of(made) / "masks.npz")
    with np.load(folder_of(made) / "masks.npz") as masks:
        assert list(masks["indices"]) == [6, 7]
        assert [int((mask > 0).sum()) for mask in masks["masks"]] == [
            record["implants"][key]["pixels"] for key in ("6", "7")
        ]


def test_bytes_depend_on_seed_slice_and_mask_only(tmp_path):
    straight = builder(tmp_path / "a")
    build(straight, slice_ref(), 5)
    after_others = builder(tmp_path / "b")
    for number in (0, 9):
        build(after_others, slice_ref(case=f"other{number}"), number)
    build(after_others, slice_ref(), 5)
    assert contents(folder_of(after_others)) == contents(folder_of(straight))
    for name, seed, number in (("c", 1, 5), ("d", 0, 6)):
        other = builder(tmp_path / name, seed=seed)
        build(other, slice_ref(), number)
        for pair in ("0.h5", "gt.h5"):
            assert contents(folder_of(other))[pair] != contents(folder_of(straight))[pair]


def test_a_mask_does_not_depend_on_those_simulated_with_it(tmp_path):
    many, few = builder(tmp_path / "a"), builder(tmp_path / "b", masks=1)
    build(many, slice_ref(), 5)
    build(few, slice_ref(), 5)
    assert contents(folder_of(few))["0.h5"] == contents(folder_of(many))["0.h5"]


def test_every_file_draws_noise_of_its_own(tmp_path):
    """Outside the metal's shadow two masks of a slice differ by noise alone, and so do gt.h5 and a mask."""
    made = builder(tmp_path)
    build(made, slice_ref(), 0)
    first, second = (read_pair(folder_of(made) / f"{index}.h5") for index in (0, 1))
    outside = ~(first.metal_trace | second.metal_trace)
    for one, other in ((first.ma_sinogram, second.ma_sinogram), (first.poly_sinogram, first.ma_sinogram)):
        differs = (one != other)[outside]
        assert 0.5 < differs.mean() <= 1
        np.testing.assert_allclose(one[outside], other[outside], atol=0.05)


@pytest.mark.parametrize("lost", [(CASE_RECORD,), (CASE_RECORD, "1.h5"), ("gt.h5",), ("0.h5", "2.h5")])
def test_only_what_is_missing_is_made_again_and_is_the_same(tmp_path, lost):
    made = builder(tmp_path)
    build(made, slice_ref(), 5)
    folder, before = folder_of(made), contents(folder_of(made))
    for name in lost:
        (folder / name).unlink()
    (folder / "1.h5.9999999.partial").write_bytes(b"half")
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*.h5")}
    result = build(made, slice_ref(), 5)
    assert result.pairs == sum(name not in ("gt.h5", CASE_RECORD) for name in lost)
    assert contents(folder) == before
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_damage_does_not_pass_for_good_when_other_files_are_made_again(tmp_path):
    made = builder(tmp_path)
    build(made, slice_ref(), 5)
    folder, recorded = folder_of(made), made.folder.hashes(slice_ref())
    (folder / "0.h5").write_bytes((folder / "0.h5").read_bytes() + b"x")
    for lost in ("1.h5", "gt.h5"):
        (folder / lost).unlink()
        build(made, slice_ref(), 5)
        assert made.folder.hashes(slice_ref()) == recorded
    assert recorded["0.h5"] != sha256_of(folder / "0.h5")
    assert recorded["1.h5"] == sha256_of(folder / "1.h5")


def test_what_was_interrupted_is_not_done(tmp_path, monkeypatch):
    asked = []

    def interrupted():
        asked.append(1)
        if len(asked) > 1:
            raise KeyboardInterrupt

    made = builder(tmp_path, MaskStack(stack=stack(*[(0, 0)] * 5), metal="titanium"), 5)
    monkeypatch.setattr("simulation.dataset.pairs.check_stopped", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(made, slice_ref(), 0)
    assert set(contents(folder_of(made))) == {"gt.h5", "0.h5", "1.h5", "2.h5", "3.h5"}
    assert not made.folder.is_done(slice_ref())


@pytest.mark.parametrize("kind", ["metal", "empty"])
def test_an_unfit_slice_is_skipped_with_its_reason(tmp_path, kind):
    made = builder(tmp_path)
    result = build(made, slice_ref(kind), 0)
    assert (result.pairs, result.skipped, result.failed) == (0, kind, ())
    assert not folder_of(made).exists()


def test_a_broken_slice_fails_alone(tmp_path):
    made = builder(tmp_path)
    result = build(made, slice_ref("broken"), 0)
    assert (result.pairs, result.skipped, result.failed) == (0, "", ("a.png: broken or truncated",))
    assert not folder_of(made).exists()


def test_a_mask_outside_the_body_fails_alone(tmp_path):
    made = builder(tmp_path, MaskStack(stack=stack((0, 0), (-230, -230), (60, 0)), metal="titanium"))
    result = build(made, slice_ref(), 0)
    assert result.pairs == 2
    assert len(result.failed) == 1
    assert result.failed[0].startswith("a/000, mask 1: ")
    assert "outside the body" in result.failed[0]
    assert sorted(path.name for path in folder_of(made).glob("*.h5")) == ["0.h5", "2.h5", "gt.h5"]
    assert json.loads((folder_of(made) / CASE_RECORD).read_text())["failed"] == list(result.failed)


def test_a_slice_for_which_no_mask_fits_is_not_begun(tmp_path):
    made = builder(tmp_path, MaskStack(stack=stack((-230, -230)), metal="titanium"), 1)
    result = build(made, slice_ref(), 0)
    assert (result.pairs, len(result.failed)) == (0, 1)
    assert result.failed[0].startswith("a/000, mask 0: ")
    assert not folder_of(made).exists()


def test_a_request_that_no_slice_can_meet_is_raised(tmp_path):
    """The clinical preset with a source without pixel size: every slice would say the same."""
    made = builder(tmp_path)
    made.pairs.simulator.protocol = PROTOCOLS["clinical"]
    with pytest.raises(UsageError, match="no pixel size"):
        build(made, SliceRef("a", "000", "a.png", lambda: (body(), None), ()), 0)
    assert not folder_of(made).exists()


@pytest.mark.parametrize("call", range(5))
def test_a_disk_that_fills_leaves_whole_files_and_no_record(tmp_path, monkeypatch, call):
    """Flushes of a slice: gt.h5, three pairs, the record."""
    made, calls, fsync = builder(tmp_path), [], os.fsync

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as context:
        context.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space") as caught:
            build(made, slice_ref(), 0)
    assert caught.value.filename == str(folder_of(made) / ["gt.h5", "0.h5", "1.h5", "2.h5", CASE_RECORD][call])
    assert not made.folder.is_done(slice_ref())
    assert [path.name for path in folder_of(made).iterdir()] == [
        path.name for path in folder_of(made).iterdir() if path.suffix == ".h5"
    ]
    assert len(list(folder_of(made).iterdir())) == call
    build(made, slice_ref(), 0)
    other = builder(tmp_path / "straight")
    build(other, slice_ref(), 0)
    assert contents(folder_of(made)) == contents(folder_of(other))


# --- size on the grid ---


@pytest.mark.parametrize(("size", "pixel_mm"), [(512, 0.6), (512, 0.9766), (512, 1.3), (300, 1.1), (768, 0.5)])
def test_the_physical_grid_keeps_millimetres_and_the_middle(size, pixel_mm):
    """A water disc of 180 mm, 20 mm from the middle, has that diameter and place on the clinical grid."""
    scan = PROTOCOLS["clinical"]
    image = disc(90 / pixel_mm, size, row=20 / pixel_mm).astype(np.float32) * np.float32(0.2)
    on_grid = to_grid(image, pixel_mm, scan)
    assert on_grid.shape == scan.geometry.image_shape
    grid_mm = scan.geometry.pixel_mm
    share = on_grid.astype(np.float64) / 0.2
    diameter_mm = 2 * np.sqrt(share.sum() / np.pi) * grid_mm
    assert diameter_mm == pytest.approx(180, abs=0.5)
    rows, columns = np.mgrid[: on_grid.shape[0], : on_grid.shape[1]] - (len(on_grid) - 1) / 2
    assert (rows * share).sum() / share.sum() * grid_mm == pytest.approx(20, abs=0.3)
    assert (columns * share).sum() / share.sum() * grid_mm == pytest.approx(0, abs=0.3)
    assert on_grid.max() == pytest.approx(0.2, rel=1e-5)
    assert on_grid.min() == 0


def test_the_physical_grid_needs_the_pixel_size():
    with pytest.raises(UsageError, match="no pixel size"):
        to_grid(body(), None, PROTOCOLS["clinical"])


def test_the_stretched_grid_does_not_ask_for_it():
    scan = protocols.PROTOCOLS["syndeeplesion"]
    image = np.asarray(disc(100, 512), np.float32)
    on_grid = to_grid(image, None, scan)
    np.testing.assert_array_equal(on_grid, to_grid(image, 0.3, scan))
    assert on_grid.mean() == pytest.approx(image.mean(), rel=1e-3)


def test_both_grids_of_a_slice_show_the_same_extent():
    """Masks are drawn at 512 x 512 and the image is another size: the same fraction of both is body."""
    for name in ("syndeeplesion", "clinical"):
        image = disc(150, 512, row=40).astype(np.float32)
        small = to_grid(image, 0.8, protocols.PROTOCOLS[name])
        large = to_grid(image, 0.8, protocols.PROTOCOLS[name], (700, 700))
        assert large.mean() == pytest.approx(small.mean(), rel=2e-3)
        middle = [(np.arange(len(one)) + 0.5) @ one.sum(axis=1) / one.sum() / len(one) for one in (small, large)]
        assert middle[0] == pytest.approx(middle[1], abs=2e-3)


def test_masks_that_are_written_again_are_hashed_again(tmp_path):
    """Another zlib packs the same masks into other bytes."""
    made = builder(tmp_path, ImplantLibrary(("needle", "electrodes")), 2)
    build(made, slice_ref(), 3)
    path = folder_of(made) / "masks.npz"
    with np.load(path) as masks:
        np.savez(path, **masks)
    record = made.folder.record(slice_ref())
    made.folder.write_record(slice_ref(), record | {"files": record["files"] | {"masks.npz": sha256_of(path)}})
    (folder_of(made) / "6.h5").unlink()
    build(made, slice_ref(), 3)
    assert made.folder.hashes(slice_ref())["masks.npz"] == sha256_of(path)
