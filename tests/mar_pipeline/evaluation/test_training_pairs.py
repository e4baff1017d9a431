"""Pairs that a run was trained or selected on are left out of a result, and earlier results stay."""

import json
import logging
from pathlib import Path

import pytest
import yaml
from training_set import write_settings, write_training_set

from mar_pipeline.commands.evaluate import EvaluateSettings, evaluate
from mar_pipeline.commands.train import train
from mar_pipeline.data.pairs import PairFile, find_pairs
from mar_pipeline.evaluation.methods import Method
from mar_pipeline.evaluation.training_pairs import without_training_pairs
from mar_pipeline.training.settings import read_train_settings
from simulation.errors import ResourceError


def pairs_of(split: str, slices: int = 3, masks: int = 3) -> list[PairFile]:
    return [
        PairFile(split, f"{number:06d}_01_01", "001", mask, Path(f"{number}/{mask}.h5"))
        for number in range(slices)
        for mask in range(masks)
    ]


def run_on(folder: Path, data: dict[str, object]) -> Method:
    """A run's folder, as far as it is looked at."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "settings.yaml").write_text(yaml.safe_dump({"data": data}))
    return Method("net", print, "net", 0, facts={"weights": str(folder / "checkpoints" / "best.safetensors")})


def names(pairs: list[PairFile]) -> set[tuple[str, str, int]]:
    return {(pair.split, pair.case[:6], pair.mask) for pair in pairs}


def test_what_a_run_held_out_is_scored_but_what_selected_it_is_not(tmp_path: Path) -> None:
    data = tmp_path / "data"
    method = run_on(
        tmp_path / "run",
        {"folder": str(data), "slices": ["!000002_*"], "val_mask_range": [2, 2], "mask_range": [1, 2], "val_pairs": 1},
    )
    left, seen = without_training_pairs([*pairs_of("train"), *pairs_of("test")], [method], data, False)
    train = names([pair for pair in left if pair.split == "train"])
    assert train >= {("train", f"00000{number}", 0) for number in range(3)}  # mask 0 was never used
    assert train >= {("train", "000002", mask) for mask in range(3)}  # nor this slice
    assert len(names([pair for pair in left if pair.split == "test"])) == 9
    trained = [own for own in seen if "was trained on it" in own.reason]
    selected = [own for own in seen if "was selected on it" in own.reason]
    assert [own.pair for own in trained] == ["train/000000_01_01/001/1", "train/000001_01_01/001/1"]
    assert len(selected) == 1


def test_a_validation_set_of_its_own_counts_too(tmp_path: Path) -> None:
    data = tmp_path / "data"
    method = run_on(tmp_path / "run", {"folder": str(tmp_path / "other"), "val_folder": str(data), "val_split": "test"})
    left, seen = without_training_pairs([*pairs_of("train"), *pairs_of("test")], [method], data, False)
    assert {pair.split for pair in left} == {"train"}
    assert len(seen) == 9


def test_other_folders_are_scored_whole_and_weights_alone_are_warned_of_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever calls a folder `phantom` as the training's was called has not learnt from it for that."""
    pairs, settings = pairs_of("train"), json.dumps({"data": {"folder": "data", "val_mask_range": [2, 2]}})
    weights = {"weights": str(tmp_path / "net.safetensors")}
    method = Method("net", print, "net", 0, facts=weights, settings=settings)
    assert without_training_pairs(pairs, [method], tmp_path / "others", False) == (pairs, [])
    assert without_training_pairs(pairs, [Method("li", print)], tmp_path / "data", False) == (pairs, [])
    assert not caplog.records
    assert without_training_pairs(pairs, [method], tmp_path / "data", False) == (pairs, [])
    assert "net was trained or selected on a folder called data" in caplog.text


def test_a_run_is_not_scored_on_its_own_pairs_unless_asked(
    small_scanner: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_training_set(tmp_path / "data")
    file = write_settings(tmp_path / "s.yaml", data, epochs=1, data={"val_mask_range": [2, 2], "mask_range": [1, 2]})
    train(read_train_settings([f"--settings={file}", f"--run={tmp_path / 'run'}"]))
    fixed = {"data": str(data), "methods": ("li", str(tmp_path / "run")), "device": "cpu", "figures": 0}
    with caplog.at_level(logging.INFO, logger="mar_pipeline"):
        report = evaluate(EvaluateSettings(out=str(tmp_path / "out"), **fixed))
    count = len(find_pairs(data)[0])
    used = [own for own in report.not_scored if "--include-training-pairs" in own.reason]
    assert len(report.rows) == 2 * (count - len(used)) < 2 * count
    assert f"{len(used)} of {count} pairs are such that a run was trained or selected on" in caplog.text
    assert f"{tmp_path / 'out'}: wrote results.csv, table.md, report.json" in caplog.text
    assert "run was trained on it" in report.table
    with pytest.raises(ResourceError, match=r"holds an earlier result .* --overwrite"):
        evaluate(EvaluateSettings(out=str(tmp_path / "out"), **fixed))
    everything = EvaluateSettings(out=str(tmp_path / "out"), include_training_pairs=True, overwrite=True, **fixed)
    assert len(evaluate(everything).rows) == 2 * count
