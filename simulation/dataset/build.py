"""Build what is missing of a data set, in one process or several, and report it."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import filelock

from simulation.dataset.manifest import Counts, SetFolder
from simulation.dataset.pairs import SliceResult
from simulation.dataset.settings import WHOLE, SimulateSettings
from simulation.errors import InputError, ResourceError
from simulation.files import sha256_of_text, write_json
from simulation.parallel import run_parallel
from simulation.provenance import library_versions


class Builder(Protocol):
    """Builds one layout of a data set, unit by unit; a unit is whole or absent.

    Attributes:
        unit: what a unit is, such as "slice".
        numbers: the units of this part of the work.
        slices: number of slices of this part.
        plan: what the manifest says of the whole work from its beginning.
        device: what projects.
    """

    unit: str
    numbers: list[int]
    slices: int
    plan: dict[str, int]
    device: str

    @property
    def folder(self) -> SetFolder:
        """Folder of the data set."""

    def is_done(self, number: int) -> bool:
        """Return whether a unit is there."""

    def build(self, number: int) -> list[SliceResult]:
        """Build a unit and return what became of its slices."""

    def earlier_results(self, number: int) -> list[SliceResult]:
        """Return what an earlier run could not do of a unit that is done."""

    def collate(self, results: Sequence[SliceResult]) -> Counts:
        """List what is done, whoever built it, and what this run skipped."""

    def estimate(self, missing: Sequence[int]) -> tuple[str, dict[str, int]]:
        """Return what these units would hold, in words and numbers."""


def build_missing(builder: Builder, settings: SimulateSettings, workers: int) -> dict[str, Any]:
    """Build what is missing and return the report.

    Args:
        builder: of the layout.
        settings: what was asked for.
        workers: number of processes.

    Raises:
        UsageError: the folder holds a set of other settings.
        InputError: nothing could be built.
        OSError: the folder cannot be written.
        KeyboardInterrupt: interrupted; what is finished stays, nothing is half written.
    """
    started = time.monotonic()
    builder.folder.open(**builder.plan)
    results: list[SliceResult] = []
    missing = [number for number in builder.numbers if not builder.is_done(number)]
    try:
        with closing(run_parallel(builder.build, missing, workers, "simulate", builder.unit, in_order=False)) as built:
            for some in built:
                results += some
    except OSError:
        raise  # the folder cannot be written, so its lists cannot either
    except BaseException:
        builder.collate(results)
        if settings.part == WHOLE:
            builder.folder.discard_if_empty()
        raise
    counts = builder.collate(results)
    for number in sorted(set(builder.numbers) - set(missing)):
        results += builder.earlier_results(number)
    report = _report(builder, settings, results, counts, time.monotonic() - started)
    with builder.folder.turn():
        write_json(builder.folder.root / _report_name(settings.part), report)
    if settings.part != WHOLE:  # other parts may have what this one has not
        return report
    builder.folder.discard_if_empty()
    if builder.numbers and not counts.here:
        reasons = report["failed"] + report["skipped"] or ["none of them holds a pair"]
        raise InputError(f"no slice could be used ({builder.slices} tried); the first one: {reasons[0]}")
    return report


@contextmanager
def only_run(out: Path, part: str) -> Iterator[None]:
    """Lock the folder against a second run of the same part, or of a part of another division.

    Raises:
        ResourceError: it is locked, a file, or cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise ResourceError(f"{out}: is a file; --out needs a folder")
    number, parts = part.split("/")
    with ExitStack() as held:
        try:
            out.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(out / ".parts.lock"):  # to look for others is to take their locks: one at a time
                held.enter_context(filelock.FileLock(out / f".simulate-{number}-of-{parts}.lock", timeout=0))
                for path in out.glob(".simulate-*.lock"):
                    if not path.stem.endswith(f"-of-{parts}"):
                        with filelock.FileLock(path, timeout=0):
                            pass
        except filelock.Timeout as error:
            raise ResourceError(f"{out}: another run is writing there; wait for it or choose another --out") from error
        except OSError as error:
            raise ResourceError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
        yield


def _report_name(part: str) -> str:
    """Return the report's name: parts of one set share the folder, and each has a report of its own."""
    return "report.json" if part == WHOLE else f"report-{part.replace('/', '-of-')}.json"


def dry_run(builder: Builder) -> dict[str, Any]:
    """Return the report of a dry run: what would be built.

    Raises:
        UsageError: the folder holds a set of other settings.
    """
    builder.folder.check()
    missing = [number for number in builder.numbers if not builder.is_done(number)]
    words, counts = builder.estimate(missing)
    units = f"{len(missing)} of {count_of(len(builder.numbers), builder.unit)}"
    return {"summary": f"would make up to {units} {words}, in {builder.folder.root}", "failed": [], "counts": counts}


def count_of(count: int, noun: str) -> str:
    """Return a number and its noun, such as "1 slice" or "3 slices"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _report(
    builder: Builder, settings: SimulateSettings, results: list[SliceResult], counts: Counts, seconds: float
) -> dict[str, Any]:
    failed = [line for result in results for line in result.failed]
    skipped = [f"{r.name}: {r.skipped}" for r in results if r.skipped]
    pairs = sum(r.pairs for r in results)
    reasons = Counter(r.skipped for r in results if r.skipped)
    words = ", ".join(f"{count} skipped ({reason})" for reason, count in sorted(reasons.items()))
    summary = (
        f"{builder.folder.root}: {count_of(pairs, 'pair')} made, {counts.here} of "
        f"{count_of(builder.slices, 'slice')} done"
        + (f", {words}" if words else "")
        + (f", {len(failed)} failed" if failed else "")
        + f" in {seconds:.0f} s"
    )
    return {
        "command": "simulate",
        "summary": summary,
        "versions": library_versions(),
        "settings": asdict(settings),
        "settings_sha256": sha256_of_text(json.dumps(asdict(settings), sort_keys=True)),
        "identity_sha256": builder.folder.identity.sha256,
        "device": builder.device,
        "seed": settings.seed,
        "seconds": round(seconds, 2),
        "counts": {
            "slices_done": counts.here,
            "slices_in_set": counts.in_set,
            "pairs_made": pairs,
            "skipped": len(skipped),
            "failed": len(failed),
        },
        "skipped": skipped,
        "failed": failed,
        "outputs": builder.folder.outputs(),
    }
