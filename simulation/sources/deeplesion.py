"""DeepLesion as NIH ships it: 16-bit PNG slices, HU = value - 32768, and DL_info.csv with spacing and split."""

import csv
import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

from simulation.errors import InputError, NothingToProcessError, UsageError
from simulation.sources.slices import AIR_HU, SliceRef, image_from_hu, reading, safe_name, square_pixel_mm

HU_OFFSET = 32768
SPLIT_CODES = {"train": 1, "val": 2, "test": 3}
COLUMNS = ("File_name", "Slice_range", "Spacing_mm_px_", "Train_Val_Test")
PNG_END = b"IEND\xaeB`\x82"

Row = dict[str, str]


def find_images(path: Path) -> Path | None:
    """Return the Images_png folder of a source, which may be that folder itself; None if it is something else."""
    if not path.is_dir():
        return None
    path = Path(os.path.abspath(path))  # not resolve(): Images_png may be a link
    for images in (path, path / "Images_png"):
        if images.name == "Images_png" and images.is_dir():
            return images
    return None


def list_deeplesion(images: Path, split: str) -> list[SliceRef]:
    """Return slices of an official split, by series and slice; a series without a row in DL_info.csv is in each split.

    Args:
        images: the folder Images_png; DL_info.csv is beside it.
        split: "train", "val" or "test".

    Raises:
        UsageError: if DL_info.csv is missing or the split has no slices.
        InputError: if DL_info.csv cannot be read as such.
    """
    table = _read_table(images.parent / "DL_info.csv")
    refs, others = [], 0
    for series in sorted(entry.name for entry in os.scandir(images) if entry.is_dir()):
        names = (entry.name for entry in os.scandir(images / series))
        for name in sorted(name for name in names if name.lower().endswith(".png") and not name.startswith(".")):
            stem = name[:-4]
            row = _row_of(table.get(series, []), stem)
            if row is not None and row["Train_Val_Test"] != str(SPLIT_CODES[split]):
                others += 1
                continue
            relative = f"Images_png/{series}/{name}"
            spacing = None if row is None else row["Spacing_mm_px_"]
            arguments = (str(images.parent), relative, series, spacing)
            refs.append(SliceRef(safe_name(series), safe_name(stem), relative, read_png, arguments))
    if not refs:
        raise NothingToProcessError(
            f"source {images}: no slice of the split {split!r}, {others} of other splits; expected "
            "Images_png/<series>/<slice>.png; choose another split"
        )
    return refs


def _read_table(path: Path) -> dict[str, list[Row]]:
    """Return rows of DL_info.csv by series."""
    if not path.is_file():
        raise UsageError(f"source {path.parent}: no DL_info.csv beside Images_png; put there the one of DeepLesion")
    table: dict[str, list[Row]] = {}
    with reading("DL_info.csv", "the table as NIH ships it"), path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or [])]
        if missing:
            raise InputError(f"DL_info.csv: no column {', '.join(missing)}; expected the table as NIH ships it")
        for row in reader:
            cells = {column: (row[column] or "").strip() for column in COLUMNS}
            if cells["Train_Val_Test"] not in {"1", "2", "3"}:
                raise InputError(
                    f"DL_info.csv line {reader.line_num}: got Train_Val_Test {cells['Train_Val_Test']!r}; "
                    "expected 1, 2 or 3; fetch the table again"
                )
            table.setdefault(cells["File_name"].rpartition("_")[0], []).append(cells)
    return table


def _row_of(rows: list[Row], stem: str) -> Row | None:
    """Return the row of a series whose Slice_range holds the slice, else its first, else None."""
    for row in rows:
        try:
            first, last = (int(number) for number in row["Slice_range"].split(","))
            if first <= int(stem) <= last:
                return row
        except ValueError:
            continue
    return rows[0] if rows else None


def read_png(root: str, relative: str, series: str, spacing: str | None) -> tuple[np.ndarray, float]:
    """Read one slice.

    Args:
        root: the folder of Images_png and DL_info.csv.
        relative: the PNG, relative to root.
        series: its series, for the message.
        spacing: Spacing_mm_px_ of its row, "0.81, 0.81, 1"; None if the series has no row.

    Returns:
        (image_mu float32 (rows, columns) in 1/cm, pixel_mm).

    Raises:
        InputError: if the row is missing or malformed, or the PNG is truncated, not 16-bit grey or not HU + 32768.
    """
    if spacing is None:
        raise InputError(f"{relative}: DL_info.csv has no row of the series {series}; add it, or take the slice out")
    try:
        across_mm, down_mm = (float(number) for number in spacing.split(",")[:2])
    except ValueError as error:
        raise InputError(
            f"{relative}: DL_info.csv gives Spacing_mm_px_ {spacing!r}; expected three numbers such as '0.8, 0.8, 1'"
        ) from error
    pixel_mm = square_pixel_mm(across_mm, down_mm, f"{relative} (DL_info.csv)")
    hu = _read_grey16(Path(root, relative), relative).astype(np.int32) - HU_OFFSET
    if hu.size and hu.max() < AIR_HU:
        raise InputError(
            f"{relative}: the densest pixel has {hu.max()} HU; expected 16-bit values of HU + {HU_OFFSET}; "
            "convert the file to the form in which NIH ships DeepLesion"
        )
    return image_from_hu(hu), pixel_mm


def _read_grey16(path: Path, relative: str) -> np.ndarray:
    """Decode a 16-bit grey PNG; Pillow checks the sums of the pixels but forgives a lost end."""
    with reading(relative, "a whole 16-bit grey PNG"):
        data = path.read_bytes()
        if PNG_END not in data:
            raise EOFError("no IEND chunk")
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            mode = image.mode
            if mode in {"I;16", "I;16B", "I"}:  # older Pillow calls it "I"
                return np.array(image)
    kind = {"L": "8-bit grey", "1": "1-bit", "P": "palette", "LA": "grey with alpha"}.get(mode, f"colour ({mode})")
    raise InputError(
        f"{relative}: got a PNG of the kind {kind}; expected 16-bit grey with HU + {HU_OFFSET}; use the files NIH ships"
    )
