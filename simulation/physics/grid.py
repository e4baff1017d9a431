"""How a slice comes onto the image grid of a protocol."""

import numpy as np
from PIL import Image

from simulation.errors import UsageError
from simulation.physics.protocols import AnyProtocol


def to_grid(
    image_mu: np.ndarray, pixel_mm: float | None, protocol: AnyProtocol, shape: tuple[int, int] | None = None
) -> np.ndarray:
    """Resample a slice bilinearly, averaging over the source pixels where the new ones are larger (Pillow).

    "stretch" fills the grid whatever the pixel size, as SynDeepLesion did; "physical" keeps the size in mm and the
    isocentre in the middle, with air around the slice and outside the scanner's field of view.

    Args:
        image_mu: Float["n n"], 1/cm.
        pixel_mm: its pixel size; only "physical" needs it.
        protocol: gives the grid.
        shape: another number of rows and columns over the same extent; None takes the protocol's.

    Returns:
        Float["rows columns"], float32; the image itself where its grid is already right.

    Raises:
        UsageError: the pixel size is unknown and the protocol needs it.
    """
    geometry = protocol.geometry
    shape = shape or geometry.image_shape
    if protocol.grid == "stretch":
        return _resize(image_mu, shape, None)
    if pixel_mm is None:
        raise UsageError(
            "this source tells no pixel size (the community layout has none), and the preset keeps real sizes; "
            "use --preset syndeeplesion or a source with a pixel size"
        )
    side = geometry.image_shape[0] * geometry.pixel_mm / pixel_mm  # of the grid, in source pixels
    margin = max(0, int(np.ceil((side - len(image_mu)) / 2)))
    padded = np.pad(image_mu, margin)
    low, high = (len(padded) - side) / 2, (len(padded) + side) / 2
    seen = Image.fromarray(geometry.inside_field_of_view).resize((shape[1], shape[0]), Image.Resampling.NEAREST)
    return np.where(np.asarray(seen), _resize(padded, shape, (low, low, high, high)), np.float32(0))


def _resize(image_mu: np.ndarray, shape: tuple[int, int], box: tuple[float, float, float, float] | None) -> np.ndarray:
    image_mu = np.asarray(image_mu, np.float32)
    whole = box is None or box == (0, 0, image_mu.shape[1], image_mu.shape[0])
    if whole and image_mu.shape == tuple(shape):
        return image_mu
    size = (shape[1], shape[0])
    return np.asarray(Image.fromarray(image_mu).resize(size, Image.Resampling.BILINEAR, box=box), np.float32)
