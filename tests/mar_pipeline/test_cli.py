"""The `mar` program: quick help, settings by name, exit codes, one line for what the user can mend."""

import json
import logging
import platform
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import yaml

import mar_pipeline
from mar_pipeline import cli
from mar_pipeline.commands import run_alone
from mar_pipeline.options import read_settings, value_of
from mar_pipeline.training.settings import read_train_settings
from simulation.errors import EXIT_CODES, InputError, UsageError


@dataclass(frozen=True)
class Optimizer:
    """How it learns.

    Args:
        learning_rate: of the first step.
    """

    learning_rate: float = 1e-3


@dataclass(frozen=True)
class Settings:
    """What a command of the tests does.

    Args:
        out: folder, keeps 100 % of
            what is written.
        masks_per_slice: how many.
        metal: one of two.
        methods: several words.
    """

    out: Path
    masks_per_slice: int = 3
    metal: Literal["steel", "gold"] | None = None
    methods: tuple[str, ...] = ("input",)
    window_hu: tuple[float, float] = (-175.0, 275.0)
    sizes: tuple[int, ...] | None = None
    dry_run: bool = False
    seed: int | None = 0
    optimizer: Optimizer = field(default_factory=Optimizer)


def read(*arguments: str) -> Settings:
    return read_settings("try", Settings, list(arguments))


def refusal(*arguments: str) -> str:
    with pytest.raises(UsageError) as caught:
        read(*arguments)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.fixture(autouse=True)
def logging_as_before():
    """The program sets up logging for its process; the tests that follow want none of it."""
    packages = [logging.getLogger(name) for name in ("simulation", "mar_pipeline")]
    handlers, levels = list(logging.root.handlers), [package.level for package in packages]
    yield
    logging.root.handlers = handlers
    for package, level in zip(packages, levels, strict=True):
        package.setLevel(level)


@pytest.fixture
def in_file(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "settings.yaml"
        path.write_text(text)
        return f"--settings={path}"

    return write


@pytest.fixture
def command(monkeypatch):
    """Makes `mar try` call a function."""

    def install(function) -> None:
        monkeypatch.setitem(cli.COMMANDS, "try", ("for tests", function))

    return install


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(argument):
    script = f"""
import sys
from mar_pipeline.cli import main
try:
    main([{argument!r}])
except SystemExit as stop:
    assert stop.code == 0
print([name for name in ("torch", "numpy", "numba", "matplotlib", "jsonargparse", "h5py") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_python_m_is_the_same_program():
    done = subprocess.run(
        [sys.executable, "-m", "mar_pipeline", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"mar {mar_pipeline.__version__}\n"


def test_help_lists_every_command_and_exit_code(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    text = capsys.readouterr().out
    assert all(f"\n  {word} " in text for word in [*cli.COMMANDS, *map(str, EXIT_CODES)])


def test_options_become_settings():
    assert read("--out", "here") == Settings(out=Path("here"))
    assert read(
        *("--out=here", "--masks-per-slice", "4", "--metal", "gold", "--methods", "input", "a, b", "runs/[x]"),
        *("--window-hu", "-100", "1e3", "--sizes", "7", "--dry-run", "--seed", "null", "--optimizer.learning_rate=0.1"),
    ) == Settings(
        out=Path("here"),
        masks_per_slice=4,
        metal="gold",
        methods=("input", "a, b", "runs/[x]"),
        window_hu=(-100.0, 1000.0),
        sizes=(7,),
        dry_run=True,
        seed=None,
        optimizer=Optimizer(learning_rate=0.1),
    )


def test_options_win_over_the_file(in_file):
    file = in_file("out: there\nmasks_per_slice: 5\nmethods: [li, nmar]\nseed: 3\ndry_run: true\n")
    settings = read(file, "--seed", "5")
    assert settings == Settings(Path("there"), masks_per_slice=5, methods=("li", "nmar"), seed=5, dry_run=True)


def test_an_option_given_twice_is_refused_and_files_go_on_top_of_each_other(in_file):
    with pytest.raises(UsageError, match=r"^--seed: is given twice"):
        read("--out=x", "--seed", "4", "--seed=5")
    with pytest.raises(UsageError, match=r"^--masks-per-slice: is given twice"):
        read("--out=x", "--masks-per-slice=1", "--masks_per_slice=2")
    first = in_file("out: there\nseed: 3\n")
    second = first.replace("--settings=", "").replace("settings.yaml", "more.yaml")
    Path(second).write_text("seed: 4\n")
    assert read(first, f"--settings={second}").seed == 4


def test_a_file_stands_on_the_one_it_names_and_later_files_win(in_file, tmp_path):
    (tmp_path / "deeper").mkdir()
    (tmp_path / "base.yaml").write_text("out: there\nseed: 3\noptimizer: {learning_rate: 5e-1}\n")
    (tmp_path / "deeper" / "middle.yaml").write_text("settings: ../base.yaml\nmethods: [li]\n")
    top = in_file("settings: deeper/middle.yaml\nseed: 4\n")
    assert read(top) == Settings(Path("there"), methods=("li",), seed=4, optimizer=Optimizer(0.5))
    (tmp_path / "more.yaml").write_text("optimizer.learning_rate: 0.25\n")
    assert read(top, f"--settings={tmp_path / 'more.yaml'}").optimizer == Optimizer(0.25)
    assert value_of("seed", [top]) == 4
    assert value_of("out", [top]) == "there"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("settings: settings.yaml", ["stands on itself"]),
        ("settings: absent.yaml", ["no such file", "absent.yaml"]),
        ("settings: [a.yaml, b.yaml]", ["one file"]),
    ],
)
def test_a_file_that_stands_on_none_is_refused(in_file, text, words):
    message = refusal("--out=x", in_file(f"{text}\n"))
    assert all(word in message for word in words), message


def test_a_missing_file_is_named():
    assert refusal("--out=x", "--settings", "absent.yaml") == "--settings: no such file: absent.yaml"


@pytest.mark.parametrize(
    ("word", "option"),
    [("learning_rate", "--optimizer.lr"), ("epoch", "--epochs"), ("batch", "--data.batch_size"), ("sed", "--seed")],
)
def test_near_names_are_suggested_by_meaning(word, option):
    with pytest.raises(UsageError, match=f"did you mean {option}\\?"):
        read_train_settings([f"--{word}=3"])


def test_print_config_round_trip(capsys, in_file):
    arguments = ["--out=x", "--methods", "li", "nmar", "--metal=steel", "--dry-run", "--optimizer.learning_rate=0.5"]
    with pytest.raises(SystemExit, match="0"):
        read(*arguments, "--print_config")
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["methods"] == ["li", "nmar"]
    assert read(in_file(printed)) == read(*arguments)


def test_help_explains_the_options(capsys):
    with pytest.raises(SystemExit, match="0"):
        read("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "What a command of the tests does." in text
    assert "--masks-per-slice MASKS_PER_SLICE how many" in text
    assert "folder, keeps 100 % of what is written" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--mask-per-slice", "4"], ["--mask-per-slice"]),
        (["--masks", "4"], ["--masks"]),
        (["--masks-per-slice", "many"], ["--masks-per-slice", "expected a whole number", "'many'"]),
        (["--masks-per-slice", "1.5"], ["--masks-per-slice", "expected a whole number", "'1.5'"]),
        (["--metal", "brass"], ["--metal", "steel | gold or null", "'brass'"]),
        (["--dry-run", "maybe"], ["--dry-run", "true or false", "'maybe'"]),
        (["--sizes", "1", "two"], ["--sizes", "each item a whole number", "two"]),
        (["--window-hu", "1"], ["--window-hu"]),
        (["--optimizer.learning_rate", "fast"], ["--optimizer.learning_rate", "expected a number", "fast"]),
    ],
)
def test_wrong_options_are_named(arguments, words):
    message = refusal("--out=x", *arguments)
    assert all(word in message for word in [*words, "mar try --help"]), message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mask_per_slice: 4", ["mask_per_slice"]),
        ("optimizer: {rate: 1}", ["rate"]),
        ("masks_per_slice: many", ["--masks-per-slice", "expected a whole number", "'many'"]),
        ("methods: li", ["--methods", "each item text", "'li'"]),
        ("dry_run: 3", ["--dry-run", "true or false", "'3'"]),
        ("metal: brass", ["--metal", "steel | gold or null", "'brass'"]),
        ("[unclosed", ["parsing", "line 1, column 1"]),
        ("- a list", ["list"]),
    ],
)
def test_wrong_keys_and_types_in_a_file_are_named(in_file, text, words):
    message = refusal("--out=x", in_file(text))
    assert all(word in message for word in words), message


def test_missing_option_is_named():
    assert "out" in refusal("--seed=1")


@pytest.mark.parametrize(
    ("error", "exit_code", "line"),
    [
        (InputError("broken.png: truncated;\n  copy it again"), 5, "broken.png: truncated; copy it again"),
        (UsageError("unknown preset 'x'"), 2, "unknown preset 'x'"),
        (PermissionError(13, "Permission denied", "/x/out"), 6, "/x/out: Permission denied"),
        (OSError("Unable to open file (truncated)"), 6, "Unable to open file (truncated)"),
        (
            KeyboardInterrupt(),
            130,
            "interrupted; mar simulate, mar train and mar dicom go on with the same command, others start anew",
        ),
    ],
)
def test_what_the_user_can_mend_is_one_line(command, capsys, error, exit_code, line):
    def fail(arguments: list[str]) -> int:
        raise error

    command(fail)
    assert cli.main(["try"]) == exit_code
    assert capsys.readouterr().err == f"mar: error: {line}\n"


def test_a_bug_keeps_its_traceback(command):
    command(lambda arguments: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["try"])


def test_failed_items_are_listed_with_exit_code_8(command, capsys):
    command(lambda arguments: cli._finish("a table", ["1.png: truncated"] if arguments else []))
    assert cli.main(["try"]) == 0
    assert cli.main(["try", "x"]) == 8
    assert capsys.readouterr() == ("a table\na table\n", "failed: 1.png: truncated\n")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [([], "simulate"), (["simulte"], "'simulte'"), (["--vers"], "--vers"), (["info", "--xml"], "--xml")],
)
def test_wrong_usage_is_one_line_and_exit_code_2(capsys, arguments, word):
    assert cli.main(arguments) == 2
    text = capsys.readouterr().err
    assert word in text
    assert text.startswith("mar: error: ")
    assert text.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "levels"),
    [
        (["try"], ["info", "warning"]),
        (["try", "--quiet"], ["warning"]),
        (["-v", "try"], ["debug", "info", "warning"]),
    ],
)
def test_messages_go_to_standard_error(command, capsys, arguments, levels):
    def speak(rest: list[str]) -> int:
        assert rest == []
        for level in ("debug", "info", "warning"):
            getattr(cli.logger, level)(level)
        return 0

    command(speak)
    assert cli.main(arguments) == 0
    assert capsys.readouterr() == ("", "".join(f"{level}\n" for level in levels))


def test_info_for_programs_and_readers(capsys):
    assert cli.main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["version"] == mar_pipeline.__version__
    assert facts["libraries"]["torch"]
    assert facts["libraries"]["python"] == platform.python_version()
    assert facts["cpus"] >= 1
    assert facts["cuda"]["available"] or facts["cuda"]["reason"]
    assert {"syndeeplesion", "clinical"} <= set(facts["presets"])
    assert "titanium" in facts["metals"]

    assert cli.main(["info"]) == 0
    assert "syndeeplesion" in capsys.readouterr().out


def test_info_lists_what_commands_accept(capsys):
    assert cli.main(["info"]) == 0
    told = capsys.readouterr().out
    for words in (
        "networks    mar: unet, dicdnet",
        "methods     input, li, nmar, unet_small",
        "implants    hip, spine",
    ):
        assert words in told


@pytest.mark.parametrize("command", ["train", "evaluate", "compare", "equivariance", "export", "info", "submit"])
def test_a_commands_module_prints_help(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [command, "--help"])
    with pytest.raises(SystemExit, match="0"):
        run_alone(command)
    assert f"usage: mar {command}" in capsys.readouterr().out
