"""What an evaluation leaves in its folder: every file whole or not at all."""

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mar_pipeline.data.pairs import Skipped
from mar_pipeline.evaluation.method_facts import Measurements, MethodFacts, facts_to_markdown, machine
from mar_pipeline.evaluation.score_tables import ScoreRow, to_csv, to_markdown
from simulation.errors import ResourceError
from simulation.files import sha256_of_text, whole_file, write_json
from simulation.provenance import library_versions

RESULTS = ("report.json", "results.csv", "table.md")
"""Files by which a folder is known to hold an earlier result."""


@dataclass(frozen=True)
class EvaluateReport:
    """What an evaluation did.

    Args:
        rows: one per sample, method and condition.
        table: the tables as aligned text.
        markdown: the same for a page.
        outputs: files written, relative to the output folder.
        device: where it ran.
        not_scored: pairs whose mask is not known, or that a run was trained on; nothing is wrong with them.
        failed: pairs that are broken or on which a method failed; not empty means that some items failed.
        results: one per method, of tasks other than metal artifact reduction.
        columns: of their table, by the names of the results' values.
    """

    rows: tuple[ScoreRow, ...]
    table: str
    markdown: str
    outputs: tuple[str, ...]
    device: str
    not_scored: tuple[Skipped, ...] = ()
    failed: tuple[Skipped, ...] = ()
    results: tuple[Any, ...] = ()
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pictures(self) -> tuple[str, ...]:
        """Return the names of the pictures."""
        return tuple(name for name in self.outputs if name.endswith(".png"))

    def where(self, out: str) -> str:
        """Return a line that says where the results are.

        Args:
            out: the output folder.
        """
        count = len(self.pictures)
        files = ", ".join(name for name in self.outputs if not name.endswith(".png"))
        return f"{out}: wrote {files}" + (f" and {count} picture{'s' * (count != 1)}" if count else "")


def make_folder(out: Path, overwrite: bool = True) -> None:
    """Create the output folder and write to it once, before any work is done.

    Args:
        out: the folder.
        overwrite: whether an earlier result in it may be replaced.

    Raises:
        ResourceError: it holds an earlier result, or cannot be created or written.
    """
    if not overwrite and (earlier := [name for name in RESULTS if (out / name).exists()]):
        raise ResourceError(
            f"--out {out}: holds an earlier result ({', '.join(earlier)}); name another folder, or replace it with "
            "--overwrite"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out) as file:
            file.write(b" ")
    except OSError as error:
        raise ResourceError(f"{out}: cannot be written ({error.strerror}); name another --out") from error


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
    out: Path, command: str, settings: Mapping[str, Any], device: str, seconds: float, **facts: Any
) -> None:
    """Write report.json: what was run on what, what came out, what is missing and why.

    Args:
        out: the output folder.
        command: that did it.
        settings: every setting of it.
        device: where it ran, cpu or cuda.
        seconds: wall time.
        facts: what the command has to say besides.

    Raises:
        OSError: it cannot be written.
    """
    head = {
        "command": command,
        "versions": library_versions(),
        "settings": settings,
        "settings_sha256": sha256_of_text(json.dumps(settings, sort_keys=True)),
        **machine(device),
        "seconds": round(seconds, 2),
    }
    write_json(out / "report.json", head | facts)


def without_infinity(value: Any) -> Any:
    """Return the value as JSON can hold it: the PSNR of equal images becomes the string "inf"."""
    if isinstance(value, dict):
        return {key: without_infinity(inner) for key, inner in value.items()}
    return "inf" if value == math.inf else value
