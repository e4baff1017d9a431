"""CT images to series: what belongs together, in which order it lies, and why it must not be processed."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from mar_pipeline.dicom.identifiers import derived_uid
from mar_pipeline.dicom.reading.ct_image import NOBODY, CTImage, Refusal
from mar_pipeline.dicom.reading.duplicates import same_position, without_copies
from mar_pipeline.dicom.reading.image_header import IDENTIFIERS, LackingError
from mar_pipeline.dicom.reading.limits import MIB, Limits
from mar_pipeline.dicom.reading.series import Series, Skipped, SliceFile
from mar_pipeline.dicom.reading.splitting import Part, common_spacing, parts_of
from mar_pipeline.dicom.reading.stacking import (
    LEAST_AXIAL,
    OFF_LINE_MM,
    differing_orientation,
    gap_mm,
    off_line_mm,
    positions_mm,
    slice_normal,
    stacking_warnings,
    tilt_deg,
)
from simulation.errors import InputError, LimitError

MADE = {"StudyInstanceUID": "study", "SeriesInstanceUID": "series", "FrameOfReferenceUID": "frame of reference"}
SHOWN = 3


def group(images: Iterable[CTImage], limits: Limits, repair_uids: bool) -> tuple[list[Series], list[Skipped]]:
    """Return series in the order of their first files' names, and images that are no slices.

    A damaged image has its series refused. An image without position, spacing or rescale does so only in the company of
    others that have them; alone it is no slice, but a dose report or a screen.

    Args:
        images: of all series.
        limits: for the size of a series.
        repair_uids: fill in blank UIDs instead of refusing them.

    Returns:
        The series, numbered from 1, and the images that are skipped.
    """
    by_series: dict[tuple[str, ...], list[CTImage]] = defaultdict(list)
    studies: dict[str, set[str]] = defaultdict(set)
    for image in sorted(images, key=lambda image: image.name):
        by_series[image.series_key].append(image)
        studies[image.uids["SeriesInstanceUID"]].add(image.uids["StudyInstanceUID"])
    stacks: list[tuple[str, Series]] = []
    skipped: list[Skipped] = []
    for members in by_series.values():
        if all(isinstance(image.fault, LackingError) for image in members):
            skipped += [
                Skipped(image.name, str(image.fault).removeprefix(f"{image.name}: "), path=image.path)
                for image in members
            ]
            continue
        faults = [image.fault for image in members if image.fault]
        uid = members[0].uids["SeriesInstanceUID"]
        shared = _studies_remark(studies[uid] if uid else ())
        for part in parts_of([image for image in members if not image.fault]) or [Part(tuple(members), ())]:
            series = _series(part.images, faults, (*shared, *part.remarks), limits, repair_uids)
            stacks.append((min(image.name for image in part.images), series))
    stacks.sort(key=lambda stack: stack[0])
    return [replace(series, number=number) for number, (_, series) in enumerate(stacks, 1)], skipped


def _studies_remark(studies: Collection[str]) -> tuple[str, ...]:
    if len(studies) < 2:
        return ()
    return (f"its SeriesInstanceUID stands in {len(studies)} studies; in each it is taken as a series of its own",)


def _series(
    images: Sequence[CTImage], faults: Sequence[Refusal], remarks: Sequence[str], limits: Limits, repair_uids: bool
) -> Series:
    """One series, its number still open, of images that share a key or all have faults."""
    uids, unidentified, repairs = _identify(images, repair_uids)
    usable = [image for image in images if not image.fault]
    stack = _stack(usable)
    refusals: list[Refusal] = [*faults, *unidentified, *stack.refusals]
    pixels = next((image.pixels for image in images if image.pixels), None)
    place = next((image.geometry for image in images if image.geometry), None)
    decoded_mib = len(stack.slices) * pixels.decoded_bytes / MIB if pixels else 0
    if decoded_mib > limits.max_series_mb:
        refusals.append(LimitError(f"got {decoded_mib:.0f} MiB of pixels; expected at most {limits.max_series_mb}"))
    if len({image.patient for image in images}) > 1:
        refusals.append(InputError("its images name different patients; separate them"))
    if place and abs(slice_normal(place)[2]) < LEAST_AXIAL:
        refusals.append(
            InputError("its slices are coronal or sagittal, reformatted from the scan; take the axial series")
        )
    said = [remark for image in usable for remark in image.remarks]
    return Series(
        number=0,
        study_uid=uids["StudyInstanceUID"],
        series_uid=uids["SeriesInstanceUID"],
        frame_uid=uids["FrameOfReferenceUID"],
        shape=(pixels.rows, pixels.columns) if pixels else (0, 0),
        spacing_mm=common_spacing(images),
        slices=stack.slices,
        gap_mm=stack.gap_mm,
        tilt_deg=stack.tilt_deg,
        warnings=tuple(dict.fromkeys([*remarks, *repairs, *said, *stack.warnings])),
        refusal=_some(list(dict.fromkeys(map(str, refusals))), "; ") if refusals else None,
        limit_hit=bool(refusals) and all(isinstance(refusal, LimitError) for refusal in refusals),
        assumed_hu=any(image.assumed_hu for image in images),
        patient="" if images[0].patient == NOBODY else images[0].patient,
    )


def _identify(images: Sequence[CTImage], repair: bool) -> tuple[dict[str, str], list[Refusal], list[str]]:
    """Return the UIDs of a series, why they are refused, and what was filled in."""
    uids = dict(min(images, key=lambda image: image.name).uids)
    blank = [keyword for keyword in IDENTIFIERS if any(not image.uids[keyword] for image in images)]
    if not blank:
        return uids, [], []
    if not repair:
        return uids, [InputError(f"blank {', '.join(blank)}: --repair-uids fills in what is missing")], []
    nameless = [image.name for image in images if not image.sop_uid]
    if nameless:
        return uids, [InputError(f"{_some(nameless)}: no SOPInstanceUID, nor one in the file meta")], []
    made = {keyword: derived_uid(what, *sorted({image.sop_uid for image in images})) for keyword, what in MADE.items()}
    repaired = {keyword: uids[keyword] or made.get(keyword, "") for keyword in uids}
    return repaired, [], [f"blank {', '.join(blank)} filled in from the file meta or from the images' UIDs"]


@dataclass(frozen=True)
class _Stack:
    """Slices in order, and what is uncommon or wrong about them."""

    slices: tuple[SliceFile, ...] = ()
    gap_mm: float | None = None
    tilt_deg: float = 0.0
    warnings: tuple[str, ...] = ()
    refusals: tuple[Refusal, ...] = ()


def _stack(images: Sequence[CTImage]) -> _Stack:
    """Put images without a fault in order."""
    warnings: list[str] = []
    refusals: list[Refusal] = []
    try:
        images, copies = without_copies(images)
        if copies:
            names = _some([image.name for image in copies])
            warnings.append(f"{len(copies)} exact copies of other files are left out: {names}")
    except InputError as error:
        refusals.append(error)
    placed = [(image, image.geometry) for image in images if image.geometry]
    if not placed:
        return _Stack()
    turned = differing_orientation([place for _, place in placed])
    if turned is not None:
        pair = f"{placed[0][0].name} and {placed[turned][0].name}"
        refusals.append(InputError(f"{pair} differ in ImageOrientationPatient; split the series"))
    unsorted = positions_mm([place for _, place in placed])
    order = sorted(range(len(placed)), key=lambda index: (unsorted[index], placed[index][0].name))
    placed, positions = [placed[index] for index in order], unsorted[order]
    clash = None if refusals else same_position([image for image, _ in placed], positions)
    refusals += [clash] if clash else []
    tilt = tilt_deg([place for _, place in placed])
    if not refusals and (off_mm := off_line_mm([place for _, place in placed])) > OFF_LINE_MM:
        refusals.append(
            InputError(
                f"its slices are shifted against each other by {off_mm:.0f} mm within their planes; split it there"
            )
        )
    if not refusals:
        warnings += stacking_warnings([image.name for image, _ in placed], positions, tilt)
    slices = (_slice_file(image, float(position)) for (image, _), position in zip(placed, positions, strict=True))
    return _Stack(tuple(slices), gap_mm(positions), tilt, tuple(warnings), tuple(refusals))


def _slice_file(image: CTImage, position_mm: float) -> SliceFile:
    return SliceFile(
        path=image.path,
        name=image.name,
        sop_uid=image.sop_uid,
        instance_number=image.instance_number,
        position_mm=position_mm,
        transfer_syntax=image.transfer_syntax,
    )


def _some(words: Sequence[str], separator: str = ", ") -> str:
    """Return the first of many words."""
    more = f"{separator}and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return separator.join(words[:SHOWN]) + more
