"""Images that are there more than once: copies are left out, contradictions refused."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from mar_pipeline.dicom.reading.ct_image import CTImage
from mar_pipeline.dicom.reading.decoding import stored_values
from mar_pipeline.dicom.reading.files import read_pixel_data, reading
from mar_pipeline.dicom.reading.stacking import SAME_POSITION_MM
from simulation.errors import InputError


def without_copies(images: Sequence[CTImage]) -> tuple[list[CTImage], list[CTImage]]:
    """Split images without a fault into one of each and exact copies of these.

    Args:
        images: of one series. The first by name is kept.

    Raises:
        InputError: two images with one SOPInstanceUID differ, or cannot be compared.
    """
    by_uid: dict[str, list[CTImage]] = defaultdict(list)
    for image in sorted(images, key=lambda image: image.name):
        by_uid[image.sop_uid or image.name].append(image)
    kept, copies = [], []
    for first, *others in by_uid.values():
        kept.append(first)
        for other in others:
            if not _same(first, other):
                raise InputError(
                    f"{first.name} and {other.name} have one SOPInstanceUID, but are not the same image; "
                    "keep the right one"
                )
            copies.append(other)
    return kept, copies


def _same(one: CTImage, other: CTImage) -> bool:
    """Whether two images lie at one place and have the same pixels, however encoded."""
    if (one.geometry, one.rescale) != (other.geometry, other.rescale):
        return False
    data = []
    for image in (one, other):
        with reading(image.name):
            data.append(read_pixel_data(image.path, image.name))
    if data[0] == data[1] and one.pixels == other.pixels:
        return True
    if one.pixels is None or other.pixels is None:
        return False
    first, second = (stored_values(data[0], one.pixels, one.name), stored_values(data[1], other.pixels, other.name))
    return np.array_equal(first, second)


def same_position(images: Sequence[CTImage], positions: np.ndarray) -> InputError | None:
    """Return a refusal that names two images at one position, None if there are none.

    Args:
        images: in the order of their positions.
        positions: in mm, rising.
    """
    close = np.flatnonzero(np.diff(positions) < SAME_POSITION_MM)
    if not len(close):
        return None
    first, second = images[close[0]], images[close[0] + 1]
    more = f" (and {len(close) - 1} more pairs)" if len(close) > 1 else ""
    return InputError(
        f"{first.name} and {second.name} lie at one position{more}; one image per position is expected: "
        "take out one, or split the series"
    )
