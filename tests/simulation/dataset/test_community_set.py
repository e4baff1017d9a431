"""A data set that grows: its settings are fixed, unfinished slices are not in it, strangers are left alone."""

from dataclasses import fields, replace

import numpy as np
import pytest

from simulation.dataset.community_set import CommunitySet
from simulation.dataset.manifest import CASE_MASKS, CASE_RECORD, Identity, read_manifest
from simulation.errors import InputError, UsageError
from simulation.files import sha256_of
from simulation.implants.library import ImplantLibrary
from simulation.implants.masks import MaskStack
from simulation.sources import SliceRef

IDENTITY = Identity("syndeeplesion", "p", "s", "procedural", "titanium", "", 2, 0, "cpu", False, 4)
REFS = [SliceRef(case, "000", case, len, ((),)) for case in ("c", "a", "b")]


def contents(root):
    return {path.name: path.read_bytes() for path in root.iterdir() if path.is_file()}


def finish(data_set, number, masks=None):
    """Makes the slice of a number look complete, with two masks of its own."""
    ref = REFS[number]
    folder = data_set.case_folder(ref)
    folder.mkdir(parents=True)
    indices = [2 * number, 2 * number + 1]
    names = ["gt.h5", *(f"{index}.h5" for index in indices)]
    for name in names:
        (folder / name).write_bytes(f"{number} {name}".encode())
    if masks is not None:
        np.savez(folder / CASE_MASKS, indices=np.array(indices), masks=masks)
    data_set.write_record(ref, {"number": number, "files": {name: sha256_of(folder / name) for name in names}})


def opened(root, split="train", identity=IDENTITY):
    data_set = CommunitySet(root, split, identity)
    data_set.open()
    return data_set


OTHER = {bool: True, int: 3, str: "other"}
HASHED = {
    "physics": r"the physics \(spectrum or version\) changed",
    "slices": "the list of slices changed",
    "masks": "the masks changed",
}
"""Told in words, as two hashes say nothing."""


@pytest.mark.parametrize("name", [field.name for field in fields(Identity)])
def test_each_setting_that_decides_the_bytes_is_part_of_the_identity(tmp_path, name):
    other = replace(IDENTITY, **{name: OTHER[type(getattr(IDENTITY, name))]})
    assert other.sha256 != IDENTITY.sha256
    assert replace(IDENTITY).sha256 == IDENTITY.sha256
    finish(opened(tmp_path), 0)
    before = contents(tmp_path)
    words = HASHED.get(name) or f"{name} was {getattr(IDENTITY, name)!r}, is {getattr(other, name)!r}"
    for ask in (CommunitySet.open, CommunitySet.check):
        with pytest.raises(UsageError, match=rf"other settings \({words}\); repeat those settings"):
            ask(CommunitySet(tmp_path, "train", other))
        assert contents(tmp_path) == before
    opened(tmp_path)


def test_settings_bind_even_before_a_slice_is_made(tmp_path):
    """Another shard may be making its first one."""
    opened(tmp_path)
    with pytest.raises(UsageError, match="seed was 0, is 1"):
        opened(tmp_path, identity=replace(IDENTITY, seed=1))
    assert read_manifest(tmp_path, "train")["identity"]["seed"] == 0


def test_a_set_without_a_slice_is_discarded_so_that_other_settings_may_follow(tmp_path):
    """Who mistyped a setting, so that no slice could be made, may repeat the command with the right one."""
    data_set = opened(tmp_path)
    opened(tmp_path, "test")
    data_set.collate(REFS, ImplantLibrary(), 2)
    data_set.discard_if_empty()
    assert set(contents(tmp_path)) - {".dataset.lock"} == {"test_manifest.json"}
    opened(tmp_path, identity=replace(IDENTITY, seed=1))
    assert read_manifest(tmp_path, "train")["identity"]["seed"] == 1


def test_a_set_with_a_slice_is_not_discarded(tmp_path):
    data_set = opened(tmp_path)
    finish(data_set, 0)
    data_set.collate(REFS, ImplantLibrary(), 2)
    before = contents(tmp_path)
    data_set.discard_if_empty()
    assert contents(tmp_path) == before
    assert set(data_set.outputs()) <= set(before)


def test_settings_of_a_split_do_not_bind_the_other(tmp_path):
    opened(tmp_path)
    opened(tmp_path, "test", replace(IDENTITY, seed=1))
    assert read_manifest(tmp_path, "train")["identity"]["seed"] == 0
    assert read_manifest(tmp_path, "test")["identity"]["seed"] == 1


@pytest.mark.parametrize("stranger", ["notes.txt", "sub/notes.txt", "train_640geo/a/000/gt.h5"])
def test_a_folder_with_something_else_in_it_is_refused(tmp_path, stranger):
    path = tmp_path / stranger
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    with pytest.raises(UsageError, match=r"(did not make; |restore that, or )choose a new or empty --out") as caught:
        opened(tmp_path)
    assert stranger.split("/")[0] in str(caught.value)
    assert path.read_text() == "mine"
    assert not list(tmp_path.glob("*manifest*"))


def test_hidden_files_do_not_disturb(tmp_path):
    (tmp_path / ".nfs0001").touch()
    opened(tmp_path)
    assert (tmp_path / ".nfs0001").exists()


def test_opening_clears_what_a_killed_run_left(tmp_path):
    opened(tmp_path)
    (tmp_path / "trainmask.npy.123.partial").write_bytes(b"half")
    opened(tmp_path)
    assert not list(tmp_path.glob("*.partial"))


def test_a_broken_manifest_is_one_line(tmp_path):
    opened(tmp_path)
    (tmp_path / "train_manifest.json").write_text('{"schema"')
    with pytest.raises(InputError, match="cannot be read as JSON"):
        opened(tmp_path)


def test_a_slice_is_done_with_its_record_and_all_files_it_names(tmp_path):
    data_set = opened(tmp_path)
    assert not data_set.is_done(REFS[0])
    finish(data_set, 0)
    assert data_set.is_done(REFS[0])
    assert not data_set.is_done(REFS[1])
    folder = data_set.case_folder(REFS[0])
    for name in ("gt.h5", "1.h5", CASE_RECORD):
        (folder / name).rename(folder / "away")
        assert not data_set.is_done(REFS[0])
        (folder / "away").rename(folder / name)
    assert data_set.is_done(REFS[0])


def test_a_damaged_record_does_not_count(tmp_path):
    data_set = opened(tmp_path)
    finish(data_set, 0)
    for text in ('{"files"', "[]", '{"files": 3}', "{}"):
        (data_set.case_folder(REFS[0]) / CASE_RECORD).write_text(text)
        assert not data_set.is_done(REFS[0])


def test_the_listing_keeps_the_order_of_the_plan_and_only_what_is_done(tmp_path):
    data_set = opened(tmp_path)
    for numbers, expected in (((), ""), ((2,), "b/000/gt.h5\n"), ((0,), "c/000/gt.h5\nb/000/gt.h5\n")):
        for number in numbers:
            finish(data_set, number)
        data_set.collate(REFS, ImplantLibrary(), 2)
        assert (tmp_path / "train_640geo_dir.txt").read_text() == expected
        cases = read_manifest(tmp_path, "train")["cases"]
        assert list(cases) == [f"train_640geo/{line[:-6]}" for line in expected.split()]
    assert cases["train_640geo/c/000"]["files"]["1.h5"] == sha256_of(tmp_path / "train_640geo/c/000/1.h5")


def test_the_order_in_which_slices_were_done_does_not_show(tmp_path):
    sets = []
    for name, order in (("x", (0, 1, 2)), ("y", (2, 0, 1))):
        (tmp_path / name).mkdir()
        data_set = opened(tmp_path / name)
        for number in order:
            finish(data_set, number)
            data_set.collate(REFS, ImplantLibrary(), 2)
        sets.append(contents(tmp_path / name))
    assert sets[0] == sets[1]
    assert {"train_640geo_dir.txt", "trainmask.npy", "train_manifest.json"} <= set(sets[0])


def test_a_mask_lies_at_its_number_in_the_stack(tmp_path):
    data_set = opened(tmp_path)
    masks = np.zeros((2, 512, 512), np.uint8)
    masks[0, 5, 7], masks[1, 100, 200:210] = 1, 4  # a code is 1 in the stack
    finish(data_set, 2, masks)
    data_set.collate(REFS, ImplantLibrary(), 2)
    stack = np.load(tmp_path / "trainmask.npy")
    assert (stack.shape, stack.dtype) == ((512, 512, 6), np.uint8)
    assert stack.flags.f_contiguous  # a slice's masks lie together
    np.testing.assert_array_equal(stack[:, :, 4:].transpose(2, 0, 1), masks > 0)
    assert not stack[:, :, :4].any()


def test_a_part_writes_masks_of_slices_that_are_new_only(tmp_path, monkeypatch):
    """An array job's parts end one after another: each must cost what it made, and lose nothing of a killed one."""
    data_set, masks = opened(tmp_path), np.ones((2, 512, 512), np.uint8)
    packed = []
    masks_of = CommunitySet._masks_of
    monkeypatch.setattr(
        CommunitySet, "_masks_of", lambda self, ref, count: packed.append(ref.case) or masks_of(self, ref, 2)
    )
    finish(data_set, 0, masks)
    data_set.collate(REFS, ImplantLibrary(), 2, part=[0])
    finish(data_set, 2, masks)  # by a part that was killed before it listed its slice
    finish(data_set, 1, masks)
    data_set.collate(REFS, ImplantLibrary(), 2, part=[1])
    assert packed == ["c", "a", "b"]
    stack = np.load(tmp_path / "trainmask.npy")
    assert stack.all() and stack.shape == (512, 512, 6)
    data_set.collate(REFS, ImplantLibrary(), 2, part=[0])
    assert len(packed) == 3
    (tmp_path / "trainmask.npy").unlink()
    data_set.collate(REFS, ImplantLibrary(), 2, part=[0])
    np.testing.assert_array_equal(np.load(tmp_path / "trainmask.npy"), stack)


def test_a_run_killed_between_stack_and_listing_is_made_good(tmp_path, monkeypatch):
    data_set, masks = opened(tmp_path), np.ones((2, 512, 512), np.uint8)
    finish(data_set, 0, masks)
    data_set.collate(REFS, ImplantLibrary(), 2)
    finish(data_set, 1, masks)
    with monkeypatch.context() as patch:
        patch.setattr("simulation.dataset.community_set.os.fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            data_set.collate(REFS, ImplantLibrary(), 2)
    with (tmp_path / "trainmask.npy").open("r+b") as file:  # as if only a part of it had reached the disk
        file.seek(-3 * 512 * 512, 2)
        file.write(bytes(512))
    data_set.collate(REFS, ImplantLibrary(), 2)
    assert np.load(tmp_path / "trainmask.npy")[:, :, :4].all()


def test_a_given_stack_is_kept_as_far_as_it_is_used(tmp_path):
    stack = np.zeros((512, 512, 3), np.uint8)
    for index in range(3):
        stack[10 * index + 5, 7 : 9 + index, index] = 1
    opened(tmp_path).collate(REFS, MaskStack(stack=stack, metal="gold"), 2)
    np.testing.assert_array_equal(np.load(tmp_path / "trainmask.npy"), stack[:, :, :2])


def test_the_manifest_says_what_it_was_made_from(tmp_path):
    data_set = opened(tmp_path)
    finish(data_set, 1)
    data_set.collate(REFS, ImplantLibrary(), 2)
    manifest = read_manifest(tmp_path, "train")
    assert manifest["schema"] == 1
    assert manifest["identity"] == {field.name: getattr(IDENTITY, field.name) for field in fields(Identity)}
    assert manifest["identity_sha256"] == IDENTITY.sha256
    listing = {"train_640geo_dir.txt": sha256_of(tmp_path / "train_640geo_dir.txt")}
    assert manifest["files"] == listing  # masks of procedural implants are compared with those of their slices
    stack = MaskStack(stack=np.ones((512, 512, 2), np.uint8), metal="gold")
    data_set.collate(REFS, stack, 2)
    own = read_manifest(tmp_path, "train")["files"]
    assert own == listing | {"trainmask.npy": sha256_of(tmp_path / "trainmask.npy")}
    assert not list(tmp_path.rglob("*.partial"))


def test_a_set_with_an_unfinished_slice_is_not_discarded(tmp_path):
    data_set = opened(tmp_path)
    data_set.case_folder(REFS[0]).mkdir(parents=True)
    data_set.discard_if_empty()
    opened(tmp_path)  # as the message of Ctrl-C promises
