"""The work of `mar simulate`: what is missing of a data set is made, by one process or many, and told in a report."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import filelock

from simulation.dataset.manifest import Counts, SetFolder
from simulation.dataset.pairs import SliceResult
from simulation.dataset.settings import WHOLE, SimulateSettings
from simulation.dataset.workers import make_units
from simulation.errors import InputError, ResourceError, UsageError
from simulation.files import sha256_of_text, write_json
from simulation.provenance import library_versions


class Work:
    """What is to be made, in units of which each is whole or absent.

    Attributes:
        folder: of the data set.
        unit: what a unit is, such as "slice".
        numbers: the units of this part of the work.
        slices: number of slices of this part.
        plan: what the manifest tells of the whole work from its beginning.
        device: what projects.
    """

    folder: SetFolder
    unit: str
    numbers: list[int]
    slices: int
    plan: dict[str, int]
    device: str

    def is_done(self, number: int) -> bool:
        """Whether a unit is there."""
        raise NotImplementedError

    def make(self, number: int) -> list[SliceResult]:
        """Makes a unit; answers what became of its slices."""
        raise NotImplementedError

    def told_again(self, number: int) -> list[SliceResult]:
        """What an earlier run could not do of a unit that is done."""
        raise NotImplementedError

    def collate(self, results: Sequence[SliceResult]) -> Counts:
        """Lists what is done, whoever made it, and what this run skipped."""
        raise NotImplementedError

    def outlook(self, missing: Sequence[int]) -> tuple[str, dict[str, int]]:
        """What would be made of these units, in words and numbers."""
        raise NotImplementedError


def run(work: Work, settings: SimulateSettings, workers: int, check_interrupt: Any) -> dict[str, Any]:
    """Makes what is missing.

    Args:
        work: the units.
        settings: what was asked for.
        workers: number of processes.
        check_interrupt: called now and then; it raises what ends the work.

    Returns:
        The report.

    Raises:
        UsageError: the folder holds a set of other settings.
        InputError: nothing could be made.
        OSError: the folder cannot be written.
        KeyboardInterrupt: interrupted; what is finished stays, nothing is half written.
    """
    started = time.monotonic()
    work.folder.open(**work.plan)
    results: list[SliceResult] = []
    missing = [number for number in work.numbers if not work.is_done(number)]
    try:
        with closing(make_units(work, missing, workers, work.unit, check_interrupt)) as made:
            results.extend(made)
    except OSError:
        raise  # the folder cannot be written, so it cannot be told there what is done either
    except BaseException:
        work.collate(results)
        if settings.part == WHOLE:
            work.folder.discard_if_empty()
        raise
    counts = work.collate(results)
    for number in sorted(set(work.numbers) - set(missing)):
        results += work.told_again(number)
    report = _report(work, settings, results, counts, time.monotonic() - started)
    with work.folder.turn():
        write_json(work.folder.root / _report_name(settings.part), report)
    if settings.part != WHOLE:  # other parts may have what this one has not
        return report
    work.folder.discard_if_empty()
    if work.numbers and not counts.here:
        told = report["failed"] + report["skipped"] or ["none of them holds a pair"]
        raise InputError(f"no slice could be used ({work.slices} tried); the first one: {told[0]}")
    return report


def numbers_of_part(part: str, count: int) -> list[int]:
    """The units of part I of N: I, I + N, I + 2 N ...

    Raises:
        UsageError: there is no such part.
    """
    own, _, parts = part.partition("/")
    if not (own.isdecimal() and parts.isdecimal()) or not int(own) < int(parts):
        raise UsageError(
            f"--part: got {part!r}, expected I/N with I from 0 to N - 1, such as 0/4 to 3/4 (an array counts from 0)"
        )
    return list(range(int(own), count, int(parts)))


@contextmanager
def only_run(out: Path, part: str) -> Iterator[None]:
    """Holds the folder against a second run of the same part, or of a part of another division.

    Raises:
        ResourceError: another run writes there, it is a file, or it cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise ResourceError(f"{out}: is a file; --out needs a folder")
    own, parts = part.split("/")
    with ExitStack() as held:
        try:
            out.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(out / ".parts.lock"):  # to look for others is to take their locks: one at a time
                held.enter_context(filelock.FileLock(out / f".simulate-{own}-of-{parts}.lock", timeout=0))
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
    """Parts of one set share the folder, and each has a report of its own."""
    return "report.json" if part == WHOLE else f"report-{part.replace('/', '-of-')}.json"


def outlook(work: Work) -> dict[str, Any]:
    """The report of a dry run: what would be made.

    Raises:
        UsageError: the folder holds a set of other settings.
    """
    work.folder.check()
    missing = [number for number in work.numbers if not work.is_done(number)]
    words, counts = work.outlook(missing)
    of = f"{len(missing)} of {len(work.numbers)} {work.unit}s"
    return {"summary": f"would make up to {of} {words}, in {work.folder.root}", "failed": [], "counts": counts}


def _report(
    work: Work, settings: SimulateSettings, results: list[SliceResult], counts: Counts, seconds: float
) -> dict[str, Any]:
    failed = [line for result in results for line in result.failed]
    skipped = [f"{r.name}: {r.skipped}" for r in results if r.skipped]
    pairs = sum(r.pairs for r in results)
    reasons = Counter(r.skipped for r in results if r.skipped)
    words = ", ".join(f"{count} skipped ({reason})" for reason, count in sorted(reasons.items()))
    summary = (
        f"{work.folder.root}: {pairs} pairs made, {counts.here} of {work.slices} slices done"
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
        "identity_sha256": work.folder.identity.sha256,
        "device": work.device,
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
        "outputs": work.folder.outputs(),
    }
