"""A network of your own: in a file, or as one more of `NETWORKS`, with one class, one line and one settings file."""

from pathlib import Path

import pytest
from torch import Tensor, nn
from training_set import write_settings, write_training_set

from mar_pipeline.commands.train import TrainReport, train
from mar_pipeline.networks import NETWORKS, NetworkOutput
from mar_pipeline.networks.build import build_network
from mar_pipeline.networks.field_patterns import TypedEnds
from mar_pipeline.networks.losses import image_loss
from mar_pipeline.networks.own_file import load_class
from mar_pipeline.networks.typed_fields import typed_layers
from mar_pipeline.training.settings import read_train_settings
from mar_pipeline.weights.trained import load_trained
from simulation.errors import InputError, UsageError

OWN = """
from torch import nn

class MyNet(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, x):
        return self.body(x)

number = 3
"""


class ToyNet(nn.Module):
    """All that a network has to say of itself."""

    loss = staticmethod(image_loss)

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.last = nn.Conv2d(width, 1, 1)

    def typed_ends(self, group_order: int) -> TypedEnds:
        groups = (("regular", self.conv.out_channels // group_order),)
        return {"conv": ((("trivial", 1),), groups), "last": (groups, (("trivial", 1),))}, ()

    def forward(self, image: Tensor, li: Tensor, metal_mask: Tensor) -> NetworkOutput:
        return NetworkOutput(li + self.last(self.conv(image / 255)))


def two_steps(folder: Path, overlay: str, *options: str) -> TrainReport:
    base = write_settings(folder / "base.yaml", write_training_set(folder / "data"))
    (folder / "toy.yaml").write_text(f"settings: base.yaml\n{overlay}")
    words = ["--epochs=2", "--data.batches_per_epoch=1", f"--run={folder / 'run'}", *options]
    assert base.is_file()
    return train(read_train_settings([f"--settings={folder / 'toy.yaml'}", *words]))


def test_a_network_is_one_class_one_line_and_one_small_file(
    monkeypatch: pytest.MonkeyPatch, small_scanner: None, tmp_path: Path
) -> None:
    monkeypatch.setitem(NETWORKS, "toy", ToyNet)
    assert two_steps(tmp_path, "network: {name: toy, arguments: {}}\n").epochs == 2
    network = load_trained(tmp_path / "run").network
    assert isinstance(network, ToyNet)
    assert set(typed_layers(network).ends) == {"conv", "last"}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    file = tmp_path / "mynet.py"
    file.write_text(OWN)
    return file


def test_a_network_from_a_file_trains_and_is_loaded_again(own: Path, small_scanner: None, tmp_path: Path) -> None:
    name = f"{own}:MyNet"
    two_steps(tmp_path, f"network: {{name: '{name}', arguments: {{width: 6}}}}\n")
    trained = load_trained(tmp_path / "run")
    assert (trained.name, trained.parameters) == (name, 2 * 9 * 6 + 6 + 9 * 6 + 1)
    own.write_text(f"{OWN}\n# another one\n")
    with pytest.raises(InputError, match="was trained with another"):
        load_trained(tmp_path / "run")
    with pytest.raises(UsageError, match=r"network.s file was mynet\.py"):
        two_steps(tmp_path, f"network: {{name: '{name}', arguments: {{width: 6}}}}\n")
    own.unlink()
    with pytest.raises(InputError, match="which is missing"):
        load_trained(tmp_path / "run")


def test_a_path_relative_to_the_working_folder(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own.parent)
    assert load_class("./mynet.py:MyNet") is load_class(f"{own}:MyNet")
    assert build_network("./mynet.py:MyNet", {"width": 5}).get_submodule("net.body.0").out_channels == 5


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent.py:MyNet", "there is no file"),
        ("mynet.py:YourNet", r"has no YourNet; it has the networks MyNet$"),
        ("mynet.py:", "has no class named after the colon"),
        ("mynet.py:number", "is no torch.nn.Module"),
        ("broken.py:MyNet", "cannot be run .SyntaxError"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(own: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str) -> None:
    monkeypatch.chdir(own.parent)
    Path("broken.py").write_text("class MyNet(:\n")
    with pytest.raises(UsageError, match=words):
        build_network(name, {})
