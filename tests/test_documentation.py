"""README and the pages of docs/: what they name exists, and what they show runs. `scripts/docs` runs the tutorials."""

import contextlib
import io
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from mar_pipeline.cli import COMMANDS, main
from simulation.errors import EXIT_CODES

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(page for page in (ROOT / "docs").rglob("*.md") if "tutorials" not in page.parts)])
BLOCK = re.compile(r"^( *)```([^\n]*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
SCRIPTS = {"scripts/simulate.sbatch": "simulate", "scripts/train.sbatch": "train"}
OF_OTHERS = {
    "--signals-to-handle",
    "--time",
    "--now",
    "--requeue",
    "--open-mode",
    "--section.key",
    "--network.arguments.stages",
}
"""Options of other programs, a placeholder, and an argument of a network."""


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a page in a language, "" for none."""
    found = BLOCK.findall(page.read_text())
    return [
        "".join(line[len(indent) :] + "\n" for line in body.splitlines())
        for indent, tag, body in found
        if tag == language
    ]


@cache
def options_of(command: str, task: str = "") -> frozenset[str]:
    """Return the options that the help of a command lists."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([command, *(["--task", task] if task else []), "--help"])
    return frozenset(re.findall(r"(?<![\w-])--?[a-z][\w.-]*", printed.getvalue()))


def uses(line: str) -> list[tuple[str, list[str]]]:
    """Return each command of `mar` in a line of a shell, with the words after it."""
    words = shlex.split(line.replace("$(", " ").replace(")", " "), comments=True)
    found: list[tuple[str, list[str]]] = []
    for before, word in zip(["", *words], words, strict=False):
        if (before in ("mar", "mar_pipeline") or (before == "--" and found)) and word in COMMANDS:
            found.append((word, []))
        elif word in SCRIPTS:
            found.append((SCRIPTS[word], []))
        elif found:
            found[-1][1].append(word)
    return found


def test_readme_is_the_way_in() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text())
    tutorials = {target for target in targets if "tutorials/" in target}  # built from examples/
    missing = [target for target in {*targets} - tutorials if not (page.parent / target).exists()]
    missing += [
        target
        for target in tutorials
        if not target.endswith("index") and not (ROOT / "examples" / f"{Path(target).name}.py").exists()
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_have_the_options_that_pages_give_them(page: Path) -> None:
    lines = "".join(blocks(page, "")).replace("\\\n", " ").splitlines()
    wrong = []
    for command, words in (use for line in lines for use in uses(line)):
        task = words[words.index("--task") + 1] if "--task" in words else ""
        options = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        wrong += [f"mar {command} {option}" for option in options - options_of(command, task)]
    assert wrong == []


def test_options_in_the_text_are_some_commands() -> None:
    known = {option for command in COMMANDS for option in options_of(command)}
    known |= {option for task in ("rain", "inpainting", "classification") for option in options_of("train", task)}
    named = {
        (page.name, option)
        for page in PAGES
        if page.name != "CHANGELOG.md"
        for code in re.findall(r"`([^`\n]+)`", BLOCK.sub("", page.read_text()))
        for option in re.findall(r"(?<![\w-])--[a-z][\w.-]*", code)
    }
    assert {(page, option) for page, option in named if option not in known | OF_OTHERS} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_pages_name_exist(page: Path) -> None:
    named = re.findall(
        r"(?:configs|scripts|simulation|mar_pipeline|tests)/[\w./]+\.(?:yaml|json|sbatch|py|md)", page.read_text()
    )
    assert [name for name in named if not (ROOT / name).exists() and "mynet" not in name] == []


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_blocks_run(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, block in enumerate(blocks(page, "python")):
        exec(compile(block, f"{page.name}, block {number}", "exec"), {"__name__": page.stem})


def test_every_command_is_in_the_reference() -> None:
    shown = re.findall(
        r"^```\{command-output\} mar (\w[\w-]*) --help",
        (ROOT / "docs/reference/command_line.md").read_text(),
        re.MULTILINE,
    )
    assert shown == list(COMMANDS)


def test_every_exit_code_is_in_the_reference() -> None:
    codes = re.findall(r"^\| (\d+) \|", (ROOT / "docs/reference/exit_codes.md").read_text(), re.MULTILINE)
    assert [int(code) for code in codes] == list(EXIT_CODES)
