"""Conjugate rays: what a full-circle fan-beam sinogram says of its own geometry.

The ray from view theta at the fan angle g is met again, the other way around, from theta - 2 g + pi at -g. Only with
the right column offset do both readings agree.
"""

from dataclasses import replace

import numpy as np
from scipy import ndimage
from scipy.optimize import minimize_scalar

from simulation.errors import InputError
from simulation.physics.geometry import FanBeam

_FARTHEST_BINS = 3.0
_VIEWS = 60
"""Views that are compared with their conjugates: enough for a thousandth of a bin."""


def conjugate_disagreement(sinogram: np.ndarray, geometry: FanBeam) -> float:
    """Return the root mean square difference of rays and their conjugates over the spread of the sinogram.

    Args:
        sinogram: Float["views bins"], line integrals.
        geometry: the scan, on which the column offset of the sinogram is not yet right or wrong.

    Returns:
        0 for a perfect scan; about 1 where views or bins are in another order.
    """
    views, bins = geometry.sinogram_shape
    chosen = np.unique(np.linspace(0, views - 1, _VIEWS).astype(int))
    along = -geometry.fan_rad if geometry.reversed_bins else geometry.fan_rad
    turn = (np.pi - 2 * along) / (2 * np.pi) * views
    other_view = chosen[:, None] + (-turn if geometry.clockwise else turn)
    other_bin = np.interp(-geometry.fan_rad, geometry.fan_rad, np.arange(bins), left=-1, right=-1)
    seen = (other_bin >= 0) & (other_bin <= bins - 1)
    wrapped = np.concatenate([sinogram, sinogram[:1]])  # the view after the last is the first
    places = np.broadcast_arrays(other_view % views, other_bin)
    conjugate = ndimage.map_coordinates(wrapped, places, order=1, mode="nearest")
    difference = (np.asarray(sinogram)[chosen] - conjugate)[:, seen]
    return float(np.sqrt(np.mean(difference**2)) / max(float(np.std(sinogram)), 1e-12))


def find_column_offset(sinogram: np.ndarray, geometry: FanBeam, most: float = 0.2) -> float:
    """Return the column offset that a sinogram was measured with, in bins.

    Args:
        sinogram: Float["views bins"], line integrals.
        geometry: the scan but for the offset.
        most: disagreement of conjugate rays from which the sinogram is not of this scan.

    Raises:
        InputError: of another shape, or the conjugate rays disagree whatever the offset: views or bins are in another
            order, or the scan is another one.
    """
    if sinogram.shape != geometry.sinogram_shape:
        raise InputError(f"sinogram: got shape {sinogram.shape}; expected views x bins, {geometry.sinogram_shape}")

    def disagreement(offset: float) -> float:
        return conjugate_disagreement(sinogram, replace(geometry, column_offset=offset))

    coarse = np.arange(-_FARTHEST_BINS, _FARTHEST_BINS + 0.1, 0.25)
    best = float(coarse[np.argmin([disagreement(offset) for offset in coarse])])
    found = minimize_scalar(disagreement, bounds=(best - 0.25, best + 0.25), method="bounded", options={"xatol": 1e-3})
    if not found.fun < most:
        raise InputError(
            f"sinogram: rays and their conjugates disagree by {100 * found.fun:.0f} % of its spread whatever the column"
            f" offset, expected less than {100 * most:.0f} %; are views and bins in the order of this scan?"
        )
    return float(found.x)
