"""Pairs simulated while training: decided by seed, epoch, draw and slice, and never an endless loop."""

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from small_scanner import NAME, body_hu, disc

from mar_pipeline.data import IMAGE, KEYS, METAL_MASK, DataSettings, SimulatedPairs, make_loaders, simulated, split
from mar_pipeline.sample import (
    HARDENING,
    IMAGES,
    LI_SINOGRAM,
    MA_SINOGRAM,
    METAL_TRACE,
    PAIR,
    PRIOR,
    SINOGRAMS,
    TARGET_SINOGRAM,
    Layout,
    PairArrays,
    generator,
)
from simulation.correction import hardening_corrected, nmar_prior
from simulation.errors import InputError, MarError, UsageError
from simulation.implants.library import ImplantLibrary
from simulation.implants.masks import MaskStack, resize_mask
from simulation.physics.projector import why_no_cuda
from simulation.simulator import Simulator
from simulation.sources import SliceRef
from simulation.units import hu_to_mu

pytestmark = pytest.mark.usefixtures("small_scanner")

INSIDE = np.stack([disc(20, 512, *centre) for centre in ((0, 0), (60, -40), (-80, 30))], axis=-1).astype(np.uint8)
OUTSIDE = disc(8, 512, -240, -240)[..., None].astype(np.uint8)
STACK = MaskStack(stack=INSIDE, metal="titanium")


def read(kind, tissue_hu=40):
    if kind == "broken":
        raise InputError("a.png: broken or truncated")
    return hu_to_mu(np.maximum(body_hu(kind, tissue_hu), -1000)).astype(np.float32), 0.8


def refs(*kinds):
    return [SliceRef(f"{kind}{n}", "000", f"{n}.png", read, (kind, 20 * n)) for n, kind in enumerate(kinds)]


def simulated_pairs(*kinds, library=STACK, **options):
    return SimulatedPairs(refs(*kinds), NAME, library, **options)


def test_a_pair_is_what_the_scanner_makes():
    pairs = simulated_pairs("clean", library=MaskStack(stack=INSIDE[..., :1], metal="steel"), seed=4)
    rng = generator(4, 2, 7, PAIR, 0)
    rng.integers(1)
    image_mu, mask = read("clean", 0)[0], resize_mask(INSIDE[..., 0], (64, 64))
    sample = Simulator(NAME, "cpu", metal="steel", threads=1).simulate(image_mu, mask > 0, rng)
    expected = [255 * np.clip(own, 0, 1) for own in (sample.ma_CT, sample.LI_CT, image_mu)]
    planes = pairs.pair(0, 2, 7).images
    np.testing.assert_allclose(planes[:3], np.stack(expected), rtol=1e-5, atol=1e-3)
    np.testing.assert_array_equal(planes[3], mask)
    assert planes.dtype == np.float32


def everything(**options):
    return simulated_pairs("clean", "clean", layout=Layout.of((*IMAGES, *SINOGRAMS)), **options)


def test_a_pair_has_what_its_layout_names():
    pairs = simulated_pairs("clean", library=MaskStack(stack=INSIDE[..., :1], metal="steel"), seed=4)
    full = simulated_pairs(
        "clean",
        library=MaskStack(stack=INSIDE[..., :1], metal="steel"),
        seed=4,
        layout=Layout.of((*IMAGES, *SINOGRAMS)),
    )
    rng = generator(4, 0, 0, PAIR, 0)
    rng.integers(1)
    image_mu, mask = read("clean", 0)[0], resize_mask(INSIDE[..., 0], (64, 64)) > 0
    scanner = Simulator(NAME, "cpu", metal="steel", threads=1)
    scan = scanner.simulate(image_mu, mask, rng)
    sample = full[0]
    assert tuple(sample) == (*IMAGES, *SINOGRAMS)
    for key in KEYS:
        assert torch.equal(sample[key], pairs[0][key])
    hardening = hardening_corrected(scan.ma_sinogram, scan.LI_sinogram, mask, scanner.projector)
    expected = {
        PRIOR: 255 * nmar_prior(scan.LI_CT, mask).clip(0, 1),
        HARDENING: 255 * hardening.clip(0, 1),
        MA_SINOGRAM: 63.75 * scan.ma_sinogram.clip(0, 4),
        LI_SINOGRAM: 63.75 * scan.LI_sinogram.clip(0, 4),
        METAL_TRACE: scan.metal_trace,
        TARGET_SINOGRAM: 63.75 * scanner.projector.forward(image_mu).clip(0, 4),
    }
    for key, array in expected.items():
        np.testing.assert_allclose(sample[key][0], array, rtol=1e-4, atol=2e-2, err_msg=key)
    assert scan.ma_sinogram.max() > 4  # the clip is at work


def test_sinograms_are_kept_and_shared_like_images():
    frozen = everything(frozen=True)
    first = frozen.pair(0)
    assert frozen.pair(0).sinograms.base is not None  # of the table
    for kept, made in zip(frozen.pair(0), first, strict=True):
        np.testing.assert_array_equal(kept, made)
    again = everything(frozen=True, cache_mb=0)
    np.testing.assert_array_equal(again.pair(0).sinograms, first.sinograms)
    assert not np.array_equal(frozen.pair(1).sinograms, first.sinograms)


def test_seed_epoch_and_draw_decide():
    pairs = simulated_pairs("clean", "clean")
    first = pairs.pair(1, 3, 5).images
    pairs.pair(0, 3, 5), pairs.pair(1, 0, 0)
    assert np.array_equal(pairs.pair(1, 3, 5).images, first)
    assert np.array_equal(simulated_pairs("clean", "clean", cache_mb=0).pair(1, 3, 5).images, first)
    assert np.array_equal(pickle.loads(pickle.dumps(pairs)).pair(1, 3, 5).images, first)
    others = [
        pairs.pair(1, 4, 5).images,
        pairs.pair(1, 3, 6).images,
        simulated_pairs("clean", "clean", seed=1).pair(1, 3, 5).images,
    ]
    assert not any(np.array_equal(other[0], first[0]) for other in others)


def test_frozen_pairs_never_change():
    options = {"frozen": True, "count": 3}
    pairs = [simulated_pairs("clean", "clean", seed=seed, **options) for seed in (0, 1)]
    assert len(pairs[0]) == 3
    for index in range(3):
        first = pairs[0].pair(index, 0, 0).images
        assert np.array_equal(pairs[1].pair(index, 8, 9).images, first)
        assert pairs[0].pair(index, 4, 4).images is not None and np.array_equal(
            pairs[0].pair(index, 4, 4).images, first
        )
    assert not np.array_equal(
        pairs[0].pair(0).images[0], pairs[0].pair(2).images[0]
    )  # one slice, other implants or noise


def test_only_the_masks_asked_for():
    pairs = simulated_pairs("clean", masks=[0, 2])
    seen = {pairs.pair(0, 0, draw).images[3].tobytes() for draw in range(20)}
    assert seen == {resize_mask(INSIDE[..., mask], (64, 64)).astype(np.float32).tobytes() for mask in (0, 2)}


def test_unfit_slices_give_way_and_are_told(caplog):
    pairs = simulated_pairs("metal", "clean", "broken", "empty")
    truth = pairs.pair(1).images[2]
    for index in (0, 2, 3):
        for draw in range(4):
            assert np.array_equal(pairs.pair(index, 0, draw).images[2], truth)
    told = {skipped.pair: skipped.reason for skipped in pairs.left_out}
    assert told == {
        "metal0/000": "it holds metal already",
        "broken2/000": "it cannot be read or used",
        "empty3/000": "it shows no body",
    }
    assert pairs.slices == 1
    assert sum("left out" in record.getMessage() for record in caplog.records) == 3


def test_what_was_left_out_before_does_not_change_a_pair():
    asked_before, fresh = (simulated_pairs("metal", "clean", "broken", "clean") for _ in range(2))
    for index in range(4):
        asked_before.pair(index)
    assert np.array_equal(asked_before.pair(2, 1, 6).images, fresh.pair(2, 1, 6).images)


def test_masks_that_find_no_place_are_drawn_again():
    library = MaskStack(stack=np.concatenate([OUTSIDE, INSIDE], axis=-1), metal="titanium")
    pairs = simulated_pairs("clean", library=library)
    masks = [pairs.pair(0, 0, draw).images[3] for draw in range(12)]
    assert all(mask[30:34, 30:34].any() or mask.sum() > 10 for mask in masks)
    assert not any(mask[:8, :8].any() for mask in masks)


def test_never_an_endless_loop(monkeypatch):
    monkeypatch.setattr(simulated, "_ATTEMPTS", 3)
    with pytest.raises(
        InputError, match=r"no slice can be used for training \(2 tried\), choose others; metal0/000: metal"
    ):
        simulated_pairs("metal", "broken")
    with pytest.raises(InputError, match=r"no slice can be used .* lies outside the body"):
        simulated_pairs("clean", library=MaskStack(stack=OUTSIDE, metal="titanium"))
    with pytest.raises(
        InputError, match=r"no slice can be used for validation \(0 tried\), choose others; there is none"
    ):
        simulated_pairs(frozen=True)
    pairs = simulated_pairs("clean")
    monkeypatch.setattr(pairs, "_draw_mask", lambda *_: np.zeros((512, 512), np.uint8))  # all fail
    with pytest.raises(
        InputError, match=r"no pair could be simulated in 3 attempts.*; the last one, clean0/000: "
    ) as caught:
        pairs.pair(0)
    assert "\n" not in str(caught.value)


def test_a_source_without_sizes_does_not_go_with_real_ones(monkeypatch):
    no_size = [dataclasses.replace(ref, read=lambda *_: (read("clean")[0], None)) for ref in refs("clean")]
    with pytest.raises(UsageError, match="tells no pixel size"):
        SimulatedPairs(no_size, "clinical", STACK)


SETTINGS = DataSettings(
    kind="simulate", source="phantom:pelvis", patch=24, batch_size=4, batches_per_epoch=2, crops_per_pair=2, workers=0
)


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """A source of four slices that take no time, and a stack."""
    monkeypatch.setattr(split, "list_slices", lambda *_: refs("clean", "metal", "clean", "clean"))
    np.save(tmp_path / "masks.npy", INSIDE)
    return dataclasses.replace(SETTINGS, masks=str(tmp_path / "masks.npy"))


def test_workers_simulate_what_one_process_does(settings):
    loaders = [make_loaders(dataclasses.replace(settings, workers=workers), 3) for workers in (0, 2)]
    epochs = []
    for epoch in (0, 1):
        for loader in loaders:
            loader.train.set_epoch(epoch)
            epochs.append(list(loader.train))
    for alone, helped in (epochs[:2], epochs[2:], [list(loader.validation) for loader in loaders]):
        assert all(torch.equal(a[key], b[key]) for a, b in zip(alone, helped, strict=True) for key in KEYS)
    assert not torch.equal(epochs[0][0][IMAGE], epochs[2][0][IMAGE])
    left_out = [{"count": 1, "first": "metal1/000", "reason": "it holds metal already"}]
    assert all(loader.facts()["train"]["left_out"] == left_out for loader in loaders)  # whoever came upon it


def test_masks_are_held_out_too(settings):
    held = dataclasses.replace(settings, val_mask_range=(2, 2), val_pairs=5)
    loaders = make_loaders(held, 0)
    assert len(loaders.validation) == 5
    masks = [resize_mask(INSIDE[..., index], (64, 64)) for index in range(3)]
    assert all(np.array_equal(batch[METAL_MASK][0, 0].numpy(), masks[2]) for batch in loaders.validation)
    assert not any(np.array_equal(loaders.train.dataset.pairs.pair(0, 0, n).images[3], masks[2]) for n in range(12))


def test_a_phantom_needs_no_data():
    loaders = make_loaders(dataclasses.replace(SETTINGS, source_slices=2, batches_per_epoch=1, implants=("hip",)), 0)
    (batch,) = loaders.train
    assert batch[IMAGE].shape == (4, 1, 24, 24) and float(batch[IMAGE].max()) > 0
    assert loaders.facts()["validation"]["pairs"] == 1


def test_crops_of_a_pair_share_its_simulation(settings, monkeypatch):
    loader = make_loaders(settings, 3).train
    made = []

    def simulate(*key):
        made.append(key)
        return PairArrays(np.zeros((4, 64, 64), np.float32), np.empty((0, 64, 81), np.float32))

    monkeypatch.setattr(loader.dataset.pairs, "_simulate", simulate)
    list(loader)
    assert len(made) == 4  # two batches of two pairs with two crops each


def test_procedural_implants_are_those_asked_for():
    planes = simulated_pairs("clean", library=ImplantLibrary(("electrodes",), metal="gold")).pair(0).images
    assert 0 < planes[3].sum() < 200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": None}, "--data.source: not given"),
        ({"source": "nowhere"}, "source nowhere: no such file or folder"),
        ({"mask_range": (0, 1)}, "procedural implants have no numbers"),
        ({"implants": ("wing",)}, "got wing, expected some of"),
        ({"metal": "wood"}, "wood"),
        ({"masks": "nowhere.npy"}, "nowhere.npy: no such file"),
        ({"val_split": "test"}, "--data.val_split: got test without a --data.val_folder"),
        ({"source_slices": 1}, "got 1 slice, of which none can be held out"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(change, message):
    with pytest.raises(MarError, match=message) as caught:
        make_loaders(dataclasses.replace(SETTINGS, **change), 0)
    assert "\n" not in str(caught.value)


def test_the_anatomy_of_a_slice_is_found_once(monkeypatch):
    """And implants are the same as if it were found anew each time."""
    library, found = ImplantLibrary(("electrodes", "needle")), []
    anatomy = ImplantLibrary.anatomy
    monkeypatch.setattr(ImplantLibrary, "anatomy", lambda self, image: found.append(1) or anatomy(self, image))
    pairs = [simulated_pairs("clean", "clean", library=library) for _ in range(2)]
    made = []
    for own, kept in zip(pairs, (64, 1), strict=True):
        found.clear()
        with monkeypatch.context() as patch:
            patch.setattr(simulated, "_MOST_ANATOMIES", kept)
            made.append([own.pair(n % 2, 0, n).images for n in range(6)])
        assert len(found) == (1 if kept > 1 else 5)  # that of the first slice was found when the set was opened
    assert np.array_equal(*made)


def test_cuda_simulates_in_the_training_process(settings):
    on_cuda = dataclasses.replace(settings, simulate_device="cuda")
    with pytest.raises(
        UsageError, match=r"--data.workers: got 2, but pairs simulated on CUDA are made in the training"
    ):
        make_loaders(dataclasses.replace(on_cuda, workers=2), 0)
    if why_no_cuda():
        with pytest.raises(UsageError, match=r"--data.simulate_device: got cuda, but .*; give cpu"):
            make_loaders(dataclasses.replace(on_cuda, workers=0), 0)


@pytest.mark.gpu
def test_pairs_simulated_on_cuda_are_those_of_the_cpu(settings):
    loaders = [
        make_loaders(dataclasses.replace(settings, simulate_device=own, workers=0), 0) for own in ("cpu", "cuda")
    ]
    for cpu, cuda in zip(*(loader.train for loader in loaders), strict=True):
        assert torch.equal(cpu[METAL_MASK], cuda[METAL_MASK])
        assert (cpu[IMAGE] - cuda[IMAGE]).abs().mean() < 1
