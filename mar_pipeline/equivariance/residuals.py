"""What a rotation of any angle does to maps, and sums over maps from which relative equivariance errors follow."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor
from torch.linalg import vector_norm

from mar_pipeline.equivariance.fields import Fields, act, quarter_turns, split
from mar_pipeline.equivariance.rotation import disk, rotate

_LEAST_VARIANCE = 1e-8
"""Of the mean square: a map that varies less is constant, up to rounding errors."""


@dataclass(frozen=True)
class Turn:
    """A rotation by any angle, counter-clockwise.

    Args:
        angle_deg: the angle.
        n: and as the n-th of...
        order: ...this many rotations, in lowest terms.
    """

    angle_deg: float
    n: int
    order: int

    @classmethod
    def of(cls, angle_deg: float) -> "Turn":
        """Return the turn by an angle.

        Args:
            angle_deg: in degrees; 120 is a third.

        Raises:
            ValueError: an angle that is not finite or turns nothing.
        """
        if not math.isfinite(angle_deg) or angle_deg % 360 == 0:
            raise ValueError(f"angle: got {angle_deg} degrees, expected a rotation other than 0 and 360 degrees")
        share = (Fraction(angle_deg) / 360).limit_denominator(3600) % 1
        if share == 0:
            raise ValueError(f"angle: got {angle_deg} degrees, expected a multiple of 0.1 degrees")
        return cls(angle_deg, share.numerator, share.denominator)

    @property
    def exact(self) -> bool:
        """Whether pixels turn onto pixels: 90, 180 and 270 degrees."""
        return quarter_turns(self.n, self.order) is not None

    def steps(self, group_order: int) -> int | None:
        """How many rotations by 360 / t degrees it is; None if it lies between two of them."""
        steps = Fraction(self.n, self.order) * group_order
        return steps.numerator if steps.denominator == 1 else None

    def comparable(self, x: Tensor, fields: Fields, group_order: int) -> tuple[Tensor, Fields]:
        """Map on which this rotation acts: where the orientations lack its angle, their mean in each regular group.

        The mean over the orientations of an equivariant layer is a trivial field and follows any rotation.

        Args:
            x: Float["batch channels H W"].
            fields: (kind, count) of the channels.
            group_order: t of regular fields.

        Returns:
            The maps and their fields: both as they are, or with trivial fields in place of regular ones.
        """
        if self.steps(group_order) is not None or all(kind != "regular" for kind, _ in fields):
            return x, fields
        parts = [
            part.unflatten(1, (-1, group_order)).mean(dim=2) if kind == "regular" else part
            for kind, part in split(x, fields, group_order)
        ]
        return torch.cat(parts, dim=1), [("trivial" if kind == "regular" else kind, count) for kind, count in fields]

    def act(self, x: Tensor, fields: Fields, group_order: int) -> Tensor:
        """`fields.act` for this angle.

        Args:
            x: Float["batch channels H W"].
            fields: (kind, count) of the channels.
            group_order: t of regular fields.

        Raises:
            ValueError: regular fields, whose orientations do not have this angle; or as `fields.act`.
        """
        steps = self.steps(group_order)
        if steps is not None:
            return act(x, steps, fields, group_order)
        if any(kind == "regular" for kind, _ in fields):
            raise ValueError(f"{group_order} orientations have no rotation by {self.angle_deg:g} degrees")
        return act(x, self.n, fields, self.order)

    def there_and_back(self, x: Tensor) -> Tensor:
        """Return images turned by the angle and back again; only interpolation makes them differ from ``x``."""
        if self.exact:
            return x
        angle_rad = math.radians(self.angle_deg)
        return rotate(rotate(x, angle_rad), -angle_rad)

    def compared_pixels(self, height: int, width: int, margin: float, border: float) -> Tensor | None:
        """Bool["H W"] of the pixels that an interpolated rotation keeps, see `rotation.disk`; None for all."""
        return None if self.exact else disk(height, width, margin, border)


class ResidualSums:
    """Sums of r = a - b, a and b over all maps given, for the relative errors of r.

    Args:
        group_order: t of regular fields.
    """

    def __init__(self, group_order: int) -> None:
        self._group_order = group_order
        self._count, self._residual, self._energy = 0, 0.0, 0.0
        self._groups: list[Tensor] = []

    def add(self, a: Tensor, b: Tensor, fields: Fields, pixels: Tensor | None = None) -> None:
        """Add maps.

        Args:
            a: Float["batch channels H W"].
            b: the same shape.
            fields: of the channels; free ones are left out.
            pixels: Bool["H W"], those that count; None for all. Sinograms always count whole.

        Raises:
            ValueError: shapes that differ, or nothing but free channels.
        """
        if a.shape != b.shape:
            raise ValueError(
                f"maps of {tuple(a.shape)} and {tuple(b.shape)} cannot be compared; expected square maps, or turns of "
                "180 degrees, or exclude this layer"
            )
        if all(kind == "free" for kind, _ in fields):
            raise ValueError("all channels are free: there is nothing to compare; exclude this layer")
        pairs = zip(self._compared(a, fields, pixels), self._compared(b, fields, pixels), strict=True)
        for number, (first, second) in enumerate(pairs):
            squares = torch.stack([vector_norm(values, dim=1).square() for values in (first, second)])
            totals = torch.stack([values.sum(dim=1) for values in (first, second)])
            counts = torch.full_like(totals, first.shape[1])
            self._count += first.numel()
            self._residual += vector_norm(first - second).square().item()
            self._energy += squares.sum().item() / 2
            sums = torch.stack([counts, totals, squares]).cpu()
            if number == len(self._groups):
                self._groups.append(torch.zeros_like(sums))
            self._groups[number] += sums

    def _compared(self, x: Tensor, fields: Fields, pixels: Tensor | None) -> Iterator[Tensor]:
        """Each field that counts as Float64["groups values"]."""
        for kind, part in split(x, fields, self._group_order):
            if kind == "free":
                continue
            values = part.flatten(-2) if pixels is None or kind == "views" else part[..., pixels.to(part.device)]
            channels = self._group_order if kind == "regular" else 1
            yield values.double().unflatten(1, (-1, channels)).transpose(0, 1).flatten(1)

    @property
    def mean_square(self) -> float:
        """Mean of r^2."""
        return self._residual / self._count

    @property
    def error(self) -> float:
        """||r|| / sqrt((||a||^2 + ||b||^2) / 2)."""
        return _root_of_ratio(self._residual, self._energy)

    @property
    def centred_error(self) -> float:
        """||r|| over the same of a and b less their mean in each regular group or other channel: sqrt 2 if unrelated.

        The mean is over samples, orientations and pixels. Its square is the regulariser's `relative` penalty.
        """
        variation = 0.0
        for counts, totals, squares in self._groups:
            variation += (squares - totals.square() / counts).clamp(min=0).sum().item() / 2
        return _root_of_ratio(self._residual, max(variation, _LEAST_VARIANCE * self._energy))


def _root_of_ratio(part: float, whole: float) -> float:
    if part == 0:
        return 0.0
    return math.sqrt(part / whole) if whole > 0 else math.inf
