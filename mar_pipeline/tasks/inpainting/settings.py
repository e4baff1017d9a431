"""What inpainting is asked for: the images and how they are measured, and what a training adds."""

from dataclasses import dataclass, fields
from typing import Literal

from mar_pipeline.tasks.images.checks import check_least
from simulation.errors import UsageError

EMBEDDED = "embedded"
"""The source that is always there: `mar_pipeline.tasks.images.embedded`."""

Loss = Literal["supervised", "measurement_consistency", "sure", "equivariant_imaging", "robust_equivariant_imaging"]

_SURE_READS = ("sure_step",)
_MOVES_READ = ("equivariant_weight", "transform", "transforms")
"""Keys of the two terms; with losses that lack a term they must keep their defaults."""


@dataclass(frozen=True)
class InpaintingSet:
    """Images, measured with Poisson noise where the mask is.

    Args:
        source: embedded (images of scikit-image's own: nine to train on, five to test on), or a folder of images, of
            which in natural order the first nine tenths are trained on and the others tested on, as with Urban100's
            90 and 10.
        crop: side in pixels of the square cut from an image's centre; a smaller image gives the largest that it holds.
        image_size: side in pixels to which it is resized (bilinear, antialiased).
        gamma: of y = mask * gamma * Poisson(x / gamma): the larger, the noisier; the paper has 0.01, 0.05 and 0.1.
        missing: chance of a pixel to be dropped, in all its channels.
        mask: fixed (one mask for all images, as if one camera had dead pixels: the published setting) or random
            (another one for every image).
        measurement_seed: decides the fixed mask and every measurement that is made once: those of tests and
            validation, and the training's where the noise is fixed. Other than the training's seed, so that runs with
            different seeds are measured alike.
    """

    source: str = EMBEDDED
    crop: int = 512
    image_size: int = 256
    gamma: float = 0.05
    missing: float = 0.3
    mask: Literal["fixed", "random"] = "fixed"
    measurement_seed: int = 0


@dataclass(frozen=True)
class InpaintingData(InpaintingSet):
    """Measurements to train on, and what is learnt from them.

    Args:
        val_images: how many of the images to train on are held out for validation, the last ones.
        noise: fresh (new noise, and a new mask where it is random, whenever an image is shown), fixed (one measurement
            of every image for the whole training), or auto: fresh for the supervised loss, fixed for the others,
            which may not know more of an image than one measurement. The public code has fresh for all.
        loss: supervised; measurement_consistency; sure (an unbiased estimate of the clean consistency);
            equivariant_imaging (consistency and the equivariant term); or robust_equivariant_imaging (sure and the
            equivariant term with noise, the published one). See `mar_pipeline.tasks.inpainting.losses`.
        sure_step: tau, length of the random step by which SURE finds how far an answer follows the noise. Like
            the next three it is refused with losses that do not read it.
        equivariant_weight: alpha, weight of the equivariant term, above 0.
        transform: what the equivariant term moves images by: shift (cyclic, the published one) or rotation (by 90,
            180 or 270 degrees).
        transforms: how many random moves of each image the equivariant term takes.
        patch: side of the square crops in pixels; 0 trains on whole images. Validation always has whole images.
        batch_size: crops in a batch.
        batches_per_epoch: batches of an epoch; one pass over the images if not given.
        flips: mirror crops at random, up-down and left-right.
        rotations: turn crops by a random multiple of 90 degrees. The mask is mirrored and turned along with the image.
        workers: processes that load; 0 loads in the training process. Batches do not depend on it.
    """

    val_images: int = 1
    noise: Literal["auto", "fresh", "fixed"] = "auto"
    loss: Loss = "supervised"
    sure_step: float = 1e-2
    equivariant_weight: float = 1.0
    transform: Literal["shift", "rotation"] = "shift"
    transforms: int = 3
    patch: int = 0
    batch_size: int = 1
    batches_per_epoch: int | None = None
    flips: bool = False
    rotations: bool = False
    workers: int = 0

    @property
    def fresh_noise(self) -> bool:
        """Return whether an image is measured anew whenever it is shown."""
        return self.noise == "fresh" or (self.noise == "auto" and self.loss == "supervised")

    @property
    def has_sure(self) -> bool:
        """Return whether the loss holds SURE."""
        return self.loss in ("sure", "robust_equivariant_imaging")

    @property
    def has_moves(self) -> bool:
        """Return whether the loss holds the equivariant term."""
        return self.loss in ("equivariant_imaging", "robust_equivariant_imaging")


def check_inpainting_set(data: InpaintingSet) -> None:
    """Refuse what no image could be measured with.

    Raises:
        UsageError: a number is impossible.
    """
    check_least(data, crop=1, image_size=1, measurement_seed=0)
    if not 0 < data.gamma < float("inf"):
        raise UsageError(f"--data.gamma: got {data.gamma:g}, expected a number above 0, such as 0.05")
    if not 0 <= data.missing < 1:
        raise UsageError(f"--data.missing: got {data.missing:g}, expected a share from 0 to below 1, such as 0.3")


def check_inpainting_data(data: InpaintingData) -> None:
    """Refuse what no training could follow.

    Raises:
        UsageError: a number is impossible, or two settings exclude each other.
    """
    check_inpainting_set(data)
    check_least(data, val_images=1, transforms=1, patch=0, batch_size=1, batches_per_epoch=1, workers=0)
    for name in ("sure_step", "equivariant_weight"):
        if not 0 < getattr(data, name) < float("inf"):
            raise UsageError(f"--data.{name}: got {getattr(data, name):g}, expected a number above 0")
    if data.patch > data.image_size:
        raise UsageError(
            f"--data.patch: got {data.patch} pixels of images of {data.image_size}; choose up to {data.image_size}, "
            "or 0 for whole images"
        )
    _refuse_unread(data)


def _refuse_unread(data: InpaintingData) -> None:
    """Refuse settings that were given, but that the loss does not read."""
    read = (*(_SURE_READS if data.has_sure else ()), *(_MOVES_READ if data.has_moves else ()))
    for field in fields(data):
        given = getattr(data, field.name)
        if field.name in {*_SURE_READS, *_MOVES_READ} - {*read} and given != field.default:
            raise UsageError(
                f"--data.{field.name}: got {given}, which the loss {data.loss} does not read; leave it out "
                f"({field.default}), or choose another --data.loss"
            )
