"""Images and their measurements, by key: the same bytes whatever the number of processes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from mar_pipeline.data.batches import Key, KeyedSamples
from mar_pipeline.data.crops import random_crop
from mar_pipeline.sample import CROP, PairArrays, Sample, generator
from mar_pipeline.tasks.images.embedded import TEST_IMAGES, TRAIN_IMAGES, embedded_image
from mar_pipeline.tasks.images.files import list_images, read_image
from mar_pipeline.tasks.images.split import training_count
from mar_pipeline.tasks.inpainting.physics import measure, random_mask
from mar_pipeline.tasks.inpainting.settings import EMBEDDED, InpaintingData, InpaintingSet
from simulation.errors import UsageError
from simulation.sources.slices import unique_names

_MASK, _MEASUREMENT, _FRESH = range(CROP + 1, CROP + 4)
"""Purposes, beside those of `mar_pipeline.sample`."""

_TRAIN_PART, _TEST_PART = range(2)
_IMAGE, _TARGET, _MASK_PLANE = slice(0, 3), slice(3, 6), slice(6, 7)


class NamedImages(NamedTuple):
    """Images and what they are called.

    Attributes:
        names: in order.
        images: Float32["3 size size"] each, 1 is white.
        first: number of the first one in its part of the source, which decides its measurement.
    """

    names: tuple[str, ...]
    images: tuple[np.ndarray, ...]
    first: int = 0


class Measurement(NamedTuple):
    """An image as the camera sees it.

    Attributes:
        image: y, Float32["3 size size"].
        mask: Float32["1 size size"].
    """

    image: np.ndarray
    mask: np.ndarray


class MeasuredImages(KeyedSamples):
    """Whole images, each measured once: for validation and tests.

    Args:
        images: what is measured.
        data: how.
        part: of the source, so that the noise of training and test images differs.
    """

    def __init__(self, images: NamedImages, data: InpaintingSet, part: int) -> None:
        self.names, self.truths = images.names, images.images
        self.measurements = [_measured_once(x, data, part, images.first + i) for i, x in enumerate(images.images)]

    def __len__(self) -> int:
        return len(self.truths)

    def __getitem__(self, key: Key) -> Sample:
        _, _, index = key
        return _sample(_planes(self.measurements[index], self.truths[index]))

    def facts(self) -> dict[str, Any]:
        """Return their number."""
        return {"images": len(self)}


class TrainingImages(MeasuredImages):
    """Crops to train on, of the measurements made once or of new ones, as the settings say.

    A measurement is cropped, mirrored and turned with its truth and its mask.

    Args:
        images: what is measured.
        data: how, and how it is cropped.
        seed: of the training: crops, and fresh noise.
    """

    def __init__(self, images: NamedImages, data: InpaintingData, seed: int) -> None:
        super().__init__(images, data, _TRAIN_PART)
        self._data, self._seed = data, seed

    def __getitem__(self, key: Key) -> Sample:
        epoch, number, index = key
        data, (image, mask) = self._data, self.measurements[index]
        fresh = generator(self._seed, epoch, number, _FRESH)
        if data.fresh_noise and data.mask == "random":
            mask = random_mask(data.image_size, data.missing, fresh)
        planes = _planes(Measurement(image, mask), self.truths[index])
        crop = generator(self._seed, epoch, number, CROP)
        planes = random_crop(PairArrays(planes, np.empty((0, 0, 0))), data.patch, crop, data.flips, data.rotations)[0]
        if data.fresh_noise:
            planes = planes.copy()
            planes[_IMAGE] = measure(planes[_TARGET], planes[_MASK_PLANE], data.gamma, fresh)
        return _sample(planes)


def training_images(data: InpaintingData) -> tuple[NamedImages, NamedImages]:
    """Return images to train on, and those held out for validation: the last ones.

    Raises:
        UsageError: none would be left to train on.
        InputError: the source cannot be read.
    """
    found = _split(data)[_TRAIN_PART]
    kept = len(found) - data.val_images
    if kept < 1:
        raise UsageError(
            f"--data.val_images: got {data.val_images}, but there are {len(found)} images to train on; hold out fewer"
        )
    return _load(found[:kept], data), _load(found[kept:], data, kept)


def images_to_test(data: InpaintingSet) -> MeasuredImages:
    """Return the images to test on, measured.

    Raises:
        InputError: the source cannot be read.
    """
    return MeasuredImages(_load(_split(data)[_TEST_PART], data), data, _TEST_PART)


def validation_images(images: NamedImages, data: InpaintingData) -> MeasuredImages:
    """Return held-out images, measured.

    Args:
        images: the second ones of `training_images`.
        data: how.
    """
    return MeasuredImages(images, data, _TRAIN_PART)


def to_square(image: np.ndarray, crop: int, size: int) -> np.ndarray:
    """Return the centre of an image, resized as Pillow does (bilinear, antialiased, 8 bit), as the public code has it.

    Args:
        image: UInt8["H W 3"].
        crop: side of the square in pixels; no more than the image holds.
        size: side after resizing.

    Returns:
        Float32["3 size size"], 1 is white.
    """
    height, width = image.shape[:2]
    side = min(crop, height, width)
    top, left = round((height - side) / 2), round((width - side) / 2)
    square = Image.fromarray(image[top : top + side, left : left + side])
    resized = square.resize((size, size), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(resized, np.float32).transpose(2, 0, 1)) / np.float32(255)


def _split(data: InpaintingSet) -> tuple[Sequence[str | Path], Sequence[str | Path]]:
    """Return images to train and to test on: embedded names, or files."""
    if data.source == EMBEDDED:
        return TRAIN_IMAGES, TEST_IMAGES
    files = list_images(Path(data.source))
    kept = training_count(data.source, len(files))
    return files[:kept], files[kept:]


def _load(found: Sequence[str | Path], data: InpaintingSet, first: int = 0) -> NamedImages:
    pixels = [embedded_image(own) if isinstance(own, str) else read_image(own, grey="repeat") for own in found]
    names = unique_names([own if isinstance(own, str) else own.stem for own in found])
    return NamedImages(tuple(names), tuple(to_square(own, data.crop, data.image_size) for own in pixels), first)


def _measured_once(image: np.ndarray, data: InpaintingSet, part: int, number: int) -> Measurement:
    own = (part, number) if data.mask == "random" else (0, 0)
    mask = random_mask(data.image_size, data.missing, generator(data.measurement_seed, *own, _MASK))
    noise = generator(data.measurement_seed, part, number, _MEASUREMENT)
    return Measurement(measure(image, mask, data.gamma, noise), mask)


def _planes(measurement: Measurement, truth: np.ndarray) -> np.ndarray:
    return np.concatenate([measurement.image, truth, measurement.mask])


def _sample(planes: np.ndarray) -> Sample:
    planes = np.ascontiguousarray(planes)
    image, target, mask = (torch.from_numpy(planes[place].copy()) for place in (_IMAGE, _TARGET, _MASK_PLANE))
    return {"image": image, "target": target, "mask": mask}
