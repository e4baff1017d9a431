"""`mar dicom` on the command line."""

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path

from mar_pipeline.dicom.errors import NoMetalError
from mar_pipeline.dicom.measures.regions import parse_spheres
from mar_pipeline.dicom.pacs.association import check_ae_title, parse_address
from mar_pipeline.dicom.pacs.send import check_server, send
from mar_pipeline.dicom.reading.discovery import discover
from mar_pipeline.dicom.reading.limits import Limits
from mar_pipeline.dicom.reading.series import Discovery
from mar_pipeline.dicom.review.summary import verdict
from mar_pipeline.dicom.run import DicomRun, run
from mar_pipeline.dicom.settings import DicomSettings
from mar_pipeline.dicom.writing.derivation import STATEMENT
from mar_pipeline.dicom.writing.staging import check_target
from simulation.errors import MarError, ResourceError, StoppedError, UsageError, exit_codes_text
from simulation.files import write_json
from simulation.parallel import stop_noticed
from simulation.physics.projector_cpu import usable_cores

logger = logging.getLogger(__name__)

SOME_FAILED = 8


def dicom(parser: argparse.ArgumentParser, arguments: list[str]) -> int:
    """Run the command and return its exit code.

    Args:
        parser: an empty one, which complains as the program does.
        arguments: the command line after the command's name.

    Raises:
        MarError: with the exit code of its class.
    """
    _add_options(parser)
    options = parser.parse_args(arguments)
    _check_combination(parser, options)
    settings = _settings(options)
    _check_targets(options)
    if options.list:
        logger.warning("%s", STATEMENT)
        found = discover(settings.source, settings.limits, settings.repair_uids, settings.assume_hu)
        _write_json(options.json, _listing(found))
        if options.json != "-":
            sys.stdout.write(_as_text(found))
        return 0
    address = _address(options) if options.send else None
    try:
        with stop_noticed(signal.SIGTERM) as seen:
            outcome = _run_or_stop(
                settings, partial(check_server, *address, options.aet, options.calling_aet) if address else None, seen
            )
    except MarError as error:
        if isinstance(error, UsageError):
            raise
        known = error.summary if isinstance(error, NoMetalError) else {}
        _write_json(options.json, {"statement": STATEMENT, **known, "exit_code": error.exit_code})
        raise
    _write_json(options.json, outcome.summary)
    if options.json != "-":
        sys.stdout.write(_told(outcome, settings))
    for series, reason in outcome.failures:
        sys.stderr.write(f"failed: series {series.number}: {reason}\n")
    sent = _send(settings.out, address, options) if address and settings.out else True
    return 0 if sent and not outcome.failures else SOME_FAILED


def _run_or_stop(settings: DicomSettings, before: Callable[[], object] | None, seen: list[signal.Signals]) -> DicomRun:
    """Run, and say of a SIGTERM that the same command goes on."""
    try:
        return run(settings, before)
    except KeyboardInterrupt as interrupt:
        if signal.SIGTERM not in seen:
            raise
        raise StoppedError(
            "stopped by SIGTERM: OUT was not written; the same command goes on with the series that were not finished"
        ) from interrupt


_OF_CORRECTION = ("method", "metal_threshold", "min_metal_mm2", "metal_mask", "all_candidates", "max_trace", "roi")
"""Options that say how metal is found and corrected, which a listing does not do."""


def _check_combination(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse options of which one would be ignored without a word.

    Raises:
        UsageError: it names both.
    """
    given = {name for name, value in vars(options).items() if value != parser.get_default(name)}
    rules = [
        ("list", ("dry_run", "send", *_OF_CORRECTION), "lists the input and does nothing else"),
        ("dry_run", ("send", "nifti", "csv"), "writes nothing"),
        ("metal_mask", ("all_candidates", "min_metal_mm2"), "says what is metal"),
    ]
    for option, others, why in rules:
        for other in others:
            if option in given and other in given:
                raise UsageError(f"{_spelled(other)}: {_spelled(option)} {why}; leave one of them out")
    for other in ("aet", "calling_aet"):
        if other in given and "send" not in given:
            raise UsageError(f"{_spelled(other)}: belongs to --send HOST:PORT, which is missing")
    if len(set(options.series)) < len(options.series):
        raise UsageError("--series: names a series twice; leave one of them out")
    if options.metal_mask and not options.metal_mask.exists():
        raise UsageError(f"--metal-mask {options.metal_mask}: no such file or folder")
    if options.out is None and not options.dry_run and not options.list:
        raise UsageError("OUT: expected a folder to write; --dry-run or --list write nothing")


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected date and time such as 2026-01-31T12:00") from error


def _spelled(name: str) -> str:
    return f"--{name.replace('_', '-')}"


_LIMITS = {
    "max_side": "rows or columns of an image",
    "max_file_mb": "size of a file, MB",
    "max_header_mb": "size of a header, MB",
    "max_series_mb": "size of a series' pixels, MB",
    "max_files": "files in the input",
}


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.description = f"Corrects metal artifacts of the CT series in a folder or a zip file. {STATEMENT}"
    parser.epilog, parser.formatter_class = exit_codes_text(), argparse.RawDescriptionHelpFormatter
    switch = argparse.BooleanOptionalAction
    add = parser.add_argument
    add(
        "source", metavar="IN", type=Path, help="folder with DICOM files, all of its subfolders included, or a zip file"
    )
    add("out", metavar="OUT", type=Path, nargs="?", help="new or empty folder for the derived series and the report")
    add("--method", default="nmar", help="li, nmar (default), a run folder, a weights file or a shipped network")
    add("--list", action="store_true", help="list the series and what is left out, and do nothing")
    add("--series", action="append", default=[], metavar="N|UID", help="only this series; may be given several times")
    add("--dry-run", action="store_true", help="look for metal and say what would be done; writes nothing")
    add("--json", metavar="FILE|-", help="write the summary to a file too, or alone to standard output")
    add(
        "--metal-threshold",
        type=float,
        default=2500,
        metavar="HU",
        help="HU, 1500 to 30000, from which a voxel may be metal, and counts so in the measures (2500)",
    )
    add("--min-metal-mm2", type=float, default=4, metavar="MM2", help="least area of a piece of metal: 0 or more (4)")
    add("--metal-mask", type=Path, metavar="FILE", help="your own mask: NIfTI, DICOM SEG or RTSTRUCT, or a folder")
    add("--all-candidates", action=switch, default=False, help="take all above the threshold for metal")
    add("--strict-harm", action=switch, default=False, help="refuse a series in which a correction is judged harmful")
    add(
        "--max-trace",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="most of all projections behind metal: 0.01 to 0.95 (0.5)",
    )
    add(
        "--workers", type=int, default=usable_cores(), metavar="N", help="processes, or a network's threads (all cores)"
    )
    add("--seg", action=switch, default=True, help="write the metal as a DICOM segmentation")
    add("--html", action=switch, default=True, help="write report.html")
    add("--html-slices", type=int, default=40, metavar="N", help="most slices of a series in the report (40)")
    add("--csv", action=switch, default=False, help="write measures.csv: HU in rings around metal and in regions")
    add(
        "--roi",
        action="append",
        default=[],
        metavar="NAME=X,Y,Z,RADIUS",
        help="measure a sphere: its centre in the patient (LPS) and its radius in mm; may be given several times",
    )
    add(
        "--show-labels",
        action=switch,
        default=False,
        help="let report and summary quote the series' descriptions and dates and the regions' names",
    )
    add("--nifti", action=switch, default=False, help="write the derived series as NIfTI too")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="device of a network (cpu)")
    add("--precision", choices=("float32", "bfloat16"), default="float32", help="precision of a network (float32)")
    lenient = parser.add_argument_group("leniency; strict is the default")
    lenient.add_argument("--repair-uids", action="store_true", help="accept blank UIDs and make them")
    lenient.add_argument("--assume-hu", action="store_true", help="take values of RescaleType US (unspecified) for HU")
    lenient.add_argument("--keep-private", action="store_true", help="keep private tags")
    lenient.add_argument(
        "--slice-fallback",
        choices=("refuse", "original"),
        default="refuse",
        help="what becomes of a slice that cannot be corrected: its series is refused, or it stays the original",
    )
    limits = parser.add_argument_group("limits of the input")
    for name, value in vars(Limits()).items():
        what = _LIMITS[name]
        limits.add_argument(
            f"--{name.replace('_', '-')}", type=int, default=value, metavar="N", help=f"{what} ({value})"
        )
    server = parser.add_argument_group("send the result to a PACS (C-STORE)")
    server.add_argument("--send", metavar="HOST:PORT", help="address of the server")
    server.add_argument("--aet", default="ANY-SCP", metavar="AET", help="the server's AE title (ANY-SCP)")
    server.add_argument("--calling-aet", default="MAR", metavar="AET", help="AE title of this program (MAR)")
    add(
        "--created",
        type=_time,
        metavar="TIME",
        help="date and time to write instead of now, such as 2026-01-31T12:00",
    )


def _settings(options: argparse.Namespace) -> DicomSettings:
    names = DicomSettings.__dataclass_fields__
    values = {name: value for name, value in vars(options).items() if name in names}
    try:
        limits = Limits(**{name: getattr(options, name) for name in Limits.__dataclass_fields__})
    except ValueError as error:
        raise UsageError(f"--{str(error).replace('_', '-', 2)}") from error
    out = None if options.dry_run or options.list else options.out
    rois = parse_spheres(options.roi)
    return DicomSettings(**(values | {"series": tuple(options.series), "limits": limits, "out": out, "rois": rois}))


def _listing(found: Discovery) -> dict[str, object]:
    return {
        "statement": STATEMENT,
        "series": [
            {
                "number": series.number,
                "series_uid": series.series_uid,
                "slices": len(series.slices),
                "rows_columns": list(series.shape),
                "spacing_mm": list(series.spacing_mm),
                "gap_mm": series.gap_mm,
                "tilt_deg": series.tilt_deg,
                "warnings": list(series.warnings),
                "refusal": series.refusal,
            }
            for series in found.series
        ],
        "skipped": [{"name": one.name, "reason": one.reason} for one in found.skipped],
    }


def _as_json(content: object) -> str:
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _as_text(found: Discovery) -> str:
    lines = []
    for series in found.series:
        rows, columns = series.shape
        gap = f", every {series.gap_mm:.3g} mm" if series.gap_mm is not None else ""
        spacing = f"{series.spacing_mm[0]:.3g} x {series.spacing_mm[1]:.3g} mm"
        what = f"{len(series.slices)} slices of {rows} x {columns}, {spacing}{gap}"
        lines.append(f"series {series.number}: {what if series.slices else 'none of its slices can be used'}")
        lines.append(f"  UID {series.series_uid or '(blank)'}")
        lines += [f"  warning: {warning}" for warning in series.warnings]
        lines += [f"  refused: {series.refusal}"] if series.refusal else []
    lines += [f"skipped {one.name}: {one.reason}" for one in found.skipped]
    return "\n".join([*lines, f"{len(found.series)} series, {len(found.skipped)} other files\n"])


def _write_json(target: str | None, summary: object) -> None:
    if target == "-":
        sys.stdout.write(_as_json(summary))
    elif target:
        try:
            write_json(Path(target), summary)
            Path(target).chmod(0o600)
        except OSError as error:
            raise ResourceError(f"--json {target}: cannot be written ({error.strerror})") from error


def _check_targets(options: argparse.Namespace) -> None:
    """Refuse places where nothing can, or must, be written, before anything is done."""
    if options.out is not None and not options.list:  # a dry run says what the real one would
        check_target(options.out)
    source = options.source.absolute()
    for name, target in (("OUT", options.out), ("--json", options.json and options.json != "-" and options.json)):
        if target and (Path(target).absolute() == source or source in Path(target).absolute().parents):
            raise ResourceError(f"{name}: lies within IN, whose files are never touched; choose another place")
    if options.json and options.json != "-":
        target = Path(options.json)
        if target.exists() or not os.access(target.parent, os.W_OK):
            raise ResourceError(f"--json {target}: exists, or its folder cannot be written; name a new file")


def _told(outcome: DicomRun, settings: DicomSettings) -> str:
    lines = []
    for result in outcome.results:
        metal, count = len(result.metal_slices), len(result.slices)
        counts = verdict(result.slices)
        if not metal:
            what = f"{count} slices, no metal: nothing to correct"
        elif settings.out is None:
            what = f"{metal} of {count} slices have metal; the real run corrects each and judges whether that helped"
        else:
            by = f"corrected by {outcome.summary['configuration']['method']}"
            what = f"{counts['corrected'] + counts['weakened']} of {count} slices {by}"
            what += f", {counts['weakened']} of them weakened" if counts["weakened"] else ""
            what += f", {counts['original_kept']} with metal kept as the original" if counts["original_kept"] else ""
        lines.append(f"series {result.work.series.number}: {what}")
        lines += [f"  warning: {warning}" for warning in result.warnings]
    if outcome.found.skipped:
        lines.append(f"left out: {len(outcome.found.skipped)} other files; mar dicom IN --list says why")
    if settings.out is not None:
        reports = list(outcome.summary.get("reports", {}))
        pages = f"{settings.out / reports[0]}" if reports else ""
        pages += f" to {reports[-1]}, one a patient" if len(reports) > 1 else ""
        lines.append(f"{settings.out}: written{f', look at {pages}' if pages else ''}")
    return "\n".join(lines) + "\n"


def _address(options: argparse.Namespace) -> tuple[str, int]:
    """Host and port, before anything is done that would be in vain."""
    for title, what in ((options.aet, "--aet:"), (options.calling_aet, "--calling-aet:")):
        check_ae_title(title, what)
    return parse_address(options.send)


def _send(folder: Path, address: tuple[str, int], options: argparse.Namespace) -> bool:
    """Whether the server stored all."""
    report = send(folder, *address, options.aet, options.calling_aet)
    logger.info("%s: %s", options.send, report.summary)
    for name, remark in report.warned:
        logger.warning("%s: %s", name, remark)
    for name, reason in report.failed:
        sys.stderr.write(f"failed: {name}: {reason}\n")
    return not report.failed
