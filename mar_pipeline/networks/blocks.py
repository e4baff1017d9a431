"""What the unfolded networks share: proximal networks, the convolutional dictionary and the steps of the unfolding.

The dictionary networks minimise |I (Y - X - K (x) M)|^2 with learned priors on the image X and on the feature maps M by
proximal gradient steps, each written as a stage of the network: Y is the corrupted image, I is 1 outside metal, the
artifact layer A = K (x) M is a dictionary of kernels K convolved with sparse maps M.
"""

import contextlib
import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from simulation.errors import UsageError

STEP_SCALE = 10.0
"""Learned step sizes and free kernels are divided by it, which slows their change."""
_ORIENTATIONS = 8


class NetworkOutput(NamedTuple):
    """What a network for metal artifact reduction returns, in network units.

    Attributes:
        image: the corrected image, [batch, 1, height, width].
        images: intermediate images, the first one first, without the final one.
        artifacts: artifact layers of the stages; empty where the network has none.
        sinograms: corrected sinograms of the stages, the final one last, [batch, 1, views, bins]; empty where the
            network has none.
    """

    image: Tensor
    images: tuple[Tensor, ...] = ()
    artifacts: tuple[Tensor, ...] = ()
    sinograms: tuple[Tensor, ...] = ()


class ResBlock(nn.Module):
    """Residual block of constant width: x <- ReLU(x + BN(conv(ReLU(BN(conv x))))), 3x3.

    The sum keeps the precision of x, so an image in channel 0 stays in float32 while autocast runs the convolutions.

    Args:
        channels: width.
        dilation: distance of the convolutions' taps in pixels.
    """

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to [batch, channels, height, width]."""
        inner = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(x + self.norm2(self.conv2(inner)))


class ProxNet(nn.Module):
    """Learned proximal operator: a chain of residual blocks, ProxX on the image and its dual channels.

    Args:
        channels: width of the blocks; 1 + dual channels for an image.
        blocks: number of residual blocks.
        dilations: of the blocks, which take them in turn.
    """

    def __init__(self, channels: int, blocks: int, dilations: Sequence[int] = (1,)) -> None:
        super().__init__()
        turns = zip(range(blocks), itertools.cycle(dilations), strict=False)
        self.blocks = nn.Sequential(*(ResBlock(channels, dilation) for _, dilation in turns))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the blocks to [batch, channels, height, width]."""
        return self.blocks(x)


class SparseProxNet(ProxNet):
    """Learned proximal operator of the feature maps, ProxM: residual blocks, then ReLU(M - tau_c).

    Args:
        channels: number of maps.
        blocks: number of residual blocks.
        threshold: initial value of the learned tau of every map.
    """

    def __init__(self, channels: int, blocks: int, threshold: float = 0.5) -> None:
        super().__init__(channels, blocks)
        self.threshold = nn.Parameter(torch.full((1, channels, 1, 1), threshold))

    def forward(self, x: Tensor) -> Tensor:
        """Apply blocks and threshold to [batch, channels, height, width]."""
        return functional.relu(self.blocks(x) - self.threshold)


def check_sizes(kernel_size: int = 1, **sizes: int) -> None:
    """Refuse sizes of a network that cannot be built: all are 1 or more, kernels odd.

    Raises:
        UsageError: names the size.
    """
    for name, size in {"kernel_size": kernel_size, **sizes}.items():
        if size < 1:
            raise UsageError(f"network: {name} must be 1 or more, got {size}")
    if kernel_size % 2 == 0:
        raise UsageError(f"network: kernel_size must be odd, got {kernel_size}; take {kernel_size + 1}")


def dual_convolution(channels: int) -> nn.Conv2d:
    """Return bias-free 3x3 convolution, all boxes of 1/9 at first, that makes the dual channels of an image."""
    convolution = nn.Conv2d(1, channels, 3, padding=1, bias=False)
    nn.init.constant_(convolution.weight, 1 / 9)
    return convolution


def initial_state(prox: ProxNet, dual: nn.Conv2d, image: Tensor, seen: Tensor | None = None) -> Tensor:
    """Return the first state of an unfolding: ProxX0([X, dual(X)]).

    Args:
        prox: of 1 + dual channels.
        dual: see `dual_convolution`.
        image: image or sinogram, [batch, 1, height, width].
        seen: what the dual channels are made from; None is the image.

    Returns:
        [batch, 1 + dual, height, width].
    """
    return prox(torch.cat((image, dual(image if seen is None else seen).to(image.dtype)), dim=1))


def oriented_kernels(count: int, size: int = 9) -> Tensor:
    """Return elongated non-negative Gaussian kernels of up to eight orientations with sums from 0.2 to 1.

    Args:
        count: number of kernels; orientations take turns, and each turn is wider.
        size: odd width in pixels.

    Returns:
        [count, size, size].
    """
    number = torch.arange(count)
    angle = (torch.pi * number / min(count, _ORIENTATIONS))[:, None, None]
    across = (0.6 + 0.3 * (number // _ORIENTATIONS))[:, None, None]
    axis = torch.arange(size) - (size - 1) / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    along = size / 3
    u, v = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    kernels = torch.exp(-0.5 * ((u / along) ** 2 + (v / across) ** 2))
    sums = torch.linspace(0.2, 1.0, count)[:, None, None]
    return kernels * sums / kernels.sum((1, 2), keepdim=True)


def synthesise(maps: Tensor, kernels: Tensor) -> Tensor:
    """Return artifact layer of feature maps: A = sum over n of K_n (x) M_n, zeros beyond the border.

    The kernels are split into columns: size output channels keep the processor's vectors full, where a convolution to
    one channel leaves them empty. Never below float32.

    Args:
        maps: [batch, maps, height, width].
        kernels: odd-sized, [maps, size, size], or [batch, maps, size, size] for kernels of each image.

    Returns:
        [batch, 1, height, width].
    """
    batch, _, height, width = maps.shape
    size = kernels.shape[-1]
    columns = kernels.movedim(-1, -3).unsqueeze(-1)  # [..., size (column), maps, size (row), 1]
    with full_precision(maps):
        stacked, groups = maps.to(kernels.dtype), 1
        if kernels.dim() == 4:
            stacked, columns, groups = stacked.reshape(1, -1, height, width), columns.flatten(0, 1), batch
        parts = functional.conv2d(stacked, columns, padding=(size // 2, 0), groups=groups)
    parts = functional.pad(parts.reshape(batch, size, height, width), (size // 2, size // 2))
    total = parts[:, :1, :, :width]
    for column in range(1, size):
        total = total + parts[:, column : column + 1, :, column : column + width]
    return total


def analyse(residual: Tensor, kernels: Tensor) -> Tensor:
    """Return the transpose of `synthesise`: K^T r, one map for every kernel.

    It is a plain convolution with the flipped kernels, several times faster on a CPU than a transposed convolution.

    Args:
        residual: [batch, 1, height, width].
        kernels: odd-sized, [maps, size, size], or [batch, maps, size, size] for kernels of each image.

    Returns:
        [batch, maps, height, width].
    """
    batch, _, height, width = residual.shape
    size = kernels.shape[-1]
    flipped = kernels.flip(-2, -1).reshape(-1, 1, size, size)
    groups = batch if kernels.dim() == 4 else 1
    with full_precision(residual):
        stacked = residual.to(kernels.dtype)
        if groups > 1:
            stacked = stacked.reshape(1, batch, height, width)
        return functional.conv2d(stacked, flipped, padding=size // 2, groups=groups).reshape(batch, -1, height, width)


def correlate(maps: Tensor, residual: Tensor, size: int) -> Tensor:
    """Return inner products of shifted maps with a residual: G_n(i, j) = sum over pixels p of M_n(p + (i, j)) r(p).

    For any kernel D, <D (x) M_n, r> = sum over (i, j) of D(i, j) G_n(i, j): the convolutions with a whole dictionary
    need not be made. Never below float32.

    Args:
        maps: [batch, maps, height, width].
        residual: [batch, 1, height, width].
        size: odd width of the kernels.

    Returns:
        [batch, maps, size, size], indexed as a kernel.
    """
    batch, count, height, width = maps.shape
    margin = size // 2
    with full_precision(residual):
        padded = functional.pad(residual, (margin, margin))
        shifted = torch.cat([padded[..., size - 1 - j : size - 1 - j + width] for j in range(size)], dim=1)
        columns = shifted.reshape(batch, size, height * width).transpose(1, 2)
        rows = functional.pad(maps.to(residual.dtype), (0, 0, margin, margin)).reshape(batch, count, -1)
        products = [rows[..., i * width : (i + height) * width] @ columns for i in range(size)]
    return torch.stack(products, dim=2)


def image_step(state: Tensor, image: Tensor, artifact: Tensor, outside: Tensor, step: Tensor) -> Tensor:
    """Return the gradient step on the image channel: X + (eta / 10) I (Y - A - X).

    It is (1 - eta I / 10) X + (eta I / 10) (Y - A): inside metal the image stays.

    Args:
        state: image and dual channels, [batch, 1 + dual, height, width].
        image: the corrupted image Y.
        artifact: the artifact layer A.
        outside: I, 1 outside metal.
        step: scalar eta.

    Returns:
        The state with its image moved; its dual channels as they were.
    """
    current = state[:, :1]
    moved = current + step / STEP_SCALE * outside * (image - artifact - current)
    return torch.cat((moved, state[:, 1:]), dim=1)


def full_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """Suspend autocast on the tensor's device, if it is on."""
    device_type = tensor.device.type
    if device_type != "meta" and torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return contextlib.nullcontext()
