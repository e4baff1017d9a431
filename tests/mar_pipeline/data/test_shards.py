"""Pairs of shards: batches equal to those of the other layout, what is not stored derived, what cannot be refused."""

import dataclasses
import pickle
import shutil

import h5py
import numpy as np
import pytest
import torch
from small_scanner import NAME, SIZE, SMALL
from training_set import MASKS, SLICES, write_training_set

from mar_pipeline.data import KEYS, DataSettings, ShardPairs, make_loaders, shards
from mar_pipeline.data.selection import Selection
from mar_pipeline.sample import IMAGES, SINOGRAMS, Layout
from simulation.dataset.generate import SimulateSettings, generate
from simulation.dataset.shard_file import Shard
from simulation.errors import InputError, MarError, UsageError
from simulation.physics.protocols import PROTOCOLS

pytestmark = pytest.mark.usefixtures("small_scanner")
STORES = ("images", "both", "sinograms")
EVERYTHING = Layout.of((*IMAGES, *SINOGRAMS))


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """The same pairs in the community layout and in shards of each kind."""
    root = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROTOCOLS, NAME, dataclasses.replace(PROTOCOLS[NAME], geometry=SMALL))
        convert = str(write_training_set(root / "community"))
        np.save(root / "community" / "trainmask.npy", masks_of_512(root / "community" / "trainmask.npy"))
        for store in STORES:
            out = str(root / store)
            generate(SimulateSettings(out, convert=convert, layout="shards", store=store, slices_per_shard=2))
    return root


def masks_of_512(path):
    return np.kron(np.load(path), np.ones((8, 8, 1), np.uint8))


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written / "images", tmp_path / "set")


def settings(written, kind, **changes):
    fixed = {"patch": 16, "batch_size": 4, "batches_per_epoch": 5, "rotations": True, "workers": 0}
    return DataSettings(
        kind="community" if kind == "community" else "shards", folder=str(written / kind), **fixed | changes
    )


def batches_of(loaders):
    loaders.train.set_epoch(2)
    return [*loaders.train, *loaders.validation]


def same(first, second, keys=KEYS):
    return len(first) == len(second) and all(
        torch.equal(a[key], b[key]) for a, b in zip(first, second, strict=True) for key in keys
    )


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"patch": 0, "rotations": False},
        {"patch": SIZE, "crops_per_pair": 2},
        {"val_slices": ("000001_*",), "mask_range": (0, 1)},
        {"val_mask_range": (2, 2), "val_pairs": 2},
        {"slices": ("!000002_*",), "flips": False},
    ],
)
@pytest.mark.parametrize("store", ["images", "sinograms"])
def test_batches_are_those_of_the_community_layout(written, store, change):
    expected = batches_of(make_loaders(settings(written, "community", **change), 5))
    loaders = make_loaders(settings(written, store, **change), 5)
    assert same(batches_of(loaders), expected)
    assert loaders.facts() == make_loaders(settings(written, "community", **change), 5).facts()


def test_workers_change_nothing(written):
    alone, helped = (make_loaders(settings(written, "images", workers=n), 5) for n in (0, 2))
    for _ in range(2):
        assert same(batches_of(helped), batches_of(alone))


@pytest.mark.parametrize("store", ["both", "sinograms"])
@pytest.mark.parametrize("cache_mb", [0, 64])
def test_sinograms_are_read_or_derived(written, store, cache_mb):
    change = {"patch": 0, "cache_mb": cache_mb, "batches_per_epoch": 2}
    expected = batches_of(make_loaders(settings(written, "community", **change), 5, layout=EVERYTHING))
    own = batches_of(make_loaders(settings(written, store, **change), 5, layout=EVERYTHING))
    assert same(own, expected, (*IMAGES, *SINOGRAMS))


def test_images_suffice_for_a_prior_image_but_not_for_sinograms(written):
    layout = Layout.of(["prior"])
    expected = batches_of(make_loaders(settings(written, "community"), 5, layout=layout))
    assert same(batches_of(make_loaders(settings(written, "images"), 5, layout=layout)), expected, layout.images)
    with pytest.raises(
        UsageError, match=r"shard_0000\d.h5: holds images only, but the network needs .*ma_sinogram.*--store both"
    ):
        make_loaders(settings(written, "images", patch=0), 5, layout=EVERYTHING)


def test_crops_do_not_read_the_rest(written, monkeypatch):
    read = []
    whole = Shard.read

    def noted(self, name, row, first=0, count=None):
        read.append(count)
        return whole(self, name, row, first, count)

    monkeypatch.setattr(Shard, "read", noted)
    next(iter(make_loaders(settings(written, "images"), 5).train))
    assert read == [16] * 4 * len(KEYS)


def test_few_files_are_open_at_a_time(written, monkeypatch):
    monkeypatch.setattr(shards, "_MOST_OPEN", 1)
    pairs = ShardPairs(Selection(written / "images"))
    expected = ShardPairs(Selection(written / "images"))
    for index in (0, len(pairs) - 1, 1):
        assert torch.equal(pairs[index]["li"], expected[index]["li"])
        assert sum(shard.is_open for shard in {id(own): own for own, *_ in pairs._at}.values()) == 1


def test_a_pickled_set_reads_the_same(written):
    pairs = ShardPairs(Selection(written / "sinograms"))
    first = pairs[4]["image"]
    assert torch.equal(pickle.loads(pickle.dumps(pairs))[4]["image"], first)


def test_validation_on_a_set_of_the_other_layout(written):
    for kind, other in (("images", "community"), ("community", "both")):
        changed = settings(written, kind, val_folder=str(written / other), val_mask_range=(1, 1))
        loaders = make_loaders(changed, 0)
        assert loaders.facts()["train"]["pairs"] == SLICES * MASKS
        assert loaders.facts()["validation"]["pairs"] == SLICES


def test_a_shard_that_is_missing_is_told(folder):
    (folder / "train_shards" / "shard_00000.h5").unlink()
    pairs = ShardPairs(Selection(folder))
    assert (len(pairs), pairs.slices) == (MASKS, 1)
    assert [own.pair for own in pairs.left_out] == ["train/shard_00000.h5"]


@pytest.mark.parametrize("name", ["ma_CT", "LI_CT", "image"])
def test_values_that_are_not_finite_are_not_trained_on(folder, name):
    for path in (folder / "train_shards").glob("*.h5"):
        with h5py.File(path, "r+") as file:
            file[name][:, 5] = np.nan
    with pytest.raises(InputError, match=rf"shard_0000\d\.h5: {name} of train/.* holds values that are not finite"):
        batches_of(make_loaders(DataSettings("shards", str(folder), patch=0, batch_size=2, workers=0), 0))


@pytest.mark.parametrize("workers", [0, 2])
def test_damage_found_while_training_is_one_line(written, folder, workers):
    loaders = make_loaders(settings(folder.parent, folder.name, workers=workers), 0)
    for path in folder.rglob("*.h5"):
        path.write_bytes(path.read_bytes()[:50000])
    with pytest.raises(InputError, match=r"^[^\n]*shard_0000\d\.h5: truncated in [^\n]*$"):
        list(loaders.train)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("community", {"kind": "shards"}, "--data.kind: got shards, but .* is of the kind community; give that"),
        ("images", {"kind": "community"}, "--data.kind: got community, but .* is of the kind shards; give that"),
        ("images", {"masks": "m.npy"}, r"--data.masks: got m.npy, but shards hold their masks"),
        ("images", {"metal": "gold"}, "--data.metal: only for simulated pairs"),
        ("images", {"preset": "clinical"}, "--data.preset: got clinical, but the manifest .* syndeeplesion made"),
        ("nowhere", {}, "nowhere: no train_shards in it"),
        ("images", {"mask_range": (7, 9)}, r"--data.mask_range 7 9 selects no mask: the set has masks 0 to 2"),
        ("images", {"simulate_device": "cuda"}, "--data.simulate_device: only for data.kind simulate"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(written, kind, change, message):
    with pytest.raises(MarError, match=message) as caught:
        make_loaders(dataclasses.replace(settings(written, kind), **change), 0)
    assert "\n" not in str(caught.value)


def test_what_reads_the_community_layout_says_what_to_do_with_shards(written):
    from mar_pipeline.data.pairs import find_pairs

    with pytest.raises(InputError, match="it holds shards, which are to train from; mar simulate --convert"):
        find_pairs(written / "images")
