"""DataSettings as a section of a command's settings."""

import dataclasses
from dataclasses import dataclass, field

import pytest
import yaml

from mar_pipeline.data import DataSettings
from mar_pipeline.options import read_settings
from simulation.errors import UsageError


@dataclass(frozen=True)
class Outer:
    """A command.

    Args:
        data: the section.
    """

    data: DataSettings = field(default_factory=DataSettings)


def test_read_from_a_file_and_options(tmp_path):
    written = {
        "kind": "simulate",
        "source": "phantom",
        "val_slices": ["a*", "!b"],
        "mask_range": [0, 79],
        "flips": False,
    }
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump({"data": written}))
    settings = read_settings("x", Outer, [f"--settings={file}", "--data.patch", "32", "--data.val_mask_range=[80, 89]"])
    expected = {**written, "val_slices": ("a*", "!b"), "mask_range": (0, 79), "patch": 32, "val_mask_range": (80, 89)}
    assert settings.data == DataSettings(**expected)


def test_every_field_is_explained():
    documented = DataSettings.__doc__.split("Args:")[1]
    for own in dataclasses.fields(DataSettings):
        assert f"\n        {own.name}: " in documented


@pytest.mark.parametrize("argument", ["--data.patch=[64, 32]", "--data.patch=64.5", "--data.kind=other", "--data.x=1"])
def test_a_wrong_type_or_key_is_refused(argument):
    with pytest.raises(UsageError, match=argument[2:].split("=")[0].split(".")[1]):
        read_settings("x", Outer, [argument])
