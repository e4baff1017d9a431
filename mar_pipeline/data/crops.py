"""Random crops of a pair, the same for all its images, and turns of its sinograms along with them."""

import numpy as np

from mar_pipeline.sample import PairArrays
from simulation.errors import UsageError


def check_patch(patch: int, shape: tuple[int, int], rotations: bool = False) -> None:
    """Refuse crops that images of a size cannot give.

    Args:
        patch: side of a crop in pixels; 0 is the whole image.
        shape: rows and columns of the images.
        rotations: whether crops are turned.

    Raises:
        UsageError: the crop is larger than the image, or not square where crops are turned.
    """
    if patch > min(shape):
        raise UsageError(
            f"--data.patch: {patch} pixels are more than the images' {shape[0]} x {shape[1]}; choose up to "
            f"{min(shape)}, or 0 for whole images"
        )
    if rotations and not patch and shape[0] != shape[1]:
        raise UsageError(
            f"images of {shape[0]} x {shape[1]} pixels cannot be turned by 90 degrees; choose a --data.patch, or no "
            "--data.rotations"
        )


def random_crop(
    pair: PairArrays, patch: int, rng: np.random.Generator, flips: bool = False, rotations: bool = False
) -> PairArrays:
    """Return a square crop at a random place, mirrored and turned at random; sinograms go along with whole images.

    Args:
        pair: images and sinograms; none of the latter if there is a patch.
        patch: side of the crop in pixels; 0 is the whole image.
        rng: draws place, mirroring and turn.
        flips: mirror up-down and left-right, each with probability 1/2.
        rotations: turn by 0, 90, 180 or 270 degrees, each with probability 1/4.

    Returns:
        Views.

    Raises:
        UsageError: see `check_patch`.
    """
    shape = (pair.images.shape[-2], pair.images.shape[-1])
    check_patch(patch, shape, rotations)
    if patch:
        top, left = random_place(shape, patch, rng)
        pair = PairArrays(pair.images[..., top : top + patch, left : left + patch], pair.sinograms)
    return random_turn(pair, rng, flips, rotations)


def random_place(shape: tuple[int, int], patch: int, rng: np.random.Generator) -> tuple[int, int]:
    """Return first row and column of a crop.

    Args:
        shape: rows and columns of the image.
        patch: side of the crop in pixels.
        rng: draws the place.
    """
    return int(rng.integers(shape[0] - patch + 1)), int(rng.integers(shape[1] - patch + 1))


def random_turn(pair: PairArrays, rng: np.random.Generator, flips: bool = False, rotations: bool = False) -> PairArrays:
    """Return a pair or crop mirrored and turned at random.

    Args:
        pair: images and sinograms.
        rng: draws mirroring and turn.
        flips: see `random_crop`.
        rotations: see `random_crop`.

    Returns:
        Views.
    """
    planes, sinograms = pair
    if flips:
        up_down, left_right = rng.random(2) < 0.5
        planes = planes[..., :: -1 if up_down else 1, :: -1 if left_right else 1]
        sinograms = mirrored(sinograms, bool(up_down), bool(left_right))
    if rotations:
        turns = int(rng.integers(4))
        planes = np.rot90(planes, turns, axes=(-2, -1))
        sinograms = turned(sinograms, turns)
    return PairArrays(planes, sinograms)


def turned(sinograms: np.ndarray, quarters: int) -> np.ndarray:
    """Return sinograms of the image turned by quarter turns counter-clockwise: a cyclic shift of the views.

    Args:
        sinograms: ["... views bins"] of a full scan whose views are a multiple of 4.
        quarters: number of quarter turns.

    Raises:
        UsageError: the turn is no whole number of views.
    """
    views = sinograms.shape[-2]
    if quarters * views % 4:
        raise UsageError(
            f"data: {90 * (quarters % 4)} degrees are no whole number of {views} views; set --data.rotations false and "
            "--data.flips false, or use a preset whose views are a multiple of 4"
        )
    return np.roll(sinograms, quarters * views // 4, axis=-2)


def mirrored(sinograms: np.ndarray, up_down: bool, left_right: bool) -> np.ndarray:
    """Return sinograms of the mirrored image: views and bins in reverse order, for left-right half a turn on.

    Args:
        sinograms: ["... views bins"] of a full scan, see `simulation.physics.geometry.FanBeam`.
        up_down: the rows of the image are reversed.
        left_right: its columns are.
    """
    if up_down:
        sinograms = sinograms[..., ::-1, ::-1]
    if left_right:
        sinograms = turned(sinograms[..., ::-1, ::-1], 2)
    return sinograms
