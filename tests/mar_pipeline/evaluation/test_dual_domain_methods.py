"""Dual-domain networks as methods: the table's image is the one that the network makes by hand."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_scanner import NAME, SMALL
from small_scans import DUAL, dual_network, inputs_of
from training_set import write_training_set

from mar_pipeline.commands.evaluate import EvaluateSettings, evaluate
from mar_pipeline.data import CommunityPairs
from mar_pipeline.data.selection import Selection
from mar_pipeline.data.turning import rotate_sample
from mar_pipeline.evaluation.methods import Scanner
from mar_pipeline.evaluation.network_methods import NetworkMethod, load_networks
from mar_pipeline.networks import NETWORKS
from mar_pipeline.sample import IMAGES, SINOGRAMS, Layout
from mar_pipeline.tasks.metrics import score
from mar_pipeline.weights.files import save_weights
from simulation.dataset.reader import read_pair
from simulation.errors import InputError, UsageError
from simulation.physics.projector import Projector
from simulation.physics.protocols import PROTOCOLS

pytestmark = pytest.mark.usefixtures("small_scanner")
CASE, MASK = "000001_01_01/001", 1


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROTOCOLS, NAME, dataclasses.replace(PROTOCOLS[NAME], geometry=SMALL))
        return write_training_set(tmp_path_factory.mktemp("dual") / "set")


def write_run(folder: Path, name: str) -> str:
    """A run folder as training leaves it."""
    best = folder / name / "checkpoints" / "best.safetensors"
    best.parent.mkdir(parents=True)
    metadata = {"network": name, "arguments": json.dumps(DUAL[name]), "label": name, "seed": "0", "preset": NAME}
    save_weights(best, dual_network(name, seed=7).state_dict(), metadata)
    return str(folder / name)


def by_hand(name: str, data: Path) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """A stored pair as a sample, what the network makes of it, and of its quarter turn, in network units."""
    network = dual_network(name, seed=7).eval()
    pairs = CommunityPairs(Selection(data, layout=Layout.of((*IMAGES, *SINOGRAMS))))
    sample = {key: own[None] for key, own in pairs[pairs.names.index(f"train/{CASE}/{MASK}")].items()}
    with torch.no_grad():
        images = [network(*inputs_of(network, own)).image for own in (sample, rotate_sample(sample, 1))]
    return sample, *images


@pytest.mark.parametrize("name", DUAL)
def test_the_table_holds_the_score_of_the_networks_own_image(name: str, data: Path, tmp_path: Path) -> None:
    out, run = tmp_path / "out", write_run(tmp_path, name)
    settings = EvaluateSettings(data=str(data), out=str(out), methods=("li", run), device="cpu", figures=1)
    evaluate(settings)
    sample, image, _ = by_hand(name, data)
    with (out / "results.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if (row["method"], row["case"]) == (name, CASE.split("/")[0])]
    (psnr,) = (float(row["psnr"]) for row in rows if row["mask"] == str(MASK))
    truth_mu, metal_mask = (sample[key][0, 0].numpy() for key in ("target", "metal_mask"))
    assert psnr == pytest.approx(score(image[0, 0].numpy() / 255, truth_mu / 255, metal_mask > 0)["psnr"], abs=2e-3)
    (method,) = json.loads((out / "report.json").read_text())["runs"]
    assert method["parameters"] == sum(own.numel() for own in NETWORKS[name](**DUAL[name]).parameters())
    assert sorted(path.suffix for path in out.iterdir()).count(".png") == 1


@pytest.mark.parametrize("name", DUAL)
def test_the_method_answers_what_the_network_does(name: str, data: Path, tmp_path: Path) -> None:
    (own,) = load_networks([write_run(tmp_path, name)], "cpu", "float32")
    method, pair = own.answer, read_pair(data / "train_640geo" / CASE / f"{MASK}.h5")
    assert isinstance(method, NetworkMethod)
    sample, image, of_turned = by_hand(name, data)
    metal_mask = sample["metal_mask"][0, 0].numpy() > 0
    scanner = Scanner.of(NAME, "cpu")
    np.testing.assert_allclose(255 * method(pair, metal_mask, scanner), image[0, 0], rtol=1e-4, atol=1e-2)

    def correction(image: torch.Tensor, li: torch.Tensor) -> torch.Tensor:
        return (image - li) * torch.rot90(1 - sample["metal_mask"], 1, (-2, -1))

    turned_li = torch.rot90(sample["li"], 1, (-2, -1))
    a, b = correction(torch.rot90(image, 1, (-2, -1)), turned_li), correction(of_turned, turned_li)
    expected = ((a - b).norm() / ((a.norm() ** 2 + b.norm() ** 2) / 2).sqrt()).item()
    errors = method.equivariance_errors(pair, metal_mask, scanner)
    assert set(errors) == {90, 180, 270}
    assert errors[90] == pytest.approx(expected, rel=0.02, abs=1e-4)


@pytest.mark.parametrize("name", DUAL)
def test_pairs_of_another_scanner_are_one_line(name: str, data: Path, tmp_path: Path) -> None:
    """Though all sizes are the same."""
    (own,) = load_networks([write_run(tmp_path, name)], "cpu", "float32")
    pair = read_pair(data / "train_640geo" / CASE / f"{MASK}.h5")
    nearer = dataclasses.replace(SMALL, source_mm=SMALL.source_mm - 1)
    scanner = Scanner(NAME, Projector(nearer, "cpu", 1), "benchmark")
    message = r"^network: projects with FanBeam\(.*source_mm=400\.0.*but the data are of FanBeam\(.*source_mm=399\.0"
    with pytest.raises(InputError, match=message) as caught:
        own.answer(pair, np.eye(64) > 0, scanner)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("any_preset", [False, True])
def test_another_preset_is_refused_whatever_is_allowed(data: Path, tmp_path: Path, any_preset: bool) -> None:
    run = write_run(tmp_path, "cnnmar")
    settings = EvaluateSettings(
        str(data), str(tmp_path / "out"), ("li", run), preset="clinical", any_preset=any_preset, trust_masks=True
    )
    with pytest.raises(UsageError, match=r"cnnmar: trained for the preset .* or leave it out$"):
        evaluate(settings)
    assert not (tmp_path / "out").exists()
