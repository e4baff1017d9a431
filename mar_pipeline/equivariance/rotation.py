"""Rotation of images by any angle, and the disk that such a rotation keeps."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def rotate(x: Tensor, angle_rad: float) -> Tensor:
    """Rotate images about their middle, bilinearly; what comes from outside is 0.

    The sampling grid is corrected for the aspect ratio, so that pixels stay square on images of any shape, and the
    shape does not change. A quarter turn on square images agrees with `torch.rot90(x, 1, (-2, -1))`.

    Args:
        x: Float["... H W"].
        angle_rad: angle, counter-clockwise, in rad.

    Returns:
        Float["... H W"], in the type of `x` (half precision is interpolated in float32).

    Raises:
        ValueError: `x` has no floating type.
    """
    if not x.is_floating_point():
        raise ValueError(f"rotation by {math.degrees(angle_rad):g} degrees interpolates: got {x.dtype}, expected float")
    height, width = x.shape[-2:]
    cos, sin = math.cos(angle_rad), math.sin(angle_rad)
    dtype = torch.promote_types(x.dtype, torch.float32)
    theta = torch.tensor(
        [[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]], dtype=dtype, device=x.device
    )
    grid = F.affine_grid(theta[None], [1, 1, height, width], align_corners=False)
    with torch.autocast(x.device.type, enabled=False):
        turned = F.grid_sample(x.reshape(1, -1, height, width).to(dtype), grid, align_corners=False)
    return turned.reshape(x.shape).to(x.dtype)


def disk(height: int, width: int, margin: float = 0.12, border: float = 0.0) -> Tensor:
    """Return pixels that a rotation about the middle does not take outside the image.

    Their centres lie within the radius (1 - margin) min(H, W) / 2 - border of the middle of the image.

    Args:
        height: H, in pixels.
        width: W, in pixels.
        margin: share of the radius left out.
        border: further pixels left out: as far as a network's zero padding reaches.

    Returns:
        Bool["H W"] on the CPU.

    Raises:
        ValueError: no pixel is left.
    """
    radius = (1 - margin) * min(height, width) / 2 - border
    rows = torch.arange(height, dtype=torch.float64) - (height - 1) / 2
    columns = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    inside = (
        rows[:, None] ** 2 + columns**2 <= radius**2 if radius > 0 else torch.zeros(height, width, dtype=torch.bool)
    )
    if not inside.any():
        raise ValueError(
            f"the disk of radius {radius:.2f} pixels holds no pixel of a map of {height} x {width}; "
            "use larger images, a smaller margin or border, or exclude this layer"
        )
    return inside
