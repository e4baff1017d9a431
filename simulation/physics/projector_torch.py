"""Torch's side of the projector: linear maps inside autograd, and back projection written in torch operations."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from simulation.physics.geometry import FanBeam

_AT_ONCE = 16


class _LinearMap(torch.autograd.Function):
    """A linear map whose gradient is its transpose, whose gradient is the map, and so on."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.there, ctx.back = there, back
        return there(x.detach())  # ASTRA takes no tensor that asks for a gradient

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _LinearMap.apply(gradients[0].contiguous(), ctx.back, ctx.there), None, None


def apply_linear_map(
    tensor: Tensor, map_: Callable, transpose: Callable, device: str, precision: str = "float32"
) -> Tensor:
    """Apply a map of (batch, rows, columns) to the last two dimensions of a tensor.

    Args:
        tensor: any leading dimensions, any device.
        map_: the linear map; on the CPU it takes and gives numpy arrays, on CUDA tensors.
        transpose: its transpose, likewise.
        device: "cpu" or "cuda", where the maps compute.
        precision: float32 or float64, what they compute in.

    Returns:
        The result on the tensor's own device.
    """

    def on_tensor(function: Callable) -> Callable[[Tensor], Tensor]:
        if device == "cuda":
            return function
        return lambda x: torch.from_numpy(function(x.detach().numpy()))

    batch = tensor.to(device=device, dtype=getattr(torch, precision)).reshape(-1, *tensor.shape[-2:]).contiguous()
    result = _LinearMap.apply(batch, on_tensor(map_), on_tensor(transpose)).to(tensor.device)
    return result.reshape(*tensor.shape[:-2], *result.shape[-2:])


def backproject(sinograms: Tensor, geometry: FanBeam, power: int) -> Tensor:
    """Return pixel-driven back projection, linear across the detector, weighted by magnification ** power.

    Args:
        sinograms: Float[Tensor, "batch views bins"], on any device.
        geometry: the scan.
        power: of the magnification.

    Returns:
        Float[Tensor, "batch rows columns"].
    """
    padded = torch.nn.functional.pad(sinograms, (1, 1))
    image = sinograms.new_zeros(len(sinograms), geometry.image_shape[0] * geometry.image_shape[1])
    for views in _some_at_once(geometry.views):
        left, w_left, w_right = _detector_weights(geometry, views, power, sinograms.device)
        rows, left = padded[:, views], left.expand(len(sinograms), -1, -1)
        image += (rows.gather(2, left) * w_left + rows.gather(2, left + 1) * w_right).sum(dim=1)
    return image.reshape(len(sinograms), *geometry.image_shape)


def backproject_transpose(images: Tensor, geometry: FanBeam, power: int) -> Tensor:
    """Return the transpose of `backproject`: Float[Tensor, "batch views bins"]."""
    flat = images.reshape(len(images), 1, -1)
    padded = images.new_zeros(len(images), geometry.views, geometry.bins + 2)
    for views in _some_at_once(geometry.views):
        left, w_left, w_right = _detector_weights(geometry, views, power, images.device)
        left = left.expand(len(images), -1, -1)
        padded[:, views].scatter_add_(2, left, flat * w_left).scatter_add_(2, left + 1, flat * w_right)
    return padded[..., 1:-1].contiguous()


def _some_at_once(views: int) -> list[slice]:
    """Return views by the dozen: one at a time, starting the operations would cost a GPU more than doing them."""
    return [slice(first, min(first + _AT_ONCE, views)) for first in range(0, views, _AT_ONCE)]


def _detector_weights(
    geometry: FanBeam, views: slice, power: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return left bin (in the padded row) and both interpolation weights, magnification ** power included.

    Returns:
        Three tensors [views, pixels].
    """
    rows, columns = geometry.image_shape
    angles = torch.from_numpy(geometry.angles_rad[views]).to(device)[:, None, None]
    x = (torch.arange(rows, device=device, dtype=torch.float64) - (rows - 1) / 2)[:, None] * geometry.pixel_mm
    y = (torch.arange(columns, device=device, dtype=torch.float64) - (columns - 1) / 2) * geometry.pixel_mm
    sine, cosine = angles.sin(), angles.cos()
    sdd_mm = geometry.source_mm + geometry.detector_mm
    depth_mm, across_mm = (geometry.source_mm - sine * x + cosine * y).flatten(1), (x * cosine + y * sine).flatten(1)
    if geometry.detector == "arc":
        magnification = sdd_mm / torch.hypot(across_mm, depth_mm)
        bins = torch.atan2(across_mm, depth_mm) / geometry.bin_rad
    else:
        magnification = sdd_mm / depth_mm
        bins = across_mm * magnification / geometry.pitch_mm
    position = (-bins if geometry.reversed_bins else bins) + geometry.central_bin + 1
    left = position.floor().clamp(0, geometry.bins)
    fraction = (position - left).clamp(0, 1)
    weight = magnification**power
    return left.long(), ((1 - fraction) * weight).float(), (fraction * weight).float()
