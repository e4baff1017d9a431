"""MNIST-rot's text files: a line an image, its pixels row by row and then its label.

H. Larochelle, D. Erhan, A. Courville, J. Bergstra, Y. Bengio, "An empirical evaluation of deep architectures on
problems with many factors of variation", ICML 2007.
"""

import itertools
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from simulation.errors import InputError

SIDE = 28
_NUMBERS = SIDE * SIDE + 1
_BLOCK_BYTES = 1 << 24
_TOLERANCE = 1e-6
"""How far a rounded pixel may lie outside 0 to 1."""


def read_amat(path: Path, lines: int, first: int, count: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return some images of a file that is checked to have all its lines.

    Pixels go row by row, as the usual loaders of MNIST-rot read them (the sets with backgrounds in the same collection
    are stored column by column). Whichever it is, training and test images are alike, so no score depends on it.

    Args:
        path: the file.
        lines: that it must have.
        first: number of the first line to read, from 0.
        count: number of lines to read.
        classes: number of classes.

    Returns:
        Float32["count 28 28"] and Int64["count"].

    Raises:
        InputError: lines are missing or cut, a value is none, or a pixel does not lie in 0 to 1.
    """
    try:
        found = _lines_of(path)
        if found != lines:
            raise InputError(f"{path}: got {found} lines, expected {lines}: it is incomplete; unpack it again")
        values = _numbers(path, first, count)
        labels = values[:, -1] if values.shape == (count, _NUMBERS) else np.array([np.nan])
        if not (np.isin(labels, np.arange(classes)).all() and _is_ink(values[:, :-1]).all()):
            raise InputError(_complaint(path, first, count, classes))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}); unpack it again") from error
    return values[:, :-1].reshape(-1, SIDE, SIDE), labels.astype(np.int64)


def _numbers(path: Path, first: int, count: int) -> np.ndarray:
    """Return the numbers of some lines; fewer rows, or none, where something is wrong with them."""
    with path.open(encoding="ascii", errors="replace") as file, warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return np.loadtxt(itertools.islice(file, first, first + count), np.float32, comments=None, ndmin=2)
        except (UserWarning, ValueError):  # what loadtxt says does not count from the start of the file
            return np.empty((0, 0))


def _lines_of(path: Path) -> int:
    """Return the number of lines; the last one may lack its end."""
    with path.open("rb") as file:
        blocks: Iterator[bytes] = iter(lambda: file.read(_BLOCK_BYTES), b"")
        count, last = 0, b"\n"
        for block in blocks:
            count, last = count + block.count(b"\n"), block[-1:]
    return count + (last != b"\n")


def _complaint(path: Path, first: int, count: int, classes: int) -> str:
    """Return what is wrong with the first line that is."""
    with path.open(encoding="ascii", errors="replace") as file:
        for number, line in enumerate(itertools.islice(file, first, first + count), first + 1):
            words = line.split()
            if len(words) != _NUMBERS:
                return (
                    f"{path}: line {number} has {len(words)} numbers, expected {_NUMBERS}, {SIDE} x {SIDE} pixels and "
                    "a label: it is cut or of another data set; unpack it again"
                )
            for place, word in enumerate(words, 1):
                if not _is_number(word):
                    return f"{path}: line {number}: got {word[:20]!r} as number {place}, expected a finite number"
                if place < _NUMBERS and not _is_ink(float(word)):
                    return (
                        f"{path}: line {number}: got {word[:20]} as number {place}, expected 0 to 1, 1 is ink; scale "
                        "the pixels"
                    )
            if float(words[-1]) not in range(classes):
                return f"{path}: line {number}: got the label {words[-1]}, expected 0 to {classes - 1}"
    return f"{path}: cannot be read as lines of {_NUMBERS} numbers; unpack it again"


def _is_ink(pixels: Any) -> Any:
    """Return whether a pixel, or each of an array, lies in 0 to 1; what is no number does not."""
    return (pixels >= -_TOLERANCE) & (pixels <= 1 + _TOLERANCE)


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False
