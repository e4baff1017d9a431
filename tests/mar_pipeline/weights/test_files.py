"""Weights in files: what is written comes back, what does not fit is named, nothing in a file is executed."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mar_pipeline.weights.files import load_into, load_weights, save_weights
from simulation.errors import InputError


def network(width: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width))


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) and a[key].dtype == b[key].dtype for key in a)


def test_saved_weights_come_back_with_their_metadata(tmp_path: Path) -> None:
    state = network().to(memory_format=torch.channels_last).state_dict()
    metadata = {"network": "dicdnet", "arguments": '{"stages": 3}'}
    save_weights(tmp_path / "best.safetensors", state, metadata)
    loaded, told = load_weights(tmp_path / "best.safetensors")
    assert same(loaded, dict(state))
    assert told == metadata
    assert [path.name for path in tmp_path.iterdir()] == ["best.safetensors"]


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_state_dict_of_torch_is_read(tmp_path: Path, suffix: str) -> None:
    state = network().state_dict()
    torch.save(state, tmp_path / f"weights{suffix}")
    loaded, metadata = load_weights(tmp_path / f"weights{suffix}")
    assert same(loaded, dict(state))
    assert metadata == {}


class Trap:
    """Pickles to a call that makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.marker,)


def test_code_in_a_pickle_is_refused_and_not_executed(tmp_path: Path) -> None:
    marker, path = tmp_path / "executed", tmp_path / "weights.pt"
    torch.save({"weight": torch.ones(2), "trap": Trap(marker)}, path)
    with pytest.raises(InputError, match=r"weights\.pt: refused: .* never executed") as caught:
        load_weights(path)
    assert "\n" not in str(caught.value)
    assert not marker.exists()
    torch.load(path, weights_only=False)  # the trap works
    assert marker.exists()


def test_whole_module_is_refused(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "model.pth")
    with pytest.raises(InputError, match="save the state dict alone"):
        load_weights(tmp_path / "model.pth")


def write_nothing(path: Path) -> None:
    path.write_bytes(b"")


def write_text(path: Path) -> None:
    path.write_text("weights would be here\n")


def write_half(path: Path) -> None:
    if path.suffix == ".safetensors":
        save_weights(path, network().state_dict(), {})
    else:
        torch.save(network().state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("damage", [write_nothing, write_text, write_half])
def test_damaged_file_is_one_line(tmp_path: Path, damage: Callable[[Path], None], suffix: str) -> None:
    path = tmp_path / f"broken{suffix}"
    damage(path)
    with pytest.raises(InputError, match=f"broken{suffix}: .*damaged") as caught:
        load_weights(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "network": {}}, "no state dict, got a dict with epoch, network"),
        (torch.ones(3), "no state dict, got Tensor"),
        ({0: torch.ones(3)}, "no state dict, got a dict with 0"),
    ],
)
def test_file_without_a_state_dict_says_what_it_holds(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match=message):
        load_weights(tmp_path / "checkpoint.pt")


def test_absent_and_unknown_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_weights(tmp_path / "absent.safetensors")
    (tmp_path / "weights.onnx").touch()
    with pytest.raises(InputError, match="unknown kind of weights"):
        load_weights(tmp_path / "weights.onnx")
    with pytest.raises(InputError, match="give a name that ends so"):
        save_weights(tmp_path / "weights.pt", {}, {})


def misfit(state: dict[str, torch.Tensor]) -> None:
    del state["1.weight"]
    state["2.weight"] = torch.ones(1)
    state["0.weight"] = torch.ones(5, 1, 3, 3)


def test_weights_that_do_not_fit_are_named_and_leave_the_network_alone() -> None:
    target, state = network(seed=1), network(seed=2).state_dict()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    misfit(state)
    with pytest.raises(InputError) as caught:
        load_into(target, state)
    assert str(caught.value) == (
        "weights do not fit Sequential: 1 missing (first: 1.weight), 1 unknown (first: 2.weight), 1 of another shape "
        "(first: 0.weight, got 5x1x3x3, expected 3x1x3x3); build the network with the arguments it was trained with"
    )
    assert same(dict(target.state_dict()), before)


def test_leniency_loads_what_fits_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    target, state = network(seed=1), network(seed=2).state_dict()
    before = target.state_dict()["0.weight"].clone()
    misfit(state)
    state["0.bias"] = torch.full((3,), 7.0)
    with caplog.at_level(logging.WARNING):
        load_into(target, state, strict=False)
    assert torch.equal(target.state_dict()["0.weight"], before)
    assert target.state_dict()["0.bias"].tolist() == [7.0] * 3
    assert "1 missing (first: 1.weight)" in caplog.text


def test_fitting_weights_are_loaded() -> None:
    target, state = network(seed=1), network(seed=2).state_dict()
    load_into(target, state)
    assert same(dict(target.state_dict()), dict(state))
