"""An option that is given twice is refused, whatever it is and in whatever command; a list takes all."""

import argparse
from pathlib import Path

import pytest

from mar_pipeline.cli import main
from mar_pipeline.dicom.command import _add_options
from mar_pipeline.options.parser import CommandParser
from simulation.errors import UsageError


def dicom_parser() -> CommandParser:
    parser = CommandParser(prog="mar dicom", allow_abbrev=False)
    _add_options(parser)
    return parser


def spellings(action: argparse.Action) -> list[list[str]]:
    """The ways in which an option can be written."""
    if action.nargs == 0:
        return [[name] for name in action.option_strings]
    value = str(next(iter(action.choices))) if action.choices else "1"
    if action.dest == "created":
        value = "2026-01-31"
    return [words for name in action.option_strings for words in ([name, value], [f"{name}={value}"])]


OPTIONS = [one for one in dicom_parser()._actions if one.option_strings and one.dest not in ("help", "series", "roi")]


@pytest.mark.parametrize("action", OPTIONS, ids=lambda action: action.dest)
def test_no_option_of_mar_dicom_is_taken_twice(action: argparse.Action) -> None:
    for first in spellings(action):
        dicom_parser().parse_args(["in", "out", *first])
        for second in spellings(action):
            with pytest.raises(
                UsageError, match=f"^{second[0].partition('=')[0]}: is given (twice|beside {first[0][:5]})"
            ):
                dicom_parser().parse_args(["in", *first, "out", *second])


def test_a_list_takes_all() -> None:
    options = dicom_parser().parse_args(["in", "out", "--series", "1", "--series=2"])
    assert options.series == ["1", "2"]


def test_a_parser_parses_anew_each_time() -> None:
    parser = dicom_parser()
    for method in ("li", "nmar"):
        assert parser.parse_args(["in", "out", "--method", method]).method == method


@pytest.mark.parametrize(
    "arguments",
    [
        ["dicom", "in", "out", "--metal-threshold", "2000", "--metal-threshold", "3000"],
        ["dicom", "in", "out", "--html", "--no-html"],
        ["info", "--json", "--json"],
        ["export", "run", "out", "--onnx", "--no-onnx"],
        ["submit", "--gpus", "1", "--gpus", "2", "--", "train"],
        ["train", "--run", "a", "--run", "b"],
        ["train", "--epochs=1", "--epochs", "2"],
        ["train", "--data.batch_size", "1", "--data.batch-size", "2"],
        ["evaluate", "--methods", "li", "--out", "x", "--methods", "nmar"],
    ],
)
def test_one_line_and_exit_code_2(arguments: list[str], tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("mar: error: --") and said.count("\n") == 1 and "leave one of them out" in said
    assert list(tmp_path.iterdir()) == []


def test_the_words_of_another_command_are_its_own() -> None:
    """`mar submit` hands them on."""
    parser = CommandParser(prog="mar submit")
    parser.add_argument("--gpus")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    assert parser.parse_args(["--gpus", "1", "--", "x", "--gpus", "2"]).gpus == "1"
