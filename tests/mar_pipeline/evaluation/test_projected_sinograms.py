"""`mar evaluate --sinograms projected`: methods see the projected image in place of the measured data."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_networks import SMALL as SMALL_NETWORKS
from small_networks import small_network
from small_scanner import NAME, SMALL
from small_scans import DUAL, dual_network, settled
from torch import Tensor
from training_set import write_training_set

from mar_pipeline.commands.evaluate import EvaluateReport, EvaluateSettings, evaluate
from mar_pipeline.data.measured import pair_arrays
from mar_pipeline.evaluation import network_methods
from mar_pipeline.networks.build import network_inputs
from mar_pipeline.sample import Layout, sinogram_to_network, to_network
from mar_pipeline.tasks import pair_figure
from mar_pipeline.tasks.metrics import score
from mar_pipeline.weights.files import save_weights
from simulation.correction import linear_interpolation, metal_trace, nmar, nmar_prior
from simulation.dataset.reader import Pair, read_pair
from simulation.physics.projector import Projector
from simulation.physics.protocols import PROTOCOLS

pytestmark = pytest.mark.usefixtures("small_scanner")
CASE, MASK = "000001_01_01", 1
PROJECTOR, WEIGHTING = Projector(SMALL, "cpu", 1), PROTOCOLS[NAME].weighting
Calls = list[dict[str, np.ndarray]]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROTOCOLS, NAME, dataclasses.replace(PROTOCOLS[NAME], geometry=SMALL))
        return write_training_set(tmp_path_factory.mktemp("projected") / "set")


@pytest.fixture
def run(data: Path, tmp_path: Path) -> Callable[..., EvaluateReport]:
    """Evaluates methods with stored or projected data."""

    def evaluated(sinograms: str, *methods: str, **changes: Any) -> EvaluateReport:
        settings = {"device": "cpu", "figures": 0, "equivariance_pairs": 0} | changes
        return evaluate(
            EvaluateSettings(str(data), str(tmp_path / sinograms), methods, sinograms=sinograms, **settings)
        )

    return evaluated


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What networks are called with, by name of the input."""
    seen: Calls = []

    def watched(network: torch.nn.Module, precision: str) -> Callable[..., Tensor]:
        def infer(*inputs: Tensor) -> Tensor:
            names = network_inputs(network)
            seen.append({name: own[0, 0].numpy().copy() for name, own in zip(names, inputs, strict=True)})
            with torch.no_grad():
                return network.eval()(*inputs).image

        return infer

    monkeypatch.setattr(network_methods, "fast_network", watched)
    return seen


def write_run(folder: Path, name: str) -> str:
    network, arguments = (
        (settled(dual_network(name)), DUAL[name]) if name in DUAL else (small_network(name), SMALL_NETWORKS[name])
    )
    best = folder / name / "checkpoints" / "best.safetensors"
    best.parent.mkdir(parents=True)
    metadata = {"network": name, "arguments": json.dumps(arguments), "label": name, "seed": "0", "preset": NAME}
    save_weights(best, network.state_dict(), metadata)
    return str(folder / name)


def pair_and_mask(data: Path) -> tuple[Pair, np.ndarray]:
    pair = read_pair(data / "train_640geo" / CASE / "001" / f"{MASK}.h5")
    return pair, np.load(data / "trainmask.npy")[:, :, MASK] > 0


def scores(report: EvaluateReport, method: str) -> dict[str, float]:
    """The scores on that pair."""
    row = next(
        row for row in report.rows if (row.method, row.sample["case"], row.sample["mask"]) == (method, CASE, MASK)
    )
    return dict(row.scores)


@pytest.mark.parametrize("name", DUAL)
def test_a_dual_domain_network_is_called_with_the_projected_image(
    name: str, run: Callable[..., EvaluateReport], data: Path, calls: Calls, tmp_path: Path
) -> None:
    folder = write_run(tmp_path, name)
    report = run("projected", folder)
    pair, metal_mask = pair_and_mask(data)
    sinogram, trace = PROJECTOR.forward(pair.ma_CT), metal_trace(PROJECTOR, metal_mask)
    interpolated = linear_interpolation(sinogram, trace)
    li_mu = PROJECTOR.fbp(interpolated, WEIGHTING)
    expected = {
        "image": to_network(pair.ma_CT),
        "li": to_network(li_mu),
        "metal_mask": metal_mask,
        "ma_sinogram": sinogram_to_network(sinogram),
        "li_sinogram": sinogram_to_network(interpolated),
        "metal_trace": trace,
        "prior": to_network(nmar_prior(li_mu, metal_mask)),
    }
    (call,) = [own for own in calls if np.array_equal(own["image"], expected["image"])]
    for key in call.keys() & expected.keys():
        np.testing.assert_array_equal(call[key], expected[key].astype(np.float32), err_msg=key)
    calls.clear()
    stored = run("stored", folder)
    (of_stored,) = [own for own in calls if np.array_equal(own["image"], expected["image"])]
    same = {"image", "metal_mask", "metal_trace"}
    assert {key for key in call if np.array_equal(call[key], of_stored[key])} == same & call.keys()
    assert scores(report, name) != scores(stored, name)


def test_classical_methods_correct_the_projected_image(run: Callable[..., EvaluateReport], data: Path) -> None:
    report, stored = (run(sinograms, "input", "li", "nmar") for sinograms in ("projected", "stored"))
    pair, metal_mask = pair_and_mask(data)
    sinogram, trace = PROJECTOR.forward(pair.ma_CT), metal_trace(PROJECTOR, metal_mask)
    li_mu = PROJECTOR.fbp(linear_interpolation(sinogram, trace), WEIGHTING)
    _, nmar_mu = nmar(sinogram, trace, nmar_prior(li_mu, metal_mask), PROJECTOR, WEIGHTING)
    for method, image_mu in (("input", pair.ma_CT), ("li", li_mu), ("nmar", nmar_mu)):
        assert scores(report, method) == pytest.approx(score(image_mu, pair.image, metal_mask)), method
        assert (scores(report, method) == scores(stored, method)) == (method == "input")


def test_a_network_of_images_sees_only_another_li(
    run: Callable[..., EvaluateReport], data: Path, calls: Calls, tmp_path: Path
) -> None:
    folder = write_run(tmp_path, "dicdnet")
    report, seen = run("projected", folder), list(calls)
    calls.clear()
    assert scores(report, "dicdnet") != scores(run("stored", folder), "dicdnet")
    for call, of_stored in zip(seen, calls, strict=True):
        assert {key for key in call if not np.array_equal(call[key], of_stored[key])} == {"li"}
    pair, metal_mask = pair_and_mask(data)
    sinogram = PROJECTOR.forward(pair.ma_CT)
    li_mu = PROJECTOR.fbp(linear_interpolation(sinogram, metal_trace(PROJECTOR, metal_mask)), WEIGHTING)
    layout = Layout.of(())
    images, _ = pair_arrays(
        layout, dataclasses.replace(pair, LI_CT=li_mu), pair.image, metal_mask, PROJECTOR, WEIGHTING
    )
    inputs = [torch.from_numpy(images[layout.images.index(name)])[None, None] for name in seen[0]]
    with torch.no_grad():
        image = small_network("dicdnet").eval()(*inputs).image[0, 0].numpy()
    assert scores(report, "dicdnet") == pytest.approx(score(image / 255, pair.image, metal_mask), rel=1e-4)


def test_pictures_show_what_was_scored(
    run: Callable[..., EvaluateReport], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, draw = [], pair_figure.case_figure
    monkeypatch.setattr(pair_figure, "case_figure", lambda **given: drawn.append(given) or draw(**given))
    report = run("projected", "li", figures=1)
    (picture,) = drawn
    psnr = score(picture["images_mu"]["LI"], picture["truth_mu"], picture["metal_mask"])["psnr"]
    assert picture["captions"]["LI"] == f"{psnr:.2f} dB"
    assert f"{psnr:.2f}" in {f"{row.scores['psnr']:.2f}" for row in report.rows}


def test_tables_and_report_say_so(run: Callable[..., EvaluateReport], tmp_path: Path) -> None:
    for sinograms, said in (("projected", True), ("stored", False)):
        report = run(sinograms, "li", "nmar")
        for text in (report.table, (tmp_path / sinograms / "table.md").read_text()):
            lines = [line for line in text.splitlines() if "projected from the uncorrected image" in line]
            assert len(lines) == said
        written = json.loads((tmp_path / sinograms / "report.json").read_text())
        assert written["settings"]["sinograms"] == sinograms
    assert EvaluateSettings("data", "out").sinograms == "stored"
