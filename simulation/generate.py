"""`mar simulate`: a plan of slices and masks becomes a data set, by one process or many, in one run or several."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import filelock

from simulation.case import CaseMaker, CaseResult
from simulation.dataset import DataSet, Identity
from simulation.errors import InputError, UsageError
from simulation.files import sha256_of_text, write_json
from simulation.implants import ImplantLibrary, MaskStack
from simulation.provenance import library_versions
from simulation.settings import SimulateSettings, build_simulator, check_settings, implant_library, worker_count
from simulation.sources import SliceRef, list_slices
from simulation.synthesize import Simulator
from simulation.workers import interrupts_noticed, make_cases

_PAIR_GB = 0.0063
_BUSY = "another run is writing there; wait for it or choose another --out"


def generate(settings: SimulateSettings) -> dict[str, Any]:
    """Makes what is missing of a data set.

    Args:
        settings: what to make.

    Returns:
        The report, as in report.json: "summary" in words, "counts", "failed" and "skipped" with reasons.

    Raises:
        UsageError: unknown names, impossible numbers, a folder that holds a set of other settings or is in use.
        InputError: source, masks or spectrum cannot be used, or nothing could be made.
        OSError: the folder cannot be written.
        KeyboardInterrupt: interrupted; what is finished stays, nothing is half written.
    """
    check_settings(settings)
    started = time.monotonic()
    library, masks_per_slice = implant_library(settings)
    refs = list_slices(settings.source, settings.split, settings.seed, settings.slices, settings.pad_square)
    simulator = build_simulator(settings)
    workers = worker_count(settings, simulator.projector.device)
    data_set = DataSet(
        Path(settings.out), settings.split, _identity(settings, refs, library, masks_per_slice, simulator)
    )
    numbers = _numbers_of_shard(settings.shard, len(refs))
    if settings.dry_run:
        data_set.check()
        return _plan_only(data_set, refs, numbers, masks_per_slice)
    with _only_run(data_set.root, settings.shard), interrupts_noticed() as check_interrupt:
        data_set.open()
        maker = CaseMaker(
            data_set, library, masks_per_slice, settings.seed, simulator, settings.compression, check_interrupt
        )
        results: list[CaseResult] = []
        missing = [number for number in numbers if not data_set.is_done(refs[number])]
        try:
            with closing(make_cases(maker, refs, missing, workers)) as made:
                results.extend(made)
        except OSError:
            raise  # the folder cannot be written, so it cannot be told there what is done either
        except BaseException:
            data_set.collate(refs, library, masks_per_slice)
            data_set.discard_if_empty()
            raise
        data_set.collate(refs, library, masks_per_slice)
        results += [_told_again(data_set, refs[number]) for number in sorted(set(numbers) - set(missing))]
        report = _report(settings, data_set, refs, numbers, results, simulator, time.monotonic() - started)
        with data_set.turn():
            write_json(data_set.root / _report_name(settings.shard), report)
        data_set.discard_if_empty()
    if numbers and not report["counts"]["slices_done"]:
        first = (report["failed"] + report["skipped"])[0]
        raise InputError(f"no slice could be used ({len(numbers)} tried); the first one: {first}")
    return report


def _told_again(data_set: DataSet, ref: SliceRef) -> CaseResult:
    """What an earlier run could not do of a slice that is done."""
    return CaseResult(f"{ref.case}/{ref.name}", failed=tuple(data_set.record(ref).get("failed", ())))


def _identity(
    settings: SimulateSettings,
    refs: list[SliceRef],
    library: ImplantLibrary,
    masks_per_slice: int,
    simulator: Simulator,
) -> Identity:
    """What decides the bytes of every file of the set."""
    masks = settings.masks
    if isinstance(library, MaskStack):
        masks = hashlib.sha256(library.stack[:, :, :masks_per_slice].tobytes()).hexdigest()
    return Identity(
        preset=settings.preset,
        physics=simulator.physics_sha256,
        slices=sha256_of_text("\n".join(f"{ref.case}/{ref.name} {ref.origin}" for ref in refs)),
        masks=masks,
        metal=str(library.metal),
        implants=" ".join(settings.implants or ()),
        masks_per_slice=masks_per_slice,
        seed=settings.seed,
        device=simulator.projector.device,
        pad_square=settings.pad_square,
        compression=settings.compression,
    )


def _numbers_of_shard(shard: str, count: int) -> list[int]:
    part, _, parts = shard.partition("/")
    if not (part.isdecimal() and parts.isdecimal()) or not int(part) < int(parts):
        raise UsageError(f"--shard: got {shard!r}, expected I/N with I from 0 to N - 1, such as 0/4 to 3/4")
    return list(range(int(part), count, int(parts)))


@contextmanager
def _only_run(out: Path, shard: str) -> Iterator[None]:
    """Holds the folder against a second run of the same part, or of a part of another division."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file; --out needs a folder")
    part, parts = shard.split("/")
    own = filelock.FileLock(out / f".simulate-{part}-of-{parts}.lock", timeout=0)
    try:
        out.mkdir(parents=True, exist_ok=True)
        own.acquire()
    except filelock.Timeout as error:
        raise UsageError(f"{out}: {_BUSY}") from error
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
    try:
        for path in out.glob(".simulate-*.lock"):
            if not path.stem.endswith(f"-of-{parts}"):
                _refuse_if_held(path)
        yield
    finally:
        own.release()


def _refuse_if_held(path: Path) -> None:
    try:
        with filelock.FileLock(path, timeout=0):
            pass
    except filelock.Timeout as error:
        raise UsageError(f"{path.parent}: {_BUSY}") from error


def _report_name(shard: str) -> str:
    """Shards of one set share the folder, and each has a report of its own."""
    return "report.json" if shard == "0/1" else f"report-{shard.replace('/', '-of-')}.json"


def _plan_only(data_set: DataSet, refs: list[SliceRef], numbers: list[int], masks_per_slice: int) -> dict[str, Any]:
    missing = [number for number in numbers if not data_set.is_done(refs[number])]
    pairs = len(missing) * masks_per_slice
    summary = (
        f"would make up to {len(missing)} of {len(numbers)} slices with {masks_per_slice} masks each: {pairs} pairs, "
        f"about {pairs * _PAIR_GB:.2f} GB, in {data_set.root}"
    )
    return {"summary": summary, "failed": [], "counts": {"slices": len(missing), "pairs": pairs}}


def _report(
    settings: SimulateSettings,
    data_set: DataSet,
    refs: list[SliceRef],
    numbers: list[int],
    results: list[CaseResult],
    simulator: Simulator,
    seconds: float,
) -> dict[str, Any]:
    failed = [line for result in results for line in result.failed]
    skipped = [f"{r.name}: {r.skipped}" for r in results if r.skipped]
    done = sum(data_set.is_done(refs[number]) for number in numbers)
    in_set = sum(map(data_set.is_done, refs))
    pairs = sum(r.pairs for r in results)
    reasons = Counter(r.skipped for r in results if r.skipped)
    words = ", ".join(f"{count} skipped ({reason})" for reason, count in sorted(reasons.items()))
    summary = (
        f"{data_set.root}: {pairs} pairs made, {done} of {len(numbers)} slices done"
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
        "identity_sha256": data_set.identity.sha256,
        "device": simulator.projector.device,
        "seed": settings.seed,
        "seconds": round(seconds, 2),
        "counts": {
            "slices_done": done,
            "slices_in_set": in_set,
            "pairs_made": pairs,
            "skipped": len(skipped),
            "failed": len(failed),
        },
        "skipped": skipped,
        "failed": failed,
        "outputs": data_set.outputs(),
    }
