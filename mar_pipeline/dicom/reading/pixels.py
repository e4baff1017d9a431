"""Pixels of one CT image: stored values, their HU, which of them are padding, and the way back."""

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import CTImageStorage

from mar_pipeline.dicom.reading.archives import in_memory
from mar_pipeline.dicom.reading.decoding import values_and_words
from mar_pipeline.dicom.reading.files import check_file_size, quiet, read_header, read_pixel_data, reading
from mar_pipeline.dicom.reading.image_header import (
    IDENTIFIERS,
    PixelFormat,
    check_unit,
    geometry,
    other_image,
    pixel_format,
    rescale,
    same_spacing,
    text,
    uid,
    whole_number,
)
from mar_pipeline.dicom.reading.limits import DEFAULT_LIMITS, Limits
from mar_pipeline.dicom.reading.overlays import unembed
from mar_pipeline.dicom.reading.series import Series, SliceFile
from simulation.errors import InputError

AIR_HU = -1000.0
PADDING_HU = -1500.0
"""A value in a corner of the image that is at most this is padding, tag or no tag: many scanners fill the outside of
the circle with one such value. Dark streaks go as low, but not with one value, and not in the corners."""

PLAUSIBLE_HU = (-1100.0, 4000.0)
MOST_IMPLAUSIBLE = 1 / 3
"""Most of a scan that may lie outside: noise in air goes as low, metal as high, but neither fills a third."""


@dataclass(frozen=True)
class SlicePixels:
    """One image as it is stored.

    Args:
        stored: Int32["rows columns"].
        slope: HU for a step of the stored value.
        intercept: HU of the stored value 0.
        padding: Bool["rows columns"], true where a value means nothing: PixelPaddingValue up to
            PixelPaddingRangeLimit, and a value that stands in a corner of the image and is at most -1500 HU.
        lowest: lowest value that the image's bits can store.
        highest: highest value that they can store.
    """

    stored: np.ndarray
    slope: float
    intercept: float
    padding: np.ndarray
    lowest: int
    highest: int

    @property
    def hu(self) -> np.ndarray:
        """Float32["rows columns"] in HU; padding is air."""
        hu = (self.stored * self.slope + self.intercept).astype(np.float32)
        hu[self.padding] = AIR_HU
        return hu

    @property
    def brightest_hu(self) -> float:
        """The highest HU that the image's bits can store."""
        return max(self.lowest * self.slope, self.highest * self.slope) + self.intercept

    def to_stored(self, hu: np.ndarray, changed: np.ndarray) -> tuple[np.ndarray, int]:
        """Return stored values of an image that changed in places; elsewhere they are the original's, bit by bit.

        Args:
            hu: image in HU (rows, columns).
            changed: true where it counts (rows, columns); padding is never changed.

        Returns:
            (Int32["rows columns"], how many changed values were out of the range that can be stored and were clipped).

        Raises:
            ValueError: a shape differs, or a changed value is not finite.
        """
        if hu.shape != self.stored.shape or changed.shape != self.stored.shape:
            raise ValueError(f"hu, changed: got {hu.shape}, {changed.shape}; expected {self.stored.shape}")
        where = np.asarray(changed, bool) & ~self.padding
        values = np.rint((hu[where].astype(np.float64) - self.intercept) / self.slope)
        if not np.isfinite(values).all():
            raise ValueError("hu: got values that are not finite; expected numbers wherever the image was changed")
        clipped = np.clip(values, self.lowest, self.highest)
        stored = self.stored.copy()
        stored[where] = clipped
        return stored, int(np.count_nonzero(clipped != values))


def read_slice(
    file: SliceFile, series: Series, limits: Limits = DEFAULT_LIMITS, repair_uids: bool = False
) -> tuple[FileDataset, SlicePixels]:
    """Read one image of a series.

    Args:
        file: one of `series.slices`.
        series: its series, as it was found.
        limits: how much may be read.
        repair_uids: sets the UIDs of the series, found with `repair_uids`, where the image has none.

    Returns:
        The data set without PixelData, its values as they are in the file but for overlays that lay in the pixels,
        with its file meta; and the pixels.

    Raises:
        LimitError: the image is larger than the limits.
        InputError: it is damaged, cannot be decoded here, or is not what was found.
    """
    name = file.name
    with reading(name):
        check_file_size(file.path, name, limits)
        path = in_memory(file.path)
        dataset = read_header(path, name, limits).dataset
        data = read_pixel_data(path, name)
    with quiet():
        # Asked for through a second data set: a value that is asked for is converted in place.
        view = Dataset(dict(dataset.items()))
        _check_same(view, dataset.file_meta, file, series)
        image = pixel_format(view, file.transfer_syntax, name, limits)
        slope, intercept = rescale(view, name)
        values_of_padding = _padding_range(view, image, name)
        _set_uids(dataset, view, file, series, repair_uids)
    stored, words = values_and_words(data, image, name)
    with quiet():
        unembed(dataset, view, words, image)
    padding = _is_padding(stored, values_of_padding, slope, intercept)
    pixels = SlicePixels(stored, slope, intercept, padding, image.lowest, image.highest)
    _check_values(pixels, series.assumed_hu, name)
    return dataset, pixels


def _check_values(pixels: SlicePixels, assumed_hu: bool, name: str) -> None:
    """Refuse values that no scanner has reconstructed.

    Where a decoder takes signed values for unsigned ones, air and fat come out at 64,000 HU; nothing else tells. They
    are looked for within the circle that a scan fills: what lies around it may hold anything.
    """
    sides = [np.linspace(-1, 1, side) ** 2 for side in pixels.stored.shape]
    scanned = (sides[0][:, None] + sides[1] <= 1) & ~pixels.padding
    values = pixels.stored[scanned] * pixels.slope + pixels.intercept
    if not values.size:
        return
    share = float(np.mean((values < PLAUSIBLE_HU[0]) | (values > PLAUSIBLE_HU[1])))
    if share > MOST_IMPLAUSIBLE:
        raise InputError(
            f"{name}: got {share:.0%} of its values outside {PLAUSIBLE_HU[0]:g} .. {PLAUSIBLE_HU[1]:g} HU; expected at "
            f"most {MOST_IMPLAUSIBLE:.0%}: signed values were encoded or decoded as unsigned ones (known of JPEG "
            "lossless), or slope and intercept are wrong; export the series uncompressed"
        )
    if assumed_hu and values.min() >= 0:
        raise InputError(
            f"{name}: got no value below 0, so that neither air nor fat is there; --assume-hu expects values that look "
            "like HU: leave the series out"
        )


def _check_same(view: Dataset, meta: Dataset, file: SliceFile, series: Series) -> None:
    """Refuse a file that is not, or no longer, the one that was listed."""
    listed = {
        "TransferSyntaxUID": (uid(meta, "TransferSyntaxUID"), file.transfer_syntax),
        "SOPClassUID": (uid(view, "SOPClassUID") or CTImageStorage, CTImageStorage),
        "SOPInstanceUID": (uid(view, "SOPInstanceUID") or file.sop_uid, file.sop_uid),
        "SeriesInstanceUID": (uid(view, "SeriesInstanceUID") or series.series_uid, series.series_uid),
        "Rows, Columns": (tuple(whole_number(view, side, file.name) for side in ("Rows", "Columns")), series.shape),
    }
    changed = [keyword for keyword, (now, then) in listed.items() if now != then]
    if not same_spacing(geometry(view, file.name).spacing_mm, series.spacing_mm):
        changed.append("PixelSpacing")
    check_unit(view, file.name, series.assumed_hu)
    if changed or other_image(view):
        raise InputError(f"{file.name}: not as it was listed ({', '.join(changed) or 'ImageType'}); start again")


def _set_uids(dataset: Dataset, view: Dataset, file: SliceFile, series: Series, repair_uids: bool) -> None:
    """Fill in blank UIDs, or refuse them."""
    known = (CTImageStorage, file.sop_uid, series.study_uid, series.series_uid, series.frame_uid)
    for keyword, value in zip(IDENTIFIERS, known, strict=True):
        if uid(view, keyword):
            continue
        if not repair_uids or not value:
            raise InputError(f"{file.name}: {keyword} is blank; --repair-uids makes one")
        dataset.add_new(keyword, "UI", value)  # which does not look at what is there


def _padding_range(view: Dataset, image: PixelFormat, name: str) -> tuple[int, int] | None:
    """First and last stored value that the header calls padding; None if it names none."""
    if not text(view, "PixelPaddingValue"):
        return None
    first = whole_number(view, "PixelPaddingValue", name)
    last = whole_number(view, "PixelPaddingRangeLimit", name, default=first)
    if image.signed:  # some write -2000 as the unsigned 63536
        first, last = (value - (1 << 16) if value >= 1 << 15 else value for value in (first, last))
    return min(first, last), max(first, last)


def _is_padding(stored: np.ndarray, values: tuple[int, int] | None, slope: float, intercept: float) -> np.ndarray:
    """Return True where a stored value is padding, by its header or by the corners."""
    padding = np.zeros(stored.shape, dtype=bool)
    if values is not None:
        padding |= (stored >= values[0]) & (stored <= values[1])
    for corner in {int(value) for value in stored[[0, 0, -1, -1], [0, -1, 0, -1]]}:
        if corner * slope + intercept <= PADDING_HU:
            padding |= stored == corner
    return padding
