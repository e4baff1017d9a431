"""Derived CT images and what the validators of dicom3tools say of files."""

import dataclasses
import re
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from dicom_files import fake_uid
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset

from mar_pipeline.dicom.reading.files import quiet
from mar_pipeline.dicom.reading.pixels import SlicePixels
from mar_pipeline.dicom.writing.derivation import Derivation
from mar_pipeline.dicom.writing.derive import derived_slice, write_dataset

TOO_YOUNG = re.compile(r"\(0018,939[012]\)> - Attribute with an even group number is not a recognized standard")
WEIGHTS = "fedcba9876543210" * 4
DERIVATION = Derivation(
    method="NMAR",
    version="1.2.3",
    configuration_sha256="0123456789abcdef" * 4,
    weights_sha256=WEIGHTS,
    series_uid=fake_uid("derived series"),
    series_number=1003,
    created=datetime(2026, 5, 6, 23, 8, 9, 120000, tzinfo=UTC),
)


def derivation(**changes: Any) -> Derivation:
    """`DERIVATION` with other values."""
    return dataclasses.replace(DERIVATION, **changes)


def source_of(path: Path) -> tuple[Dataset, SlicePixels]:
    """Header and pixels of any slice, by pydicom alone: nothing that is tested here read them."""
    with quiet():
        header, decoded = dcmread(path, stop_before_pixels=True), dcmread(path)
        stored = np.asarray(decoded.pixel_array, np.int32)
        bits, slope, intercept = int(decoded.BitsStored), float(decoded.RescaleSlope), float(decoded.RescaleIntercept)
    lowest = -(1 << (bits - 1)) if decoded.PixelRepresentation else 0
    return header, SlicePixels(stored, slope, intercept, np.zeros(stored.shape, bool), lowest, lowest + (1 << bits) - 1)


def corrected(pixels: SlicePixels) -> np.ndarray:
    """Stored values that differ from the source's in one corner."""
    stored = pixels.stored.copy()
    stored[:3, :5] = np.clip(stored[:3, :5] + 7, pixels.lowest, pixels.highest)
    return stored


def derive_file(
    source: Path, target: Path, made: Derivation = DERIVATION, change: Callable[[FileDataset], Any] | None = None
) -> Path:
    """Writes the derived image of a source file, changed before it is written if one likes."""
    header, pixels = source_of(source)
    dataset = derived_slice(header, pixels, corrected(pixels), made)
    if change is not None:
        change(dataset)
    write_dataset(dataset, target)
    return target


def errors_of(validator: str, path: Path) -> list[str]:
    """The lines of dciodvfy's report that name an error.

    Attributes of DICOM 2026b are an error to a validator of 2022 by their numbers alone; those three are no error here.
    """
    report = subprocess.run([validator, "-new", path], capture_output=True, text=True, timeout=60, check=False)
    lines = (report.stdout + report.stderr).splitlines()
    assert any(line in ("CTImage", "Segmentation") for line in lines), "the validator did not recognise the object"
    return sorted(line for line in lines if line.startswith("Error") and not TOO_YOUNG.search(line))


def complaints_about(validator: str, paths: Sequence[Path]) -> list[str]:
    """All that dcentvfy reports of files that belong together."""
    report = subprocess.run([validator, *paths], capture_output=True, text=True, timeout=60, check=False)
    return sorted((report.stdout + report.stderr).splitlines())
