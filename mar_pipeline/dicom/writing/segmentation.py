"""The metal as a DICOM segmentation on the derived series, so that a viewer shows what was taken for metal."""

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from highdicom import UID, AlgorithmIdentificationSequence
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.sr.codedict import codes
from pydicom.tag import BaseTag, Tag
from pydicom.uid import ExplicitVRLittleEndian

from mar_pipeline.dicom.identifiers import MANUFACTURER, derived_uid
from mar_pipeline.dicom.reading.files import quiet
from mar_pipeline.dicom.writing.derivation import Derivation
from mar_pipeline.dicom.writing.derive import file_meta, write_dataset
from mar_pipeline.dicom.writing.headers import Element, carried, text_of
from mar_pipeline.dicom.writing.tags import OF_THE_STUDY
from simulation.errors import InputError, ResourceError

ALGORITHM = "threshold with hysteresis"
PLACED = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "Rows", "Columns"),
    *("PositionReferenceIndicator", "LossyImageCompression", "LossyImageCompressionRatio"),
    *("LossyImageCompressionMethod",),
)
"""What the segmentation needs of each image."""
BLANK = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
"""What highdicom wants of the patient and the study; theirs come in afterwards, undecoded."""
SAME_DIRECTION = 1e-3
"""Direction cosines that differ less are the same: scanners round them per slice."""


def metal_segmentation(
    path: Path,
    images: Sequence[Path],
    masks: Callable[[int], np.ndarray],
    derivation: Derivation,
    series_number: int,
    parameters: Mapping[str, str] | None = None,
) -> int:
    """Write the metal as a binary segmentation with one segment; slices without metal have no frame.

    The same images, masks and derivation give the same file, byte for byte. Of patient and study it says what the first
    image says, and nothing else. Masks go through a temporary file beside `path`, one byte a pixel.

    Args:
        path: a new file.
        images: files of one series to refer to: the derived ones, which lie beside the segmentation.
        masks: metal of an image by its place in `images`, Bool["rows columns"]; asked for once each, in order.
        derivation: of the derived series.
        series_number: SeriesNumber of the segmentation, another than that of any image series.
        parameters: what the metal was found by, such as `{"threshold": "2500 HU"}`, for the algorithm's description.

    Returns:
        Number of frames; 0 if there is no metal, and then nothing is written.

    Raises:
        ResourceError: if the file exists or cannot be written.
        InputError: if the images lie in different directions.
        ValueError: if a mask has another shape than its image.
    """
    try:
        with tempfile.TemporaryFile(dir=path.parent) as store, _highdicom_quiet(), quiet():
            placed, digest = _collect(images, masks, store)
            if not placed:
                return 0
            frames = np.memmap(store, bool, "r", shape=(len(placed), int(placed[0].Rows), int(placed[0].Columns)))
            header = carried(dcmread(images[0], stop_before_pixels=True), keep_private=False)[0]
            parts = (derivation.series_uid, digest, json.dumps(dict(parameters or {})))
            whole = derived_uid("segmentation", *parts, *(str(image.SOPInstanceUID) for image in placed))
            made = _segmentation(placed, frames, derivation, series_number, whole, parameters or {}, header)
            write_dataset(_with_patient(made, header), path)
    except OSError as error:
        raise ResourceError(f"{path.name}: cannot be made: {error.strerror}") from None
    return len(placed)


def _collect(images: Sequence[Path], masks: Callable[[int], np.ndarray], store: IO[bytes]) -> tuple[list[Dataset], str]:
    """Return headers of the images with metal and the hash of their masks, which go to the store."""
    placed: list[Dataset] = []
    digest = hashlib.sha256()
    for index, image in enumerate(images):
        mask = np.asarray(masks(index), dtype=bool)
        header = dcmread(image, specific_tags=list(PLACED), stop_before_pixels=True)
        if mask.shape != (header.Rows, header.Columns):
            raise ValueError(f"masks({index}): got {mask.shape}; expected {(header.Rows, header.Columns)}")
        if mask.any():
            data = mask.tobytes()
            store.write(data)
            digest.update(data)
            placed.append(_placed(header, placed[0] if placed else None))
    store.flush()
    return placed, digest.hexdigest()


def _placed(header: Dataset, first: Dataset | None) -> Dataset:
    """Return what the segmentation needs of an image: no patient, and the first image's direction."""
    image = Dataset()
    for keyword in PLACED:
        if keyword in header:
            setattr(image, keyword, header[keyword].value)
    for keyword in BLANK:
        setattr(image, keyword, None)
    if first is not None:
        if not np.allclose(image.ImageOrientationPatient, first.ImageOrientationPatient, atol=SAME_DIRECTION, rtol=0):
            raise InputError("got slices in different directions, of which no segmentation can be made")
        image.ImageOrientationPatient = first.ImageOrientationPatient
    return image


def _segmentation(
    placed: list[Dataset],
    frames: np.ndarray,
    derivation: Derivation,
    series_number: int,
    whole: str,
    parameters: Mapping[str, str],
    header: Dataset,
) -> Segmentation:
    """Return highdicom's segmentation; what it draws by chance or reads from the clock follows from the derivation."""
    created = derivation.created_at(text_of(header, "TimezoneOffsetFromUTC"))
    metal = SegmentDescription(
        segment_number=1,
        segment_label="Metal",
        segmented_property_category=codes.SCT.PhysicalObject,
        segmented_property_type=codes.SCT.Implant,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=ALGORITHM,
            family=codes.DCM.NeighborhoodAnalysis,
            version=derivation.version,
            source=MANUFACTURER,
            parameters=dict(parameters) or None,
        ),
    )
    made = Segmentation(
        source_images=placed,
        pixel_array=frames,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[metal],
        series_instance_uid=UID(derived_uid("segmentation series", whole)),
        series_number=series_number,
        sop_instance_uid=UID(whole),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=derivation.method,
        software_versions=derivation.version,
        device_serial_number=derivation.configuration_sha256[:16],
        content_label="METAL",
        content_description="Metal found for artifact reduction; research use only",
        series_description=f"Metal {derivation.suffix}",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        content_date=created.date(),
        content_time=created.time(),
        series_date=created.date(),
        series_time=created.time(),
    )
    made.InstanceCreationDate, made.InstanceCreationTime = made.ContentDate, made.ContentTime
    for item in made.ContributingEquipmentSequence:
        item["ContributionDateTime"].value = f"{created:%Y%m%d%H%M%S.%f}"
    dimensions = derived_uid("segmentation dimensions", whole)
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions
    return made


def _with_patient(made: Segmentation, header: Dataset) -> FileDataset:
    """Return the segmentation with the patient and study of an image, as they stand there."""
    made["PixelData"].VR = "OB"
    elements: dict[BaseTag, Element] = {tag: made[tag] for tag in made.keys()}  # noqa: SIM118
    for keyword in BLANK:
        elements.pop(Tag(keyword), None)
    for tag in header.keys():  # noqa: SIM118
        if tag.group in (0x0010, 0x0012) or tag in OF_THE_STUDY:
            elements[tag] = header.get_item(tag)
    meta = file_meta(made.SOPClassUID, made.SOPInstanceUID)
    dataset = FileDataset("", elements, bytes(128), meta, is_implicit_VR=False)
    dataset.set_original_encoding(False, True, header.original_character_set)
    return dataset


@contextmanager
def _highdicom_quiet() -> Iterator[None]:
    """Keep highdicom's log lines to itself: they name identifiers."""
    logger = logging.getLogger("highdicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
