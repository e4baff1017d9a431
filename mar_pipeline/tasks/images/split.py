"""The split of a set of images that has none of its own."""

from simulation.errors import InputError


def training_count(source: str, count: int) -> int:
    """Return how many images are trained on, the first ones in natural order; the others, a tenth, are tested on.

    Args:
        source: whose images they are, for the message.
        count: of them all; rainy versions of one image count once.

    Raises:
        InputError: one part would be empty.
    """
    if count < 2:
        raise InputError(f"{source}: got {count} image, expected at least two: one to train, one to test on")
    return 9 * count // 10
