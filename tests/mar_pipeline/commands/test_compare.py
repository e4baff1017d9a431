"""Several arms over several seeds: planned, trained, scored side by side."""

import csv
import json
from pathlib import Path

import pytest
import yaml
from training_set import write_settings, write_training_set

from mar_pipeline.commands.compare import CompareSettings, compare
from mar_pipeline.commands.train import train
from mar_pipeline.evaluation import trainings
from mar_pipeline.options import read_settings
from mar_pipeline.training.settings import read_train_settings
from simulation.errors import MarError, UsageError

ARMS = {"base": {}, "with EQ": {"equivariance.enabled": True, "data.batch_size": 2, "equivariance.batch_fraction": 1.0}}


@pytest.fixture
def settings(small_scanner, tmp_path):
    data = write_training_set(tmp_path / "data")
    held_out = write_training_set(tmp_path / "held_out")
    base = write_settings(tmp_path / "base.yaml", data, epochs=1, equivariance={"enabled": False})
    return CompareSettings(
        str(base), str(tmp_path / "out"), str(held_out), arms=ARMS, seeds=(0, 3), methods=("li",), figures=1
    )


@pytest.fixture
def in_process(monkeypatch):
    """Trainings in this process, on the small scanner; the list of what was started."""
    started = []

    def run(run, log):
        started.append((run.arm, run.seed))
        try:
            train(read_train_settings(list(run.arguments)))
        except MarError as error:
            return str(error)
        return ""

    monkeypatch.setattr(trainings, "_train", run)
    return started


def test_every_arm_is_trained_with_every_seed_and_scored(settings, in_process, tmp_path):
    report = compare(settings)
    out = tmp_path / "out"
    assert sorted(in_process) == [("base", 0), ("base", 3), ("with EQ", 0), ("with EQ", 3)]
    assert report.failed == ()
    stored = yaml.safe_load((out / "with_EQ" / "seed_3" / "settings.yaml").read_text())
    assert stored["seed"] == 3
    assert (stored["equivariance"]["enabled"], stored["data"]["batch_size"]) == (True, 2)
    page = (out / "comparison.md").read_text()
    for text in (report.table, page):
        assert "base" in text
        assert "with EQ" in text
        assert "±" in text
    assert "| base | 2 | 3 |" in page
    with (out / "evaluation" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len({(row["method"], row["seed"]) for row in rows}) == 1 + 4
    assert json.loads((out / "report.json").read_text())["counts"] == {"arms": 2, "seeds": 2, "failed": 0}


def test_a_rerun_trains_nothing_anew(settings, in_process, tmp_path):
    compare(settings)
    checkpoint = tmp_path / "out" / "base" / "seed_0" / "checkpoints" / "last.pt"
    before = checkpoint.stat().st_mtime_ns
    compare(settings)
    assert checkpoint.stat().st_mtime_ns == before


def test_an_arm_that_fails_is_told_and_the_others_are_scored(settings, in_process, tmp_path):
    arms = {**ARMS, "hot": {"optimizer.lr": 1e38}}
    report = compare(CompareSettings(**{**vars(settings), "arms": arms, "seeds": (0,)}))
    assert len(report.failed) == 1
    assert report.failed[0].startswith("hot, seed 0: ")
    assert "with EQ" in report.table


def test_a_run_that_is_refused_is_not_scored_with_its_old_weights(settings, in_process):
    first = CompareSettings(**{**vars(settings), "seeds": (0,), "arms": {"base": {}, "hot": {"optimizer.lr": 0.01}}})
    assert "hot" in compare(first).table
    changed = CompareSettings(**{**vars(first), "arms": {"base": {}, "hot": {"optimizer.lr": 0.1}}})
    report = compare(changed)
    assert "hot" not in report.table
    assert "optimizer.lr was 0.01, now 0.1" in report.failed[0]


def test_scoring_on_the_training_pairs_is_refused(settings, in_process, tmp_path):
    with pytest.raises(UsageError, match="is what the runs are trained on"):
        compare(CompareSettings(**{**vars(settings), "data": str(tmp_path / "data")}))


def test_the_process_of_a_training_that_fails_is_quoted(settings, tmp_path):
    """Real processes: they know the real scanner, whose images are larger than these."""
    with pytest.raises(MarError, match=r"no training came through.*exit code 5.*64.*\.log"):
        compare(CompareSettings(**{**vars(settings), "seeds": (0,), "arms": {"base": {}}}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arms": {}}, "0 arms"),
        ({"seeds": ()}, "0 seeds"),
        ({"jobs": 0}, "--jobs 0"),
        ({"arms": {"odd": {"data.colour": 1}}}, "arm odd: .*data.colour"),
        ({"arms": {"odd": {"optimizer.lr": -1}}}, "arm odd: --optimizer.lr"),
        ({"base": "absent.yaml"}, "no such file: .*absent.yaml"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_starts(settings, in_process, tmp_path, changes, words):
    with pytest.raises(UsageError, match=words):
        compare(CompareSettings(**{**vars(settings), **changes}))
    assert not in_process
    assert not (tmp_path / "out").exists()


def test_settings_come_from_one_file(tmp_path):
    (tmp_path / "c.yaml").write_text("base: b.yaml\nout: o\ndata: d\narms: {a: {}, b: {data.rotations: true}}\n")
    read = read_settings("compare", CompareSettings, [f"--settings={tmp_path / 'c.yaml'}", "--seeds", "1", "2"])
    assert read.arms == {"a": {}, "b": {"data.rotations": True}}
    assert read.seeds == (1, 2)


@pytest.mark.parametrize(
    ("arms", "seeds", "message"),
    [({"a b": {}, "a_b": {}}, (0,), "would share the folder a_b"), ({"a": {}}, (0, 0), "name each seed once")],
)
def test_arms_and_seeds_that_would_share_a_run_are_refused(arms, seeds, message):
    with pytest.raises(UsageError, match=message):
        trainings.plan("base.yaml", arms, seeds, 1, Path("out"))


@pytest.fixture
def digits(tmp_path):
    """Two arms of a classifier that learns next to nothing."""
    base = tmp_path / "base.yaml"
    data = {"batch_size": 4, "batches_per_epoch": 2, "val_images": 5, "test_images": 8}
    network = {"name": "cnn", "arguments": {"groups": 2}}
    run = {"task": "classification", "epochs": 1, "threads": 1, "sample_pictures": 0}
    base.write_text(yaml.safe_dump(run | {"network": network, "data": data}))
    arms = {"plain": {}, "with EQ": {"equivariance.enabled": True}}
    return CompareSettings(base=str(base), out=str(tmp_path / "out"), arms=arms, seeds=(0, 3))


def test_a_secondary_task_has_a_page_of_its_own(digits, in_process, tmp_path):
    report = compare(digits)
    assert sorted(in_process) == [("plain", 0), ("plain", 3), ("with EQ", 0), ("with EQ", 3)]
    page = (tmp_path / "out" / "comparison.md").read_text()
    for words in (
        "## Results: classification",
        "plain (2 seeds)",
        "with EQ − plain",
        "| with EQ | 2 | 2 | 2 + 2 rotated |",
    ):
        assert words in page
    assert "![accuracy_per_angle.png](evaluation/accuracy_per_angle.png)" in page
    assert (tmp_path / "out" / "evaluation" / "accuracy_per_angle.png").is_file()
    assert "with EQ" in report.table


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": "somewhere"}, "--data: only for metal artifact reduction"),
        ({"masks": "m.npy"}, "--masks: only for metal artifact reduction"),
        ({"methods": ("li",)}, "--methods: got 'li', which the task classification has not"),
        ({"figures": -1}, "--figures: got -1"),
        ({"arms": {"few": {"data.test_images": 3}}}, "arm few: changes what all arms are scored on"),
        ({"arms": {"rain": {"task": "rain"}}}, "arm rain: "),
        ({"arms": {"input": {}}}, "'input' is the name of a method"),
    ],
)
def test_what_a_secondary_task_cannot_be_compared_on_is_refused_first(digits, in_process, tmp_path, changes, words):
    with pytest.raises(UsageError, match=words):
        compare(CompareSettings(**{**vars(digits), **changes}))
    assert not in_process
    assert not (tmp_path / "out").exists()
