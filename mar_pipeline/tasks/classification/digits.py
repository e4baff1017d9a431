"""Labelled images for training, validation and tests: scikit-learn's digits, and MNIST-rot."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch.nn.functional import interpolate

from mar_pipeline.tasks.classification.amat import read_amat
from mar_pipeline.tasks.classification.settings import DIGITS
from simulation.errors import InputError, UsageError

CLASSES = 10

Part = Literal["train", "val", "test"]


class Digits(NamedTuple):
    """Images and what they show.

    Attributes:
        names: of the images, in order.
        images: Float32["count side side"], 1 is ink, 0 is paper.
        labels: Int64["count"], 0 to 9.
    """

    names: tuple[str, ...]
    images: np.ndarray
    labels: np.ndarray


_SPLIT_SEED = 0
_TRAIN, _VALIDATION = 300, 500
_LARGEST_VALUE = 16.0

_ROTATED = "mnist_all_rotation_normalized_float_"
_FILES: dict[Part, str] = {
    "train": f"{_ROTATED}train_valid.amat",
    "val": f"{_ROTATED}train_valid.amat",
    "test": f"{_ROTATED}test.amat",
}
_LINES: dict[Part, int] = {"train": 12_000, "val": 12_000, "test": 50_000}
_PLACES: dict[Part, tuple[int, int]] = {"train": (0, 10_000), "val": (10_000, 12_000), "test": (0, 50_000)}
"""First line of the file that belongs to the part, and the one after its last; the published split."""


def load_part(source: str, part: Part, count: int | None = None) -> Digits:
    """Return images of one part of the data, the same whatever the training's seed.

    Args:
        source: digits, or a folder with MNIST-rot.
        part: of it.
        count: how many, the first ones; None takes all.

    Raises:
        UsageError: the part has fewer images.
        InputError: the folder or a file in it cannot be used.
    """
    if source == DIGITS:
        names, indices = _names_and_indices(part, _split()[part], count)
        images, labels = _embedded()
        return Digits(names, images[indices], labels[indices])
    first, stop = _PLACES[part]
    names, lines = _names_and_indices(part, range(first, stop), count)
    images, labels = read_amat(_file(Path(source), part), _LINES[part], lines[0], len(lines), CLASSES)
    return Digits(names, images, labels)


def _embedded() -> tuple[np.ndarray, np.ndarray]:
    """Return the 1797 digits, 8x8 made 16x16, and their labels.

    Bilinear interpolation about the middle of the image commutes with quarter turns, so nothing but a classifier can
    tell a turned image from an upsampled turned one.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = torch.from_numpy(bunch.images / _LARGEST_VALUE).float()
    images = interpolate(small[:, None], scale_factor=2, mode="bilinear", align_corners=False)
    return images[:, 0].numpy(), bunch.target.astype(np.int64)


def _split() -> dict[Part, Sequence[int]]:
    """Return numbers of the digits in each part, each with the classes in equal shares; 1797 leave 997 to test on.

    The split is always the same, so that trainings with different seeds are compared on the same images. Writers are
    not kept apart: the data do not name them.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    labels = load_digits().target
    numbers = np.arange(len(labels))
    train, others = train_test_split(numbers, train_size=_TRAIN, stratify=labels, random_state=_SPLIT_SEED)
    val, test = train_test_split(others, train_size=_VALIDATION, stratify=labels[others], random_state=_SPLIT_SEED)
    return {"train": train.tolist(), "val": val.tolist(), "test": test.tolist()}


def _names_and_indices(part: Part, numbers: Sequence[int], count: int | None) -> tuple[tuple[str, ...], list[int]]:
    if count is not None and count > len(numbers):
        raise UsageError(
            f"--data.{part}_images: got {count}, but this part of the source has {len(numbers)} images; take up to "
            f"{len(numbers)}, or null for all"
        )
    taken = list(numbers[:count])
    return tuple(f"digit_{number:05d}" for number in taken), taken


def _file(folder: Path, part: Part) -> Path:
    path = folder / _FILES[part]
    if not path.is_file():
        found = "there is no such folder" if not folder.is_dir() else f"it holds no {path.name}"
        raise InputError(
            f"--data.source: got {folder}, but {found}; expected {DIGITS}, or the unpacked folder of "
            "mnist_rotation_new.zip"
        )
    return path
