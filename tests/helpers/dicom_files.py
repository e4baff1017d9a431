"""CT images as DICOM files, made of a fake patient and a disc of water: what tests read, send and derive from."""

import hashlib
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

SIDE = 64
PLAIN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)
SECRETS = ("Fake^Patient", "FAKE-ID-0815", "FAKEACC4711", "19561224", "20240229")
"""What of the patient and study stands in every file and in no message: name, ID, accession number, dates."""

PATIENT_AND_STUDY: dict[str, Any] = {
    "SpecificCharacterSet": "ISO_IR 100",
    "PatientName": SECRETS[0],
    "PatientID": SECRETS[1],
    "PatientBirthDate": SECRETS[3],
    "PatientSex": "O",
    "PatientAge": "067Y",
    "AccessionNumber": SECRETS[2],
    "StudyDate": SECRETS[4],
    "StudyTime": "101500",
    "StudyID": "7",
    "StudyDescription": "Hip",
    "ReferringPhysicianName": "Fake^Doctor",
}
SERIES_AND_SCANNER: dict[str, Any] = {
    "Modality": "CT",
    "SeriesNumber": 3,
    "SeriesDescription": "Hip 5.0 soft",
    "SeriesDate": SECRETS[4],
    "SeriesTime": "101600",
    "BodyPartExamined": "PELVIS",
    "PatientPosition": "HFS",
    "PositionReferenceIndicator": "",
    "Manufacturer": "Fake Scanners",
    "ManufacturerModelName": "Ring 64",
    "DeviceSerialNumber": "12",
    "SoftwareVersions": "1.0",
    "ProtocolName": "Hip",
    "KVP": "120",
    "ConvolutionKernel": "B30",
    "XRayTubeCurrent": 200,
    "ExposureTime": 500,
    "ReconstructionDiameter": "256",
    "SliceThickness": "5",
}
IMAGE: dict[str, Any] = {
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    "AcquisitionDate": SECRETS[4],
    "AcquisitionTime": "101601",
    "AcquisitionNumber": 1,
    "ContentDate": SECRETS[4],
    "ContentTime": "101602",
    "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
    "PixelSpacing": [4.0, 4.0],
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "BitsAllocated": 16,
    "BitsStored": 12,
    "HighBit": 11,
    "PixelRepresentation": 0,
    "RescaleIntercept": "-1024",
    "RescaleSlope": "1",
    "RescaleType": "HU",
    "WindowCenter": "40",
    "WindowWidth": "400",
}


def fake_uid(*parts: object) -> str:
    """A valid UID, the same for the same parts."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, '/'.join(map(str, parts))).int}"


def disc_hu(number: int = 0, rows: int = SIDE, columns: int = SIDE) -> np.ndarray:
    """Water in air with a bone, float32 (rows, columns) of whole HU; no two slices alike.

    Args:
        number: of the slice, which moves the bone's value.
        rows: height in pixels.
        columns: width in pixels.
    """
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    hu = np.where(x**2 + y**2 < 0.8, np.round(30 * x + 10 * y), -1000.0)
    hu[(x - 0.3) ** 2 + y**2 < 0.03] = 700 + number
    return hu.astype(np.float32)


def ct_dataset(number: int = 0, hu: np.ndarray | None = None, **attributes: Any) -> FileDataset:
    """A complete CT image in Explicit VR Little Endian, of which dciodvfy reports no error.

    The pixels are written with the Bits*, PixelRepresentation, RescaleSlope and RescaleIntercept that the image has in
    the end. Slices lie 5 mm apart along z.

    Args:
        number: of the slice, from 0: position, InstanceNumber and SOPInstanceUID follow from it, the latter also from a
            SeriesInstanceUID that is given.
        hu: image in HU (rows, columns); None is `disc_hu(number)`.
        attributes: DICOM keywords and the values to set; None deletes the attribute.
    """
    hu = disc_hu(number) if hu is None else np.asarray(hu)
    dataset = Dataset()
    made = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": fake_uid("image", *filter(None, [attributes.get("SeriesInstanceUID")]), number),
        "StudyInstanceUID": fake_uid("study"),
        "SeriesInstanceUID": fake_uid("series"),
        "FrameOfReferenceUID": fake_uid("frame"),
        "InstanceNumber": number + 1,
        "ImagePositionPatient": [-126.0, -126.0, 5.0 * number],
        "Rows": hu.shape[0],
        "Columns": hu.shape[1],
    }
    for keyword, value in (PATIENT_AND_STUDY | SERIES_AND_SCANNER | IMAGE | made | attributes).items():
        if value is not None:
            setattr(dataset, keyword, value)
    stored = np.round((hu - float(dataset.get("RescaleIntercept", 0))) / float(dataset.get("RescaleSlope", 1)))
    if "PixelData" not in attributes:
        dataset.PixelData = _as_bytes(stored, dataset)
        dataset["PixelData"].VR = "OW"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID") or CTImageStorage
    meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID") or made["SOPInstanceUID"]
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = fake_uid("implementation")
    return FileDataset("", dataset, preamble=bytes(128), file_meta=meta)


def _as_bytes(stored: np.ndarray, dataset: Dataset) -> bytes:
    """Little-endian words with the value in bits HighBit .. HighBit - BitsStored + 1, clipped to what they hold."""
    bits, signed = int(dataset.BitsStored), int(dataset.PixelRepresentation)
    lowest = -(1 << (bits - 1)) if signed else 0
    values = np.clip(stored, lowest, lowest + (1 << bits) - 1).astype(np.int64)
    shift = int(dataset.HighBit) + 1 - bits
    words = (values << shift) if shift or not signed else values  # signed words without a shift carry their sign on
    return (words & ((1 << int(dataset.BitsAllocated)) - 1)).astype(f"<u{dataset.BitsAllocated // 8}").tobytes()


def save(dataset: FileDataset, path: Path, transfer_syntax: str = ExplicitVRLittleEndian, **encoding: Any) -> Path:
    """Writes a data set of `ct_dataset`, its pixels encoded by pydicom's plugins; the UIDs stay as they are.

    Args:
        dataset: is changed when the transfer syntax is another.
        path: its folders are made.
        transfer_syntax: UID.
        encoding: options of the encoder, such as `j2k_psnr=[60]` for lossy JPEG 2000.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if transfer_syntax == ExplicitVRBigEndian:  # pydicom swaps the attributes' bytes, not those of the pixels
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
        dataset.set_original_encoding(is_implicit_vr=False, is_little_endian=False)
    if transfer_syntax in PLAIN:
        dataset.file_meta.TransferSyntaxUID = UID(transfer_syntax)
    else:
        dataset.compress(transfer_syntax, generate_instance_uid=False, **encoding)
    dataset.save_as(path, enforce_file_format=True)
    return path


def strip_meta(path: Path, keep_meta: bool = False) -> Path:
    """Takes preamble and magic word off a file, and its file meta unless that is to stay: a bare data set."""
    whole = path.read_bytes()
    length = int.from_bytes(whole[140:144], "little")  # of the file meta behind its group length
    path.write_bytes(whole[132 if keep_meta else 144 + length :])
    return path


def write_series(
    folder: Path,
    count: int = 3,
    spacing_mm: float = 5.0,
    hu: np.ndarray | None = None,
    transfer_syntax: str = ExplicitVRLittleEndian,
    **attributes: Any,
) -> list[Path]:
    """Writes slices 0 .. count - 1 as `0.dcm`, `1.dcm`, ... in the order of their positions.

    Args:
        folder: is made if it is not there.
        count: number of slices.
        spacing_mm: distance of neighbours along z.
        hu: one image (rows, columns) for all, or one for each (count, rows, columns); None is `disc_hu`.
        transfer_syntax: UID.
        attributes: as of `ct_dataset`.
    """
    paths = []
    for number in range(count):
        image = hu[number] if hu is not None and np.ndim(hu) == 3 else hu
        placed = {"ImagePositionPatient": [-126.0, -126.0, spacing_mm * number]} | attributes
        dataset = ct_dataset(number, image, **placed)
        paths.append(save(dataset, folder / f"{number}.dcm", transfer_syntax))
    return paths


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file under a folder: that nothing was changed."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
