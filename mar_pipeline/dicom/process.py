"""One series from its files to a complete derived series in a folder: survey, correct, write, check."""

import hashlib
import json
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from mar_pipeline import __version__
from mar_pipeline.dicom.correction.metal import Metal, decide
from mar_pipeline.dicom.correction.methods import Method
from mar_pipeline.dicom.given_mask import check_place
from mar_pipeline.dicom.measures.figures import SeriesFigures, SliceFigures, series_figures, unmet
from mar_pipeline.dicom.reading.series import Series
from mar_pipeline.dicom.slices import SliceReport, SurveyedSlice, Work, image_name, survey, write_slice
from mar_pipeline.dicom.trials import Trial, finish_slice, steadied, try_slice
from mar_pipeline.dicom.writing.derivation import Derivation, pixels_sha256, series_number, series_uid
from mar_pipeline.dicom.writing.segmentation import metal_segmentation
from simulation.errors import InputError
from simulation.files import sha256_of_text
from simulation.parallel import run_parallel

SEGMENTATION = "metal_seg.dcm"


@dataclass(frozen=True)
class SeriesResult:
    """A derived series in its folder.

    Args:
        work: what it was made from.
        slices: what became of every slice.
        derivation: how it was made; None if no slice holds metal, or nothing was to be written.
        warnings: those of the source and those that the work brought.
        metal: of every slice, and what was decided about every candidate.
        seconds: wall time.
    """

    work: Work
    slices: tuple[SliceReport, ...]
    derivation: Derivation | None
    warnings: tuple[str, ...]
    metal: Metal
    seconds: float

    @property
    def metal_slices(self) -> list[int]:
        """Return places of the slices with metal."""
        return [report.number for report in self.slices if report.metal_mm2 > 0]

    @cached_property
    def figures(self) -> SeriesFigures | None:
        """Return numbers of the whole series; None if nothing was corrected."""
        if self.derivation is None:
            return None
        return series_figures([report.figures for report in self.slices], self.work.series.thicknesses_mm)

    def thickness_mm(self, number: int) -> float | None:
        """Return the thickness that a slice stands for; None of a single slice."""
        thick = self.work.series.thicknesses_mm
        return None if thick is None else thick[number]


def process(
    work: Work, method: Method, folder: Path | None, created: datetime, taken_numbers: Collection[int]
) -> SeriesResult:
    """Make the derived series of a series, or only look for metal.

    Args:
        work: the series, the settings and a folder for what waits.
        method: corrects.
        folder: where IM00001.dcm, ... go; None only looks for metal.
        created: what the headers say.
        taken_numbers: SeriesNumbers that are in use.

    Raises:
        InputError: the series is refused; the message names the file. What is in the folder is to be thrown away.
    """
    started = time.perf_counter()
    numbers = range(len(work.series.slices))
    workers = work.settings.workers
    surveyed = list(run_parallel(partial(survey, work), numbers, workers, "look for metal"))
    positions_mm = [file.position_mm for file in work.series.slices]
    given = [one.given_hu for one in surveyed if one.given_hu is not None]
    doubt = check_place(given, work.series.number) if given else ""
    metal = _metal(work, surveyed, positions_mm)
    areas = [float(mask.unpack().sum() * np.prod(work.series.spacing_mm)) for mask in metal.masks]
    with_metal = [number for number in numbers if areas[number] > 0]
    reports = {n: _copied(work, n, areas[n], surveyed[n]) for n in numbers}
    warnings = [*work.series.warnings, *_remarks(surveyed, with_metal)]
    warnings += [doubt] if doubt else []
    warnings += [
        f"the region {name} holds no voxel of the series" for name in unmet(work.rois, map(_figures, surveyed))
    ]
    derivation = None
    if with_metal and folder is not None:
        truncated = [one.truncated for one in surveyed]
        correction, remarks = method.make(
            work.series.shape, work.series.spacing_mm, any(truncated[number] for number in with_metal)
        )
        warnings += remarks
        one = partial(try_slice, work, correction, metal, truncated)
        correcting = workers if method.forks else 1  # a process that has used PyTorch's threads must not fork
        trials = list(run_parallel(one, with_metal, correcting, "correct"))
        _check_harm(work, trials)
        finish = partial(finish_slice, work, metal, areas, steadied(trials, positions_mm))
        for report in run_parallel(finish, trials, correcting, "decide"):
            reports[report.number] = report
        derivation = _derivation(work, method, surveyed, created, taken_numbers)
        malformed = run_parallel(partial(write_slice, work, derivation, folder), numbers, correcting, "write")
        warnings += _remarks_after(reports.values(), sorted({name for names in malformed for name in names}))
    seconds = time.perf_counter() - started
    ordered = tuple(reports[number] for number in numbers)
    return SeriesResult(work, ordered, derivation, tuple(warnings), metal, seconds)


def write_segmentation(result: SeriesResult, folder: Path, taken_numbers: Collection[int]) -> int:
    """Write the metal beside the derived images; number of frames."""
    if result.derivation is None:
        raise ValueError("nothing was written to which a segmentation could refer")
    images = [folder / image_name(number) for number in range(len(result.slices))]
    number = series_number(result.derivation.series_number, [*taken_numbers, result.derivation.series_number])
    parameters = {"metal": result.work.settings.metal_source}
    return metal_segmentation(
        folder / SEGMENTATION, images, lambda n: result.metal.masks[n].unpack(), result.derivation, number, parameters
    )


def series_name(series: Series) -> str:
    """Folder of a derived series, never built from tags."""
    return f"series_{series.number:03}"


def _metal(work: Work, surveyed: Sequence[SurveyedSlice], positions_mm: Sequence[float]) -> Metal:
    """Return what is metal: what the user gives, or what the evidence says."""
    given = tuple(one.given for one in surveyed if one.given is not None)
    if given:
        return Metal(given, given, ())
    settings = work.settings
    found = [one.metal for one in surveyed]
    return decide(found, positions_mm, settings.metal_threshold, settings.min_metal_mm2, settings.all_candidates)


def _check_harm(work: Work, trials: Sequence[Trial]) -> None:
    """Refuse a series in which a correction was judged harmful, if that is what was asked for.

    Raises:
        InputError: it names the first such slice.
    """
    refused = [trial for trial in trials if trial.refused]
    if work.settings.strict_harm and refused:
        name, judgement = work.series.slices[refused[0].number].name, refused[0].judgement
        why = f" ({judgement.reason})" if judgement and not refused[0].fewer else ""
        raise InputError(
            f"{name}: the correction was judged not to help{why}, as in {len(refused)} slices; without "
            "--strict-harm such slices get a weaker correction or keep the original"
        )


def _copied(work: Work, number: int, area_mm2: float, seen: SurveyedSlice) -> SliceReport:
    """Return what becomes of a slice unless it is corrected: the ROIs in it stay as they were."""
    place_mm = work.series.slices[number].position_mm
    return SliceReport(number, place_mm, area_mm2, "copied", figures=None if area_mm2 > 0 else seen.figures)


def _figures(seen: SurveyedSlice) -> SliceFigures | None:
    return seen.figures


def _derivation(
    work: Work, method: Method, surveyed: Sequence[SurveyedSlice], created: datetime, taken_numbers: Collection[int]
) -> Derivation:
    digest = hashlib.sha256()
    for number, one in enumerate(surveyed):
        path = work.corrected_path(number)
        digest.update((pixels_sha256(np.load(path)) if path.exists() else one.pixels_sha256).encode())
    configuration = sha256_of_text(json.dumps({**work.settings.configuration, "method": method.label}, sort_keys=True))
    made = (method.label, __version__, configuration, method.weights_sha256)
    uid = series_uid(work.series.series_uid, [file.sop_uid for file in work.series.slices], *made, digest.hexdigest())
    number = series_number(surveyed[0].series_number, taken_numbers)
    threshold_hu = None if work.settings.metal_mask else work.settings.metal_threshold
    options = work.settings.given_options
    return Derivation(*made, uid, number, created, work.settings.keep_private, threshold_hu, options)


def _remarks(surveyed: Sequence[SurveyedSlice], with_metal: Sequence[int]) -> list[str]:
    remarks = []
    if any(surveyed[number].clipped for number in with_metal):
        remarks.append("the scanner clipped the metal's HU, which are therefore not quantitative")
    if cut := sum(surveyed[number].truncated for number in with_metal):
        remarks.append(
            f"the body is cut off at the field of view in {cut} of {len(with_metal)} slices with metal; it is extended "
            "smoothly for the projections, and the correction near the border is less sure"
        )
    return remarks


def _remarks_after(reports: Collection[SliceReport], malformed: Sequence[str]) -> list[str]:
    remarks = [f"left out of the headers, malformed in the source: {', '.join(malformed)}"] if malformed else []
    metal = sum(report.decision != "copied" for report in reports)
    kept = [report for report in reports if report.decision == "original kept"]
    if impossible := sum(report.judgement is None for report in kept):
        remarks.append(f"{impossible} of {metal} slices with metal kept the original, since they cannot be corrected")
    if kept and len(kept) == metal:
        remarks.append("no slice was changed: the derived series holds the pixels of the source")
    if harmful := len(kept) - impossible:
        remarks.append(
            f"{harmful} of {metal} slices with metal kept the original, since the correction was not judged to help "
            "there or in the slices beside"
        )
    if clipped := sum(report.clipped_voxels for report in reports):
        remarks.append(f"{clipped} corrected voxels were beyond what the stored bits can hold and were clipped")
    return remarks
