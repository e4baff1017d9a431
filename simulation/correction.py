"""Classical metal artifact reduction in the projection domain: metal trace, LI and NMAR.

One path for benchmark, training and clinic. numpy or torch; what comes in comes out.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.cluster.vq import kmeans2

from simulation.errors import InputError
from simulation.physics.arrays import like, to_numpy
from simulation.physics.projector import Projector, Weighting
from simulation.units import MU_WATER_PER_CM, hu_to_mu

_EPSILON = 1e-6
_PRIOR_BLUR_PIXELS = 0.7
"""Softens the stairs of the segmented edges, which no measured sinogram has: 0.2 dB on the benchmark's files."""
_THINNEST_PRIOR = 0.02
"""Below this line integral (1 mm of water) a ray runs beside the body; its ratio to the prior would be noise."""
_TISSUE_HU, _LEAST_BONE_HU = (-900.0, 0.0, 1000.0), 350.0

_SAME_TRACE = 0.8
"""Least overlap (intersection over union) of a mask's own trace with the stored one. On the public files the right
mask reaches 0.9997 and the best wrong one 0.56; one edge bin of difference per side still leaves the smallest 0.8."""


def metal_trace(projector: Projector, metal_mask: Any) -> Any:
    """Return the bins whose ray meets metal: P(mask) > 0.

    Args:
        projector: of the scan.
        metal_mask: ["... rows columns"], true (or a metal's code) where metal is.

    Returns:
        Bool["... views bins"].

    Raises:
        InputError: the mask has another shape than the geometry's image.

    Example:
        One pixel of metal is in the shadow of at least one bin of every view.

        >>> import numpy as np
        >>> from simulation import FanBeam, Projector, metal_trace
        >>> scan = FanBeam((64, 64), 2.4, source_mm=400, detector_mm=400, views=64, bins=81, pitch_mm=5.4)
        >>> projector = Projector(scan, "cpu")
        >>> mask = np.zeros((64, 64), bool)
        >>> mask[30, 40] = True
        >>> trace = metal_trace(projector, mask)
        >>> trace.shape, bool(trace.any(axis=1).all())
        ((64, 81), True)
    """
    mask = (to_numpy(metal_mask) > 0).astype(np.float32)
    return like(projector.forward(mask) > 0, metal_mask)


def why_other_mask(stored_trace: np.ndarray, metal_mask: np.ndarray, projector: Projector) -> str:
    """Return why the mask cannot be that of the pair, as its metal trace is another one; empty if it can.

    Stacks of one layout are easily mixed up: test masks 2 to 9 are not train masks 2 to 9.

    Args:
        stored_trace: Bool["views bins"], of the pair.
        metal_mask: Bool["rows columns"].
        projector: the scan that made the pair.
    """
    own = np.asarray(metal_trace(projector, metal_mask))
    overlap = np.count_nonzero(own & stored_trace) / max(1, int(np.count_nonzero(own | stored_trace)))
    if overlap >= _SAME_TRACE:
        return ""
    return f"the mask is another one: its trace and the stored metal_trace overlap by {100 * overlap:.0f} % only"


def linear_interpolation(sinogram: Any, trace: Any) -> Any:
    """Return LI: in every view, the bins of the trace are interpolated linearly from all bins outside it.

    W. A. Kalender, R. Hebel, J. Ebersberger, Radiology 164 (1987).

    Args:
        sinogram: Float["... views bins"], line integrals.
        trace: Bool["... views bins"].

    Returns:
        Float["... views bins"]; equal to the sinogram outside the trace.

    Raises:
        InputError: shapes differ, or a view lies in the trace from end to end.

    Example:
        >>> import numpy as np
        >>> from simulation import linear_interpolation
        >>> linear_interpolation(np.array([[1.0, 9.0, 9.0, 4.0]]), np.array([[False, True, True, False]]))
        array([[1., 2., 3., 4.]], dtype=float32)
    """
    values, inside = to_numpy(sinogram).astype(np.float32), to_numpy(trace) > 0
    if values.shape != inside.shape:
        raise InputError(f"linear interpolation: sinogram {values.shape} and trace {inside.shape} differ in shape")
    bins = np.arange(values.shape[-1])
    rows, row_traces = values.reshape(-1, len(bins)).copy(), inside.reshape(-1, len(bins))
    for number in np.flatnonzero(row_traces.any(axis=1)):
        hidden = row_traces[number]
        if hidden.all():
            raise InputError(
                f"linear interpolation: view {number % values.shape[-2]} lies in the metal trace from end to end, "
                "nothing is left to interpolate from; check the metal mask"
            )
        rows[number, hidden] = np.interp(bins[hidden], bins[~hidden], rows[number, ~hidden])
    return like(rows.reshape(values.shape), sinogram)


def nmar_prior(li_image_mu: Any, metal_mask: Any) -> Any:
    """Return the prior image of NMAR: air 0, soft tissue all water, bone as it is in the LI image.

    E. Meyer et al., Medical Physics 37 (2010), with the thresholds of SynDeepLesion's users: metal is set to water,
    the pixels are clustered around 0, mu_water and 2 mu_water, and a 5 x 5 Gaussian (sigma 1) smooths what is cut. The
    edges of the result are softened by 0.7 pixels.

    Args:
        li_image_mu: Float["... rows columns"], 1/cm, reconstructed after LI.
        metal_mask: ["... rows columns"], true where metal is.

    Returns:
        Float["... rows columns"], 1/cm.

    Raises:
        InputError: shapes differ.

    Example:
        >>> import numpy as np
        >>> from simulation import nmar_prior
        >>> image_mu = np.zeros((32, 32), np.float32)
        >>> image_mu[8:24, 8:24] = 0.2  # soft tissue
        >>> prior_mu = nmar_prior(image_mu, np.zeros((32, 32), bool))
        >>> round(float(prior_mu[0, 0]), 3), round(float(prior_mu[16, 16]), 3)
        (0.0, 0.192)
    """
    return _of_each_slice("NMAR prior", _prior_of_one, li_image_mu, metal_mask)


def nmar(
    sinogram: Any, trace: Any, prior_mu: Any, projector: Projector, weighting: Weighting = "benchmark"
) -> tuple[Any, Any]:
    """Return NMAR: LI of the sinogram normalised by the projected prior (E. Meyer et al., Medical Physics 37, 2010).

    Args:
        sinogram: Float["... views bins"], line integrals.
        trace: Bool["... views bins"].
        prior_mu: Float["... rows columns"], 1/cm, see `nmar_prior`.
        projector: of the scan.
        weighting: of the filtered back projection.

    Returns:
        The corrected sinogram and its image in 1/cm.

    Raises:
        InputError: shapes differ, or a view lies in the trace from end to end.

    Example:
        >>> import numpy as np
        >>> from simulation import FanBeam, Projector, nmar
        >>> scan = FanBeam((64, 64), 2.4, source_mm=400, detector_mm=400, views=64, bins=81, pitch_mm=5.4)
        >>> projector = Projector(scan, "cpu")
        >>> body_mu = np.zeros((64, 64), np.float32)
        >>> body_mu[20:44, 20:44] = 0.192
        >>> sinogram, trace = projector.forward(body_mu), np.zeros((64, 81), bool)
        >>> trace[:, 40] = True
        >>> corrected, image_mu = nmar(sinogram, trace, body_mu, projector)
        >>> bool(np.allclose(corrected, sinogram, atol=1e-3)), image_mu.shape
        (True, (64, 64))
    """
    values, inside = to_numpy(sinogram).astype(np.float32), to_numpy(trace) > 0
    prior = projector.forward(to_numpy(prior_mu))
    normalised = np.where(prior > _THINNEST_PRIOR, values / (prior + _EPSILON), 1).astype(np.float32)
    interpolated = linear_interpolation(normalised, inside) * (prior + _EPSILON)
    corrected = np.where(inside, interpolated, values).astype(np.float32)
    return like(corrected, sinogram), like(projector.fbp(corrected, weighting), sinogram)


def tissue_prior(image_mu: Any, metal_mask: Any) -> Any:
    """Return prior image of CNNMAR: air 0, soft tissue all water, bone as it is.

    Metal is set to water and the pixels are clustered around -900, 0 and 1000 HU; bone is at least 350 HU. Y. Zhang,
    H. Yu, IEEE TMI 37 (2018).

    Args:
        image_mu: Float["... rows columns"], 1/cm, nearly free of artifacts.
        metal_mask: ["... rows columns"], true where metal is.

    Returns:
        Float["... rows columns"], 1/cm.

    Raises:
        InputError: shapes differ.
    """
    return _of_each_slice("tissue prior", _tissue_prior_of_one, image_mu, metal_mask)


def replace_trace(
    sinogram: Any, trace: Any, prior_mu: Any, projector: Projector, weighting: Weighting = "benchmark"
) -> tuple[Any, Any]:
    """Return the metal trace filled with the projection of a prior image, without a step at its border.

    The difference between measurement and prior is interpolated linearly across the trace and added to the prior.

    Args:
        sinogram: Float["... views bins"], line integrals.
        trace: Bool["... views bins"].
        prior_mu: Float["... rows columns"], 1/cm.
        projector: of the scan.
        weighting: of the filtered back projection.

    Returns:
        The corrected sinogram and its image in 1/cm.

    Raises:
        InputError: shapes differ, or a view lies in the trace from end to end.
    """
    values, inside = to_numpy(sinogram).astype(np.float32), to_numpy(trace) > 0
    prior = projector.forward(to_numpy(prior_mu))
    corrected = np.where(inside, prior + linear_interpolation(values - prior, inside), values).astype(np.float32)
    return like(corrected, sinogram), like(projector.fbp(corrected, weighting), sinogram)


def hardening_corrected(
    sinogram: Any, li_sinogram: Any, metal_mask: Any, projector: Projector, weighting: Weighting = "benchmark"
) -> Any:
    """Return the image after correction of the metal's beam hardening, of first order.

    What the metal adds to a ray, p - p_LI, is fitted by a polynomial a L + b L^2 + c L^3 of the ray's length L in
    metal, and the higher orders are taken off. J. M. Verburg, J. Seco, Physics in Medicine and Biology 57 (2012).

    Args:
        sinogram: Float["views bins"], line integrals.
        li_sinogram: as ``sinogram``, after linear interpolation.
        metal_mask: ["rows columns"], true where metal is.
        projector: of the scan.
        weighting: of the filtered back projection.

    Returns:
        Float["rows columns"], 1/cm.

    Raises:
        InputError: wrong shapes.
    """
    values = to_numpy(sinogram).astype(np.float32)
    lengths = projector.forward((to_numpy(metal_mask) > 0).astype(np.float32))
    inside = lengths > 0
    powers = lengths[inside][:, None].astype(np.float64) ** [1, 2, 3]
    added = (values - to_numpy(li_sinogram))[inside]
    coefficients = np.linalg.lstsq(powers, added, rcond=None)[0]
    corrected = values.copy()
    corrected[inside] -= (powers[:, 1:] @ coefficients[1:]).astype(np.float32)
    return like(projector.fbp(corrected, weighting), sinogram)


def reprojected(image_mu: Any, metal_mask: Any, projector: Projector, weighting: Weighting = "benchmark") -> Any:
    """Return the scan of an image whose raw data are gone: its projection, the metal's trace and LI.

    Streaks are projected along with the body, so that what a network knows of measured sinograms holds approximately.

    Args:
        image_mu: Float["... rows columns"], 1/cm, with metal in it.
        metal_mask: ["... rows columns"], true where metal is.
        projector: of the scan that is assumed.
        weighting: of the filtered back projection.

    Returns:
        (sinogram, LI sinogram, metal trace, LI image).

    Raises:
        InputError: wrong shapes, or a view lies in the trace from end to end.
    """
    sinogram, trace = projector.forward(image_mu), metal_trace(projector, metal_mask)
    interpolated = linear_interpolation(sinogram, trace)
    return sinogram, interpolated, trace, projector.fbp(interpolated, weighting)


def _of_each_slice(
    what: str, prior_of_one: Callable[[np.ndarray, np.ndarray], np.ndarray], image_mu: Any, metal_mask: Any
) -> Any:
    """Return a prior image of every slice of a batch of any shape."""
    images, masks = to_numpy(image_mu).astype(np.float32), to_numpy(metal_mask) > 0
    if images.shape != masks.shape:
        raise InputError(f"{what}: image {images.shape} and metal mask {masks.shape} differ in shape")
    flat = [prior_of_one(i, m) for i, m in zip(_planes(images), _planes(masks), strict=True)]
    return like(np.stack(flat).reshape(images.shape), image_mu)


def _planes(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1, *array.shape[-2:])


def _prior_of_one(li_image_mu: np.ndarray, metal_mask: np.ndarray) -> np.ndarray:
    image = np.where(metal_mask, MU_WATER_PER_CM, li_image_mu).astype(np.float32)
    water_from, bone_from = _tissue_borders(image, (0.0, MU_WATER_PER_CM, 2 * MU_WATER_PER_CM))
    smooth = ndimage.gaussian_filter(image, 1, truncate=2)
    prior = np.select([smooth < water_from, smooth < bone_from], [0, MU_WATER_PER_CM], smooth)
    blurred: np.ndarray = ndimage.gaussian_filter(prior, _PRIOR_BLUR_PIXELS).astype(np.float32)
    return blurred


def _tissue_prior_of_one(image_mu: np.ndarray, metal_mask: np.ndarray) -> np.ndarray:
    image = np.where(metal_mask, MU_WATER_PER_CM, image_mu).astype(np.float32)
    water_from, bone_from = _tissue_borders(image, [hu_to_mu(hu) for hu in _TISSUE_HU])
    bone_from = max(bone_from, hu_to_mu(_LEAST_BONE_HU))
    return np.select([image < water_from, image < bone_from], [0, MU_WATER_PER_CM], image).astype(np.float32)


def _tissue_borders(image: np.ndarray, centres: Sequence[float]) -> tuple[float, float]:
    """Return where water and bone begin, by clustering around the centres of air, water and bone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a slice without air or bone has an empty cluster
        start = np.array(centres, np.float64)[:, None]
        _, labels = kmeans2(image.reshape(-1, 1).astype(np.float64), start, minit="matrix")
    labels = labels.reshape(image.shape)
    return _border(image, labels < 1), _border(image, labels < 2)


def _border(image: np.ndarray, below: np.ndarray) -> float:
    """Return the value half-way between the largest below and the smallest above; infinite where nothing is above."""
    if below.all():
        return np.inf
    lowest_above = float(image[~below].min())
    return (lowest_above + float(image[below].max())) / 2 if below.any() else -np.inf
