"""Random crops of a pair, the same for all its planes."""

import numpy as np

from simulation.errors import UsageError


def check_patch(patch: int, shape: tuple[int, int], rotations: bool = False) -> None:
    """Refuses crops that images of a size cannot give.

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
    planes: np.ndarray, patch: int, rng: np.random.Generator, flips: bool = False, rotations: bool = False
) -> np.ndarray:
    """A square crop at a random place, mirrored and turned at random.

    Args:
        planes: ["... rows columns"].
        patch: side of the crop in pixels; 0 is the whole image.
        rng: draws place, mirroring and turn.
        flips: mirror up-down and left-right, each with probability 1/2.
        rotations: turn by 0, 90, 180 or 270 degrees, each with probability 1/4.

    Returns:
        A view, ["... patch patch"].

    Raises:
        UsageError: see `check_patch`.
    """
    rows, columns = planes.shape[-2:]
    check_patch(patch, (rows, columns), rotations)
    if patch:
        top, left = int(rng.integers(rows - patch + 1)), int(rng.integers(columns - patch + 1))
        planes = planes[..., top : top + patch, left : left + patch]
    if flips:
        up_down, left_right = rng.random(2) < 0.5
        planes = planes[..., :: -1 if up_down else 1, :: -1 if left_right else 1]
    if rotations:
        planes = np.rot90(planes, int(rng.integers(4)), axes=(-2, -1))
    return planes
