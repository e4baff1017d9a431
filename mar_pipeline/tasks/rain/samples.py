"""Rainy images and their clean partners, by key: the same bytes whatever the number of processes."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from mar_pipeline.data.batches import Key, KeyedSamples
from mar_pipeline.data.crops import random_crop
from mar_pipeline.sample import CROP, PairArrays, Sample, generator
from mar_pipeline.tasks.images.embedded import TEST_IMAGES, TRAIN_IMAGES, embedded_image
from mar_pipeline.tasks.rain.pairs import RainPair, find_pairs
from mar_pipeline.tasks.rain.settings import RainData, RainSet
from mar_pipeline.tasks.rain.synthesis import RAINS, with_rain
from simulation.errors import UsageError
from simulation.sources.slices import evenly_spaced, unique_names

_TRAINING_RAIN, _VALIDATION_RAIN, _TEST_RAIN = range(CROP + 1, CROP + 4)
"""Purposes, beside those of `mar_pipeline.sample`."""

_FIXED_SEED = 0
"""Of the rain that validation and tests have, whatever the seed of the training."""

_COLOURS = 3
_NO_SINOGRAMS = np.empty((0, 0, 0))


class Source(Protocol):
    """What a sample is made of."""

    @property
    def name(self) -> str:
        """Return the name of the image."""

    @property
    def scene(self) -> Any:
        """Return what nothing may be trained on that is held out: Rain1400 has a clean image under 14 rains."""

    def crop(self, patch: int, place: np.random.Generator, rain: np.random.Generator) -> np.ndarray:
        """Return a rainy image above its clean one, as they are or a crop of them, UInt8["6 H W"]."""


@dataclass(frozen=True)
class PairSource:
    """A pair on disk, read whenever it is asked for.

    Args:
        pair: where it is.
    """

    pair: RainPair

    @property
    def name(self) -> str:
        """Return the name of the rainy file."""
        return self.pair.name

    @property
    def scene(self) -> Path:
        """Return the clean file."""
        return self.pair.clean

    def crop(self, patch: int, place: np.random.Generator, rain: np.random.Generator) -> np.ndarray:
        """Return as `Source` says; its rain is what it is."""
        return _cropped(_planes(*self.pair.load()), patch, place)


@dataclass(frozen=True)
class SyntheticSource:
    """An embedded image under rain that falls where the crop is.

    Args:
        name: of the image.
        rain: a key of `RAINS`.
    """

    name: str
    rain: str

    @property
    def scene(self) -> str:
        """Return the image."""
        return self.name

    def crop(self, patch: int, place: np.random.Generator, rain: np.random.Generator) -> np.ndarray:
        """Return as `Source` says."""
        clean = _cropped(_image(self.name).transpose(2, 0, 1), patch, place).transpose(1, 2, 0)
        return _planes(with_rain(clean, RAINS[self.rain], rain), clean)


class WholeImages(KeyedSamples):
    """Whole images, for validation and tests; synthetic rain is the same each time.

    Args:
        sources: the images.
        purpose: of the random generator of their rain.
    """

    def __init__(self, sources: Sequence[Source], purpose: int) -> None:
        self.names = unique_names([source.name for source in sources])
        self._sources, self._purpose = sources, purpose

    def __len__(self) -> int:
        return len(self._sources)

    def __getitem__(self, key: Key) -> Sample:
        _, _, index = key
        rain = generator(_FIXED_SEED, 0, index, self._purpose)
        return _sample(self._sources[index].crop(0, rain, rain))

    def facts(self) -> dict[str, Any]:
        """Return their number."""
        return {"images": len(self)}


class RainCrops(KeyedSamples):
    """Crops to train on, synthetic ones under new rain each time; a crop is mirrored and turned with its rain.

    Args:
        sources: the images.
        data: how they are cropped.
        seed: of places, mirroring, turns and rain.
    """

    def __init__(self, sources: Sequence[Source], data: RainData, seed: int) -> None:
        self._sources, self._data, self._seed = sources, data, seed

    def __len__(self) -> int:
        return len(self._sources)

    def __getitem__(self, key: Key) -> Sample:
        epoch, number, index = key
        place = generator(self._seed, epoch, number, CROP)
        rain = generator(self._seed, epoch, number, _TRAINING_RAIN)
        planes = self._sources[index].crop(self._data.patch, place, rain)
        if self._data.flips and place.random() < 0.5:
            planes = planes[..., ::-1]
        return _sample(random_crop(PairArrays(planes, _NO_SINOGRAMS), 0, place, rotations=self._data.rotations).images)

    def facts(self) -> dict[str, Any]:
        """Return the number of the images."""
        return {"images": len(self)}


def training_samples(data: RainData, seed: int) -> tuple[RainCrops, WholeImages]:
    """Return crops to train on, and the whole images that are held out from them for validation.

    Args:
        data: where the images come from.
        seed: of the training.

    Raises:
        UsageError: no image would be left to train on.
        InputError: the folder cannot be used.
    """
    sources: list[Source]
    if data.is_synthetic:
        sources = [SyntheticSource(name, data.source) for name in TRAIN_IMAGES]
    else:
        sources = [PairSource(pair) for pair in find_pairs(Path(data.source), "train", data.layout)]
    held_out = evenly_spaced(sources, data.val_images)
    scenes = {source.scene for source in held_out}
    kept = [source for source in sources if source.scene not in scenes]
    if not kept:
        raise UsageError(
            f"--data.val_images: got {data.val_images} of {len(sources)} images, which leaves none to train on; hold "
            "out fewer"
        )
    return RainCrops(kept, data, seed), WholeImages(held_out, _VALIDATION_RAIN)


def samples_to_test(data: RainSet) -> WholeImages:
    """Return the images to test on; synthetic rain does not depend on any seed.

    Raises:
        InputError: the folder cannot be used.
    """
    sources: list[Source]
    if data.is_synthetic:
        sources = [SyntheticSource(name, data.source) for name in TEST_IMAGES]
    else:
        sources = [PairSource(pair) for pair in find_pairs(Path(data.source), "test", data.layout)]
    return WholeImages(sources, _TEST_RAIN)


@functools.cache
def _image(name: str) -> np.ndarray:
    image = embedded_image(name)
    image.flags.writeable = False
    return image


def _cropped(planes: np.ndarray, patch: int, place: np.random.Generator) -> np.ndarray:
    return random_crop(PairArrays(planes, _NO_SINOGRAMS), patch, place).images


def _planes(rainy: np.ndarray, clean: np.ndarray) -> np.ndarray:
    return np.concatenate([rainy, clean], axis=-1).transpose(2, 0, 1)


def _sample(planes: np.ndarray) -> Sample:
    tensor = torch.from_numpy(np.array(planes, np.float32, order="C"))
    return {"image": tensor[:_COLOURS], "target": tensor[_COLOURS:]}
