"""A run over several series that was interrupted goes on: its finished series wait, each with a record of its result.

Within the hidden folder beside the output there are, until it takes the output's place:
- ``series_001`` and so on: derived series that are finished,
- ``.waiting/series_001``: their corrected pixels, for the report,
- ``.journal/series_001.json``: their results and hashes of all that they were made of and consist of,
- ``.attempt-...``: what one run is at work on; nobody trusts it afterwards.
"""

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mar_pipeline import __version__
from mar_pipeline.dicom.correction.methods import Method
from mar_pipeline.dicom.process import SeriesResult, series_name
from mar_pipeline.dicom.reading.files import reading
from mar_pipeline.dicom.reading.series import Discovery, Series
from mar_pipeline.dicom.records import from_plain, to_plain
from mar_pipeline.dicom.settings import DicomSettings
from mar_pipeline.dicom.slices import Work
from mar_pipeline.dicom.writing.staging import JOURNAL, LOCK
from simulation.files import sha256_of, sha256_of_text, whole_file

logger = logging.getLogger(__name__)

WAITING, ATTEMPT = ".waiting", ".attempt-"
OF_THE_WHOLE = ("source", "out", "workers", "html", "html_slices", "csv", "show_labels", "nifti")
"""Settings that no finished series depends on."""


def run_key(
    settings: DicomSettings, method: Method, found: Discovery, chosen: Sequence[Series], taken: Collection[int]
) -> str:
    """Return a hash of all that finished series depend on, but the pixels.

    Args:
        settings: of the run; files that they name count by their content.
        method: what corrects.
        found: the input.
        chosen: series that were asked for, in order.
        taken: SeriesNumbers in use.
    """
    kept = {name: value for name, value in asdict(settings).items() if name not in OF_THE_WHOLE}
    kept |= {name: sha256_of(value) for name, value in kept.items() if isinstance(value, Path) and value.is_file()}
    listed = [
        (one.number, one.study_uid, one.series_uid, [(file.name, file.sop_uid) for file in one.slices], one.refusal)
        for one in found.series
    ]
    parts = {
        "version": __version__,
        "settings": kept,
        "configuration": settings.configuration,
        "method": (method.label, method.weights_sha256),
        "series": listed,
        "skipped": [(one.name, one.reason) for one in found.skipped],
        "chosen": [series.number for series in chosen],
        "taken": sorted(taken),
    }
    return sha256_of_text(json.dumps(parts, default=str, sort_keys=True))


def source_sha256(series: Series) -> str:
    """Return a hash of the bytes of all slices of a series, in order.

    Raises:
        InputError: a file cannot be read.
    """
    hashes = []
    for file in series.slices:
        with reading(file.name), file.path.open("rb") as opened:
            hashes.append(hashlib.sha256(opened.read()).hexdigest())
    return sha256_of_text("".join(hashes))


@dataclass(frozen=True)
class Attempt:
    """Where one series is worked on; None and no place where nothing is to be written.

    Args:
        folder: for the derived images.
        waiting: for the corrected pixels.
    """

    folder: Path | None
    waiting: Path


@dataclass(frozen=True)
class Journal:
    """The finished series in a staging folder.

    Args:
        staging: the folder; None writes nothing.
    """

    staging: Path | None

    @contextmanager
    def attempt(self, series: Series) -> Iterator[Attempt]:
        """Give a place to work in, which is gone afterwards whatever happens.

        A process that a killed run has forked may go on writing for a moment: not where the next run works.
        """
        if self.staging is None:
            yield Attempt(None, Path())
            return
        place = Path(tempfile.mkdtemp(prefix=ATTEMPT, dir=self.staging))
        try:
            attempt = Attempt(place / series_name(series), place / WAITING)
            attempt.waiting.mkdir()
            (place / series_name(series)).mkdir(mode=0o700)
            yield attempt
        finally:
            shutil.rmtree(place)

    def keep(self, result: SeriesResult, attempt: Attempt, source: str) -> SeriesResult:
        """Put a finished series where it stays, and note it down.

        Args:
            result: of the series.
            attempt: where it was made.
            source: hash of the series it was made of.

        Returns:
            The result, whose corrected pixels lie elsewhere now.
        """
        if self.staging is None or attempt.folder is None:
            return result
        folder, waiting, record = self._places(self.staging, result.work.series)
        for path in (waiting.parent, record.parent):
            path.mkdir(exist_ok=True)
        attempt.waiting.rename(waiting)
        if any(attempt.folder.iterdir()):  # there is metal
            attempt.folder.rename(folder)
        content = {
            "source": source,
            "files": _hashes(folder) | _hashes(waiting),
            "result": to_plain(result, leave_out=("work",)),
        }
        with whole_file(record) as partial:
            partial.write_text(json.dumps(content))
        return replace(result, work=replace(result.work, staging=waiting))

    def restored(self, work: Work, source: str) -> SeriesResult | None:
        """Return the result of a series that an interrupted run has finished; None if there is none.

        A series whose source or whose files are others than the record says is removed, to be made once more.

        Args:
            work: on the series.
            source: hash of the series.
        """
        if self.staging is None:
            return None
        folder, waiting, record = self._places(self.staging, work.series)
        if not record.is_file():
            return None
        try:
            content: dict[str, Any] = json.loads(record.read_text())
            if content["source"] == source and content["files"] == _hashes(folder) | _hashes(waiting):
                return from_plain(SeriesResult, content["result"], {"work": replace(work, staging=waiting)})
        except (ValueError, KeyError, TypeError, AttributeError) as error:  # of a damaged record
            logger.debug("the record of %s cannot be read: %s", series_name(work.series), type(error).__name__)
        logger.warning("series %d: what an interrupted run finished is not as it was; made anew", work.series.number)
        for path in (folder, waiting):
            shutil.rmtree(path, ignore_errors=True)
        record.unlink()
        return None

    def tidy(self) -> None:
        """Remove what an interrupted run left half done."""
        if self.staging is None:
            return
        finished = {path.stem for path in (self.staging / JOURNAL).glob("*.json")}
        for path in self.staging.iterdir():
            if path.is_dir() and path.name not in (JOURNAL, WAITING, *finished):
                shutil.rmtree(path, ignore_errors=True)
            elif path.is_file() and path.name != LOCK:
                path.unlink()
        for path in (self.staging / WAITING).glob("*"):
            if path.name not in finished:
                shutil.rmtree(path)

    @staticmethod
    def _places(staging: Path, series: Series) -> tuple[Path, Path, Path]:
        name = series_name(series)
        return staging / name, staging / WAITING / name, staging / JOURNAL / f"{name}.json"


def _hashes(folder: Path) -> dict[str, str]:
    """Hash of every file of a folder that is there."""
    return {f"{folder.parent.name}/{path.name}": sha256_of(path) for path in sorted(folder.glob("*"))}
