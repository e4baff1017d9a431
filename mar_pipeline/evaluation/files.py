"""What an evaluation leaves in its folder: every file whole or not at all."""

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mar_pipeline.data.pairs import Skipped
from mar_pipeline.evaluation.method_facts import Measurements, MethodFacts, facts_to_markdown
from mar_pipeline.evaluation.score_tables import ScoreRow, averages, to_csv, to_markdown
from simulation.errors import ResourceError
from simulation.files import sha256_of_text, whole_file, write_json
from simulation.provenance import library_versions


def make_folder(out: Path) -> None:
    """Create the output folder and write to it once, before any work is done.

    Args:
        out: the folder.

    Raises:
        ResourceError: it cannot be created or written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out) as file:
            file.write(b" ")
    except OSError as error:
        raise ResourceError(
            f"{out}: cannot be written to as a folder ({error.strerror}); name another --out"
        ) from error


def write_tables(
    rows: Sequence[ScoreRow],
    facts: Sequence[MethodFacts],
    measured: Measurements,
    precision: str,
    coverage: str,
    out: Path,
) -> list[str]:
    """Write results.csv and table.md.

    Args:
        rows: the scores.
        facts: the methods' costs and equivariance errors.
        measured: says where they were measured.
        precision: of the networks.
        coverage: how many pairs they are about, one sentence.
        out: the output folder.

    Returns:
        The names of the files.

    Raises:
        OSError: they cannot be written.
    """
    table = f"{to_markdown(rows)}\n{facts_to_markdown(facts, measured, precision)}{coverage}\n"
    texts = {"results.csv": to_csv(rows), "table.md": table}
    for name, text in texts.items():
        with whole_file(out / name) as partial:
            partial.write_text(text)
    return list(texts)


def write_report(
    out: Path,
    *,
    settings: Mapping[str, Any],
    presets: Mapping[str, str],
    machine: Mapping[str, Any],
    counts: Mapping[str, int],
    rows: Sequence[ScoreRow],
    facts: Sequence[MethodFacts],
    runs: Sequence[Mapping[str, Any]],
    not_scored: Sequence[Skipped],
    failed: Sequence[Skipped],
    outputs: Sequence[str],
    seconds: float,
) -> None:
    """Write report.json: what was run on what, what came out, what is missing and why.

    Args:
        out: the output folder.
        settings: every setting of the run.
        presets: preset of each split.
        machine: where it ran: device, its name, threads.
        counts: numbers of pairs.
        rows: the scores, averaged per protocol and method here.
        facts: the methods' costs and equivariance errors.
        runs: the trained networks, with the SHA-256 of their weights.
        not_scored: pairs whose mask is not known.
        failed: pairs that are broken.
        outputs: files written, relative to ``out``.
        seconds: wall time.

    Raises:
        OSError: it cannot be written.
    """
    report = {
        "command": "evaluate",
        "versions": library_versions(),
        "settings": settings,
        "settings_sha256": sha256_of_text(json.dumps(settings, sort_keys=True)),
        "presets": presets,
        **machine,
        "seconds": round(seconds, 2),
        "counts": {**counts, "not_scored": len(not_scored), "failed": len(failed)},
        "averages": _without_infinity(averages(rows)),
        "methods": {of_method.method: of_method.as_json() for of_method in facts},
        "runs": list(runs),
        "not_scored": [asdict(skipped) for skipped in not_scored],
        "failed": [asdict(skipped) for skipped in failed],
        "outputs": list(outputs),
    }
    write_json(out / "report.json", report)


def _without_infinity(value: Any) -> Any:
    """JSON has no infinity: the PSNR of equal images becomes the string "inf"."""
    if isinstance(value, dict):
        return {key: _without_infinity(inner) for key, inner in value.items()}
    return "inf" if value == math.inf else value
