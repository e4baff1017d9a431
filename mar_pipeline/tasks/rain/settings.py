"""What rain removal trains on and is scored on."""

from dataclasses import dataclass
from typing import Literal

from mar_pipeline.tasks.images.checks import check_least
from mar_pipeline.tasks.rain.synthesis import RAINS
from simulation.errors import UsageError

Layout = Literal["auto", "two_folders", "one_folder", "list"]


@dataclass(frozen=True)
class RainSet:
    """Images with rain and without: embedded ones under synthetic rain, or pairs on disk.

    Args:
        source: light or heavy rain over the embedded images, or a folder such as Rain100L, Rain100H, Rain1400, Rain12
            (tests only) or SPA-Data. Its own split is taken as it is, folders train and test (or training and testing)
            or two lists with these words in their names. Of any other folder, also of one that is itself called train
            or test, the first nine tenths of the clean images in natural order are trained on and the others tested on,
            each with all its rainy versions.
        layout: how the pairs lie in the folder; two_folders (rain and norain, rainy_image and ground_truth, input and
            target), one_folder (rain-1.png beside norain-1.png, 1_in.png beside 1_GT.png), list (a text file with a
            rainy and a clean path on each line), or auto, which takes the first of these that is there.
    """

    source: str = "light"
    layout: Layout = "auto"

    @property
    def is_synthetic(self) -> bool:
        """Return whether the rain is made here."""
        return self.source in RAINS


@dataclass(frozen=True)
class RainData(RainSet):
    """Where pairs for training and validation come from, and how they are cropped and batched.

    Args:
        val_images: number of training images held out for validation, spread over the set, with all other versions of
            them.
        patch: side of the square crops in pixels; 0 trains on whole images. Validation always has whole images.
        batch_size: crops in a batch.
        batches_per_epoch: batches of an epoch; one pass over the images if not given.
        flips: mirror crops left-right at random.
        rotations: turn crops, with their rain, by a random multiple of 90 degrees.
        workers: processes that load; 0 loads in the training process. Batches do not depend on it.
    """

    val_images: int = 2
    patch: int = 64
    batch_size: int = 16
    batches_per_epoch: int | None = None
    flips: bool = True
    rotations: bool = False
    workers: int = 0


def check_rain_data(data: RainData) -> None:
    """Refuse numbers that no data could satisfy.

    Raises:
        UsageError: names the key.
    """
    check_least(data, val_images=1, patch=0, batch_size=1, batches_per_epoch=1, workers=0)
    if not data.patch and data.batch_size > 1:
        raise UsageError(
            f"--data.patch: got 0, whole images, with batches of {data.batch_size}; images differ in size: set "
            "--data.batch_size 1, or a patch"
        )
    check_rain_set(data)


def check_rain_set(data: RainSet) -> None:
    """Refuse a layout where there is no folder.

    Raises:
        UsageError: so it is.
    """
    if data.is_synthetic and data.layout != "auto":
        raise UsageError(
            f"--data.layout: got {data.layout} for {data.source} rain, expected auto; name a folder as --data.source"
        )
