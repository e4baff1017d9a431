"""Images of digits by key: the same bytes whatever the number of processes."""

from typing import Any

import numpy as np
import torch

from mar_pipeline.data.batches import Key, KeyedSamples
from mar_pipeline.sample import CROP, Sample, generator
from mar_pipeline.tasks.classification.digits import Digits

IMAGE = "image"
"""Float32["1 side side"], 1 is ink."""

LABEL = "label"
"""Int64, the class."""

QUARTER_TURNS = 4


class LabelledImages(KeyedSamples):
    """Images as they are: for tests.

    Args:
        digits: images and labels.
    """

    def __init__(self, digits: Digits) -> None:
        self.digits = digits

    def __len__(self) -> int:
        return len(self.digits.labels)

    def __getitem__(self, key: Key) -> Sample:
        _, _, index = key
        return self._turned(index, 0)

    def facts(self) -> dict[str, Any]:
        """Return their number."""
        return {"images": len(self.digits.labels)}

    def _turned(self, index: int, quarters: int) -> Sample:
        image = np.rot90(self.digits.images[index], quarters)
        return {
            IMAGE: torch.from_numpy(np.ascontiguousarray(image, np.float32)[None].copy()),
            LABEL: torch.tensor(int(self.digits.labels[index])),
        }


class TrainingImages(LabelledImages):
    """Images to train on, turned by a random number of quarters where that is asked for.

    Args:
        digits: images and labels.
        rotations: whether they are turned.
        seed: of the turns.
    """

    def __init__(self, digits: Digits, rotations: bool, seed: int) -> None:
        super().__init__(digits)
        self._rotations, self._seed = rotations, seed

    def __getitem__(self, key: Key) -> Sample:
        epoch, number, index = key
        rng = generator(self._seed, epoch, number, CROP)
        return self._turned(index, int(rng.integers(QUARTER_TURNS)) if self._rotations else 0)


class TurnedImages(LabelledImages):
    """Each image at 0, 90, 180 and 270 degrees, counter-clockwise, one after the other: for validation."""

    def __len__(self) -> int:
        return QUARTER_TURNS * super().__len__()

    def __getitem__(self, key: Key) -> Sample:
        _, _, index = key
        return self._turned(*divmod(index, QUARTER_TURNS))

    def facts(self) -> dict[str, Any]:
        """Return their number, and at how many angles they are seen."""
        return {**super().facts(), "angles": QUARTER_TURNS}
