"""`mar dicom`: series in, derived series out, with a page to look at and a word about everything else."""

import logging
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mar_pipeline.dicom.correction.methods import Method, method_of
from mar_pipeline.dicom.errors import NoMetalError
from mar_pipeline.dicom.process import SeriesResult, process, write_segmentation
from mar_pipeline.dicom.reading.archives import InputFile
from mar_pipeline.dicom.reading.discovery import discover
from mar_pipeline.dicom.reading.files import quiet, read_header, reading
from mar_pipeline.dicom.reading.image_header import text
from mar_pipeline.dicom.reading.limits import Limits
from mar_pipeline.dicom.reading.series import Discovery, Series
from mar_pipeline.dicom.resume import Journal, run_key, source_sha256
from mar_pipeline.dicom.review.measures import write_csv
from mar_pipeline.dicom.review.nifti import write_nifti
from mar_pipeline.dicom.review.report import write_report
from mar_pipeline.dicom.review.summary import summary_of
from mar_pipeline.dicom.settings import DicomSettings
from mar_pipeline.dicom.slices import Work
from mar_pipeline.dicom.writing.derivation import STATEMENT
from mar_pipeline.dicom.writing.staging import check_target, staged
from simulation.errors import LimitError, MarError, NothingToProcessError, UsageError
from simulation.files import write_json
from simulation.parallel import check_stopped

logger = logging.getLogger(__name__)

SUMMARY, REPORT, REPORTS, MEASURES = "summary.json", "report.html", "report_{:03}.html", "measures.csv"


@dataclass(frozen=True)
class DicomRun:
    """What became of a run.

    Args:
        found: the input.
        results: series that were looked at, those without metal among them.
        failures: series that were asked for and failed, with the reason.
        summary: what summary.json holds.
    """

    found: Discovery
    results: tuple[SeriesResult, ...]
    failures: tuple[tuple[Series, str], ...]
    summary: dict[str, Any]


def correct_dicom(source: str | Path, out: str | Path | None = None, **options: Any) -> DicomRun:
    """Correct metal artifacts of the CT series in a folder, as `mar dicom` does.

    Args:
        source: folder of DICOM files, or a zip file of them.
        out: new or empty folder to write; None looks for metal and writes nothing.
        options: any other argument of `DicomSettings`.

    Returns:
        The series found and processed; `summary` is what summary.json holds.

    Raises:
        MarError: as `run` does, with the exit code of `mar dicom`.

    Example:
        >>> import tempfile
        >>> from mar_pipeline.dicom.example import write_example
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_example(Path(folder), slices=2, with_metal=[1], size=128)
        ...     found = correct_dicom(folder)  # looks only
        >>> [result.metal_slices for result in found.results]
        [[1]]
    """
    return run(DicomSettings(Path(source), None if out is None else Path(out), **options))


def run(settings: DicomSettings, before: Callable[[], object] | None = None) -> DicomRun:
    """Correct the series of a folder.

    Args:
        settings: `out` None looks and writes nothing.
        before: is called first of all, and raises what ends the run before anything is done.

    Raises:
        UsageError: unknown method or series.
        NothingToProcessError: no CT series that may be processed.
        NoMetalError: no metal in any series.
        InputError: all series that were asked for were refused.
        LimitError: all of them, one at least by a limit.
        ResourceError: the target is not empty or cannot be written.
    """
    logger.warning("%s", STATEMENT)
    if settings.out is not None:
        check_target(settings.out)
    if before is not None:
        before()
    method = method_of(settings)
    for remark in method.remarks:
        logger.warning("warning: %s", remark)
    found = discover(settings.source, settings.limits, settings.repair_uids, settings.assume_hu)
    chosen = choose(found, settings.series)
    beside = [(one.path, one.name) for one in found.skipped if one.path is not None]
    taken = series_numbers(found, settings.limits)
    if settings.out is None:
        return _finish(found, *_process_all(chosen, taken, beside, settings, method, Journal(None)), settings, method)
    with staged(settings.out, run_key(settings, method, found, chosen, taken)) as staging:
        journal = Journal(staging)
        journal.tidy()
        outcome = _finish(found, *_process_all(chosen, taken, beside, settings, method, journal), settings, method)
        if settings.nifti:
            write_nifti(staging, outcome.results)
        if settings.csv:
            write_csv(staging / MEASURES, outcome.results)
        if settings.html:
            outcome.summary["reports"] = _write_reports(staging, outcome, settings, method)
        write_json(staging / SUMMARY, outcome.summary)
        _make_private(staging)
        check_stopped()
    return outcome


def choose(found: Discovery, wanted: Sequence[str]) -> list[Series]:
    """Return the series that were asked for, or all.

    Args:
        found: the input.
        wanted: numbers of the listing or SeriesInstanceUIDs.

    Raises:
        UsageError: one is not there.
        NothingToProcessError: there is none at all.
    """
    if not found.series:
        reasons = dict.fromkeys(skipped.reason for skipped in found.skipped)
        why = f" ({'; '.join(list(reasons)[:3])})" if reasons else ""
        raise NothingToProcessError(
            f"no CT series that may be processed among {len(found.skipped)} files{why}; --list names each file"
        )
    chosen = []
    for name in wanted:
        matching = [series for series in found.series if name in (str(series.number), series.series_uid)]
        if not matching:
            raise UsageError(f"--series: no such series; expected 1 to {len(found.series)} or a UID that --list shows")
        chosen += [series for series in matching if series not in chosen]
    return chosen or list(found.series)


def _process_all(
    chosen: Sequence[Series],
    taken: set[int],
    beside: Sequence[tuple[InputFile, str]],
    settings: DicomSettings,
    method: Method,
    journal: Journal,
) -> tuple[list[SeriesResult], list[tuple[Series, MarError]]]:
    """Work through the series; one that fails leaves nothing behind, and the others go on."""
    taken = set(taken)
    created = settings.created or datetime.now()
    results: list[SeriesResult] = []
    failures: list[tuple[Series, MarError]] = []
    for series in chosen:
        logger.info("series %d: %d slices of %d x %d", series.number, len(series.slices), *series.shape)
        try:
            result = _process_one(series, taken, beside, created, settings, method, journal)
        except OSError:
            raise  # no space left, most likely: it will be so for all
        except Exception as error:  # whatever it is, other series go on
            known = error if isinstance(error, MarError) else _unexpected(error)
            if len(chosen) > 1:  # of a single series the program's last line says it
                logger.warning("series %d is not processed: %s", series.number, known)
            failures.append((series, known))
            continue
        results.append(result)
        if result.derivation is not None:
            taken |= {result.derivation.series_number, result.derivation.series_number + 1}
    return results, failures


def _process_one(
    series: Series,
    taken: set[int],
    beside: Sequence[tuple[InputFile, str]],
    created: datetime,
    settings: DicomSettings,
    method: Method,
    journal: Journal,
) -> SeriesResult:
    """Return a series from its files to its place in the staging folder, unless an interrupted run has put it there."""
    if series.error is not None:
        raise series.error
    source = source_sha256(series) if settings.out is not None else ""
    finished = journal.restored(Work.of(series, settings, Path(), beside), source)
    if finished is not None:
        return finished
    with journal.attempt(series) as attempt:
        result = process(Work.of(series, settings, attempt.waiting, beside), method, attempt.folder, created, taken)
        if attempt.folder is not None and settings.seg and result.derivation is not None:
            write_segmentation(result, attempt.folder, taken)
        check_stopped()
        return journal.keep(result, attempt, source)


def _unexpected(error: Exception) -> MarError:
    """Return an error that nobody foresaw, without its text, which may quote a header."""
    logger.debug("unexpected", exc_info=error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return MarError(
        f"unexpected {type(error).__name__} in {Path(last.filename).name}, line {last.lineno}; please report it"
    )


def _finish(
    found: Discovery,
    results: Sequence[SeriesResult],
    failures: Sequence[tuple[Series, MarError]],
    settings: DicomSettings,
    method: Method,
) -> DicomRun:
    """Return the outcome, or the exception for a run in which nothing was there to correct."""
    if not any(result.metal_slices for result in results):
        if failures:
            limits = [failure for failure in failures if isinstance(failure[1], LimitError)]
            series, error = (limits or failures)[0]
            more = f" (and {len(failures) - 1} more series)" if len(failures) > 1 else ""
            remedy = "; the --max options raise the limits" if limits else ""
            raise type(error)(f"series {series.number}: {error}{more}{remedy}")
        raise NoMetalError(_no_metal(results, settings), summary_of(found, results, (), settings, method))
    reasons = tuple((series, str(error)) for series, error in failures)
    return DicomRun(found, tuple(results), reasons, summary_of(found, results, reasons, settings, method))


def _no_metal(results: Sequence[SeriesResult], settings: DicomSettings) -> str:
    """Return what was found above the threshold, and why none of it is metal."""
    where = f"no metal in {len(results)} series"
    left = Counter(one.reason.split(" (")[0] for result in results for one in result.metal.components)
    if not left:
        return f"{where}: nothing is above {settings.metal_threshold:g} HU; --metal-threshold changes that"
    why = "; ".join(f"{count} {reason}" for reason, count in left.most_common())
    return (
        f"{where}: pieces above {settings.metal_threshold:g} HU are left alone ({why}); --all-candidates, "
        "--metal-mask or --min-metal-mm2 override that"
    )


def _write_reports(staging: Path, outcome: DicomRun, settings: DicomSettings, method: Method) -> dict[str, list[int]]:
    """Write one page for each patient: report.html, or report_001.html, ... of several; name -> numbers of series."""
    series = sorted(
        [*(result.work.series for result in outcome.results), *(failed for failed, _ in outcome.failures)],
        key=lambda one: one.number,
    )
    patients = list(dict.fromkeys(one.patient_key for one in series))
    reports = {}
    for number, patient in enumerate(patients, 1):
        name = REPORT if len(patients) == 1 else REPORTS.format(number)
        results = [result for result in outcome.results if result.work.series.patient_key == patient]
        failures = [failed for failed in outcome.failures if failed[0].patient_key == patient]
        write_report(staging / name, outcome.found, results, failures, settings, method)
        reports[name] = [one.number for one in series if one.patient_key == patient]
    return reports


def series_numbers(found: Discovery, limits: Limits) -> set[int]:
    """SeriesNumbers in use among all DICOM files of the input, those that are left out among them."""
    first = [(series.slices[0].path, series.slices[0].name) for series in found.series if series.slices]
    others = [(skipped.path, skipped.name) for skipped in found.skipped if skipped.path is not None]
    taken = set()
    for path, name in first + others:
        try:
            with reading(name), quiet():
                number = text(read_header(path, name, limits, ("SeriesNumber",)).dataset, "SeriesNumber")
        except MarError:
            continue  # a file that cannot be read has no number that could be seen
        if number.isdecimal():
            taken.add(int(number))
    return taken


def _make_private(folder: Path) -> None:
    for path in folder.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
