"""RTSTRUCT and SEG files that refer to a series of `dicom_files`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from dicom_files import fake_uid
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, SegmentationStorage

OWN_NAME = "Fake^Patient bladder"
"""What the files call their regions."""


def _file(sop_class: str, name: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, fake_uid(name)
    meta.TransferSyntaxUID, meta.ImplementationClassUID = ExplicitVRLittleEndian, fake_uid("implementation")
    dataset = FileDataset("", {}, preamble=bytes(128), file_meta=meta)
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, fake_uid(name)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = fake_uid("study"), fake_uid("series of", name)
    return dataset


def _item(**values: object) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def write_rtstruct(path: Path, rois: dict[int, Sequence[np.ndarray]], series_uid: str | None = None) -> None:
    """Writes an RTSTRUCT.

    Args:
        path: a new file.
        rois: number -> closed contours, Float["points 3"] in mm.
        series_uid: that it refers to; None is the usual one.
    """
    dataset = _file(RTStructureSetStorage, path.name)
    dataset.Modality = "RTSTRUCT"
    series = _item(SeriesInstanceUID=series_uid or fake_uid("series"), ContourImageSequence=Items())
    study = _item(RTReferencedSeriesSequence=Items([series]))
    dataset.ReferencedFrameOfReferenceSequence = Items([_item(RTReferencedStudySequence=Items([study]))])
    dataset.StructureSetROISequence = Items([_item(ROINumber=number, ROIName=OWN_NAME) for number in rois])
    dataset.ROIContourSequence = Items(
        _item(
            ReferencedROINumber=number,
            ContourSequence=Items(
                _item(
                    ContourGeometricType="CLOSED_PLANAR",
                    NumberOfContourPoints=len(points),
                    ContourData=[f"{value:.4f}" for value in points.ravel()],
                )
                for points in contours
            ),
        )
        for number, contours in rois.items()
    )
    dataset.save_as(path, enforce_file_format=True)


def write_seg(path: Path, masks: dict[int, np.ndarray], **changes: object) -> None:
    """Writes a binary SEG with one segment.

    Args:
        path: a new file.
        masks: number of the image in the usual series -> Bool["rows columns"].
        changes: keywords and values to set in the end.
    """
    dataset = _file(SegmentationStorage, path.name)
    frames = np.stack(list(masks.values()))
    dataset.Modality, dataset.SegmentationType = "SEG", "BINARY"
    dataset.ReferencedSeriesSequence = Items([_item(SeriesInstanceUID=fake_uid("series"))])
    dataset.SegmentSequence = Items([_item(SegmentNumber=4, SegmentLabel=OWN_NAME)])
    dataset.PerFrameFunctionalGroupsSequence = Items(
        _item(
            SegmentIdentificationSequence=Items([_item(ReferencedSegmentNumber=4)]),
            DerivationImageSequence=Items(
                [_item(SourceImageSequence=Items([_item(ReferencedSOPInstanceUID=fake_uid("image", number))]))]
            ),
        )
        for number in masks
    )
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.NumberOfFrames = 1, "MONOCHROME2", len(frames)
    dataset.Rows, dataset.Columns = frames.shape[1:]
    dataset.BitsAllocated = dataset.BitsStored = 1
    dataset.HighBit = dataset.PixelRepresentation = 0
    bits = np.packbits(frames.ravel(), bitorder="little").tobytes()
    dataset.PixelData = bits + bytes(len(bits) % 2)
    dataset["PixelData"].VR = "OB"
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path, enforce_file_format=True)
