"""Find the CT series under a folder or in a zip file, header by header; nothing is decoded, no link is followed."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from mar_pipeline.dicom.reading.archives import InputFile, Listed, in_memory, is_zip, size_bytes, zip_members
from mar_pipeline.dicom.reading.ct_image import CTImage, Refusal, ct_image
from mar_pipeline.dicom.reading.files import check_file_size, is_dicom, quiet, read_header, read_meta, reading
from mar_pipeline.dicom.reading.grouping import group
from mar_pipeline.dicom.reading.image_header import LISTING, foreign_object, other_image, uid
from mar_pipeline.dicom.reading.limits import DEFAULT_LIMITS, Limits
from mar_pipeline.dicom.reading.overlays import LISTED
from mar_pipeline.dicom.reading.series import Discovery, Series, Skipped, SliceFile
from simulation.errors import InputError, LimitError, UsageError

__all__ = ["Discovery", "Series", "Skipped", "SliceFile", "discover"]


NOT_DICOM = "not a DICOM file"
IMAGE_SUFFIXES = {"", ".dcm", ".ima", ".dicom"}


@dataclass(frozen=True)
class _Unplaced:
    """A DICOM file, perhaps a CT image, whose series its header does not tell."""

    name: str
    reason: Refusal
    path: InputFile | None = None

    @property
    def skipped(self) -> Skipped:
        limit_hit = isinstance(self.reason, LimitError)
        return Skipped(self.name, _without_name(str(self.reason), self.name), limit_hit, self.path)


Known = CTImage | Skipped | _Unplaced


def discover(
    source: Path, limits: Limits = DEFAULT_LIMITS, repair_uids: bool = False, assume_hu: bool = False
) -> Discovery:
    """List the CT series under a folder or in a zip file, and every other file with the reason why it is left out.

    A damaged image has its whole series refused. If the header does not even tell the series, the one that lies in the
    same folder is refused; if several lie there, each gets a warning.

    Args:
        source: a folder with all of its subfolders, whatever the files are called; zip files in it are folders, but
            those within zip files are not opened. Or one zip file.
        limits: how much may be read.
        repair_uids: accept blank UIDs: that of an image from its file meta; those of study, series and frame of
            reference are made from the UIDs of the images.
        assume_hu: take values whose RescaleType is unspecified for HU.

    Raises:
        LimitError: there are more files than the limit, or the zip file unpacks to too much.
        InputError: the zip file is damaged.
        UsageError: it is neither a folder nor a zip file.
    """
    images: list[CTImage] = []
    skipped: list[Skipped] = []
    unplaced: list[_Unplaced] = []
    for known in _all_known(source, limits, assume_hu):
        if isinstance(known, CTImage):
            images.append(known)
        elif isinstance(known, _Unplaced):
            unplaced.append(known)
        else:
            skipped.append(known)
    series, no_slices = group(images, limits, repair_uids)
    skipped += [*no_slices, *(one.skipped for one in unplaced)]
    series = _refuse_shared(_blame(series, unplaced))
    left_out = tuple(sorted(skipped, key=lambda one: one.name))
    return Discovery(tuple(series), left_out, frozenset(image.name for image in images))


def _all_known(source: Path, limits: Limits, assume_hu: bool) -> Iterator[Known]:
    """Yield what each file is, those in zip files among them.

    Raises:
        LimitError: there are too many.
    """
    if source.is_file():
        with reading("the input"):
            members = zip_members(source, "the input", limits) if is_zip(source) else None
        if members is not None:
            yield from _examine_members(members, "", limits, assume_hu)
            return
    if not source.is_dir():
        raise UsageError("the input is neither a folder nor a zip file; expected one of them, with DICOM files")
    count = 0
    for found in _files(source):
        known = [found] if isinstance(found, Skipped) else _examine_file(found, _name(found, source), limits, assume_hu)
        count += 0 if isinstance(found, Skipped) else max(len(known), 1)
        if count > limits.max_files:
            raise LimitError(f"got more than {limits.max_files} files; expected at most that; name a subfolder")
        yield from known


def _name(path: Path, folder: Path) -> str:
    """Return the file relative to the folder; bytes that are no text are escaped."""
    return _printable(os.fsencode(path.relative_to(folder).as_posix()).decode("utf-8", "backslashreplace"))


def _printable(name: str) -> str:
    """Return a name with its control characters escaped."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in name)


def _without_name(message: str, name: str) -> str:
    return message.removeprefix(f"{name}: ")


def _files(folder: Path) -> Iterator[Path | Skipped]:
    """Regular files under a folder in a fixed order; links, devices and what cannot be read are skipped."""
    folders = [folder]
    while folders:
        here = folders.pop()
        try:
            with os.scandir(here) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            yield Skipped(_name(here, folder), f"this folder cannot be read: {error.strerror}")
            continue
        inner = []
        for entry in entries:
            path = Path(entry.path)
            if entry.is_symlink():
                yield Skipped(_name(path, folder), "a link, which is not followed")
            elif entry.is_dir(follow_symlinks=False):
                inner.append(path)
            elif not entry.is_file(follow_symlinks=False):  # opening a pipe would wait for ever
                yield Skipped(_name(path, folder), "not a regular file")
            else:
                yield path
        folders.extend(reversed(inner))


def _examine_file(path: Path, name: str, limits: Limits, assume_hu: bool) -> list[Known]:
    """Return what a file is, or what the files are that it holds if it is a zip file."""
    known = _examine(path, name, limits, assume_hu)
    if not isinstance(known, Skipped) or known.reason != NOT_DICOM:
        return [known]
    try:
        if not is_zip(path):
            return [known]
        members = _examine_members(zip_members(path, name, limits), f"{name}/", limits, assume_hu)
    except OSError as error:
        return [Skipped(name, f"cannot be read: {error.strerror}")]
    except (InputError, LimitError) as error:
        return [Skipped(name, _without_name(str(error), name), isinstance(error, LimitError))]
    if all(isinstance(member, Skipped) and member.reason == NOT_DICOM for member in members):
        return [Skipped(name, "a zip file without DICOM files")]  # a text document, most likely
    return members


def _examine_members(members: Sequence[Listed], beginning: str, limits: Limits, assume_hu: bool) -> list[Known]:
    """Return what the files of a zip file are; their names are only texts."""
    known: list[Known] = []
    for one in members:
        name = _printable(f"{beginning}{one.name}")
        if one.member is None:
            known.append(_Unplaced(name, one.fault or InputError("cannot be read")))
            continue
        try:
            with reading(name):
                content = in_memory(one.member)
            found = _examine(content, name, limits, assume_hu)
            if isinstance(found, Skipped) and found.reason == NOT_DICOM and is_zip(content):
                found = Skipped(name, "a zip file within a zip file, which is not opened")
        except InputError as error:
            found = _Unplaced(name, error)
        known.append(found if found.path is None else replace(found, path=one.member))
    return known


def _examine(path: InputFile, name: str, limits: Limits, assume_hu: bool) -> Known:
    """Return what a file is: by its magic word, then its file meta, then its header."""
    try:
        with reading(name), quiet():
            if size_bytes(path) == 0 and PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES:
                raise InputError(f"{name}: is empty; fetch the file again")
            if not is_dicom(path):
                return Skipped(name, NOT_DICOM)
            meta = read_meta(path, name)
            sop_class = uid(meta, "MediaStorageSOPClassUID")
            if sop_class and (foreign := foreign_object(sop_class)):
                return Skipped(name, foreign, path=path)
            check_file_size(path, name, limits)
            header = read_header(path, name, limits, (*LISTING, *LISTED))
            cut_short = header.pixel_bytes == 0
            other = foreign_object(uid(header.dataset, "SOPClassUID") or sop_class)
            if not other and not cut_short:  # what a cut header lacks says nothing
                other = other_image(header.dataset)
            if other:
                return Skipped(name, other, path=path)
            if cut_short and not uid(header.dataset, "SeriesInstanceUID"):
                raise InputError(f"{name}: it ends within its header; fetch the file again")
            return ct_image(path, name, header, meta, limits, assume_hu)
    except (InputError, LimitError) as error:
        return _Unplaced(name, error, path)


def _blame(series: list[Series], unplaced: Sequence[_Unplaced]) -> list[Series]:
    """Refuse or warn of the series in whose folders lie files that may be slices of theirs."""
    blamed = list(series)
    homes = [{PurePosixPath(file.name).parent for file in one.slices} for one in series]
    by_folder: dict[PurePosixPath, list[Refusal]] = defaultdict(list)
    for file in sorted(unplaced, key=lambda one: one.name):
        by_folder[PurePosixPath(file.name).parent].append(file.reason)
    for folder, reasons in by_folder.items():
        more = f"; so may {len(reasons) - 1} more such files" if len(reasons) > 1 else ""
        what = f"{reasons[0]} (it may be a slice of this series{more}; move it elsewhere if it is none)"
        near = [index for index, folders in enumerate(homes) if folder in folders]
        one_uid = len({(series[index].study_uid, series[index].series_uid) for index in near}) == 1
        for index in near:
            if one_uid:
                blamed[index] = _refused(blamed[index], what, all(isinstance(one, LimitError) for one in reasons))
            else:
                blamed[index] = replace(blamed[index], warnings=(*blamed[index].warnings, what))
    return blamed


def _refuse_shared(series: list[Series]) -> list[Series]:
    """Refuse series that share a SOPInstanceUID: one of the two files is mislabelled."""
    owners: dict[str, tuple[int, str]] = {}
    refused = list(series)
    for index, one in enumerate(series):
        for file in one.slices:
            owner, name = owners.setdefault(file.sop_uid, (index, file.name))
            if owner != index and file.sop_uid:
                what = f"{name} and {file.name} have one SOPInstanceUID, but belong to two series"
                refused[owner] = _refused(refused[owner], what)
                refused[index] = _refused(refused[index], what)
    return refused


def _refused(series: Series, reason: str, limit_hit: bool = False) -> Series:
    """Return the series with one more reason."""
    if series.refusal is None:
        return replace(series, refusal=reason, limit_hit=limit_hit)
    return replace(series, refusal=f"{series.refusal}; {reason}", limit_hit=series.limit_hit and limit_hit)
