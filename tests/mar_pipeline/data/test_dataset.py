"""Data sets for training loops of one's own: any layout, several folders, a scanner of one's own."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from mar_pipeline import PairDataset
from mar_pipeline.commands.evaluate import EvaluateSettings, evaluate
from mar_pipeline.sample import KEYS, to_mu
from simulation import read_pair
from simulation.dataset.generate import generate
from simulation.dataset.settings import ScannerSettings, SimulateSettings
from simulation.errors import InputError, UsageError

SMALL = ScannerSettings(source_mm=500, detector_mm=400, views=90, bins=160, pitch_mm=5, image_size=80, pixel_mm=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sets of a scanner that no preset has: `community`, and `shards` of the same pairs."""
    root = tmp_path_factory.mktemp("own")
    settings = SimulateSettings(
        str(root / "community"),
        source="phantom:pelvis",
        implants=("hip",),
        preset="clinical",
        scanner=SMALL,
        slices=2,
        masks_per_slice=2,
        device="cpu",
    )
    generate(settings)
    generate(replace(settings, out=str(root / "shards"), layout="shards", store="both"))
    return root


def test_a_sample_is_the_stored_pair_in_network_units(folder: Path) -> None:
    pairs = PairDataset(folder / "community")
    assert len(pairs) == len(pairs.names) == 4
    split, case, name, mask = pairs.names[1].split("/")
    stored = read_pair(folder / "community" / f"{split}_640geo" / case / name / f"{mask}.h5")
    sample = pairs[1]
    assert sorted(sample) == sorted(KEYS)
    assert sample["image"].shape == (1, 80, 80) and sample["image"].dtype == torch.float32
    torch.testing.assert_close(to_mu(sample["target"][0]), torch.from_numpy(stored.image))
    torch.testing.assert_close(to_mu(sample["li"][0]), torch.from_numpy(stored.LI_CT.clip(0, 1)))


def test_layouts_and_folders_go_together_and_into_batches(folder: Path) -> None:
    pairs = PairDataset(folder / "community", folder / "shards")
    assert len(pairs) == 8
    for first, second in zip(range(4), range(4, 8), strict=True):
        assert pairs.names[first] == pairs.names[second]
        for name in KEYS:
            torch.testing.assert_close(pairs[first][name], pairs[second][name], rtol=1e-5, atol=1e-3)
    batches = list(DataLoader(pairs, batch_size=4, num_workers=2))
    assert [batch["image"].shape for batch in batches] == [(4, 1, 80, 80)] * 2


def test_a_set_of_a_scanner_of_ones_own_is_scored_with_that_scanner(folder: Path, tmp_path: Path) -> None:
    """NMAR projects: with the preset's geometry its sinogram would have another shape."""
    report = evaluate(
        EvaluateSettings(str(folder / "community"), str(tmp_path / "out"), methods=("input", "nmar"), split="train")
    )
    psnr = {row.method: row.scores["psnr"] for row in report.rows}
    assert psnr["nmar"] > psnr["input"] + 3


def test_what_is_no_set_is_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no train set in it; expected what mar simulate wrote"):
        PairDataset(tmp_path)
    with pytest.raises(UsageError, match="got no folder"):
        PairDataset()
    with pytest.raises(UsageError, match="preset"):
        PairDataset(folder / "community", preset="syndeeplesion")
