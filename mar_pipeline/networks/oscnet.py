"""OSCNet and OSCNet+: dictionaries of a few filters at several rotations.

Wang et al., "Orientation-Shared Convolution Representation for CT Metal Artifact Learning", MICCAI 2022, and "OSCNet:
Orientation-Shared Convolutional Network for CT Metal Artifact Learning", IEEE TMI 43, 2024.
"""

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from mar_pipeline.equivariance.fourier_filters import initial_coefficients, rotated_fourier_basis, sample_filters
from mar_pipeline.networks.blocks import STEP_SCALE, check_sizes, full_precision, oriented_kernels, synthesise
from mar_pipeline.networks.dicdnet import DictionaryNetwork
from mar_pipeline.networks.field_patterns import TypedEnds


class _OrientationSharedNetwork(DictionaryNetwork):
    """What OSCNet and OSCNet+ share: filters from a rotated Fourier basis, and a bias of the first artifact layer.

    The maps are `filters` groups of `rotations` maps, the rotation fastest.
    """

    def __init__(self, stages: int, blocks: int, filters: int, dual_channels: int, basis: Tensor) -> None:
        kernel_size, rotations = basis.shape[0], basis.shape[2]
        check_sizes(kernel_size, stages=stages, blocks=blocks, filters=filters, dual_channels=dual_channels)
        initial_kernels = oriented_kernels(filters, kernel_size).repeat_interleave(rotations, dim=0)
        super().__init__(stages, blocks, dual_channels, initial_kernels)
        # Saved with the weights: which of many equivalent bases comes out may differ between machines.
        self.register_buffer("basis", basis)
        self.basis: Tensor
        self.bias = nn.Parameter(torch.tensor(0.0))

    def has_oriented_maps(self, group_order: int) -> bool:
        """Return whether the group is that of the filters: a quarter turn rolls 8 rotations by 2, no group of 4."""
        return int(self.basis.shape[2]) == group_order

    def rotated_filters(self, coefficients: Tensor) -> Tensor:
        """Return every filter at every rotation, never below float32.

        Args:
            coefficients: [..., filters, basis functions].

        Returns:
            [..., filters * rotations, size, size].
        """
        with full_precision(coefficients):
            return sample_filters(coefficients, self.basis).flatten(-4, -3)

    def first_artifact(self, maps: Tensor, kernels: Tensor) -> Tensor:
        """Return K (x) M and the bias."""
        return synthesise(maps, kernels) + self.bias


class OSCNet(_OrientationSharedNetwork):
    """OSCNet: DICDNet whose kernels are a few learned filters, each at several rotations.

    Args:
        stages: number of stages S.
        blocks: residual blocks T of a proximal network.
        filters: number of filters.
        rotations: number of rotations, over 360 degrees; filters * rotations maps.
        dual_channels: channels that go along with the image in ProxX.
        kernel_size: odd width of the filters in pixels.
        frequencies: Fourier frequencies per axis, inP.
    """

    def __init__(
        self,
        stages: int = 10,
        blocks: int = 3,
        filters: int = 4,
        rotations: int = 8,
        dual_channels: int = 32,
        kernel_size: int = 9,
        frequencies: int = 5,
    ) -> None:
        basis = rotated_fourier_basis(kernel_size, frequencies, rotations)
        super().__init__(stages, blocks, filters, dual_channels, basis.functions)
        self.coefficients = nn.Parameter(initial_coefficients((filters,), basis.weights))

    def dictionary(self, current: Tensor, image: Tensor) -> Tensor:
        """Return the rotated filters, the same for all images and stages."""
        return self.rotated_filters(self.coefficients)


class OSCNetPlus(_OrientationSharedNetwork):
    """OSCNet+: OSCNet whose filters are predicted for every image and stage from [X, Y].

    The filters are divided by 10 in both directions.

    Args:
        stages: number of stages S.
        blocks: residual blocks T of a proximal network.
        filters: number of filters.
        rotations: number of rotations, over 360 degrees; filters * rotations maps.
        dual_channels: channels that go along with the image in ProxX.
        kernel_size: odd width of the filters in pixels.
        frequencies: Fourier frequencies per axis, inP.
        predictor_width: channels of the network that predicts the coefficients.
    """

    per_image = True

    def __init__(
        self,
        stages: int = 10,
        blocks: int = 3,
        filters: int = 4,
        rotations: int = 8,
        dual_channels: int = 32,
        kernel_size: int = 9,
        frequencies: int = 5,
        predictor_width: int = 6,
    ) -> None:
        basis = rotated_fourier_basis(kernel_size, frequencies, rotations)
        super().__init__(stages, blocks, filters, dual_channels, basis.functions)
        self.predictor = CoefficientPredictor(filters, len(basis.weights), predictor_width)

    def dictionary(self, current: Tensor, image: Tensor) -> Tensor:
        """Return a tenth of the rotated filters of every image."""
        return self.rotated_filters(self.predictor(current, image)) / STEP_SCALE

    def typed_ends(self, group_order: int) -> TypedEnds:
        """Return the fields without the predictor, whose mean over an image hardly changes when that is turned."""
        ends, exclude = super().typed_ends(group_order)
        return ends, (*exclude, "predictor")


class CoefficientPredictor(nn.Module):
    """Non-negative filter coefficients of unit norm from two images, by linear features of their whole.

    [X, Y] -> three 3x3 convolutions -> global average -> linear -> ReLU -> rows of norm 1. Never below float32.

    Args:
        filters: number of rows.
        length: coefficients in a row.
        width: channels of the convolutions.
    """

    def __init__(self, filters: int, length: int, width: int = 6) -> None:
        super().__init__()
        self.filters = filters
        self.features = nn.Sequential(*(nn.Conv2d(before, width, 3, padding=1) for before in (2, width, width)))
        self.linear = nn.Linear(width, filters * length)

    def forward(self, current: Tensor, image: Tensor) -> Tensor:
        """Return coefficients [batch, filters, length] for images X and Y, [batch, 1, height, width]."""
        with full_precision(current):
            average = self.features(torch.cat((current, image), dim=1)).mean((2, 3))
            rows = functional.relu(self.linear(average)).unflatten(1, (self.filters, -1))
            return functional.normalize(rows, dim=2, eps=1e-6)
