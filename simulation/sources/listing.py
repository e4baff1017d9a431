"""Find out which format a source has and list its slices."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from simulation.errors import InputError, UsageError
from simulation.sources import challenge, community, deeplesion, dicom, nifti, phantom
from simulation.sources.slices import SliceRef, check_request, grown_selection

SPLITS = ("train", "val", "test")
EXPECTED = (
    "the word phantom (or phantom:REGION), a DeepLesion folder (Images_png with DL_info.csv beside it), "
    "a .nii or .nii.gz file or a folder of them, a folder with CT DICOM files, "
    "a SynDeepLesion folder (train_640geo_dir.txt or */*/gt.h5), or a CT-MAR challenge folder (body1/Target/*.raw)"
)

logger = logging.getLogger(__name__)


def list_slices(
    source: str,
    split: str = "train",
    seed: int = 0,
    count: int | None = None,
    pad_square: bool | None = None,
    earlier_counts: Sequence[int] = (),
) -> list[SliceRef]:
    """List the slices of a source, in an order that depends on nothing but the source and the arguments.

    Broken files are listed too: they raise InputError when loaded, so a run can report them and go on.

    Args:
        source: a path, or the word ``phantom`` or ``phantom:REGION`` (``./phantom`` is a folder of that name).
        split: "train", "val" or "test"; obeyed by DeepLesion and the community layout, ignored where none exists.
        seed: seed of the phantoms.
        count: at most this many slices. Volumes and DeepLesion yield evenly spaced ones, so that few slices still span
            the volumes and patients; the community layout and the phantom yield the first ones. None: all, of the
            phantom 4.
        pad_square: pad non-square slices with air, or refuse them; None pads those of NIfTI volumes.
        earlier_counts: what `count` was when a set was begun that now grows: its slices come first.

    Returns:
        The references; (case, name) is unique.

    Raises:
        UsageError: if the source is missing or of no known format, or the split or region is unknown.
        InputError: if the index of the source (DL_info.csv, dir.txt) is broken.
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}; expected one of {', '.join(SPLITS)}")
    check_request(seed, count)
    try:
        refs = _list(str(source), split, seed, count, earlier_counts)
    except OSError as error:
        raise InputError(f"source {source}: {error.strerror}; expected a folder or file that can be read") from error
    kind = refs[0].read.__module__.rpartition(".")[2] if refs else "nothing"
    logger.info("source %s, read as %s: %d slices", source, kind, len(refs))
    padded = kind == "nifti" if pad_square is None else pad_square
    if padded and kind == "nifti":
        nifti.report_padding(refs)
    return [dataclasses.replace(ref, pad_square=padded) for ref in refs]


def _list(source: str, split: str, seed: int, count: int | None, earlier: Sequence[int]) -> list[SliceRef]:
    if source == "phantom" or source.startswith("phantom:"):
        return phantom.list_phantom(source, seed, count)
    path = Path(source)
    if not path.exists():
        raise UsageError(f"source {source}: no such file or folder; expected {EXPECTED}")
    if cases := challenge.find_cases(path):
        return grown_selection(challenge.list_challenge(cases), earlier, count)
    images = deeplesion.find_images(path)
    if images is not None:
        return grown_selection(deeplesion.list_deeplesion(images, split), earlier, count)
    gt_files = community.find_gt(path, split)
    if gt_files is not None:
        return community.list_community(path, gt_files)[:count]
    volumes = nifti.find_volumes(path)
    if volumes:
        return grown_selection(nifti.list_nifti(volumes), earlier, count)
    if path.is_dir() and dicom.has_dicom(path):
        return grown_selection(dicom.list_dicom(path), earlier, count)
    raise UsageError(f"source {source}: got {_describe(path)}; expected {EXPECTED}")


def is_evenly_spaced(refs: Sequence[SliceRef]) -> bool:
    """Return whether a smaller count of this source takes other slices, not the first ones."""
    return bool(refs) and refs[0].read.__module__ in (
        challenge.__name__,
        deeplesion.__name__,
        nifti.__name__,
        dicom.__name__,
    )


def _describe(path: Path) -> str:
    """Return what is there, for the message."""
    if not path.is_dir():
        return "a file of no known format"
    entries = sorted(entry.name for entry in path.iterdir())
    if not entries:
        return "an empty folder"
    return f"a folder with {', '.join(entries[:4])}{' ...' if len(entries) > 4 else ''} and no slices in a known format"
