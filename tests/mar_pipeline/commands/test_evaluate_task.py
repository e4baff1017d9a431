"""The quick settings of every secondary task, from the command line: trained, scored, told; and what is refused."""

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from mar_pipeline.cli import main
from mar_pipeline.evaluation.task_settings import TaskEvaluateSettings
from mar_pipeline.options import read_settings
from mar_pipeline.tasks.catalogue import TESTS
from mar_pipeline.training.settings import read_train_settings
from mar_pipeline.weights.trained import load_trained
from simulation.errors import MarError, UsageError

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
TASKS = tuple(TESTS)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a finished run of every task's quick settings."""
    folder, threads = tmp_path_factory.mktemp("runs"), torch.get_num_threads()
    for task in TASKS:
        settings = CONFIGS / "train" / f"{task}_quick.yaml"
        assert main(["train", f"--settings={settings}", f"--run={folder / task}", "--threads=1"]) == 0
    torch.set_num_threads(threads)
    return folder


def results(runs: Path, task: str, out: Path, *more: str) -> dict[str, dict[str, float]]:
    baseline = () if task == "classification" else ("input",)
    arguments = ["evaluate", f"--task={task}", "--methods", *baseline, str(runs / task), f"--out={out}", *more]
    assert main(arguments) == 0
    return json.loads((out / "report.json").read_text())["results"]


@pytest.mark.parametrize(("task", "least_db"), [("rain", 3), ("inpainting", 8)])
def test_quick_settings_restore_held_out_images(runs: Path, task: str, least_db: float, tmp_path: Path) -> None:
    found = results(runs, task, tmp_path / "out")
    assert found[task]["psnr"] > found["input"]["psnr"] + least_db
    assert 0 < found[task]["equivariance_error"] < 1.5


def test_quick_settings_tell_digits_apart_whichever_way_up(runs: Path, tmp_path: Path) -> None:
    found = results(runs, "classification", tmp_path / "out")["classification"]
    assert found["accuracy"] > 0.85
    assert found["rotated"] > 0.85


@pytest.mark.parametrize("task", TASKS)
def test_a_page_with_its_pictures_and_a_line_per_sample(runs: Path, task: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    results(runs, task, out, "--figures", "2")
    page = (out / "table.md").read_text()
    pictures = sorted(path.name for path in out.glob("*.png"))
    assert len(pictures) == (1 if task == "classification" else 2)
    for name in pictures:
        assert f"]({name})" in page
        with Image.open(out / name) as picture:
            assert len(set(picture.convert("L").tobytes())) > 50
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    report = json.loads((out / "report.json").read_text())
    upright = [row for row in rows if row["method"] == task and not float(row["angle_deg"])]
    assert len(upright) == report["counts"]["samples"]
    assert set(report["outputs"]) == {path.name for path in out.iterdir()} - {"report.json"}


def test_the_input_is_scored_by_itself(tmp_path: Path) -> None:
    arguments = ["evaluate", "--task=inpainting", "--methods", "input", f"--out={tmp_path}", "--data.image_size=64"]
    assert main(arguments) == 0
    assert list(json.loads((tmp_path / "report.json").read_text())["results"]) == ["input"]


def test_weights_of_another_task_are_refused_by_name(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(MarError, match="was trained for the task rain, expected mar; mar evaluate --task rain"):
        load_trained(runs / "rain")
    assert main(["evaluate", "--task=inpainting", "--methods", str(runs / "rain"), f"--out={tmp_path / 'o'}"]) == 5
    assert "was trained for the task rain, expected inpainting" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task=rain", "--methods", "input", "absent"], "unknown method 'absent'; expected input, or the path"),
        (["--task=classification", "--methods", "input"], "unknown method 'input'; expected the path of a run"),
        (["--task=rain"], "--methods: got none; name run folders"),
        (["--task=rain", "--methods", "input", "input"], "each once"),
        (["--task=rain", "--methods", "input", "--figures=-1"], "--figures: got -1"),
        (["--task=rain", "--methods", "input", "--data.gamma=1"], "data.gamma"),
        (["--task=snow", "--methods", "input"], "--task: got 'snow', expected one of mar, rain"),
        (["--task=rain", "--methods", "input", "--data.source=absent"], "absent: there is no such folder"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_line(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["evaluate", *arguments, f"--out={tmp_path / 'out'}"]) in (2, 5)
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_data_section_has_the_keys_of_its_task_alone(tmp_path: Path) -> None:
    read = read_settings(
        "evaluate",
        TaskEvaluateSettings,
        ["--task=rain", "--out=o", "--data.source=heavy"],
        {"data": TESTS["rain"].data},
    )
    assert read.data == TESTS["rain"].data(source="heavy")
    (tmp_path / "c.yaml").write_text("task: classification\nrun: r\nnetwork: {name: cnn}\ndata: {train_images: 7}\n")
    assert read_train_settings([f"--settings={tmp_path / 'c.yaml'}"]).data.train_images == 7
    with pytest.raises(UsageError, match="train_images"):
        read_train_settings([f"--settings={tmp_path / 'c.yaml'}", "--task", "rain"])
    with pytest.raises(UsageError, match="--task: got 'snow'"):
        read_train_settings(["--task=snow", "--run=r", "--epochs=1"])


@pytest.mark.parametrize(("task", "name"), [("mar", "rcdnet"), ("rain", "unet"), ("classification", "rcdnet")])
def test_a_network_for_another_task_is_refused(
    task: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = ["--data.folder=x"] if task == "mar" else []
    assert main(["train", f"--task={task}", f"--network.name={name}", f"--run={tmp_path / 'r'}", *data]) == 2
    assert f"network {name}: is for the task" in capsys.readouterr().err


def test_any_torch_class_goes(tmp_path: Path) -> None:
    """Trained for a step and scored, from its weights alone."""
    folder = tmp_path / "run"
    one_step = ["--epochs=1", "--data.batches_per_epoch=1", "--sample-pictures=0", "--data.batch_size=2"]
    network = [
        "--network.name=torch.nn.Conv2d",
        '--network.arguments={"in_channels": 3, "out_channels": 3, "kernel_size": 1}',
    ]
    assert main(["train", "--task=rain", f"--run={folder}", *network, *one_step]) == 0
    weights = folder / "checkpoints" / "best.safetensors"
    out = tmp_path / "out"
    assert main(["evaluate", "--task=rain", "--methods", str(weights), f"--out={out}", "--figures=0"]) == 0
    assert json.loads((out / "report.json").read_text())["runs"][0]["parameters"] == 12
