"""The body, and the rings around the metal in it, of one slice."""

import numpy as np
from scipy import ndimage

BODY_HU = -500.0
_THIN_MM = 2.0
"""Parts thinner than twice this, such as the table's shells, sheets and wires, do not connect to the body."""
_SMALLEST = 0.05
RINGS_MM = ((0, 10), (10, 20), (20, 40), (40, 80))
RING_NAMES = tuple(f"ring {low}-{high} mm" for low, high in RINGS_MM)


def find_body(hu: np.ndarray, inside: np.ndarray, metal: np.ndarray, spacing_mm: tuple[float, float]) -> np.ndarray:
    """Return the patient: large parts above -500 HU or of metal in the field of view, with their holes filled.

    Parts are large if they have at least a twentieth of the largest one: arms and both legs belong to the patient.
    Thin parts that stand apart, such as a table, are cut off. Lungs and gas that the body encloses belong to it.

    Args:
        hu: Float["rows columns"].
        inside: Bool["rows columns"], the field of view.
        metal: Bool["rows columns"].
        spacing_mm: distance of rows, and of columns.

    Returns:
        Bool["rows columns"]; nothing is true where no part is thicker than 4 mm.

    >>> hu = np.full((9, 9), -1000.0)
    >>> hu[1:8, 1:8] = 40
    >>> everywhere, nowhere = np.ones((9, 9), bool), np.zeros((9, 9), bool)
    >>> int(find_body(hu, everywhere, nowhere, (1.0, 1.0)).sum())
    49
    """
    solid = (inside & (hu > BODY_HU)) | metal
    # A border of air: the image's edge is an edge of the body, too.
    core = ndimage.distance_transform_edt(np.pad(solid, 1), sampling=spacing_mm)[1:-1, 1:-1] > _THIN_MM
    labels, count = ndimage.label(core)
    if not count:
        return np.zeros_like(solid)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    large = (sizes >= _SMALLEST * sizes.max())[labels] & core
    near = ndimage.distance_transform_edt(~large, sampling=spacing_mm) <= 2 * _THIN_MM
    return ndimage.binary_fill_holes(near & solid)


def ring_masks(metal: np.ndarray, body: np.ndarray, spacing_mm: tuple[float, float]) -> dict[str, np.ndarray]:
    """Return the rings around the metal: voxels of the body by their distance to the nearest metal voxel in the slice.

    A voxel belongs to the ring from a to b if its centre lies more than a and at most b mm from that of a metal voxel.

    Args:
        metal: Bool["rows columns"]; it belongs to no ring.
        body: Bool["rows columns"].
        spacing_mm: distance of rows, and of columns.

    Returns:
        Name such as ``ring 0-10 mm`` -> Bool["rows columns"]; empty rings of a slice without metal.

    >>> metal = np.zeros((1, 40), bool)
    >>> metal[0, 0] = True
    >>> {name: int(mask.sum()) for name, mask in ring_masks(metal, ~metal, (1.0, 1.0)).items()}
    {'ring 0-10 mm': 10, 'ring 10-20 mm': 10, 'ring 20-40 mm': 19, 'ring 40-80 mm': 0}
    """
    if metal.any():
        distance_mm = ndimage.distance_transform_edt(~metal, sampling=spacing_mm)
    else:
        distance_mm = np.full(metal.shape, np.inf)
    return {
        name: body & (distance_mm > low) & (distance_mm <= high)
        for name, (low, high) in zip(RING_NAMES, RINGS_MM, strict=True)
    }
