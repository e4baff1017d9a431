"""What classification is asked for: the digits, and what a training adds."""

from dataclasses import dataclass

from mar_pipeline.tasks.images.checks import check_least

DIGITS = "digits"
"""The source that is always there: `mar_pipeline.tasks.classification.digits`."""


@dataclass(frozen=True)
class ClassificationSet:
    """Images of handwritten digits, to be told apart whichever way up they are.

    Args:
        source: digits (scikit-learn's own, 300 to train on, 500 to validate with and 997 to test on), or the folder
            with the two .amat files of MNIST-rot (10,000, 2,000 and 50,000 images).
        test_images: how many of the images to test on are taken, the first ones; all if not given. A training takes
            none.
    """

    source: str = DIGITS
    test_images: int | None = None


@dataclass(frozen=True)
class ClassificationData(ClassificationSet):
    """Images to train on and to validate with.

    Validation sees each of its images at 0, 90, 180 and 270 degrees: the best weights are the best for all of them.

    Args:
        train_images: how many of the images to train on are taken, the first ones; all if not given.
        val_images: likewise for validation.
        batch_size: images in a batch.
        batches_per_epoch: batches of an epoch; one pass over the images if not given.
        rotations: turn images by a random multiple of 90 degrees.
        workers: processes that load; 0 loads in the training process. Batches do not depend on it.
    """

    train_images: int | None = None
    val_images: int | None = None
    batch_size: int = 30
    batches_per_epoch: int | None = None
    rotations: bool = False
    workers: int = 0


def check_classification_set(data: ClassificationSet) -> None:
    """Refuse what no data could satisfy.

    Raises:
        UsageError: a number is impossible.
    """
    check_least(data, test_images=1)


def check_classification_data(data: ClassificationData) -> None:
    """Refuse what no training could follow.

    Raises:
        UsageError: a number is impossible.
    """
    check_classification_set(data)
    check_least(data, train_images=1, val_images=1, batch_size=1, batches_per_epoch=1, workers=0)
