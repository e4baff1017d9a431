"""`mar equivariance` on fake runs: what is measured, written and refused."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from small_networks import small_network
from small_pairs import masks, tiny_protocol, write_pairs
from small_scanner import NAME
from small_scans import dual_network
from torch import Tensor, nn

from mar_pipeline.commands import equivariance as equivariance_command
from mar_pipeline.commands.equivariance import EquivarianceSettings, equivariance, read_equivariance_settings
from mar_pipeline.equivariance import StrictConv2d
from mar_pipeline.networks import NetworkOutput
from mar_pipeline.weights.trained import Trained
from simulation.errors import InputError, MarError, UsageError
from simulation.files import sha256_of
from simulation.physics.protocols import PROTOCOLS


class Plain(nn.Module):
    """The LI image and what two convolutions add to it; anything at all inside the metal."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = self.layers()

    def layers(self) -> tuple[nn.Module, nn.Module]:
        return nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, image: Tensor, li: Tensor, metal_mask: Tensor) -> NetworkOutput:
        added = self.last(torch.relu(self.first(torch.cat([image, li], dim=1))))
        anything = torch.linspace(0, 1e3, li.shape[-1]) * metal_mask
        return NetworkOutput(li + added + anything, (), ())


class Strict(Plain):
    def layers(self) -> tuple[nn.Module, nn.Module]:
        return StrictConv2d(("trivial", 2), ("regular", 2), 3), StrictConv2d(("regular", 2), ("trivial", 1), 3)


class Faint(Plain):
    def forward(self, image: Tensor, li: Tensor, metal_mask: Tensor) -> NetworkOutput:
        return NetworkOutput(li + 0.01 * (super().forward(image, li, metal_mask).image - li), (), ())


class Picky(Plain):
    def forward(self, image: Tensor, li: Tensor, metal_mask: Tensor) -> NetworkOutput:
        raise RuntimeError("expected sides\nthat are multiples of 1024")


Add = Callable[..., str]


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Add:
    """Puts a fake run where `load_trained` finds it; its path."""
    runs: dict[Path, Trained] = {}

    def load(path: str | Path, device: str) -> Trained:
        if Path(path) not in runs:
            raise InputError(f"{path}: no such file; expected a run folder or a weights file")
        return runs[Path(path)]

    def run(name: str, network: Callable[[], nn.Module], **facts: object) -> str:
        path = tmp_path / f"{name}.safetensors"
        path.write_text(name)
        torch.manual_seed(5)
        fixed = {"name": "fake", "label": name, "network": network().eval(), "arguments": {"width": 8}, "seed": 3}
        more = {"group": name, "parameters": 9, "preset": "tiny", "best_psnr": 30.0, "source": path, "metadata": {}}
        runs[path] = Trained(**{**fixed, **more, **facts})
        return str(path)

    monkeypatch.setattr(equivariance_command, "load_trained", load)
    monkeypatch.setitem(PROTOCOLS, "tiny", tiny_protocol())
    return run


@pytest.fixture(scope="module")
def written_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs") / "data"
    write_pairs(folder)
    return folder


@pytest.fixture
def settings(written_pairs: Path, tmp_path: Path) -> EquivarianceSettings:
    data = shutil.copytree(written_pairs, tmp_path / "data")
    return EquivarianceSettings(data=str(data), out=str(tmp_path / "out"), device="cpu")


def test_a_strict_and_a_plain_run_side_by_side(settings: EquivarianceSettings, add: Add) -> None:
    runs = (add("plain", Plain), add("strict", Strict))
    result = equivariance(replace(settings, runs=runs, pairs=3))
    out = Path(settings.out)
    assert result.failed == ()
    assert {path.name for path in out.iterdir()} == set(result.outputs)
    quarter = {label: report.network[0] for label, report in result.reports.items()}
    assert quarter["plain"].angle_deg == quarter["strict"].angle_deg == 90
    assert quarter["strict"].centred_error < 1e-5 < 1e-2 < quarter["plain"].centred_error
    layers = {label: report.layers[0] for label, report in result.reports.items()}
    assert layers["strict"].centred_error < 1e-5 < 1 < layers["plain"].centred_error
    assert "plain" in result.table
    assert "120°" in result.table

    lines = list(csv.DictReader((out / "equivariance.csv").read_text().splitlines()))
    assert len(lines) == 2 * 4 * 3
    assert {line["run"] for line in lines} == {"plain", "strict"}
    assert float(lines[0]["error"]) == pytest.approx(quarter["plain"].error, rel=1e-5)
    text = (out / "equivariance.md").read_text()
    assert "## plain" in text
    assert "## strict" in text
    assert "test/000002_01_01/007/0" in text
    for name in ("figure_1.png", "figure_2.png"):
        picture = imread(out / name)
        assert min(picture.shape[:2]) > 400
        assert picture[..., :3].std() > 0.1


def test_the_report_says_what_was_measured(settings: EquivarianceSettings, add: Add) -> None:
    path = add("plain", Plain)
    equivariance(replace(settings, runs=(path,), angles=(90.0,)))
    report = json.loads((Path(settings.out) / "report.json").read_text())
    assert report["command"] == "equivariance"
    assert report["counts"] == {"pairs": 1, "runs": 1, "failed": 0}
    assert report["preset"] == "tiny"
    (run,) = report["runs"]
    assert (run["label"], run["network"], run["seed"]) == ("plain", "fake", 3)
    assert run["weights_sha256"] == sha256_of(Path(path))
    assert [row["angle_deg"] for row in run["report"]["network"]] == [90]
    assert report["outputs"][-1] == "report.json"


def test_what_is_inside_the_metal_does_not_count(settings: EquivarianceSettings, add: Add) -> None:
    """Both networks put anything there, which does not turn."""
    result = equivariance(replace(settings, runs=(add("strict", Strict),), angles=(90.0, 180.0)))
    assert max(row.error for row in result.reports["strict"].network) < 1e-5


def test_li_does_not_hide_the_network(settings: EquivarianceSettings, add: Add) -> None:
    """What the network adds is compared, so its strength is no matter."""
    runs = (add("plain", Plain), add("faint", Faint))
    reports = equivariance(replace(settings, runs=runs, angles=(90.0,))).reports
    plain, faint = (reports[label].network[0].error for label in ("plain", "faint"))
    assert faint == pytest.approx(plain, rel=1e-3)
    assert "less the LI image" in (Path(settings.out) / "equivariance.md").read_text()


def test_layers_have_the_fields_of_their_network(settings: EquivarianceSettings, add: Add) -> None:
    run = add("oscnet", lambda: small_network("oscnet", rotations=8))
    settings = replace(settings, runs=(run,), angles=(90.0,))
    layers = {row.layer: row.fields for row in equivariance(settings).reports["oscnet"].layers}
    assert layers["last_prox.blocks.0.conv1"] == (("trivial", 1), ("trivial", 3))
    assert not any(name.startswith("map_proxes") for name in layers)
    with pytest.raises(UsageError, match="--layer, for oscnet: how the channels of 'map_proxes"):
        equivariance(replace(settings, layer="map_proxes.0.blocks.0.conv1"))


def test_pairs_are_simulated_where_no_data_is_given(add: Add, tmp_path: Path, small_scanner: None) -> None:
    path = add("strict", Strict, preset="syndeeplesion")
    result = equivariance(
        EquivarianceSettings(runs=(path,), out=str(tmp_path / "out"), angles=(270.0,), pairs=2, device="cpu")
    )
    assert result.reports["strict"].input_shapes == ((2, 1, 64, 64),) * 3
    assert result.reports["strict"].network[0].error < 1e-5
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["preset"] == "syndeeplesion"
    assert all(name.startswith("phantom") for name in report["pairs"])


def test_runs_that_cannot_be_used_are_listed_and_the_others_measured(
    settings: EquivarianceSettings, add: Add, tmp_path: Path
) -> None:
    runs = (add("picky", Picky), str(tmp_path / "nowhere"), add("plain", Plain))
    result = equivariance(replace(settings, runs=runs, angles=(90.0,)))
    assert list(result.reports) == ["plain"]
    assert len(result.failed) == 2
    assert "nowhere: no such file" in result.failed[0]
    assert "picky: cannot be measured (expected sides that are multiples of 1024)" in result.failed[1]
    with pytest.raises(InputError, match="no run could be measured"):
        equivariance(replace(settings, runs=runs[:1]))
    with pytest.raises(InputError, match="no run can be loaded"):
        equivariance(replace(settings, runs=runs[1:2]))


def test_runs_of_one_label_are_told_apart(settings: EquivarianceSettings, add: Add) -> None:
    runs = tuple(add(name, Plain, label="arm", seed=seed) for name, seed in (("a", 0), ("b", 1), ("c", 1)))
    result = equivariance(replace(settings, runs=runs, angles=(180.0,)))
    assert list(result.reports) == ["arm", "arm seed 1", runs[2]]


def test_the_figures_show_the_layer_that_is_named(settings: EquivarianceSettings, add: Add) -> None:
    runs = (add("plain", Plain),)
    equivariance(replace(settings, runs=runs, angles=(180.0,), layer="last", maps=1))
    with pytest.raises(UsageError, match=r"--layer, for plain: layers: 'frist' fits no module.*first"):
        equivariance(replace(settings, runs=runs, layer="frist"))


def test_a_mask_that_is_not_the_pairs_is_refused(settings: EquivarianceSettings, add: Add) -> None:
    np.save(Path(settings.data) / "testmask.npy", masks()[:, ::-1])
    with pytest.raises(MarError, match="name the right stack with --masks"):
        equivariance(replace(settings, runs=(add("plain", Plain),)))
    (Path(settings.data) / "testmask.npy").unlink()
    with pytest.raises(MarError, match="no pair with a mask"):
        equivariance(replace(settings, runs=(add("plain", Plain),)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runs": ()}, "runs: got none"),
        ({"runs": ("a", "a")}, "runs: got a a"),
        ({"pairs": 0}, "--pairs: got 0"),
        ({"maps": 0}, "--maps: got 0"),
        ({"group_order": 1}, "--group-order: got 1"),
        ({"angles": ()}, "--angles: got none"),
        ({"angles": (90.0, 360.0)}, "--angles: got 360"),
        ({"angles": (float("nan"),)}, "--angles: got nan"),
    ],
)
def test_impossible_settings_are_refused(settings: EquivarianceSettings, changes: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        equivariance(replace(settings, **{"runs": ("a",), **changes}))


def test_runs_come_first_on_the_command_line() -> None:
    read = read_equivariance_settings(["runs/a", "runs/b", "--angles", "90", "45", "--pairs", "2", "--layer", "first"])
    assert read == EquivarianceSettings(runs=("runs/a", "runs/b"), angles=(90.0, 45.0), pairs=2, layer="first")
    assert read_equivariance_settings(["--pairs", "2", "--runs", "a"]).runs == ("a",)
    with pytest.raises(UsageError, match=r"unknown option --angle 90; did you mean --angles\?"):
        read_equivariance_settings(["a", "--angle", "90"])


@pytest.mark.usefixtures("small_scanner")
def test_runs_of_images_and_of_scans_side_by_side(tmp_path: Path, add: Add, caplog: pytest.LogCaptureFixture) -> None:
    """Each is called with its own inputs, and sinograms are turned by their views: 64 of them not by 120 degrees."""
    runs = (
        add("plain", Plain, preset=NAME),
        add("dual", lambda: dual_network("indudonet_plus", dual_channels=4), preset=NAME),
    )
    result = equivariance(EquivarianceSettings(runs=runs, out=str(tmp_path / "out"), device="cpu"))
    assert result.failed == ()
    angles = {label: [row.angle_deg for row in report.network] for label, report in result.reports.items()}
    assert angles == {"plain": [90, 180, 270, 120], "dual": [90, 180, 270]}
    assert "dual: 120 degrees shift no whole number of views; left out" in caplog.text
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(result.outputs)
    widths = [imread(tmp_path / "out" / name).shape[1] for name in ("figure_1.png", "figure_2.png")]
    assert widths[1] < widths[0]  # figure 2 is of the network of images alone
    layers = {row.layer for row in result.reports["dual"].layers}
    assert {"dual", "sinogram_dual", "stages.1.sinogram_prox.blocks.0.conv1"} <= layers
    of_li = [row for row in result.reports["dual"].layers if row.layer == "sinogram_dual"]
    assert max(row.centred_error for row in of_li) < 0.3  # a box filter: wrong at the first and last view alone


@pytest.mark.usefixtures("small_scanner")
def test_a_run_that_no_angle_turns_is_told(tmp_path: Path, add: Add) -> None:
    run = add("dual", lambda: dual_network("cnnmar"), preset=NAME)
    with pytest.raises(InputError, match="dual: none of the angles shifts a whole number of views; add 90 to --angles"):
        equivariance(EquivarianceSettings(runs=(run,), out=str(tmp_path / "out"), device="cpu", angles=(120.0,)))
