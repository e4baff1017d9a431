"""Pairs of a data set on disk: what a sample holds, and what is refused or left out."""

import dataclasses
import json
import pickle
import shutil

import h5py
import numpy as np
import pytest
from small_scanner import NAME, SIZE, SMALL, disc
from training_set import MASKS, SLICES, write_training_set

from mar_pipeline.data import IMAGE, LI, METAL_MASK, TARGET, CommunityPairs, DataSettings, community, make_loaders
from mar_pipeline.data.measured import pair_arrays
from mar_pipeline.data.selection import Selection
from mar_pipeline.sample import IMAGES, SINOGRAMS, Layout, to_mu, to_sample
from mar_pipeline.tasks.metrics import score
from simulation.dataset.reader import read_pair
from simulation.errors import InputError, MarError, NothingToProcessError, UsageError
from simulation.physics.projector import Projector
from simulation.physics.protocols import PROTOCOLS

pytestmark = pytest.mark.usefixtures("small_scanner")


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        from small_scanner import SMALL

        patch.setitem(PROTOCOLS, NAME, dataclasses.replace(PROTOCOLS[NAME], geometry=SMALL))
        return write_training_set(tmp_path_factory.mktemp("community") / "set")


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / "set")


def case(folder, number=0):
    return folder / "train_640geo" / f"{number:06d}_01_01" / "001"


def edit(path, name, change):
    with h5py.File(path, "r+") as file:
        values = change(file[name][()])
        del file[name]
        file[name] = values


def test_a_sample_is_the_stored_pair_in_network_units(folder):
    pairs = CommunityPairs(Selection(folder))
    assert len(pairs) == SLICES * MASKS and pairs.slices == SLICES
    index = pairs.names.index("train/000001_01_01/001/2")
    sample, stored = pairs[index], read_pair(case(folder, 1) / "2.h5")
    for key, expected in ((IMAGE, stored.ma_CT), (LI, stored.LI_CT), (TARGET, stored.image)):
        assert sample[key].shape == (1, SIZE, SIZE)
        np.testing.assert_allclose(sample[key][0].numpy(), 255 * expected.clip(0, 1), rtol=1e-6)
    np.testing.assert_array_equal(sample[METAL_MASK][0].numpy(), disc(4, column=0, row=12))
    assert stored.ma_CT.max() > 1  # the clip is at work


def test_slices_and_masks_are_chosen(folder):
    pairs = CommunityPairs(Selection(folder, slices=["000000_01_01/001", "000002_01_01/001"], masks=range(1, 3)))
    assert pairs.names == [f"train/{n:06d}_01_01/001/{m}" for n in (0, 2) for m in (1, 2)]
    with pytest.raises(MarError, match=r"none of its 9 train pairs .* it has masks 0 \.\. 2"):
        CommunityPairs(Selection(folder, masks=[7]))


def test_a_limit_spans_slices_and_masks(folder):
    files = CommunityPairs(Selection(folder, limit=3)).files
    assert len({file.case for file in files}) == len({file.mask for file in files}) == 3


def test_another_mask_than_the_pairs_is_left_out(folder):
    stack = np.load(folder / "trainmask.npy")
    np.save(folder / "trainmask.npy", np.stack([stack[..., 0], stack[..., 2]], axis=-1))
    pairs = CommunityPairs(Selection(folder))
    assert {file.mask for file in pairs.files} == {0}
    reasons = [skipped.reason for skipped in pairs.left_out]
    assert sum("the mask is another one" in reason for reason in reasons) == SLICES  # seen once, left out everywhere
    assert sum(reason == "the mask stack ends at mask 1" for reason in reasons) == SLICES


def test_no_pair_left(folder):
    np.save(folder / "trainmask.npy", np.load(folder / "trainmask.npy")[:, ::-1, :1])
    with pytest.raises(
        NothingToProcessError, match=r"no train pair is left, 9 of them have no mask; train/000000_01_01/001/0: the"
    ):
        CommunityPairs(Selection(folder))
    (folder / "trainmask.npy").unlink()
    with pytest.raises(MarError, match=r"no mask stack: trainmask.npy is not .*; name one with --data.masks"):
        CommunityPairs(Selection(folder))


def test_another_mask_that_was_not_looked_at_is_refused_when_read(folder, monkeypatch):
    monkeypatch.setattr(community, "_CHECKED_AT_START", 0)
    np.save(folder / "trainmask.npy", np.load(folder / "trainmask.npy")[..., [1, 0, 2]])
    pairs = CommunityPairs(Selection(folder))
    assert len(pairs) == SLICES * MASKS
    with pytest.raises(InputError, match=r"^train/000000_01_01/001/0: the mask is another one: .*; name the stack"):
        pairs[0]
    assert CommunityPairs(Selection(folder, trust_masks=True))[0][METAL_MASK].sum() == disc(3).sum()
    assert pairs[2][METAL_MASK].sum() > 0


def test_a_stack_from_elsewhere(folder, tmp_path):
    (folder / "trainmask.npy").rename(tmp_path / "mine.npy")
    assert len(CommunityPairs(Selection(folder, mask_stack=str(tmp_path / "mine.npy")))) == SLICES * MASKS


def test_masks_of_512_pixels_are_resized_as_the_benchmark_does(folder):
    stack = np.load(folder / "trainmask.npy")
    np.save(folder / "trainmask.npy", np.kron(stack, np.ones((8, 8, 1), np.uint8)))
    np.testing.assert_array_equal(CommunityPairs(Selection(folder))[1][METAL_MASK][0].numpy(), stack[..., 1])


def test_pairs_that_fit_are_read_once(folder):
    kept, not_kept = CommunityPairs(Selection(folder)), CommunityPairs(Selection(folder, cache_mb=0))
    before = [kept[0][IMAGE], not_kept[0][IMAGE]]
    shutil.rmtree(case(folder))
    assert (kept[0][IMAGE] == before[0]).all() and (before[0] == before[1]).all()
    with pytest.raises(InputError, match="cannot be read as h5"):
        not_kept[0]


def test_a_pickled_set_reads_the_same(folder):
    pairs = CommunityPairs(Selection(folder))
    assert (pickle.loads(pickle.dumps(pairs))[4][IMAGE] == pairs[4][IMAGE]).all()


def truncate(folder):
    path = case(folder) / "1.h5"
    path.write_bytes(path.read_bytes()[:-3000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"1\.h5: cannot be read as h5, missing or truncated"),
        (
            lambda f: edit(case(f) / "1.h5", "LI_CT", lambda a: a * np.float32(np.nan)),
            r"1\.h5: LI_CT holds values .* not",
        ),
        (
            lambda f: edit(case(f) / "gt.h5", "image", lambda a: a[:32]),
            r"gt\.h5: image has shape \(32, 64\).* --data.pres",
        ),
        (lambda f: edit(case(f) / "gt.h5", "image", lambda a: a * 5000), r"gt\.h5: image: got values from 0 to .*HU"),
        (lambda f: edit(case(f) / "2.h5", "ma_CT", lambda a: a[:-1, :-1]), r"2\.h5: ma_CT has shape \(63, 63\)"),
        (
            lambda f: edit(case(f) / "0.h5", "metal_trace", lambda a: a[:, 1:]),
            r"0\.h5: metal_trace has shape \(64, 80\)",
        ),
        (lambda f: (f / "train_640geo_dir.txt").unlink(), r"no train_640geo_dir.txt in it"),
        (lambda f: (f / "train_640geo_dir.txt").write_text(""), "lists no slice"),
        (shutil.rmtree, "no such folder"),
    ],
)
def test_damage_is_one_clear_line(folder, damage, message):
    damage(folder)
    with pytest.raises(InputError, match=message) as caught:
        CommunityPairs(Selection(folder))
    assert "\n" not in str(caught.value)


def test_the_preset_that_the_manifest_names(folder):
    (folder / "train_manifest.json").write_text(json.dumps({"identity": {"preset": "clinical"}}))
    with pytest.raises(UsageError, match=r"got syndeeplesion, but .*train_manifest.json says that clinical made"):
        CommunityPairs(Selection(folder))


def test_an_empty_mask_is_left_out(folder):
    stack = np.load(folder / "trainmask.npy")
    stack[..., 1] = 0
    np.save(folder / "trainmask.npy", stack)
    assert {file.mask for file in CommunityPairs(Selection(folder)).files} == {0, 2}


def test_listed_slices_that_are_not_there_are_told(folder):
    shutil.rmtree(case(folder, 2))
    pairs = CommunityPairs(Selection(folder))
    assert pairs.slices == 2 and "listed, but" in pairs.left_out[0].reason


EVERYTHING = Layout.of((*IMAGES, *SINOGRAMS))


@pytest.mark.parametrize("cache_mb", [0, 1024])
def test_a_sample_has_what_its_layout_names(folder, cache_mb):
    """Of the stored pair, whose trace is in whole numbers, twice: as read and as kept."""
    pairs = CommunityPairs(Selection(folder, layout=EVERYTHING, cache_mb=cache_mb))
    index, stored = pairs.names.index("train/000001_01_01/001/2"), read_pair(case(folder, 1) / "2.h5")
    arrays = pair_arrays(
        EVERYTHING, stored, stored.image, disc(4, column=0, row=12), Projector(SMALL, "cpu", 1), "benchmark"
    )
    expected = to_sample(arrays, EVERYTHING)
    for _ in range(2):
        sample = pairs[index]
        assert tuple(sample) == (*IMAGES, *SINOGRAMS)
        for key, own in expected.items():
            np.testing.assert_array_equal(sample[key], own, err_msg=key)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: remove(path, "ma_sinogram"), r"1\.h5: .*ma_sinogram"),
        (lambda path: edit(path, "LI_sinogram", lambda a: a * np.float32(np.nan)), r"1\.h5: LI_sinogram holds values"),
        (
            lambda path: edit(path, "ma_sinogram", lambda a: a[:, 1:]),
            r"1\.h5: ma_sinogram has shape \(64, 80\), but sinograms of the preset syndeeplesion have \(64, 81\); name",
        ),
        (
            lambda path: edit(path, "LI_sinogram", lambda a: a + 5),
            r"1\.h5: 100\.0 % of the line integrals are above 4, .*; make the data with the preset syndeeplesion",
        ),
    ],
)
def test_sinograms_that_are_missing_or_unfit_are_one_clear_line(folder, damage, message):
    pairs = CommunityPairs(Selection(folder, layout=EVERYTHING))
    damage(case(folder) / "1.h5")
    with pytest.raises(InputError, match=message) as caught:
        pairs[1]
    assert "\n" not in str(caught.value)
    if "shape" not in message:
        assert CommunityPairs(Selection(folder))[1][IMAGE].any()  # networks of images do not care


def remove(path, name):
    with h5py.File(path, "r+") as file:
        del file[name]


def test_li_of_real_pairs_scores_as_published(shared_data, monkeypatch):
    """LI of masks 0 and 1 reaches 35.29 and 29.41 dB; masks 2, 3 and 4 are not among the ten that are public."""
    monkeypatch.undo()
    folder = shared_data / "syndeeplesion"
    settings = DataSettings(
        folder=str(folder / "train"), masks=str(folder / "testmask.npy"), val_slices=("000321_*",), workers=0
    )
    loaders = make_loaders(settings, seed=0)
    found = []
    for batch in loaders.validation:
        li, truth = (to_mu(batch[key][0, 0].numpy()) for key in (LI, TARGET))
        found.append(score(li, truth, batch[METAL_MASK][0, 0].numpy() > 0)["psnr"])
    assert np.round(found, 2).tolist() == [35.29, 29.41]
    assert loaders.facts()["validation"]["left_out"][0]["count"] == 3
    assert loaders.facts()["train"]["pairs"] == 1  # mask 80 of the third slice is not public either
