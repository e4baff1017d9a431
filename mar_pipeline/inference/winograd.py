"""3x3 convolutions of a few dozen channels on the CPU, faster than direct ones: Winograd's F(4x4, 3x3), compiled.

A 4 x 4 tile of the output takes 36 products for a pair of channels instead of 144. The image is cut into strips of
tiles that fit into the cache; a strip is transformed, multiplied by the transformed weights and transformed back, with
bias, addend and ReLU on the way. Nothing is padded to whole vectors of channels: 33 channels cost as 32.

A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016.

How the kernel is written follows from what the compiler vectorises: indices are unsigned, as signed ones are checked
for being negative; arrays are flat, with constant distances between what a loop reads and writes, as it gives up on
loops with many unrelated pointers. It releases the GIL and uses no thread pool of its own.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numba import njit, uint64
from torch import Tensor, nn

STRIP = 416
"""Tiles of a strip."""

MAX_WIDTH = 4 * STRIP
"""Widest image in pixels: a strip holds at least one row of tiles."""

_PHASE = np.uint64(STRIP)  # distance of the numbers that belong to one tile
_ROW = np.uint64(4 * STRIP)  # distance of the rows of pixels of a strip
_CHANNEL = np.uint64(36 * STRIP)  # distance of channels in the transformed strip
_N1, _N2, _N3, _N4, _N5, _N6, _N7, _N8 = (np.uint64(number) for number in range(1, 9))
_F0, _F2, _F4, _F5, _F8 = (np.float32(number) for number in (0, 2, 4, 5, 8))
_COMPILE = {"nogil": True, "cache": True, "fastmath": {"contract", "reassoc", "nsz"}, "error_model": "numpy"}

_WEIGHTS = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)


class WinogradConvolution:
    """ReLU(conv(x) + bias + addend) of a 3x3 convolution with padding 1, float32 on the CPU.

    Args:
        convolution: 3x3, padding 1, no stride, dilation or groups, with bias; it is not referred to afterwards.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        weight, bias = convolution.weight.detach().double().numpy(), convolution.bias
        self.channels_out, self.channels_in = weight.shape[:2]
        self.bias = (torch.zeros(self.channels_out) if bias is None else bias.detach().clone()).float().numpy()
        blocks_out, blocks_in = -(-self.channels_out // 3), -(-self.channels_in // 3)
        padded = np.zeros((36, 3 * blocks_out, 3 * blocks_in), np.float32)
        transformed = np.einsum("ia,ocab,jb->ijoc", _WEIGHTS, weight, _WEIGHTS)
        padded[:, : self.channels_out, : self.channels_in] = transformed.reshape(36, *weight.shape[:2])
        self.weights = padded.reshape(36, blocks_out, 3, blocks_in, 3).swapaxes(2, 3).copy()

    def __call__(self, x: Tensor, out: Tensor, addend: Tensor | None = None) -> None:
        """Convolve a batch, strips in as many threads as PyTorch has.

        Args:
            x: [batch, channels, height, width], contiguous, no wider than `MAX_WIDTH`.
            out: the result, contiguous; neither `x` nor `addend`.
            addend: what is added before the ReLU, shaped as `out`, contiguous.
        """
        tiles_across, tiles_down = -(-x.shape[3] // 4), -(-x.shape[2] // 4)
        strip_rows = min(STRIP // tiles_across, tiles_down)
        strips = -(-tiles_down // strip_rows)
        threads = torch.get_num_threads()
        edges = np.linspace(0, strips, min(threads, strips) + 1).astype(int) * strip_rows
        images, results, addends = x.numpy(), out.numpy(), (out if addend is None else addend).numpy()

        def convolve(job: tuple[int, int, int]) -> None:
            number, first, last = job
            scratch = self._scratch()
            arguments = (images[number], self.weights, self.bias, addends[number], addend is not None, results[number])
            _convolve(*arguments, *scratch, strip_rows, first, min(last, tiles_down))

        jobs = [(n, *edges[i : i + 2].tolist()) for n in range(len(x)) for i in range(len(edges) - 1)]
        if threads == 1:
            for job in jobs:
                convolve(job)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(convolve, jobs))

    def _scratch(self) -> tuple[np.ndarray, ...]:
        """Return transformed strip, products, rows of pixels, tiles' numbers, rows at a border; PyTorch aligns them."""
        _, blocks_out, blocks_in = self.weights.shape[:3]
        sizes = [3 * blocks_in * int(_CHANNEL), 3 * blocks_out * int(_CHANNEL), 6 * int(_ROW), 6 * STRIP, 6 * int(_ROW)]
        parts = torch.empty(sum(sizes)).split(sizes)
        parts[0][self.channels_in * int(_CHANNEL) :] = 0  # channels that exist for whole blocks of three
        return tuple(part.numpy() for part in parts)


@njit(**_COMPILE)
def _convolve(  # type: ignore[no-untyped-def]
    image, weights, bias, addend, add, out, strip, products, pixels, tiles, border, strip_rows, first, last
):
    """Compute rows first..last of tiles; `image` (channels, height, width), `strip` and what follows are scratch."""
    across = (image.shape[2] + 3) // 4
    for row in range(first, last, strip_rows):
        rows = min(strip_rows, last - row)
        for channel in range(image.shape[0]):
            for r in range(rows):
                _transform_rows(image, channel, row + r, across, r, pixels, border)
            for i in range(6):
                _transform_columns(pixels, i, rows, across, tiles, strip, channel)
        _multiply(weights, strip, products, rows * across)
        for channel in range(out.shape[0]):
            for i in range(6):
                _restore_columns(products, channel, i, rows * across, tiles, pixels)
            for r in range(rows):
                _restore_rows(pixels, r, across, border, out[channel], bias[channel], addend[channel], add, row + r)


@njit(inline="always", error_model="numpy")
def _transform(source, start, step, target, at, jump, count):  # type: ignore[no-untyped-def]
    """B^T d along an axis for `count` neighbours: six numbers `step` apart become six numbers `jump` apart."""
    for i in range(count):
        d0, d1, d2 = source[start + i], source[start + step + i], source[start + _N2 * step + i]
        d3, d4, d5 = source[start + _N3 * step + i], source[start + _N4 * step + i], source[start + _N5 * step + i]
        a, b, c, d = d4 - _F4 * d2, d3 - _F4 * d1, d4 - d2, _F2 * (d3 - d1)
        target[at + i] = _F4 * d0 - _F5 * d2 + d4
        target[at + jump + i] = a + b
        target[at + _N2 * jump + i] = a - b
        target[at + _N3 * jump + i] = c + d
        target[at + _N4 * jump + i] = c - d
        target[at + _N5 * jump + i] = _F4 * d1 - _F5 * d3 + d5


@njit(inline="always", error_model="numpy")
def _restore(source, start, step, target, at, jump, count):  # type: ignore[no-untyped-def]
    """A^T m along an axis for `count` neighbours: six numbers `step` apart become four numbers `jump` apart."""
    for i in range(count):
        m0, m1, m2 = source[start + i], source[start + step + i], source[start + _N2 * step + i]
        m3, m4, m5 = source[start + _N3 * step + i], source[start + _N4 * step + i], source[start + _N5 * step + i]
        a, b, c, d = m1 + m2, m1 - m2, m3 + m4, m3 - m4
        target[at + i] = m0 + a + c
        target[at + jump + i] = b + _F2 * d
        target[at + _N2 * jump + i] = a + _F4 * c
        target[at + _N3 * jump + i] = b + _F8 * d + m5


@njit(**_COMPILE)
def _transform_rows(image, channel, row, across, r, pixels, border):  # type: ignore[no-untyped-def]
    """Transform the six rows of pixels under a row of tiles; zeros beyond the image."""
    height, width = image.shape[1:]
    source, top = image.reshape(-1), 4 * row - 1
    start = (channel * height + top) * width
    if top < 0 or top + 6 > height:
        for k in range(6):
            inside = 0 <= top + k < height
            for i in range(width):
                border[k * width + i] = source[start + k * width + i] if inside else _F0
        source, start = border, 0
    at = uint64(4 * r * across)
    _transform(source, uint64(start), uint64(width), pixels, at, _ROW, uint64(width))
    for k in range(6):
        for i in range(width, 4 * across):
            pixels[uint64(k) * _ROW + at + uint64(i)] = _F0


@njit(**_COMPILE)
def _transform_columns(pixels, i, rows, across, tiles, strip, channel):  # type: ignore[no-untyped-def]
    """Transform transformed row i along the other axis: six numbers of every tile."""
    count, row = uint64(rows * across), uint64(i) * _ROW
    for t in range(count):
        tiles[_PHASE + t] = pixels[row + _N4 * t]
        tiles[_N2 * _PHASE + t] = pixels[row + _N4 * t + _N1]
        tiles[_N3 * _PHASE + t] = pixels[row + _N4 * t + _N2]
        tiles[_N4 * _PHASE + t] = pixels[row + _N4 * t + _N3]
    for t in range(count - _N1):
        tiles[t + _N1] = tiles[_N4 * _PHASE + t]
    for t in range(count - _N1):
        tiles[_N5 * _PHASE + t] = tiles[_PHASE + t + _N1]
    for r in range(rows):
        tiles[uint64(r * across)] = _F0
        tiles[_N5 * _PHASE + uint64((r + 1) * across - 1)] = _F0
    at = uint64(channel) * _CHANNEL + uint64(6 * i) * _PHASE
    _transform(tiles, uint64(0), _PHASE, strip, at, _PHASE, count)


@njit(**_COMPILE)
def _multiply(weights, strip, products, count):  # type: ignore[no-untyped-def]
    """Sum over channels of weight times strip for each of the 36 numbers, three channels by three."""
    for k in range(36):
        for block_out in range(weights.shape[1]):
            at = uint64(3 * block_out) * _CHANNEL + uint64(k) * _PHASE
            for block_in in range(weights.shape[2]):
                w = weights[k, block_out, block_in]
                a0, a1, a2 = w[0, 0], w[0, 1], w[0, 2]
                b0, b1, b2 = w[1, 0], w[1, 1], w[1, 2]
                c0, c1, c2 = w[2, 0], w[2, 1], w[2, 2]
                start = uint64(3 * block_in) * _CHANNEL + uint64(k) * _PHASE
                if block_in == 0:
                    for t in range(uint64(count)):
                        x = strip[start + t]
                        y = strip[start + _CHANNEL + t]
                        z = strip[start + _N2 * _CHANNEL + t]
                        products[at + t] = a0 * x + a1 * y + a2 * z
                        products[at + _CHANNEL + t] = b0 * x + b1 * y + b2 * z
                        products[at + _N2 * _CHANNEL + t] = c0 * x + c1 * y + c2 * z
                else:
                    for t in range(uint64(count)):
                        x = strip[start + t]
                        y = strip[start + _CHANNEL + t]
                        z = strip[start + _N2 * _CHANNEL + t]
                        products[at + t] = ((products[at + t] + a0 * x) + a1 * y) + a2 * z
                        p = products[at + _CHANNEL + t]
                        products[at + _CHANNEL + t] = ((p + b0 * x) + b1 * y) + b2 * z
                        q = products[at + _N2 * _CHANNEL + t]
                        products[at + _N2 * _CHANNEL + t] = ((q + c0 * x) + c1 * y) + c2 * z


@njit(**_COMPILE)
def _restore_columns(products, channel, i, count, tiles, pixels):  # type: ignore[no-untyped-def]
    """Four neighbouring pixels of every tile in row i."""
    start, row = uint64(channel) * _CHANNEL + uint64(6 * i) * _PHASE, uint64(i) * _ROW
    _restore(products, start, _PHASE, tiles, uint64(0), _PHASE, uint64(count))
    for t in range(uint64(count)):
        pixels[row + _N4 * t] = tiles[t]
        pixels[row + _N4 * t + _N1] = tiles[_PHASE + t]
        pixels[row + _N4 * t + _N2] = tiles[_N2 * _PHASE + t]
        pixels[row + _N4 * t + _N3] = tiles[_N3 * _PHASE + t]


@njit(**_COMPILE)
def _restore_rows(pixels, r, across, rows, out, bias, addend, add, row):  # type: ignore[no-untyped-def]
    """Write the four rows of a row of tiles, with bias, addend and ReLU, into a channel of the result."""
    height, width = out.shape
    _restore(pixels, uint64(4 * r * across), _ROW, rows, uint64(0), _ROW, uint64(width))
    for k in range(min(4, height - 4 * row)):
        start = uint64(k) * _ROW
        result, other = out[4 * row + k], addend[4 * row + k]
        if add:
            for i in range(uint64(width)):
                value = rows[start + i] + bias + other[i]
                result[i] = value if value > _F0 else _F0
        else:
            for i in range(uint64(width)):
                value = rows[start + i] + bias
                result[i] = value if value > _F0 else _F0
