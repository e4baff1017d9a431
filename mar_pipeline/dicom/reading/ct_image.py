"""One CT image as its header tells: what the listing keeps of a file until its series is put together."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from pydicom.dataset import FileMetaDataset

from mar_pipeline.dicom.reading.archives import InputFile
from mar_pipeline.dicom.reading.files import Header
from mar_pipeline.dicom.reading.image_header import (
    ACQUISITION,
    IDENTIFIERS,
    LOSSY,
    NATIVE,
    UNSPECIFIED,
    VENDOR_CORRECTED,
    VENDOR_TEXTS,
    Geometry,
    PixelFormat,
    check_unit,
    geometry,
    metal_reduced,
    pixel_format,
    rescale,
    text,
    uid,
    whole_number,
)
from mar_pipeline.dicom.reading.limits import Limits
from mar_pipeline.dicom.reading.overlays import overlay_remarks
from simulation.errors import InputError, LimitError
from simulation.files import sha256_of_text

Refusal = InputError | LimitError


PATIENT = ("PatientName", "PatientID")


def _patient(values: Sequence[str]) -> str:
    return sha256_of_text("\n".join(values))


NOBODY = _patient([""] * len(PATIENT))
"""Hash of a header that names no patient."""


@dataclass(frozen=True)
class CTImage:
    """One CT image, without its pixels.

    Args:
        path: the file, in a folder or a zip file.
        name: the file relative to the input folder.
        uids: by keyword, those of `IDENTIFIERS`; blank where the header has none.
        meta_uid: SOPInstanceUID of the file meta.
        series_number: SeriesNumber as text.
        patient: hash of the patient's name and ID.
        instance_number: InstanceNumber.
        transfer_syntax: UID.
        geometry: where it lies; None only with a fault.
        pixels: how they are stored; None only with a fault.
        rescale: slope, intercept; None only with a fault.
        acquisition: by keyword, the texts of `ACQUISITION`; blank where the header has none.
        assumed_hu: whether its RescaleType is unspecified.
        remarks: what the user should know of its series.
        fault: why it cannot be used.
    """

    path: InputFile
    name: str
    uids: dict[str, str]
    meta_uid: str
    series_number: str
    patient: str
    instance_number: int | None
    transfer_syntax: str
    geometry: Geometry | None
    pixels: PixelFormat | None
    rescale: tuple[float, float] | None
    acquisition: dict[str, str]
    assumed_hu: bool
    remarks: tuple[str, ...]
    fault: Refusal | None

    @property
    def sop_uid(self) -> str:
        """SOPInstanceUID, that of the file meta if the header has none."""
        return self.uids["SOPInstanceUID"] or self.meta_uid

    @property
    def folder(self) -> str:
        """The file's folder relative to the input folder."""
        return PurePosixPath(self.name).parent.as_posix()

    @property
    def series_key(self) -> tuple[str, ...]:
        """What images of one series share; without a SeriesInstanceUID also the folder and SeriesNumber."""
        study, series = self.uids["StudyInstanceUID"], self.uids["SeriesInstanceUID"]
        return (study, series) if series else (study, "", self.folder, self.series_number)


def ct_image(
    path: InputFile, name: str, header: Header, meta: FileMetaDataset, limits: Limits, assume_hu: bool
) -> CTImage:
    """Read what the listing needs; what is wrong becomes the image's fault.

    Args:
        path: the file, in a folder or a zip file.
        name: the file relative to the input folder.
        header: with the attributes of `LISTING`.
        meta: its file meta.
        limits: for the image's size.
        assume_hu: take values whose unit is unspecified for HU.
    """
    dataset, transfer_syntax = header.dataset, uid(meta, "TransferSyntaxUID")
    placed, pixels, scale, number, fault = None, None, None, None, None
    try:
        if header.pixel_bytes == 0:
            raise InputError(f"{name}: it ends before its pixel data; fetch the file again")
        check_unit(dataset, name, assume_hu)
        number = whole_number(dataset, "InstanceNumber", name) if text(dataset, "InstanceNumber") else None
        placed, scale = geometry(dataset, name), rescale(dataset, name)
        pixels = pixel_format(dataset, transfer_syntax, name, limits)
        least = pixels.decoded_bytes if transfer_syntax in NATIVE else 1
        if header.pixel_bytes is not None and header.pixel_bytes < least:
            raise InputError(f"{name}: it ends within its pixel data; fetch the file again")
    except (InputError, LimitError) as error:
        fault = error
    return CTImage(
        path=path,
        name=name,
        uids={keyword: uid(dataset, keyword) for keyword in IDENTIFIERS},
        meta_uid=uid(meta, "MediaStorageSOPInstanceUID"),
        series_number=text(dataset, "SeriesNumber"),
        patient=_patient([text(dataset, keyword) for keyword in PATIENT]),
        instance_number=number,
        transfer_syntax=transfer_syntax,
        geometry=placed,
        pixels=pixels,
        rescale=scale,
        acquisition={keyword: text(dataset, keyword) for keyword in ACQUISITION},
        assumed_hu=text(dataset, "RescaleType").upper() == UNSPECIFIED,
        remarks=(*_remarks(header, transfer_syntax), *overlay_remarks(dataset, pixels)),
        fault=fault,
    )


def _remarks(header: Header, transfer_syntax: str) -> tuple[str, ...]:
    """Return what a careful user wants to know; of the header's own text only words of a fixed list."""
    remarks = []
    for keyword in VENDOR_TEXTS:
        found = VENDOR_CORRECTED.search(text(header.dataset, keyword))
        if found:
            remarks.append(f"{keyword} says {found.group()}: the scanner may have corrected metal artifacts already")
    if text(header.dataset, "RescaleType").upper() == UNSPECIFIED:
        remarks.append("its RescaleType is unspecified (US): its values are taken for HU, as --assume-hu asks")
    if metal_reduced(header.dataset):
        remarks.append("MetalArtifactReductionApplied says YES: the scanner may have corrected metal artifacts already")
    if transfer_syntax in LOSSY or text(header.dataset, "LossyImageCompression") == "01":
        remarks.append("its images were compressed with loss")
    return tuple(remarks)
