"""What an evaluation leaves in its folder: every file whole or not at all."""

import hashlib
import json
import math
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mar_pipeline import __version__
from mar_pipeline.evaluation_pairs import Skipped
from mar_pipeline.score_tables import ScoreRow, averages, to_csv, to_markdown
from simulation.errors import InputError

_LIBRARIES = ("numpy", "scipy", "scikit-image", "h5py", "pillow", "matplotlib", "numba", "astra-toolbox", "torch")


def make_folder(out: Path) -> None:
    """Create the output folder and write to it once, before any work is done.

    Args:
        out: the folder.

    Raises:
        InputError: it cannot be created or written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be made a folder ({error.strerror}); name another --out") from error
    with whole_file(out / "report.json") as partial:
        partial.touch()
        partial.unlink()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name that becomes ``path`` once the block is through.

    Args:
        path: the final name.

    Raises:
        InputError: the file cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        if partial.exists():
            os.replace(partial, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); name another --out") from error
    finally:
        partial.unlink(missing_ok=True)


def write_tables(rows: Sequence[ScoreRow], out: Path) -> list[str]:
    """Write results.csv and table.md.

    Args:
        rows: the scores.
        out: the output folder.

    Returns:
        The names of the files.
    """
    texts = {"results.csv": to_csv(rows), "table.md": to_markdown(rows)}
    for name, text in texts.items():
        with whole_file(out / name) as partial:
            partial.write_text(text)
    return list(texts)


def write_report(
    out: Path,
    *,
    settings: Mapping[str, Any],
    device: str,
    counts: Mapping[str, int],
    rows: Sequence[ScoreRow],
    not_scored: Sequence[Skipped],
    failed: Sequence[Skipped],
    outputs: Sequence[str],
    seconds: float,
) -> None:
    """Write report.json: versions, settings and their hash, device, counts, averages, outputs, what is missing and why.

    Args:
        out: the output folder.
        settings: every setting of the run.
        device: where it ran.
        counts: numbers of pairs.
        rows: the scores, averaged per protocol and method here.
        not_scored: pairs whose mask is not known.
        failed: pairs that are broken.
        outputs: files written, relative to ``out``.
        seconds: wall time.
    """
    report = {
        "command": "evaluate",
        "versions": _versions(),
        "settings": settings,
        "settings_sha256": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
        "device": device,
        "seconds": round(seconds, 2),
        "counts": {**counts, "not_scored": len(not_scored), "failed": len(failed)},
        "averages": _without_infinity(averages(rows)),
        "not_scored": [asdict(skipped) for skipped in not_scored],
        "failed": [asdict(skipped) for skipped in failed],
        "outputs": list(outputs),
    }
    with whole_file(out / "report.json") as partial:
        partial.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")


def _versions() -> dict[str, str]:
    found = {"mar-pipeline": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _without_infinity(value: Any) -> Any:
    """JSON has no infinity: the PSNR of equal images becomes the string "inf"."""
    if isinstance(value, dict):
        return {key: _without_infinity(inner) for key, inner in value.items()}
    return "inf" if value == math.inf else value
