"""Encoded pixels to stored values: pydicom's decoders, with what they take on trust checked before and after."""

from functools import cache
from typing import Any

import numpy as np
from pydicom.encaps import get_frame
from pydicom.pixels import get_decoder
from pydicom.uid import JPEG2000, UID, JPEG2000Lossless, JPEGLSLossless, JPEGLSNearLossless, RLELossless

from mar_pipeline.dicom.reading.codestreams import FrameSize, frame_size, is_whole, rle_sizes
from mar_pipeline.dicom.reading.files import quiet
from mar_pipeline.dicom.reading.image_header import NATIVE, PixelFormat, syntax_name
from simulation.errors import InputError

INSTALL = "pip install 'mar-pipeline[clinic]'"
RIGHT_ALIGNED = (JPEG2000, JPEG2000Lossless, JPEGLSLossless, JPEGLSNearLossless)
"""Decoded to values, of which pydicom corrects the sign; the others are decoded to words of 16 bits."""
PLUGINS = {RLELossless: "pydicom", JPEGLSLossless: "pyjpegls", JPEGLSNearLossless: "pyjpegls"}
"""The other decoders make up what a damaged frame lacks (JPEG-LS) or abort on it (RLE)."""
MAX_GROWTH = 1.25
"""No encoder makes a frame longer than this times its pixels."""
MAX_ENCODED_HEADER = 65536


@cache
def _has_decoder(transfer_syntax: str) -> bool:
    decoder, plugin = get_decoder(transfer_syntax), PLUGINS.get(UID(transfer_syntax))
    return transfer_syntax in NATIVE or (plugin in decoder.available_plugins if plugin else decoder.is_available)


def check_decoder(transfer_syntax: str, name: str) -> None:
    """Raise InputError if the decoder of a transfer syntax is not installed."""
    with quiet():
        available = _has_decoder(transfer_syntax)
    if not available:
        raise InputError(f"{name}: no decoder for the transfer syntax {syntax_name(transfer_syntax)}; {INSTALL}")


def stored_values(data: bytes, pixels: PixelFormat, name: str) -> np.ndarray:
    """Return the image as it is stored, before slope and intercept: the first of `values_and_words`."""
    return values_and_words(data, pixels, name)[0]


def values_and_words(data: bytes, pixels: PixelFormat, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the image as it is stored, before slope and intercept, and the words from which its values were taken.

    Args:
        data: value of PixelData.
        pixels: how the values lie in it.
        name: of the file in messages.

    Returns:
        (Int32["rows columns"], within `pixels.lowest` .. `pixels.highest`; Int32["rows columns"] with all bits that the
        decoder gives).

    Raises:
        InputError: the data is damaged, has another size than the header says, or needs a decoder that is missing.
    """
    check_decoder(pixels.transfer_syntax, name)
    damaged = f"{name}: its pixel data is damaged or incomplete; fetch the file again"
    try:
        with quiet():
            _check_size(data, pixels, name)
            words = _decoded(data, pixels)
    except InputError:
        raise
    except Exception:  # each decoder has its own
        raise InputError(damaged) from None
    if words.shape != (pixels.rows, pixels.columns):
        raise InputError(damaged)
    if pixels.transfer_syntax in RIGHT_ALIGNED:
        if words.min() < pixels.lowest or words.max() > pixels.highest:
            raise InputError(f"{name}: got values that do not fit its {pixels.bits} bits (BitsStored)")
        return words.astype(np.int32), words.astype(np.int32)
    words = words.astype(np.int32)
    return _from_words(words, pixels), words


def _check_size(data: bytes, pixels: PixelFormat, name: str) -> None:
    """Compare the data with the header before a decoder believes either."""
    if pixels.transfer_syntax in NATIVE:
        if len(data) < pixels.decoded_bytes or len(data) >= 2 * pixels.decoded_bytes:
            raise InputError(
                f"{name}: got {len(data)} bytes of pixel data; expected {pixels.decoded_bytes} for {pixels.rows} rows, "
                f"{pixels.columns} columns; fetch the file again"
            )
        return
    frame = get_frame(data, 0, number_of_frames=1)
    if len(frame) > MAX_GROWTH * pixels.decoded_bytes + MAX_ENCODED_HEADER:
        raise InputError(f"{name}: its encoded pixel data is longer than its pixels; the file is damaged")
    if not is_whole(frame, pixels.transfer_syntax):
        raise InputError(f"{name}: its pixel data ends early; fetch the file again")
    if pixels.transfer_syntax == RLELossless:
        sizes, least = rle_sizes(frame), pixels.rows * pixels.columns
        if len(sizes) != 2 or min(sizes) < least or max(sizes) >= least + max(pixels.columns, 2):
            raise InputError(
                f"{name}: its pixel data unpacks to {sizes} bytes; expected two times {least}; fetch the file again"
            )
        return
    claimed, expected = frame_size(frame), FrameSize(pixels.rows, pixels.columns, 1)
    if claimed != expected:
        raise InputError(
            f"{name}: its pixel data claims {claimed or 'no size'}; expected {expected}, as its header says"
        )


def _decoded(data: bytes, pixels: PixelFormat) -> np.ndarray:
    """Decode one frame by pydicom, which leaves bits that are not stored as they are."""
    options: dict[str, Any] = {
        "rows": pixels.rows,
        "columns": pixels.columns,
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "bits_allocated": 16,
        "bits_stored": pixels.bits,
        "pixel_representation": int(pixels.signed),
        "number_of_frames": 1,
        "pixel_keyword": "PixelData",
        "allow_excess_frames": False,
        "decoding_plugin": PLUGINS.get(UID(pixels.transfer_syntax), ""),
    }
    if pixels.transfer_syntax not in RIGHT_ALIGNED:
        options["correct_unused_bits"] = False
    array, _ = get_decoder(pixels.transfer_syntax).as_array(data, index=0, raw=True, **options)
    return array


def _from_words(words: np.ndarray, pixels: PixelFormat) -> np.ndarray:
    """Return the bits BitsStored up to HighBit of each word, sign-extended where they are signed."""
    values = (words >> (pixels.high_bit + 1 - pixels.bits)) & ((1 << pixels.bits) - 1)
    return np.where(values > pixels.highest, values - (1 << pixels.bits), values) if pixels.signed else values
