"""Headers and encoded pixels of one file, read in silence and without following a claim into gigabytes."""

import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from struct import unpack
from typing import Any, BinaryIO, cast

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filereader import read_dataset, read_partial, read_preamble
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pydicom.values import converters

from mar_pipeline.dicom.reading.archives import InputFile, size_bytes
from mar_pipeline.dicom.reading.limits import MIB, Limits, Metered
from simulation.errors import InputError, LimitError

PIXEL_DATA = Tag("PixelData")
PIXEL_ELEMENTS = (Tag("FloatPixelData"), Tag("DoubleFloatPixelData"), PIXEL_DATA)
MODALITY = Tag("Modality")
MAX_META_BYTES = MIB
UNDEFINED_LENGTH = 0xFFFFFFFF
DEFLATED = (DeflatedExplicitVRLittleEndian, "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205")  # JPIP's as well
DELIMITER_BYTES = 8
LONG_VRS = ("OB", "OW", "UN", "OF", "OD", "OL")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom silent: its warnings and log lines quote values of the header, which may be a patient's.

    The settings are those of the whole process: not for several threads at once.
    """
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Yield names the file by its relative name when the system cannot read it: an OSError quotes the whole path."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror or 'input or output error'}") from None


def check_file_size(path: InputFile, name: str, limits: Limits) -> None:
    """Raise LimitError of a file that is larger than the limit."""
    size = size_bytes(path)
    if size > limits.max_file_mb * MIB:
        raise LimitError(f"{name}: got {size / MIB:.0f} MiB; expected at most {limits.max_file_mb}")


@dataclass(frozen=True)
class Header:
    """A data set up to its pixels.

    Args:
        dataset: with its file meta; it keeps neither the file's name nor the file.
        pixel_bytes: how much of PixelData the file has, 0 if there is none; None where it claims no length.
    """

    dataset: FileDataset
    pixel_bytes: int | None


def is_dicom(path: InputFile) -> bool:
    """Return whether the file is DICOM, whatever it is called: by its magic word, or as a data set without one.

    Raises:
        OSError: the file cannot be read.
    """
    return has_magic_word(path) or _is_bare(path)


def has_magic_word(path: InputFile) -> bool:
    """Return whether the file begins with a preamble and DICM.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _is_bare(path: InputFile) -> bool:
    """Whether the file is a data set without preamble, as treatment planning systems write them.

    It is if it begins with group 0008 or the file meta, little endian, and goes on to a SOP class of DICOM's own or to
    a modality. Other bytes do so by chance only where they are made to.
    """
    with path.open("rb") as file:
        if unpack("<H", file.read(2).ljust(2, b"\0"))[0] not in (2, 8):
            return False
        file.seek(0)
        try:
            with quiet():
                metered = cast(BinaryIO, Metered(file, MAX_META_BYTES))
                dataset = read_partial(metered, lambda tag, vr, length: tag > MODALITY, force=True)
                sop_class = dataset.file_meta.get("MediaStorageSOPClassUID") or dataset.get("SOPClassUID")
                modality = dataset.get("Modality")
        except Exception:  # whatever it is, it is no DICOM
            return False
    known = isinstance(sop_class, str) and re.fullmatch(r"1\.2\.840\.10008\.[0-9.]+", sop_class.strip(" \0"))
    return bool(known) or (isinstance(modality, str) and re.fullmatch(r"[A-Z]{2,16}", modality) is not None)


def read_meta(path: InputFile, name: str) -> FileMetaDataset:
    """Read the file meta alone; nothing of the data set is parsed, nor inflated.

    Of a file without file meta it holds only the transfer syntax: Implicit or Explicit VR Little Endian, by how the
    first attribute reads.

    Raises:
        InputError: it is damaged.
    """
    bare = not has_magic_word(path)
    with path.open("rb") as file:
        metered = cast(BinaryIO, Metered(file, MAX_META_BYTES))
        try:
            with quiet():
                read_preamble(metered, force=bare)
                raw = read_dataset(metered, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
                meta = FileMetaDataset({tag: raw[tag] for tag in list(raw.keys())})
                if bare and not meta.get("TransferSyntaxUID"):
                    vr = metered.read(6)[4:].decode("latin-1")
                    meta.TransferSyntaxUID = ExplicitVRLittleEndian if vr in converters else ImplicitVRLittleEndian
                return meta
        except Exception:  # pydicom raises what the damage leads to
            raise InputError(f"{name}: its file meta is damaged; fetch the file again") from None


def read_header(path: InputFile, name: str, limits: Limits, keywords: Sequence[str] | None = None) -> Header:
    """Return the data set up to its pixels.

    Args:
        path: the file.
        name: of the file in messages.
        limits: how much may be read.
        keywords: which attributes; None is all. They stay as they are in the file until someone asks for them.

    Raises:
        LimitError: the header is longer than the limit.
        InputError: it is damaged, ends early or is deflated.
    """
    # Before anything is parsed: half a megabyte may inflate to a gigabyte.
    meta = read_meta(path, name)
    if meta.get("TransferSyntaxUID") in DEFLATED:
        raise InputError(f"{name}: got the Deflated transfer syntax, which is not accepted; convert the file")
    claimed: list[tuple[str | None, int]] = []

    def at_pixels(tag: Any, vr: str | None, length: int) -> bool:
        if tag in PIXEL_ELEMENTS:
            claimed.append((vr, length if tag == PIXEL_DATA else 0))
        return tag in PIXEL_ELEMENTS

    with quiet(), path.open("rb") as file:
        metered = Metered(file, limits.max_header_mb * MIB)
        tags = [Tag(keyword) for keyword in keywords] if keywords is not None else None
        try:
            dataset = read_partial(cast(BinaryIO, metered), at_pixels, force=True, specific_tags=cast(Any, tags))
            dataset.file_meta = meta
        except Exception:
            if metered.left < 0:
                raise LimitError(
                    f"{name}: got a header of more than {limits.max_header_mb} MiB; expected at most that; "
                    "take the file out or raise the limit"
                ) from None
            raise InputError(f"{name}: its header is damaged; fetch the file again") from None
        vr, length = claimed[0] if claimed else (None, 0)
        value_start = file.tell() + (12 if vr in LONG_VRS else 8)
        bytes_left = size_bytes(path) - value_start
        dataset.buffer = dataset.filename = dataset.fileobj_type = None
        if not len(dataset) or _ends_early(dataset):
            raise InputError(f"{name}: it ends within its header; fetch the file again")
    return Header(dataset, None if length == UNDEFINED_LENGTH else min(length, max(bytes_left, 0)))


def _ends_early(dataset: Dataset) -> bool:
    """Whether an element has fewer bytes than it claims: the file ended there."""
    raw = (element for element in dataset.values() if isinstance(element, RawDataElement))
    return any(element.length != UNDEFINED_LENGTH and len(element.value or b"") < element.length for element in raw)


def read_pixel_data(path: InputFile, name: str) -> bytes:
    """Return the encoded pixels: the value of PixelData, with its items if it is encapsulated.

    Args:
        path: a file whose header was read.
        name: of the file in messages.

    Raises:
        InputError: there are none, or the file ends within them.
    """
    wanted = cast(Any, [PIXEL_DATA])
    try:
        with quiet(), path.open("rb") as file:
            dataset = read_partial(file, lambda tag, vr, length: tag > PIXEL_DATA, force=True, specific_tags=wanted)
            element: Any = dataset.get_item(PIXEL_DATA) if PIXEL_DATA in dataset else None
        size = size_bytes(path)
    except Exception:
        raise InputError(f"{name}: its pixel data is damaged; fetch the file again") from None
    value = element.value if isinstance(element, RawDataElement) else None
    if isinstance(value, bytes) and value:
        delimited = element.length == UNDEFINED_LENGTH
        end = element.value_tell + (len(value) + DELIMITER_BYTES if delimited else element.length)
        if end <= size:
            return value
    raise InputError(f"{name}: it ends before or within its pixel data; fetch the file again")
