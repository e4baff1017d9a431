"""What `mar export` hands on: the same weights, an ONNX file that computes the same, and a card that tells of them."""

import hashlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from small_networks import SMALL, small_network
from small_scans import DUAL, dual_network
from torch import Tensor, nn

from mar_pipeline.commands.export import ExportReport, ExportSettings, export
from mar_pipeline.networks import NetworkOutput
from mar_pipeline.sample import UNITS_PER_MU
from mar_pipeline.weights import onnx as onnx_export
from mar_pipeline.weights.files import save_weights
from mar_pipeline.weights.onnx import INPUTS, OUTPUT, export_onnx
from mar_pipeline.weights.trained import load_trained
from simulation.errors import InputError, MarError, UsageError
from simulation.files import sha256_of

FILES = ["MODEL_CARD.md", "SHA256SUMS", "model.safetensors", "report.json"]


def write_run(run: Path, name: str = "unet", seed: int = 3, **data: str) -> Path:
    """A run folder as training leaves it."""
    best = run / "checkpoints" / "best.safetensors"
    best.parent.mkdir(parents=True)
    settings = {
        "run": str(run),
        "threads": 2,
        "seed": seed,
        "data": {"kind": "simulate", "source": "phantom:pelvis"} | data,
    }
    metadata = {
        "network": name,
        "arguments": json.dumps(SMALL[name]),
        "label": "my run",
        "seed": str(seed),
        "epoch": "17",
        "psnr": "38.25",
        "group": "g",
        "preset": "clinical",
        "settings": json.dumps(settings),
    }
    save_weights(best, small_network(name, seed).state_dict(), metadata)
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "runs" / "first")


def exported(run: Path, out: Path, onnx: bool = False, overwrite: bool = False) -> ExportReport:
    return export(ExportSettings(str(run), str(out), onnx, overwrite))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def images(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    image, li = (255 * torch.rand(shape, generator=random) for _ in range(2))
    return image, li, (torch.rand(shape, generator=random) > 0.9).float()


def test_the_weights_are_the_runs_and_load_again(run: Path, tmp_path: Path) -> None:
    exported(run, tmp_path / "out")
    assert names(tmp_path / "out") == FILES
    before, after = load_trained(run), load_trained(tmp_path / "out" / "model.safetensors")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before.source.read_bytes()
    facts = ("name", "label", "arguments", "seed", "group", "parameters", "preset", "best_psnr", "metadata")
    assert [getattr(before, fact) for fact in facts] == [getattr(after, fact) for fact in facts]
    with torch.no_grad():
        assert torch.equal(*(trained.network(*images(1, 1, 32, 32)).image for trained in (before, after)))


def test_hashes_are_those_of_the_files(run: Path, tmp_path: Path) -> None:
    report = exported(run, tmp_path / "out")
    lines = (tmp_path / "out" / "SHA256SUMS").read_text().splitlines()
    for line in lines:
        digest, name = line.split("  ")
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest == report.hashes[name]
    assert len(lines) == 2
    card = (tmp_path / "out" / "MODEL_CARD.md").read_text()
    assert report.hashes["model.safetensors"] in card
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert written["sha256"] == report.hashes
    assert sorted(written["outputs"]) == FILES


def test_the_card_says_what_it_is_made_of_and_not_for(run: Path, tmp_path: Path) -> None:
    exported(run, tmp_path / "out")
    card = " ".join((tmp_path / "out" / "MODEL_CARD.md").read_text().split())
    network = small_network("unet")
    parameters = sum(parameter.numel() for parameter in network.parameters())
    for words in (
        "# my run",
        f"Architecture: `unet`, arguments: `{json.dumps(SMALL['unet'])}`",
        f"Parameters: {parameters:,}",
        "(preset): `clinical`",
        "Seed of the training: 3",
        "source: phantom:pelvis",
        "PSNR 38.25 dB",
        "after epoch 17",
        "Not a medical device",
        f"x = {UNITS_PER_MU:g} * clip(mu, 0, 1)",
        "mu = 0.192 * (1 + HU / 1000)",
        "Apache-2.0",
    ):
        assert words in card
    assert "model.onnx" not in card


def test_the_card_names_data_without_the_folders_of_the_machine_it_was_on(tmp_path: Path) -> None:
    private = tmp_path / "home" / "jane"
    places = {"source": "SLICES", "masks": "MASKS.npy", "folder": "TRAIN", "val_folder": "HELD_OUT/"}
    settings = {key: f"{private}/{name}" for key, name in places.items()}
    run = write_run(private / "runs" / "first", "unet", 3, **settings)
    exported(run, tmp_path / "out")
    card = (tmp_path / "out" / "MODEL_CARD.md").read_text()
    for key, name in places.items():
        assert f" {key}: {name.rstrip('/')}\n" in card
    for word in (str(private), str(tmp_path), "jane"):
        assert word not in card


def test_the_same_export_again_changes_nothing_and_another_is_refused(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    exported(run, out)
    before = {name: sha256_of(out / name) for name in FILES if name != "report.json"}
    exported(run, out)
    exported(out / "model.safetensors", out)
    assert {name: sha256_of(out / name) for name in before} == before
    other = write_run(tmp_path / "runs" / "second", seed=4)
    with pytest.raises(MarError, match="out: holds another export; name another folder, or take --overwrite"):
        exported(other, out)
    assert {name: sha256_of(out / name) for name in before} == before
    (out / "model.onnx").write_text("of the first run")
    exported(other, out, overwrite=True)
    assert names(out) == FILES
    assert sha256_of(out / "model.safetensors") == sha256_of(other / "checkpoints" / "best.safetensors")


def test_folders_that_hold_other_things_are_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("all of it")
    with pytest.raises(MarError, match=r"home: holds thesis.tex; name another"):
        exported(run, tmp_path / "home")
    exported(run, tmp_path / "home", overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").read_text() == "all of it"
    with pytest.raises(MarError, match="first: is a training run, whose report would be lost"):
        exported(run, run, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(MarError, match=r"file: cannot be written"):
        exported(run, tmp_path / "file")


def test_weights_that_do_not_say_what_they_are_are_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "bare.safetensors", small_network("unet").state_dict(), {})
    torch.save(small_network("unet").state_dict(), tmp_path / "bare.pt")
    for name in ("bare.safetensors", "bare.pt"):
        with pytest.raises(InputError, match=f"{name}: does not say which network it is of"):
            exported(tmp_path / name, tmp_path / "out")
    with pytest.raises(InputError, match="no such file"):
        exported(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_the_extra_it_is_named_and_nothing_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found(name))
    with pytest.raises(
        InputError, match=r"ONNX needs onnxscript, .*pip install 'mar-pipeline\[export\]', or .*--no-onnx"
    ):
        exported(run, tmp_path / "out", onnx=True)
    assert not (tmp_path / "out").exists()
    exported(run, tmp_path / "out")


def same_as_torch(network: nn.Module, file: Path, *shape: int) -> bool:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert [entry.name for entry in session.get_inputs()] == list(INPUTS)
    inputs = images(*shape)
    (got,) = session.run([OUTPUT], {key: image.numpy() for key, image in zip(INPUTS, inputs, strict=True)})
    with torch.no_grad():
        expected = network(*inputs).image.numpy()
    return bool(np.abs(got - expected).max() < 1e-4 * np.abs(expected).max())


def test_onnx_computes_what_torch_does_at_other_sizes(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = exported(run, out, onnx=True)
    assert names(out) == sorted([*FILES, "model.onnx"])
    assert report.hashes["model.onnx"] == sha256_of(out / "model.onnx")
    assert "any batch" in report.summary
    assert same_as_torch(load_trained(run).network, out / "model.onnx", 3, 1, 48, 40)
    assert not same_as_torch(small_network("unet", seed=4).eval(), out / "model.onnx", 3, 1, 48, 40)
    card = (out / "MODEL_CARD.md").read_text()
    assert "opset 18, inputs and output as above, any batch" in " ".join(card.split())
    assert report.hashes["model.onnx"] in card


class FilterOfEachImage(nn.Module):
    """Convolves every image with a filter that depends on it, as a grouped convolution over the batch."""

    def forward(self, image: Tensor, li: Tensor, metal_mask: Tensor) -> NetworkOutput:
        filters = li.mean(dim=(2, 3), keepdim=True) / 255 * torch.ones(1, 1, 3, 3)
        together = functional.conv2d(image.transpose(0, 1), filters, padding=1, groups=image.shape[0])
        return NetworkOutput(together.transpose(0, 1), (), ())


def test_networks_with_a_filter_for_each_image_take_one_at_a_time(tmp_path: Path) -> None:
    network = FilterOfEachImage().eval()
    facts = export_onnx(network, tmp_path / "model.onnx")
    assert not facts.any_batch
    assert same_as_torch(network, tmp_path / "model.onnx", 1, 1, 48, 40)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SMALL if name != "unet"])
def test_every_network_has_an_onnx_file(tmp_path: Path, name: str) -> None:
    network = small_network(name).eval()
    facts = export_onnx(network, tmp_path / "model.onnx")
    assert facts.any_batch == (name in ("dicdnet", "oscnet"))
    assert same_as_torch(network, tmp_path / "model.onnx", 1, 1, 48, 40)


class Fixed(nn.Module):
    """Adds a number that tracing takes for a constant, which it is not: it grows with every call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, image: Tensor, li: Tensor, metal_mask: Tensor) -> NetworkOutput:
        self.calls += 1
        return NetworkOutput(li + self.calls, (), ())


def test_an_onnx_file_that_computes_something_else_gets_no_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ONNX Runtime's image of .* differs from torch's by"):
        export_onnx(Fixed().eval(), tmp_path / "model.onnx")
    assert not names(tmp_path)


def test_an_operator_that_onnx_has_not_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **keywords: object) -> None:
        raise torch.onnx.OnnxExporterError("no operator aten::odd\nand a long story")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(InputError, match=r"ONNX cannot hold this network \(no operator aten::odd\); take --no-onnx"):
        onnx_export.export_onnx(small_network("unet").eval(), tmp_path / "model.onnx")
    assert not names(tmp_path)


@pytest.fixture
def dual_run(tmp_path: Path) -> Path:
    """Of a dual-domain network."""
    best = tmp_path / "runs" / "dual" / "checkpoints" / "best.safetensors"
    best.parent.mkdir(parents=True)
    metadata = {"network": "indudonet_plus", "arguments": json.dumps(DUAL["indudonet_plus"]), "label": "dual"}
    save_weights(best, dual_network("indudonet_plus").state_dict(), metadata)
    return tmp_path / "runs" / "dual"


def test_networks_that_project_have_no_onnx(dual_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--onnx: indudonet_plus projects inside the network, .*; take --no-onnx$"):
        exported(dual_run, tmp_path / "out", onnx=True)
    assert not (tmp_path / "out").exists()
    for folder, settings in (("no", {"onnx": False}), ("unsaid", {})):
        export(ExportSettings(str(dual_run), str(tmp_path / folder), **settings))
        assert names(tmp_path / folder) == FILES


def test_the_card_names_the_inputs_of_the_network(run: Path, dual_run: Path, tmp_path: Path) -> None:
    cards = []
    for number, own in enumerate((run, dual_run)):
        exported(own, tmp_path / str(number))
        cards.append((tmp_path / str(number) / "MODEL_CARD.md").read_text())
    assert "corrected = network(image, li, metal_mask).image" in cards[0] and "inogram" not in cards[0]
    called = "image, li, metal_mask, ma_sinogram, li_sinogram, metal_trace, prior"
    assert f"corrected = network({called}).image" in cards[1]
    for words in ("| `prior` |", "| `metal_trace` |", "s = 63.75 * clip(p, 0, 4)", "(batch, 1, views, bins)"):
        assert words in cards[1]
