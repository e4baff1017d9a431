"""Rotation of a whole sample: images turn, and the views of sinograms are shifted."""

from collections.abc import Mapping

from torch import Tensor

from mar_pipeline.equivariance import act
from mar_pipeline.equivariance.fields import Fields
from mar_pipeline.sample import SINOGRAMS


def field_of(name: str) -> Fields:
    """Return what a rotation does to an array of a sample.

    Args:
        name: of `mar_pipeline.sample`.
    """
    return (("views", 1),) if name in SINOGRAMS else (("trivial", 1),)


def rotate_sample(sample: Mapping[str, Tensor], n: int, group_order: int = 4) -> dict[str, Tensor]:
    """Return the sample of the scene turned by 360 n / t degrees, counter-clockwise; exact for quarter turns.

    A full-scan sinogram of the turned slice is the sinogram of the slice with its views shifted cyclically: nothing is
    projected anew.

    Args:
        sample: name -> Float["... 1 rows columns"] or Float["... 1 views bins"].
        n: the rotation.
        group_order: t.

    Returns:
        The same names.

    Raises:
        ValueError: the number of views is not a multiple of t.
    """
    return {name: act(tensor, n, field_of(name), group_order) for name, tensor in sample.items()}
