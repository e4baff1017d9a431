"""Overlays in the unused bits of the pixels, an old way of DICOM, to overlays with data of their own."""

from collections.abc import Iterator

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from mar_pipeline.dicom.reading.image_header import NATIVE, PixelFormat

GROUPS = range(0x6000, 0x6020, 2)
ROWS, COLUMNS, BITS, POSITION, DATA = 0x0010, 0x0011, 0x0100, 0x0102, 0x3000
LISTED = tuple(f"{group:04x}{element:04x}" for group in GROUPS for element in (ROWS, COLUMNS, POSITION, DATA))
"""Tags of overlays that the listing reads."""
WITH_ALL_BITS = (*NATIVE, RLELossless)
"""Transfer syntaxes that keep the bits beside the values; the others decode to values."""


def embedded(dataset: Dataset) -> list[int]:
    """Return the groups of overlays that have no data of their own, so that their bits lie in the pixels.

    Args:
        dataset: a header with the tags of `LISTED`.
    """
    return [group for group in GROUPS if (group, POSITION) in dataset and (group, DATA) not in dataset]


def unembed(dataset: Dataset, view: Dataset, words: np.ndarray, pixels: PixelFormat) -> None:
    """Write embedded overlays as overlays of their own into the header: one bit a pixel, the first in the lowest bit.

    An overlay that does not cover the image, or claims bits of the pixels' values, is left as it is.

    Args:
        dataset: header that is changed.
        view: the same, to ask for values.
        words: Int32["rows columns"] as stored, with all of their 16 bits.
        pixels: which of the bits are the values'.
    """
    order = ">u2" if dataset.original_encoding[1] is False else "<u2"  # of all words of the data set
    for group, position in _whole_ones(view, pixels):
        bits = np.packbits((words >> position) & 1, axis=None, bitorder="little").tobytes()
        as_words = np.frombuffer(bits + b"\0" * (len(bits) % 2), "<u2")
        dataset.add_new((group, BITS), "US", 1)
        dataset.add_new((group, POSITION), "US", 0)
        dataset.add_new((group, DATA), "OW", as_words.astype(order).tobytes())


def overlay_remarks(dataset: Dataset, pixels: PixelFormat | None) -> tuple[str, ...]:
    """Return what the user should know of embedded overlays: nothing if there are none.

    Args:
        dataset: a header with the tags of `LISTED`.
        pixels: how the values lie in the words; None if unknown.
    """
    found = embedded(dataset)
    if not found:
        return ()
    if pixels and len(list(_whole_ones(dataset, pixels))) == len(found):
        return ("its overlays lie in unused bits of the pixels; they are written as overlays of their own (60xx)",)
    return ("overlays in the bits of its pixels cannot be kept and are left out",)


def _whole_ones(dataset: Dataset, pixels: PixelFormat) -> Iterator[tuple[int, int]]:
    """Group and bit of embedded overlays that cover the image and lie beside its values."""
    for group in embedded(dataset) if pixels.transfer_syntax in WITH_ALL_BITS else ():
        position = _number(dataset, group, POSITION)
        outside = position > pixels.high_bit or position <= pixels.high_bit - pixels.bits
        shape = (_number(dataset, group, ROWS), _number(dataset, group, COLUMNS))
        if outside and 0 <= position < 16 and shape == (pixels.rows, pixels.columns):
            yield group, position


def _number(dataset: Dataset, group: int, element: int) -> int:
    """Return a whole number of an overlay, -1 if it is absent or malformed."""
    try:
        return int(dataset[group, element].value)
    except Exception:  # a malformed value raises when it is asked for, each in its own way
        return -1
