"""Fixtures and skips shared by all tests.

MAR_SHARED_DATA names the folder of real data; MAR_REQUIRE=shared,tools (any of them) turns the skip for what is absent
into a failure.
"""

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
SHARED_DATA = Path(os.environ.get("MAR_SHARED_DATA", CHECKOUT.parent / "shared" / "data"))
REQUIRED = {word for word in os.environ.get("MAR_REQUIRE", "").split(",") if word}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")


def pytest_configure(config: pytest.Config) -> None:
    if REQUIRED - {"shared", "tools"}:
        raise pytest.UsageError(f"MAR_REQUIRE: expected words of shared,tools, got {os.environ['MAR_REQUIRE']!r}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for fixture in {"shared_data", "tool"} & set(getattr(item, "fixturenames", ())):
            item.add_marker({"shared_data": "shared_data", "tool": "tools"}[fixture])


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("slow") and not item.config.getoption("--slow"):
        pytest.skip("slow: run with --slow")
    if item.get_closest_marker("shared_data") and not SHARED_DATA.is_dir():
        _absent("shared", f"no real data: {SHARED_DATA} is not a folder (MAR_SHARED_DATA names another)")
    if item.get_closest_marker("gpu"):
        from mar_pipeline.commands.info import cuda

        facts = cuda()
        if not facts["available"]:
            pytest.skip(f"no GPU: {facts['reason']}")


def _absent(what: str, reason: str) -> None:
    if what in REQUIRED:
        pytest.fail(f"{reason}; MAR_REQUIRE demands it", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data; a test that asks for it gets the marker of the same name."""
    return SHARED_DATA


@pytest.fixture
def small_scanner(monkeypatch: pytest.MonkeyPatch) -> None:
    """The preset syndeeplesion on the geometry of `small_scanner.SMALL`."""
    from small_scanner import NAME, SMALL

    from simulation.physics.protocols import PROTOCOLS

    monkeypatch.setitem(PROTOCOLS, NAME, dataclasses.replace(PROTOCOLS[NAME], geometry=SMALL))


@pytest.fixture
def mar(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the program here: (exit code, standard output, standard error)."""
    from mar_pipeline import cli

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(["-q", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """Finds a program by name; a test that asks for it gets the marker `tools`."""

    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None:
            _absent("tools", f"the program {name} is not installed")
        return str(path)

    return find
