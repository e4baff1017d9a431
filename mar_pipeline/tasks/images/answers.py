"""What a network must answer: a tensor of the right shape, since a wrong one may broadcast against the truth."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from simulation.errors import UsageError

IMAGES = ("batch", 3, "height", "width")


def checked_answer(answer: Any, expected: Sequence[int | str]) -> Tensor:
    """Return the answer of a network, as it is.

    Args:
        answer: what it may be.
        expected: size of each axis; a name stands for any size.

    Raises:
        UsageError: it is no tensor, or one of another shape.
    """
    got = list(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
    fits = isinstance(got, list) and len(got) == len(expected)
    if not fits or any(own != size for own, size in zip(got, expected, strict=True) if isinstance(size, int)):
        raise UsageError(
            f"network: answers {got}, expected {_shown(expected)}; give it such channels with --network.arguments, and "
            "padding that keeps the size of images, or take another network"
        )
    return answer


def _shown(expected: Sequence[int | str]) -> str:
    return f"[{', '.join(map(str, expected))}]"
