"""What every source yields: a clean slice as a value, a cheap reference to it, and the screen for unusable ones."""

import contextlib
import errno
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from scipy import ndimage

from simulation.errors import InputError, MarError, UsageError
from simulation.units import MU_WATER_PER_CM, hu_to_mu

AIR_HU = -1000.0
METAL_HU = 3000.0
"""Enamel reaches 2500-3000 HU and 12-bit scanners clip at 3071: from here on a pixel is metal."""
METAL_PIXELS = 2
"""Connected pixels of METAL_HU that make metal: one may be noise on enamel, a sternal wire has two or three."""
BODY_SHARE = 0.02
"""A slice whose body covers less of the image than this is empty."""
SQUARE_TOLERANCE = 1e-3
"""Relative difference of the two pixel sides up to which a pixel counts as square (0.4 mm over a body)."""

ACCESS_ERRORS = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.EIO, errno.ESTALE)

Item = TypeVar("Item")


@dataclass(frozen=True)
class CleanSlice:
    """One axial slice without metal.

    Args:
        case: folder name in the output, of letters, digits and ``._-`` only.
        name: name of the slice within its case, of the same characters.
        image_mu: float32 (n, n), 1/cm, >= 0; row 0 is anterior, column 0 the patient's right.
        pixel_mm: side of a pixel, None when the source does not tell.
        origin: where the slice came from, relative to the source, for the manifest.
    """

    case: str
    name: str
    image_mu: np.ndarray
    pixel_mm: float | None
    origin: str


@dataclass(frozen=True)
class SliceRef:
    """A slice that has not been read yet: cheap, picklable, comparable.

    Args:
        case: see `CleanSlice`.
        name: see `CleanSlice`.
        origin: see `CleanSlice`.
        read: module-level function that returns (image_mu, pixel_mm) and raises InputError.
        arguments: what `read` is called with.
        pad_square: pad a non-square slice with air to a square instead of refusing it.
    """

    case: str
    name: str
    origin: str
    read: Callable[..., tuple[np.ndarray, float | None]]
    arguments: tuple[Any, ...]
    pad_square: bool = False

    def load(self) -> CleanSlice:
        """Read the slice.

        Raises:
            InputError: if the file is missing or broken, or what it holds cannot serve; one line, it names the file.
        """
        image_mu, pixel_mm = self.read(*self.arguments)
        if image_mu.ndim != 2 or min(image_mu.shape) < 2:
            raise InputError(f"{self.origin}: got the shape {image_mu.shape}; expected one two-dimensional slice")
        if not np.isfinite(image_mu).all():
            raise InputError(f"{self.origin}: got NaN or infinite values; expected finite ones; repair the file")
        rows, columns = image_mu.shape
        if rows != columns:
            if not self.pad_square:
                raise InputError(
                    f"{self.origin}: got a slice of {rows} x {columns} pixels; expected a square one; "
                    "--pad-square pads it with air"
                )
            image_mu = pad_to_square(image_mu)
        return CleanSlice(self.case, self.name, np.ascontiguousarray(image_mu), pixel_mm, self.origin)


def screen(image_mu: np.ndarray) -> str | None:
    """Say why a slice cannot serve as clean truth.

    "metal": at least METAL_PIXELS connected pixels (8 neighbours) of METAL_HU or more.
    "empty": the largest connected region denser than half water covers less than BODY_SHARE of the image.

    Args:
        image_mu: (n, n), 1/cm.

    Returns:
        "metal", "empty", or None when the slice is fit for use.
    """
    metal = image_mu >= hu_to_mu(METAL_HU - 0.05)  # room for rounding to float32
    if _largest_region(metal) >= METAL_PIXELS:
        return "metal"
    body = image_mu > MU_WATER_PER_CM / 2
    return "empty" if _largest_region(body) < BODY_SHARE * image_mu.size else None


def _largest_region(mask: np.ndarray) -> int:
    """Return pixels of the largest 8-connected region of a mask."""
    labels, found = ndimage.label(mask, structure=np.ones((3, 3)))
    return int(np.bincount(labels.ravel())[1:].max()) if found else 0


def image_from_hu(hu: np.ndarray) -> np.ndarray:
    """Return attenuation of an image in HU, clipped at air (-1000 HU).

    Args:
        hu: any shape, any real type.

    Returns:
        float32 of the same shape, 1/cm, >= 0.
    """
    return np.maximum(hu_to_mu(np.maximum(hu.astype(np.float32), np.float32(AIR_HU))), np.float32(0))


def pad_to_square(image_mu: np.ndarray) -> np.ndarray:
    """Pad the shorter axis with air on both sides; an odd pixel goes to the end.

    Args:
        image_mu: (rows, columns), 1/cm.

    Returns:
        (n, n) with n = max(rows, columns).
    """
    missing = [max(image_mu.shape) - length for length in image_mu.shape]
    return np.pad(image_mu, [(total // 2, total - total // 2) for total in missing])


def square_pixel_mm(first_mm: float, second_mm: float, where: str) -> float:
    """Return the side of a pixel that must be square.

    Args:
        first_mm: one side.
        second_mm: the other side.
        where: the file, for the message.

    Raises:
        InputError: if a side is not a positive length or the two differ by more than 0.1 %.
    """
    if not (np.isfinite([first_mm, second_mm]).all() and min(first_mm, second_mm) > 0):
        raise InputError(f"{where}: got a pixel of {first_mm:g} x {second_mm:g} mm; expected positive lengths")
    if abs(first_mm - second_mm) > SQUARE_TOLERANCE * first_mm:
        raise InputError(
            f"{where}: got pixels of {first_mm:g} x {second_mm:g} mm; expected square ones; "
            "resample the image in-plane first"
        )
    return float(first_mm)


def evenly_spaced(items: Sequence[Item], count: int | None) -> list[Item]:
    """Return `count` items in order, from the middles of equal parts of the sequence: few still span it.

    Args:
        items: the candidates.
        count: how many; None or more than there are means all.
    """
    if count is None or count >= len(items):
        return list(items)
    return [items[int((position + 0.5) * len(items) / count)] for position in range(count)]


def grown_selection(items: Sequence[Item], counts: Sequence[int], count: int | None) -> list[Item]:
    """Return evenly spaced items that begin with those of earlier, smaller selections.

    Args:
        items: the candidates.
        counts: how many earlier selections took, one after the other.
        count: how many to take now; None means all.
    """
    total = len(items) if count is None else min(count, len(items))
    left = list(range(len(items)))
    taken: list[int] = []
    for wanted in [*sorted(n for n in counts if n < total), total]:
        taken += evenly_spaced(left, wanted - len(taken))
        chosen = set(taken)
        left = [place for place in left if place not in chosen]
    return [items[place] for place in taken]


def safe_name(text: str) -> str:
    """Return a folder name made of letters, digits and ``._-`` only, at most 100 characters, never empty or hidden."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)[:100].strip("._- ") or "case"


def unique_names(names: Sequence[str]) -> list[str]:
    """Return the names in order, repeated ones (whatever their case) with ``_2``, ``_3`` ... appended."""
    taken: set[str] = set()
    result = []
    for name in names:
        candidate, number = name, 1
        while candidate.lower() in taken:
            number += 1
            candidate = f"{name}_{number}"
        taken.add(candidate.lower())
        result.append(candidate)
    return result


@contextlib.contextmanager
def reading(where: str, expected: str, warn: Literal["ignore", "error"] = "ignore") -> Iterator[None]:
    """Turn whatever a file library raises inside into one InputError that names the file.

    A broken file makes pydicom, nibabel, Pillow and h5py raise exceptions of any type; `Exception` is meant.

    Args:
        where: the file, relative to the source (what the library says holds absolute paths and is left out).
        expected: what the file should have held.
        warn: what becomes of the library's warnings.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(warn)
            yield
    except MarError:
        raise
    except Exception as error:
        got = "broken or truncated"
        if isinstance(error, OSError) and error.errno in ACCESS_ERRORS:
            got = os.strerror(error.errno)
        raise InputError(f"{where}: {got}; expected {expected}; fetch the file again or take it out") from error


def check_request(seed: int, count: int | None) -> None:
    """Refuse a limit below one and a negative seed.

    Raises:
        UsageError: if either is given.
    """
    if seed < 0:
        raise UsageError(f"got the seed {seed}; expected zero or more")
    if count is not None and count < 1:
        raise UsageError(f"got {count} slices; expected at least one; leave the limit out to take all")
