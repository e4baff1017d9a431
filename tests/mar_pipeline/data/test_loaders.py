"""Batches: the same for the same seed and epoch, whatever number of workers or processes makes them."""

import dataclasses
import multiprocessing
import shutil
import subprocess

import numpy as np
import pytest
import torch
from small_scanner import NAME, SIZE, SMALL
from training_set import MASKS, SLICES, write_training_set

from mar_pipeline.data import IMAGE, KEYS, TARGET, DataSettings, make_loaders
from mar_pipeline.data.batches import EpochBatches
from mar_pipeline.runtime.signals import STOP_SIGNALS
from mar_pipeline.sample import IMAGES, SINOGRAMS, Layout
from simulation.dataset.reader import read_pair
from simulation.errors import InputError, MarError, UsageError
from simulation.physics.projector import Projector
from simulation.physics.protocols import PROTOCOLS

pytestmark = pytest.mark.usefixtures("small_scanner")


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROTOCOLS, NAME, dataclasses.replace(PROTOCOLS[NAME], geometry=SMALL))
        return write_training_set(tmp_path_factory.mktemp("loaders") / "set")


@pytest.fixture
def settings(written):
    return DataSettings(folder=str(written), patch=16, batch_size=4, batches_per_epoch=3, rotations=True, workers=0)


def epoch_of(loader, epoch):
    loader.set_epoch(epoch)
    return [{key: batch[key].clone() for key in KEYS} for batch in loader]


def same(first, second):
    return len(first) == len(second) and all(
        torch.equal(a[key], b[key]) for a, b in zip(first, second, strict=True) for key in KEYS
    )


def test_a_batch_has_the_agreed_form(settings):
    loaders = make_loaders(settings, 0)
    batches = epoch_of(loaders.train, 0)
    assert len(batches) == len(loaders.train) == 3
    for batch in batches:
        assert set(batch) == set(KEYS)
        assert all(batch[key].shape == (4, 1, 16, 16) and batch[key].dtype == torch.float32 for key in KEYS)
    assert all(batch[IMAGE].shape == (1, 1, SIZE, SIZE) for batch in loaders.validation)


def test_workers_change_nothing_and_epochs_reach_those_that_live_on(settings):
    alone = make_loaders(settings, 5)
    helped = make_loaders(dataclasses.replace(settings, workers=2), 5)
    for epoch in (0, 1, 0):
        batches = epoch_of(alone.train, epoch)
        assert same(epoch_of(helped.train, epoch), batches)
        assert same(list(helped.validation), list(alone.validation))
    assert not same(epoch_of(helped.train, 1), batches)


def test_loaders_outlive_the_signals_that_a_cluster_sends_to_all(settings):
    expected = epoch_of(make_loaders(settings, 5).train, 0)
    found = iter(make_loaders(dataclasses.replace(settings, workers=1), 5).train)
    batches = [next(found)]
    (worker,) = multiprocessing.active_children()
    for number in STOP_SIGNALS:
        assert subprocess.run(["kill", f"-{number}", str(worker.pid)]).returncode == 0
    batches.append(next(found))
    assert same([*batches, next(found)], expected)
    worker.terminate()  # as at exit, where waiting for it would take for ever
    worker.join(30)
    assert not worker.is_alive()


def test_a_resumed_run_sees_what_a_straight_one_does(settings):
    straight = make_loaders(settings, 5).train
    epochs = [epoch_of(straight, epoch) for epoch in range(4)]
    resumed = make_loaders(settings, 5).train
    assert same(epoch_of(resumed, 2), epochs[2]) and same(epoch_of(resumed, 3), epochs[3])
    assert not same(epochs[2], epochs[3])
    assert not same(epoch_of(make_loaders(settings, 6).train, 2), epochs[2])


def test_an_epoch_broken_off_leaves_no_trace(settings):
    loader = make_loaders(dataclasses.replace(settings, workers=1), 5).train
    expected = epoch_of(loader, 1)
    loader.set_epoch(0)
    next(iter(loader))
    assert same(epoch_of(loader, 1), expected)


def test_torchs_own_generator_is_left_alone(settings):
    loaders = make_loaders(settings, 5)
    before = torch.get_rng_state()
    epoch_of(loaders.train, 0), list(loaders.validation)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("pairs", "size", "crops"), [(10, 4, 1), (10, 4, 2), (3, 8, 4), (1, 2, 1)])
def test_one_pass_takes_every_pair_and_fills_every_batch(pairs, size, crops):
    batches = list(EpochBatches(pairs, size, None, crops))
    assert all(len(batch) == size for batch in batches)
    assert len(batches) == int(np.ceil(pairs * crops / size))
    numbers = [number for batch in batches for _, number, _ in batch]
    assert numbers == list(range(len(numbers)))
    first_pass = [index for batch in batches for _, _, index in batch][: pairs * crops]
    assert sorted(first_pass) == sorted(list(range(pairs)) * crops)
    assert all(len({i for *_, i in batch[k : k + crops]}) == 1 for batch in batches for k in range(0, size, crops))


def test_each_epoch_has_an_order_and_crops_of_its_own(settings):
    def order(seed, epoch):
        batches = EpochBatches(50, 10, seed=seed)
        batches.epoch = epoch
        return [index for batch in batches for _, _, index in batch]

    assert order(1, 1) == order(1, 1)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
    crops = make_loaders(settings, 0).train.dataset
    assert torch.equal(crops[0, 3, 1][IMAGE], crops[0, 3, 1][IMAGE])
    assert not torch.equal(crops[0, 3, 1][IMAGE], crops[1, 3, 1][IMAGE])
    assert not torch.equal(crops[0, 3, 1][IMAGE], crops[0, 4, 1][IMAGE])


@pytest.mark.parametrize("crops", [1, 2])
def test_two_processes_share_what_one_would_see(crops):
    one = list(EpochBatches(10, 8, 5, crops, seed=3))
    two = [list(EpochBatches(10, 4, 5, crops, 3, rank, 2)) for rank in (0, 1)]
    for batch, parts in zip(one, zip(*two, strict=True), strict=True):
        for share in (2, 4):  # what EQ-Reg keeps of each, and all
            assert sorted(batch[: 2 * share]) == sorted(key for part in parts for key in part[:share])


def test_two_processes_share_validation(settings):
    parts = [list(make_loaders(dataclasses.replace(settings, batch_size=2), 0, rank, 2).validation) for rank in (0, 1)]
    whole = list(make_loaders(settings, 0).validation)
    assert len(whole) == 3 and same([parts[0][0], parts[1][0], parts[0][1]], whole)
    with pytest.raises(UsageError, match="got 3 pairs for 4 processes"):
        make_loaders(settings, 0, 0, 4)


def test_crops_are_windows_of_the_truth(settings, written):
    """Without mirroring and turning, every crop lies in one of the training slices."""
    plain = dataclasses.replace(settings, flips=False, rotations=False, patch=40, val_slices=("000002_*",))
    truths = [read_pair(written / f"train_640geo/{n:06d}_01_01/001/0.h5").image * np.float32(255) for n in (0, 1)]
    windows = [np.lib.stride_tricks.sliding_window_view(truth, (40, 40)) for truth in truths]
    for batch in epoch_of(make_loaders(plain, 0).train, 0):
        for crop in batch[TARGET][:, 0].numpy():
            assert any((np.abs(own - crop).max(axis=(-2, -1)) < 1e-4).any() for own in windows)


def names(loaders):
    return [[name.removeprefix("train/") for name in loader.dataset.pairs.names] for loader in loaders]


@pytest.mark.parametrize(
    ("choice", "held"),
    [
        ({"val_mask_range": (2, 2)}, {(s, 2) for s in range(SLICES)}),
        ({"val_slices": ("000001_*",)}, {(1, m) for m in range(MASKS)}),
        ({"val_slices": ("000001_*",), "val_mask_range": (1, 2)}, {(1, 1), (1, 2)}),
        ({"val_fraction": 0.5}, {(0, m) for m in range(MASKS)} | {(2, m) for m in range(MASKS)}),
        ({"slices": ("!000002_*",), "val_mask_range": (0, 0)}, {(0, 0), (1, 0)}),
    ],
)
def test_validation_is_held_out(settings, choice, held):
    train, validation = names(make_loaders(dataclasses.replace(settings, **choice), 0))
    assert set(validation) == {f"{s:06d}_01_01/001/{m}" for s, m in held}
    held_slices = {s for s, _ in held} if len({s for s, _ in held}) < 2 or "val_fraction" in choice else set()
    held_masks = {m for _, m in held} if "val_mask_range" in choice else set()
    slices = range(2) if "slices" in choice else range(SLICES)
    expected = {(s, m) for s in slices for m in range(MASKS) if s not in held_slices and m not in held_masks}
    assert set(train) == {f"{s:06d}_01_01/001/{m}" for s, m in expected}


def test_validation_on_another_set(settings, written, tmp_path):
    other = shutil.copytree(written, tmp_path / "other")
    for kind in ("640geo", "640geo_dir.txt", "mask.npy"):
        place = other / (f"train{kind}" if kind.startswith("mask") else f"train_{kind}")
        place.rename(other / place.name.replace("train", "test"))
    elsewhere = {"val_folder": str(other), "val_split": "test", "val_mask_range": (1, 1), "val_pairs": 2}
    loaders = make_loaders(dataclasses.replace(settings, **elsewhere), 0)
    assert loaders.facts()["train"]["pairs"] == SLICES * MASKS  # nothing is held out
    assert [name.rsplit("/", 1)[1] for name in loaders.validation.dataset.pairs.names] == ["1", "1"]
    assert loaders.validation.dataset.pairs.names[0].startswith("test/")


def test_facts_of_a_report(settings):
    facts = make_loaders(dataclasses.replace(settings, mask_range=(0, 1), batches_per_epoch=None), 0).facts()
    names = [own.pop("names") for own in facts.values()]
    assert len(set(names)) == 2
    assert facts["train"] == {"slices": 2, "pairs": 4, "batches": 1, "left_out": []}
    assert facts["validation"] == {"slices": 1, "pairs": 2, "batches": 2, "left_out": []}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch": 65}, "--data.patch: 65 pixels are more than the images' 64 x 64"),
        ({"folder": None}, "--data.folder: not given"),
        ({"batch_size": 0}, "--data.batch_size: got 0, expected 1 or more"),
        ({"crops_per_pair": 3}, "got 3, which does not divide a batch of 4"),
        ({"preset": "siemens"}, "unknown preset 'siemens'"),
        ({"val_fraction": 1.0}, "--data.val_fraction: got 1"),
        ({"mask_range": (5, 2)}, "--data.mask_range: got 5 2"),
        ({"mask_range": (5, 9)}, r"--data.mask_range 5 9 selects no mask: the set has masks 0 to 2; select more"),
        ({"val_mask_range": (3, 9)}, r"--data.val_mask_range 3 9 selects no mask"),
        ({"val_mask_range": (0, 9)}, "--data.val_mask_range leaves no mask to train on"),
        ({"val_slices": ("0*",)}, "--data.val_slices leaves no slice to train on"),
        ({"val_slices": ("9*",)}, "--data.val_slices: '9\\*' matches none of 3 slices"),
        ({"slices": ("000001_*",)}, "got 1 slice, of which none can be held out"),
        ({"slices": ("000001_*", "!000001_*"), "val_mask_range": (0, 0)}, "leaves no slice to train on"),
        ({"implants": ("hip",)}, "--data.implants: only for simulated pairs"),
        ({"metal": "gold"}, "--data.metal: only for simulated pairs"),
        ({"masks": "procedural"}, "--data.masks: got procedural for a data set on disk"),
        ({"masks": "nowhere.npy"}, "nowhere.npy: no such file"),
        ({"val_folder": "nowhere"}, "nowhere: no such folder"),
        ({"val_split": "test"}, "no test_640geo_dir.txt in it"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(settings, change, message):
    with pytest.raises(MarError, match=message) as caught:
        make_loaders(dataclasses.replace(settings, **change), 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_damage_found_while_training_is_one_line(settings, written, tmp_path, workers):
    folder = shutil.copytree(written, tmp_path / "set")
    loaders = make_loaders(dataclasses.replace(settings, folder=str(folder), cache_mb=0, workers=workers), 0)
    for path in folder.rglob("[0-9].h5"):
        path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(InputError, match=r"^[^\n]*cannot be read as h5, missing or truncated[^\n]*$"):
        next(iter(loaders.train))


def test_what_is_left_out_is_told_once_a_reason(tmp_path, caplog):
    folder = write_training_set(tmp_path / "set")
    np.save(folder / "trainmask.npy", np.load(folder / "trainmask.npy")[..., :1])
    (folder / "train_640geo" / "000000_01_01" / "001" / "gt.h5").unlink()
    make_loaders(DataSettings(folder=str(folder), patch=16, batch_size=4, workers=0), seed=0)
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any("training: 1 left out; the first, train/000000_01_01/001: listed, but" in line for line in told)
    assert any("the mask stack ends at mask 0" in line for line in told)


def test_a_choice_that_leaves_nothing_names_what_is_missing(tmp_path):
    folder = write_training_set(tmp_path / "set")
    for number in range(1, SLICES):
        (folder / "train_640geo" / f"{number:06d}_01_01" / "001" / "gt.h5").unlink()
    with pytest.raises(UsageError, match=rf"none can be held out.*\({SLICES - 1} listed left out.*gt\.h5 is missing"):
        make_loaders(DataSettings(folder=str(folder), patch=16, batch_size=4, workers=0), seed=0)


def test_sinograms_need_whole_images(settings):
    with pytest.raises(
        UsageError, match=r"--data\.patch: got 16, but a network that sees sinograms needs whole images; "
    ):
        make_loaders(settings, 0, layout=Layout.of(["metal_trace"]))
    make_loaders(settings, 0, layout=Layout.of(["prior"]))


def test_batches_of_whole_scans_are_turned_as_one(settings):
    """Whatever flips and turns were drawn, the sinogram of the truth is its projection."""
    layout, projector = Layout.of((*IMAGES, *SINOGRAMS)), Projector(SMALL, "cpu", threads=1)
    whole = dataclasses.replace(settings, patch=0)
    alone, helped = (make_loaders(dataclasses.replace(whole, workers=n), 5, layout=layout) for n in (0, 2))
    batches, seen = list(alone.train), set()
    for batch, other in zip(batches, helped.train, strict=True):
        assert set(batch) == {*IMAGES, *SINOGRAMS}
        assert all(torch.equal(own, other[key]) for key, own in batch.items())
        expected = projector.forward(batch[TARGET] / 255) * 255 / 4
        assert (batch["target_sinogram"] - expected).norm() < 1e-4 * expected.norm()
        seen |= {truth.numpy().tobytes() for truth in batch[TARGET]}
    assert len(seen) > SLICES
