"""A small CT series with metal from the embedded phantom, to try `mar dicom` on: nobody's data.

python -m mar_pipeline.dicom.example FOLDER
"""

import argparse
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset
from pydicom.uid import CTImageStorage

from mar_pipeline.dicom.identifiers import derived_uid
from mar_pipeline.dicom.writing.derive import file_meta, write_dataset
from simulation.implants.library import ImplantLibrary
from simulation.phantoms import phantom
from simulation.physics.protocols import protocol
from simulation.simulator import Simulator
from simulation.units import hu_to_mu, mu_to_hu

_GAP_MM, _INTERCEPT = 3.0, -1024


def write_example(
    folder: Path, slices: int = 5, with_metal: Collection[int] = (1, 2, 3), size: int = 512, seed: int = 0
) -> None:
    """Write a pelvis on a clinical scanner, some of its slices with steel hips.

    Args:
        folder: is made.
        slices: how many, 3 mm apart.
        with_metal: numbers of those with metal, from 0.
        size: rows and columns.
        seed: of anatomy, implants and noise; the same gives the same bytes.

    Raises:
        OSError: the folder cannot be written.
    """
    hu, pixel_mm = phantom("pelvis", np.random.default_rng(seed), size)
    mu = np.maximum(hu_to_mu(hu), 0).astype(np.float32)
    clinical = protocol("clinical")
    geometry = replace(clinical.geometry, image_shape=hu.shape, pixel_mm=pixel_mm)
    simulator = Simulator(replace(clinical, geometry=geometry), "cpu")
    metal, _ = ImplantLibrary(("hip",), pixel_mm, "steel").sample(mu, np.random.default_rng(seed))
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(slices):
        rng = np.random.default_rng((seed, number))
        scanned = simulator.simulate(mu, metal, rng).ma_CT if number in with_metal else simulator.clean(mu, rng)[1]
        write_dataset(_ct_image(mu_to_hu(scanned), pixel_mm, number, seed), folder / f"{number + 1:03}.dcm")


def _ct_image(hu: np.ndarray, pixel_mm: float, number: int, seed: int) -> FileDataset:
    """Return a complete CT image of 16 bits."""
    name = ("example", str(seed), str(hu.shape))
    meta = file_meta(CTImageStorage, derived_uid(*name, str(number)))
    dataset = FileDataset("", {}, preamble=bytes(128), file_meta=meta)
    corner_mm = -(len(hu) - 1) / 2 * pixel_mm
    for keyword, value in {
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": derived_uid(*name, "study"),
        "SeriesInstanceUID": derived_uid(*name, "series"),
        "FrameOfReferenceUID": derived_uid(*name, "frame"),
        "PatientName": "Phantom^Pelvis",
        "PatientID": "PHANTOM",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "Modality": "CT",
        "Manufacturer": "simulated scanner",
        "SeriesDescription": "pelvis with steel hips",
        "SeriesNumber": 1,
        "InstanceNumber": number + 1,
        "AcquisitionNumber": 1,
        "BodyPartExamined": "PELVIS",
        "PatientPosition": "HFS",
        "KVP": 120,
        "ReconstructionDiameter": round(len(hu) * pixel_mm, 3),
        "SliceThickness": _GAP_MM,
        "PixelSpacing": [round(pixel_mm, 6)] * 2,
        "ImagePositionPatient": [round(corner_mm, 6), round(corner_mm, 6), _GAP_MM * number],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "Rows": hu.shape[0],
        "Columns": hu.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "RescaleSlope": 1,
        "RescaleIntercept": _INTERCEPT,
        "RescaleType": "HU",
        "WindowCenter": 40,
        "WindowWidth": 400,
    }.items():
        setattr(dataset, keyword, value)
    for keyword in (
        *("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber"),
        *("ReferringPhysicianName", "PositionReferenceIndicator"),
    ):
        setattr(dataset, keyword, None)
    stored = np.clip(np.rint(hu) - _INTERCEPT, 0, np.iinfo(np.int16).max)
    dataset.PixelData = stored.astype("<i2").tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


def main() -> None:
    """Write the series into the folder that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m mar_pipeline.dicom.example", description="Write a small CT series with metal of a phantom."
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="new or empty folder")
    folder = parser.parse_args().folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        parser.error(f"{folder}: is not an empty folder; name a new one")
    write_example(folder)


if __name__ == "__main__":
    main()
