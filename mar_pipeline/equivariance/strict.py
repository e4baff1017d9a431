"""Strictly equivariant layers: convolutions whose filters are rotated copies of each other.

They are the baseline of the soft penalty. A *regular* field is t consecutive channels, one per rotation, orientation
fastest; a *trivial* field is one channel. Rotating the input of a layer by 360 / t degrees rotates its output, and
rolls the t channels of each regular field by one.
"""

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from mar_pipeline.equivariance.fields import check_group_order, width
from mar_pipeline.equivariance.fourier_filters import (
    EDGE,
    initial_coefficients,
    rotated_fourier_basis,
    sample_filters,
)

StrictField: TypeAlias = tuple[Literal["regular", "trivial"], int]


class _EquivariantConv2d(nn.Module):
    """What convolutions with rotated filters have in common; subclasses say what the filters are."""

    def __init__(
        self,
        in_field: StrictField,
        out_field: StrictField,
        kernel_size: int,
        group_order: int,
        stride: int,
        padding: int | None,
        bias: bool,
    ) -> None:
        super().__init__()
        _check(in_field, out_field, kernel_size, group_order, stride)
        self.in_field, self.out_field = in_field, out_field
        self.kernel_size, self.group_order, self.stride = kernel_size, group_order, stride
        self.padding = (kernel_size - 1) // 2 if padding is None else padding
        self.bias = nn.Parameter(torch.zeros(out_field[1])) if bias else None

    @property
    def _free_filters(self) -> tuple[int, int, int]:
        """Return numbers of filters psi: out, in, and one per relative orientation between regular fields."""
        between_regular = self.in_field[0] == self.out_field[0] == "regular"
        return self.out_field[1], self.in_field[1], self.group_order if between_regular else 1

    def rotated_filters(self) -> Tensor:
        """rot^s psi: Float[Tensor, "out in relative s k k"]; relative has length t between regular fields, else 1."""
        raise NotImplementedError

    def weight(self) -> Tensor:
        """Return the weight of the plain convolution that this is: Float[Tensor, "out_channels in_channels k k"]."""
        turned = self.rotated_filters()
        kinds = self.in_field[0], self.out_field[0]
        if kinds == ("trivial", "trivial"):
            return turned.mean(dim=3).squeeze(2)
        if kinds == ("regular", "trivial"):
            return turned.squeeze(2).flatten(1, 2)
        if kinds == ("trivial", "regular"):
            return turned.squeeze(2).transpose(1, 2).flatten(0, 1)
        orientation = torch.arange(self.group_order, device=turned.device)
        out_s, in_r = orientation[:, None], orientation[None, :]
        expanded = turned[:, :, (in_r - out_s) % self.group_order, out_s]  # out in s r k k
        return expanded.transpose(1, 2).flatten(2, 3).flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve.

        Args:
            x: Float[Tensor, "batch in_channels H W"].

        Returns:
            Float[Tensor, "batch out_channels H' W'"].

        Raises:
            ValueError: the size is not one that the stride divides symmetrically.
        """
        left_over = [(side + 2 * self.padding - self.kernel_size) % self.stride for side in x.shape[-2:]]
        if any(left_over):
            raise ValueError(
                f"strict convolution: got an input of {x.shape[-2]} x {x.shape[-1]} with kernel {self.kernel_size}, "
                f"padding {self.padding} and stride {self.stride}, which leaves {max(left_over)} pixels on one side; "
                "(size + 2 padding - kernel) must be divisible by the stride"
            )
        return conv2d(x, self.weight(), self._bias_per_channel(), self.stride, self.padding)

    def _bias_per_channel(self) -> Tensor | None:
        repeats = width(self.out_field[0], 1, self.group_order)
        return None if self.bias is None else self.bias.repeat_interleave(repeats)

    @torch.no_grad()
    def as_conv2d(self) -> nn.Conv2d:
        """Return a plain convolution with this layer's weights as they are now: for export and fast inference."""
        weight, bias = self.weight(), self._bias_per_channel()
        plain = nn.Conv2d(
            weight.shape[1], weight.shape[0], self.kernel_size, self.stride, self.padding, bias=bias is not None
        ).to(weight)
        plain.weight.copy_(weight)
        if bias is not None and plain.bias is not None:
            plain.bias.copy_(bias)
        return plain

    def extra_repr(self) -> str:
        """Return what ``print(layer)`` shows."""
        into = f"{self.in_field[1]} {self.in_field[0]} -> {self.out_field[1]} {self.out_field[0]}"
        return f"{into}, kernel_size={self.kernel_size}, group_order={self.group_order}, stride={self.stride}"


class StrictConv2d(_EquivariantConv2d):
    """A 2-D convolution that commutes with rotations by 360 / t degrees, t = 2 or 4, to rounding errors.

    With psi the free filters and rot^s their rotation by s * 360 / t degrees, counter-clockwise::

        trivial -> regular   W[o, s; i]    = rot^s psi[o, i]                      (lifting)
        regular -> regular   W[o, s; i, r] = rot^s psi[o, i, (r - s) mod t]       (group convolution)
        regular -> trivial   W[o; i, r]    = rot^r psi[o, i]
        trivial -> trivial   W[o; i]       = mean over s of rot^s psi[o, i]

    and one bias per field. Cohen and Welling, "Group Equivariant Convolutional Networks", ICML 2016.

    Args:
        in_field: (kind, count) of the input: ``("regular", 8)`` are 8 t channels, ``("trivial", 8)`` are 8.
        out_field: (kind, count) of the output.
        kernel_size: of square filters.
        group_order: number t of rotations.
        stride: a size with (H + 2 padding - kernel_size) not divisible by it is refused: it would break the symmetry.
        padding: zeros on each side; None keeps the size where the kernel is odd.
        bias: whether to add one.

    Raises:
        ValueError: an unknown kind, a count, size or stride below 1, or an order without exact rotations.
    """

    def __init__(
        self,
        in_field: StrictField,
        out_field: StrictField,
        kernel_size: int,
        group_order: int = 4,
        *,
        stride: int = 1,
        padding: int | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__(in_field, out_field, kernel_size, group_order, stride, padding, bias)
        if group_order not in (2, 4):
            raise ValueError(
                f"strict convolution: got group order {group_order}; pixels turn exactly for 2 and 4 only, "
                "use FourierConv2d for others"
            )
        bound = math.sqrt(6 / (width(*in_field, group_order) * kernel_size**2))
        self.filters = nn.Parameter(torch.empty(*self._free_filters, kernel_size, kernel_size).uniform_(-bound, bound))

    def rotated_filters(self) -> Tensor:
        """rot^s psi: Float[Tensor, "out in relative s k k"]; relative has length t between regular fields, else 1."""
        quarter_turns = 4 // self.group_order
        turned = [torch.rot90(self.filters, s * quarter_turns, dims=(-2, -1)) for s in range(self.group_order)]
        return torch.stack(turned, dim=3)


class FourierConv2d(_EquivariantConv2d):
    """F-Conv: the same for any number t of rotations, with filters that are Fourier series.

    Rotations by multiples of 90 degrees are exact if t has them; the others are as exact as the sampling of filters
    and images allows. Xie et al., "Fourier Series Expansion Based Filter Parametrization for Equivariant
    Convolutions", TPAMI 2022.

    Args:
        in_field: as in `StrictConv2d`.
        out_field: as in `StrictConv2d`.
        kernel_size: of square filters, 2 or more; from 5 on rotations of 45 degrees are well resolved.
        group_order: number t of rotations, any.
        frequencies: per axis; None takes the kernel size.
        stride: as in `StrictConv2d`.
        padding: as in `StrictConv2d`.
        bias: as in `StrictConv2d`.

    Raises:
        ValueError: as in `StrictConv2d`, any order allowed.
    """

    basis: Tensor

    def __init__(
        self,
        in_field: StrictField,
        out_field: StrictField,
        kernel_size: int,
        group_order: int = 8,
        *,
        frequencies: int | None = None,
        stride: int = 1,
        padding: int | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__(in_field, out_field, kernel_size, group_order, stride, padding, bias)
        edge = None if group_order in (2, 4) else EDGE
        basis = rotated_fourier_basis(kernel_size, frequencies, group_order, edge)
        coefficients = initial_coefficients(self._free_filters, basis.weights, width(*in_field, group_order))
        self.register_buffer("basis", basis.functions)
        # A function has unit norm over all t rotations together, so 1 / sqrt(t) at each of them.
        self.coefficients = nn.Parameter(math.sqrt(group_order) * coefficients)

    def rotated_filters(self) -> Tensor:
        """rot^s psi: Float[Tensor, "out in relative s k k"]; relative has length t between regular fields, else 1."""
        return sample_filters(self.coefficients, self.basis)


class GroupBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with one mean, variance, scale and shift per regular field, shared by its t channels.

    Args:
        groups: number of regular fields.
        group_order: t.
        eps: as in `torch.nn.BatchNorm2d`.
        momentum: as in `torch.nn.BatchNorm2d`.
    """

    def __init__(self, groups: int, group_order: int = 4, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(groups, eps=eps, momentum=momentum)
        self.group_order = group_order

    def forward(self, x: Tensor) -> Tensor:
        """Normalise Float[Tensor, "batch groups*t H W"]."""
        fields = x.unflatten(1, (self.num_features, self.group_order)).flatten(2, 3)
        return super().forward(fields).reshape_as(x)


class GroupPool(nn.Module):
    """The mean or maximum over the orientations of each regular field, which leaves trivial fields.

    Args:
        group_order: t.
        how: mean or max.
    """

    def __init__(self, group_order: int = 4, how: Literal["mean", "max"] = "max") -> None:
        super().__init__()
        if how not in ("mean", "max"):
            raise ValueError(f"group pooling: got {how!r}, expected mean or max")
        self.group_order, self.how = group_order, how

    def forward(self, x: Tensor) -> Tensor:
        """Pool Float[Tensor, "batch groups*t H W"] to Float[Tensor, "batch groups H W"]."""
        fields = x.unflatten(1, (-1, self.group_order))
        return fields.mean(dim=2) if self.how == "mean" else fields.amax(dim=2)


class StrictImageNetwork(nn.Module):
    """A small strictly equivariant network from images to images: lifting, group convolutions, back to channels.

    Args:
        groups: regular fields in the hidden layers, each of t channels.
        depth: number of group convolutions, each after a norm and a ReLU.
        group_order: t; 2 and 4 use `StrictConv2d`, others `FourierConv2d`.
        kernel_size: odd.
        in_channels: of the input images.
        out_channels: of the output images.
    """

    def __init__(
        self,
        groups: int = 8,
        depth: int = 2,
        group_order: int = 4,
        kernel_size: int = 3,
        in_channels: int = 1,
        out_channels: int = 1,
    ) -> None:
        super().__init__()
        convolution = StrictConv2d if group_order in (2, 4) else FourierConv2d
        hidden: StrictField = ("regular", groups)
        layers: list[nn.Module] = [convolution(("trivial", in_channels), hidden, kernel_size, group_order)]
        outputs: list[StrictField] = [*[hidden] * depth, ("trivial", out_channels)]
        for field in outputs:
            layers += [GroupBatchNorm2d(groups, group_order), nn.ReLU()]
            layers.append(convolution(hidden, field, kernel_size, group_order))
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        """Float[Tensor, "batch in_channels H W"] to Float[Tensor, "batch out_channels H W"]."""
        return self.layers(image)


def _check(
    in_field: tuple[str, int], out_field: tuple[str, int], kernel_size: int, group_order: int, stride: int
) -> None:
    for kind, count in (in_field, out_field):
        if kind not in ("regular", "trivial") or count < 1:
            raise ValueError(
                f"strict convolution: got the field {(kind, count)}, expected (regular or trivial, 1 or more)"
            )
    check_group_order(group_order)
    if min(kernel_size, stride) < 1:
        raise ValueError(f"strict convolution: got kernel {kernel_size} and stride {stride}, expected 1 or more")
