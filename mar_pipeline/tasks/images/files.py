"""Image files of 8 bit: which ones a folder holds, and their pixels; whatever else is refused by name."""

import os
import re
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from simulation.errors import InputError
from simulation.sources.slices import reading

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
"""Of the files that count as images, in any case."""

_FORMATS = ("PNG", "JPEG", "BMP")
_GREY = ("1", "L")
_COLOUR = ("RGB", "RGBA", "LA", "P", "PA")
_PNG = b"\x89PNG"
_MAGIC = (_PNG, b"\xff\xd8", b"BM")
"""First bytes of the formats."""
_PNG_DEPTH_BYTE = 24


def list_images(folder: Path) -> list[Path]:
    """Return the image files of a folder, naturally sorted: 2.png before 10.png. Hidden files do not count.

    Args:
        folder: is not searched deeper.

    Raises:
        InputError: there is no such folder, it cannot be read, or it holds no image.
    """
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise InputError(f"{folder}: {os.strerror(error.errno or 0)}; expected a folder of images") from error
    found = [name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    if not found:
        raise InputError(
            f"{folder}: got a folder without images ({len(names)} other entries); expected files that end in "
            f"{', '.join(SUFFIXES)}; name the folder that holds them"
        )
    return [Path(folder) / name for name in sorted(found, key=natural_key)]


def natural_key(text: str) -> list[tuple[int, str]]:
    """Return what to sort names by, so that numbers in them count as numbers."""
    parts = re.findall(r"\d+|\D+", text)
    return [(int(part), "") if part.isdecimal() else (-1, part.lower()) for part in parts] + [(-2, text)]


def read_image(path: Path, grey: Literal["repeat", "refuse"] = "refuse") -> np.ndarray:
    """Return the pixels of an image file, upright as its EXIF orientation says.

    Args:
        path: a PNG, JPEG or BMP file of 8 bit per channel; an alpha channel must be opaque.
        grey: what becomes of an image without colour: `repeat` makes three equal channels of it.

    Returns:
        UInt8["H W 3"].

    Raises:
        InputError: the file is missing, broken or truncated, has other than 8 bit, is transparent, or is grey where
            that is refused; one line, it names the file.
    """
    _refuse_other_files(path)
    with reading(str(path), "a PNG, JPEG or BMP image"), Image.open(path, formats=_FORMATS) as file:
        mode = file.mode
        if mode not in (*_GREY, *_COLOUR):
            raise InputError(
                f"{path}: got pixels of the kind {mode}; expected 8 bit grey or RGB; convert the file, or take it out"
            )
        image = ImageOps.exif_transpose(file)
        opaque = image.convert("RGBA") if image.has_transparency_data else None
        pixels = np.array(image.convert("RGB"))
    if opaque is not None and np.array(opaque)[..., 3].min() < 255:
        raise InputError(f"{path}: got transparent pixels; expected an opaque image; flatten the file, or take it out")
    if mode in (*_GREY, "LA") and grey == "refuse":
        raise InputError(f"{path}: got a grey image; expected colour; convert the file, or take it out")
    return pixels


def _refuse_other_files(path: Path) -> None:
    """Format that may hold floats, and colour PNG of 16 bit, which Pillow reads as if it had 8."""
    with reading(str(path), "a PNG, JPEG or BMP image"), path.open("rb") as file:
        head = file.read(_PNG_DEPTH_BYTE + 1)
    if not head.startswith(_MAGIC):
        raise InputError(f"{path}: got no PNG, JPEG or BMP image; expected one of 8 bit; convert the file")
    if head.startswith(_PNG) and len(head) > _PNG_DEPTH_BYTE and head[_PNG_DEPTH_BYTE] > 8:
        raise InputError(
            f"{path}: got {head[_PNG_DEPTH_BYTE]} bit per channel; expected 8; convert the file, or take it out"
        )
