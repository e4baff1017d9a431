"""Compiled CPU kernels of the fan-beam projector: Joseph and pixel-driven back projection, each with its transpose.

Every kernel works on a batch that is interleaved: its images are the last, contiguous axis, so that one piece of ray
geometry serves them all and the arithmetic is one vector instruction a step. A kernel is compiled for each batch width
of `WIDTHS`. Each lane does the same operations in the same order whatever the width, the threads or the batch.
All kernels release the GIL and use no thread pool of their own: they are safe in forked processes.
"""

import math
from collections.abc import Callable
from functools import cache

import numba
import numpy as np
from numba import float32, int32, literal_unroll, njit, uint64
from numba.cpython.unsafe.tuple import tuple_setitem

# The lanes of a batch stand side by side as scalars; only this LLVM pass, off by default, packs them into vectors.
numba.config.SLP_VECTORIZE = 1

WIDTHS = (8, 4, 2, 1)
_ROW_BLOCK = 8
_COLUMN_BLOCK = 64
_COMPILE = {"nogil": True, "cache": True, "fastmath": {"contract"}, "error_model": "numpy"}


@cache
def joseph_forward(width: int, precision: str = "float32") -> Callable[..., None]:
    """Return Joseph's line integrals (ray-driven, linear interpolation across the slower axis).

    kernel(start, slope, length, steep, image, image_t, box, out, first_view, last_view): `start`, `slope`, `length` and
    `steep` describe every ray (views, bins), see `Projector`; `image` is (rows, columns + 2, width) with a zero column
    on each side, `image_t` (columns, rows + 2, width) its transpose; `box` holds first and last + 1 row and column that
    are not zero; `out` is (views, bins, width). Sums are of `precision`, that of the arrays.
    """
    zeros = (np.dtype(precision).type(0),) * width

    @njit(**_COMPILE)
    def kernel(start, slope, length, steep, image, image_t, box, out, first_view, last_view):  # type: ignore[no-untyped-def]
        for v in range(first_view, last_view):
            for b in range(start.shape[1]):
                if steep[v, b]:
                    source, lo, hi, low, high = image, box[0], box[1], box[2], box[3]
                else:
                    source, lo, hi, low, high = image_t, box[2], box[3], box[0], box[1]
                limit = source.shape[1] - 2
                a = start[v, b]
                s = slope[v, b]
                # The steps at which low - 1 < a + s i < high.
                if s > 0:
                    lo = max(lo, math.ceil((low - 1 - a) / s))
                    hi = min(hi, math.ceil((high - a) / s))
                elif s < 0:
                    lo = max(lo, math.floor((high - a) / s) + 1)
                    hi = min(hi, math.floor((low - 1 - a) / s) + 1)
                elif a <= low - 1 or a >= high:
                    hi = lo
                total = zeros
                for i in range(lo, hi):
                    position = a + s * i + 1
                    j = uint64(min(max(int(position), 0), limit))
                    w1 = float32(position - j)
                    w0 = float32(1) - w1
                    for k in range(width):
                        left = source[uint64(i), j, uint64(k)]
                        right = source[uint64(i), j + uint64(1), uint64(k)]
                        total = tuple_setitem(total, k, total[k] + (w0 * left + w1 * right))
                for k in range(width):
                    out[v, b, k] = total[k] * length[v, b]

    return kernel


@cache
def joseph_adjoint(width: int) -> Callable[..., None]:
    """Return the transpose of `joseph_forward`, one half of it: the rays that are steep, or those that are not.

    kernel(start, slope, length, steep, half, sinogram, out, first_row, last_row) adds to the rows first_row..last_row
    of `out` (rows, columns + 2, width); for the other half rows and columns change places. Rows are independent, and
    each pixel adds its rays in the order of views and bins.
    """

    @njit(**_COMPILE)
    def kernel(start, slope, length, steep, half, sinogram, out, first_row, last_row):  # type: ignore[no-untyped-def]
        limit = out.shape[1] - 2
        for block in range(first_row, last_row, _ROW_BLOCK):
            for v in range(start.shape[0]):
                for b in range(start.shape[1]):
                    if steep[v, b] != half:
                        continue
                    a = start[v, b]
                    s = slope[v, b]
                    scale = length[v, b]
                    for i in range(block, min(block + _ROW_BLOCK, last_row)):
                        position = a + s * i + 1
                        if position <= 0 or position >= limit + 1:
                            continue
                        j = uint64(int(position))
                        w1 = float32(position - j)
                        w0 = float32(1) - w1
                        for k in range(width):
                            value = sinogram[uint64(v), uint64(b), uint64(k)] * scale
                            out[uint64(i), j, uint64(k)] += w0 * value
                            out[uint64(i), j + uint64(1), uint64(k)] += w1 * value

    return kernel


@njit(inline="always", error_model="numpy")
def _flat_weights(sine, cosine, x, first, last, columns, scan, power, bin_left, w_left, w_right):  # type: ignore[no-untyped-def]
    """Left bin and interpolation weights of the pixels first..last of a row, magnification ** power included."""
    source, depth_axis, per_bin, centre, last_bin, pixel = scan
    for j in range(first, last):
        y = (j - (columns - 1) / 2) * pixel
        magnification = depth_axis / (source - sine * x + cosine * y)
        position = (x * cosine + y * sine) * magnification * per_bin + centre
        left = min(max(int32(position), int32(0)), last_bin)
        weight = magnification if power == 1 else magnification * magnification
        bin_left[j - first] = left
        fraction = min(max(position - left, 0.0), 1.0)
        w_right[j - first] = float32(fraction * weight)
        w_left[j - first] = float32((1.0 - fraction) * weight)


def arc_tangent(largest: float) -> tuple[float, ...]:
    """Return coefficients of atan(t) / t as a polynomial in t^2, the highest first, to 1e-9 for 0 <= t <= largest."""
    for degree in range(4, 60):
        series = np.polynomial.Chebyshev.interpolate(
            lambda x: np.arctan(np.sqrt(x)) / np.sqrt(x), degree, [0, largest**2]
        )
        if abs(series.coef[-1]) < 1e-10:
            break
    return tuple(series.convert(kind=np.polynomial.Polynomial).coef[::-1].tolist())


@njit(inline="always", error_model="numpy")
def _arc_weights(sine, cosine, x, first, last, columns, scan, power, bin_left, w_left, w_right):  # type: ignore[no-untyped-def]
    """Do the same for a detector on an arc: bins are angles, the magnification is that along the ray."""
    source, source_detector, per_bin, centre, last_bin, pixel, largest, coefficients = scan
    square_detector = source_detector * source_detector
    for j in range(first, last):
        y = (j - (columns - 1) / 2) * pixel
        across = x * cosine + y * sine
        depth = source - sine * x + cosine * y
        tangent = min(max(across / depth, -largest), largest)  # beyond the detector it does not matter how far
        square = tangent * tangent
        series = 0.0
        for coefficient in literal_unroll(coefficients):
            series = series * square + coefficient
        position = tangent * series * per_bin + centre
        left = min(max(int32(position), int32(0)), last_bin)
        weight = square_detector / (across * across + depth * depth)
        if power == 1:
            weight = math.sqrt(weight)
        bin_left[j - first] = left
        fraction = min(max(position - left, 0.0), 1.0)
        w_right[j - first] = float32(fraction * weight)
        w_left[j - first] = float32((1.0 - fraction) * weight)


@cache
def backproject(width: int, precision: str = "float32", arc: bool = False) -> Callable[..., None]:
    """Return pixel-driven back projection, linear across the detector, weighted by magnification ** power.

    kernel(sines, cosines, scan, power, sinogram, out, first_row, last_row): `sinogram` is (views, bins + 2, width) with
    a zero bin on each side, `out` (rows, columns, width), `scan` (source, source + detector, bins per length or per
    radian of an `arc`, isocentre among the padded bins, last left bin, pixel; and of an arc the largest tangent of a
    fan angle and the coefficients of `arc_tangent`). Sums are of `precision`, that of the arrays.
    """
    zeros = (np.dtype(precision).type(0),) * width
    detector_weights = _arc_weights if arc else _flat_weights

    @njit(**_COMPILE)
    def kernel(sines, cosines, scan, power, sinogram, out, first_row, last_row):  # type: ignore[no-untyped-def]
        rows, columns = out.shape[0], out.shape[1]
        bin_left = np.empty(_COLUMN_BLOCK, np.int32)
        w_left = np.empty(_COLUMN_BLOCK, np.float32)
        w_right = np.empty(_COLUMN_BLOCK, np.float32)
        values = zeros
        for block in range(first_row, last_row, _ROW_BLOCK):
            for first in range(0, columns, _COLUMN_BLOCK):
                last = min(first + _COLUMN_BLOCK, columns)
                for v in range(sinogram.shape[0]):
                    for i in range(block, min(block + _ROW_BLOCK, last_row)):
                        x = (i - (rows - 1) / 2) * scan[5]
                        detector_weights(
                            sines[v], cosines[v], x, first, last, columns, scan, power, bin_left, w_left, w_right
                        )
                        for j in range(first, last):
                            q = uint64(bin_left[j - first])
                            w0 = w_left[j - first]
                            w1 = w_right[j - first]
                            for k in range(width):
                                left = sinogram[uint64(v), q, uint64(k)]
                                right = sinogram[uint64(v), q + uint64(1), uint64(k)]
                                old = out[uint64(i), uint64(j), uint64(k)]
                                values = tuple_setitem(values, k, old + (w0 * left + w1 * right))
                            for k in range(width):
                                out[uint64(i), uint64(j), uint64(k)] = values[k]

    return kernel


@cache
def backproject_transpose(width: int, arc: bool = False) -> Callable[..., None]:
    """Return the transpose of `backproject`: spreads an image over the views first_view..last_view of `out`."""
    detector_weights = _arc_weights if arc else _flat_weights

    @njit(**_COMPILE)
    def kernel(sines, cosines, scan, power, image, out, first_view, last_view):  # type: ignore[no-untyped-def]
        rows, columns = image.shape[0], image.shape[1]
        bin_left = np.empty(columns, np.int32)
        w_left = np.empty(columns, np.float32)
        w_right = np.empty(columns, np.float32)
        for v in range(first_view, last_view):
            for i in range(rows):
                x = (i - (rows - 1) / 2) * scan[5]
                detector_weights(sines[v], cosines[v], x, 0, columns, columns, scan, power, bin_left, w_left, w_right)
                for j in range(columns):
                    q = uint64(bin_left[j])
                    for k in range(width):
                        value = image[uint64(i), uint64(j), uint64(k)]
                        out[uint64(v), q, uint64(k)] += w_left[j] * value
                        out[uint64(v), q + uint64(1), uint64(k)] += w_right[j] * value

    return kernel
