"""The projector's four linear maps on the CPU: compiled kernels over threads, batches interleaved."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from simulation import kernels
from simulation.geometry import FanBeam
from simulation.units import MM_PER_CM


def usable_cores() -> int:
    """Number of cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class CpuOperators:
    """Forward, adjoint, back projection and its transpose on arrays (batch, ...) of one number type.

    Threads are started by each call and joined before it returns, so a process that forks holds none of them.

    Args:
        geometry: the scan.
        threads: threads a call may use; None takes the usable cores.
        precision: float32 or float64, of the arrays and sums; the matrix is the same, its elements float32.
    """

    def __init__(self, geometry: FanBeam, threads: int | None = None, precision: str = "float32") -> None:
        self.geometry, self.dtype = geometry, np.dtype(precision)
        self.threads = threads or usable_cores()
        angles = geometry.angles_rad
        self._sines, self._cosines = np.sin(angles), np.cos(angles)
        self._rays = _ray_table(geometry)
        sdd_mm = geometry.source_mm + geometry.detector_mm
        self._scan = (
            geometry.source_mm,
            sdd_mm,
            1 / geometry.pitch_mm,
            (geometry.bins - 1) / 2 + 1,
            np.int32(geometry.bins),
            geometry.pixel_mm,
        )

    def forward(self, images: np.ndarray) -> np.ndarray:
        """Line integrals (batch, views, bins) of images (batch, rows, columns) in 1/cm."""
        views, bins = self.geometry.sinogram_shape
        sinograms = np.empty((len(images), views, bins), self.dtype)
        for part, width in _parts(len(images)):
            image = _pad_middle(images[part].transpose(1, 2, 0))
            image_t = _pad_middle(images[part].transpose(2, 1, 0))
            box = _nonzero_box(images[part])
            out = np.empty((views, bins, width), self.dtype)
            self._run(kernels.joseph_forward(width, self.dtype.name), views, *self._rays, image, image_t, box, out)
            sinograms[part] = out.transpose(2, 0, 1)
        return sinograms

    def adjoint(self, sinograms: np.ndarray) -> np.ndarray:
        """Exact transpose of `forward`: images (batch, rows, columns) from sinograms (batch, views, bins)."""
        rows, columns = self.geometry.image_shape
        images = np.empty((len(sinograms), rows, columns), self.dtype)
        for part, width in _parts(len(sinograms)):
            sinogram = np.ascontiguousarray(sinograms[part].transpose(1, 2, 0))
            steep = np.zeros((rows, columns + 2, width), self.dtype)
            flat = np.zeros((columns, rows + 2, width), self.dtype)
            self._run(kernels.joseph_adjoint(width), rows, *self._rays, True, sinogram, steep)
            self._run(kernels.joseph_adjoint(width), columns, *self._rays, False, sinogram, flat)
            images[part] = steep[:, 1:-1].transpose(2, 0, 1) + flat[:, 1:-1].transpose(2, 1, 0)
        return images

    def backproject(self, sinograms: np.ndarray, power: int) -> np.ndarray:
        """Sum over views of the interpolated sinogram times magnification ** power: (batch, rows, columns)."""
        rows, columns = self.geometry.image_shape
        images = np.empty((len(sinograms), rows, columns), self.dtype)
        for part, width in _parts(len(sinograms)):
            sinogram = _pad_middle(sinograms[part].transpose(1, 2, 0))
            out = np.zeros((rows, columns, width), self.dtype)
            angles = self._sines, self._cosines
            self._run(kernels.backproject(width, self.dtype.name), rows, *angles, self._scan, power, sinogram, out)
            images[part] = out.transpose(2, 0, 1)
        return images

    def backproject_transpose(self, images: np.ndarray, power: int) -> np.ndarray:
        """Exact transpose of `backproject`: (batch, views, bins)."""
        views, bins = self.geometry.sinogram_shape
        sinograms = np.empty((len(images), views, bins), self.dtype)
        for part, width in _parts(len(images)):
            image = np.ascontiguousarray(images[part].transpose(1, 2, 0))
            out = np.zeros((views, bins + 2, width), self.dtype)
            angles = self._sines, self._cosines
            self._run(kernels.backproject_transpose(width), views, *angles, self._scan, power, image, out)
            sinograms[part] = out[:, 1:-1].transpose(2, 0, 1)
        return sinograms

    def _run(self, kernel: Callable[..., None], count: int, *arguments: object) -> None:
        """Calls kernel(*arguments, first, last) over 0..count, in several threads where there are several."""
        if self.threads == 1:
            kernel(*arguments, 0, count)
            return
        edges = np.linspace(0, count, 4 * self.threads + 1).astype(int)
        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(lambda first, last: kernel(*arguments, first, last), edges[:-1], edges[1:]))


def _ray_table(geometry: FanBeam) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Every ray as start + slope * step across the pixels, its length a step in cm, and whether it steps over rows."""
    rows, columns = geometry.image_shape
    sine, cosine = np.sin(geometry.angles_rad)[:, None], np.cos(geometry.angles_rad)[:, None]
    source = geometry.source_mm / geometry.pixel_mm
    detector = geometry.detector_mm / geometry.pixel_mm
    along = geometry.bins_mm[None] / geometry.pixel_mm
    source_x, source_y = source * sine, -source * cosine
    dx = -detector * sine + along * cosine - source_x
    dy = detector * cosine + along * sine - source_y
    steep = np.abs(dx) >= np.abs(dy)
    slope = np.where(steep, dy, dx) / np.where(steep, dx, dy)
    slope[np.abs(slope) < 1e-12] = 0  # a ray along the grid, off by rounding: its inverse slope overflows
    first_row, first_column = -(rows - 1) / 2, -(columns - 1) / 2
    start = np.where(
        steep,
        source_y + slope * (first_row - source_x) - first_column,
        source_x + slope * (first_column - source_y) - first_row,
    )
    length_cm = np.sqrt(1 + slope**2) * (geometry.pixel_mm / MM_PER_CM)
    return start, slope, length_cm.astype(np.float32), steep


def _parts(batch: int) -> Iterator[tuple[slice, int]]:
    """Cuts a batch into slices of the widths for which kernels exist."""
    done = 0
    while done < batch:
        width = next(w for w in kernels.WIDTHS if w <= batch - done)
        yield slice(done, done + width), width
        done += width


def _pad_middle(array: np.ndarray) -> np.ndarray:
    """A contiguous copy with one zero on each side of the middle axis."""
    padded = np.zeros((array.shape[0], array.shape[1] + 2, array.shape[2]), array.dtype)
    padded[:, 1:-1] = array
    return padded


def _nonzero_box(images: np.ndarray) -> np.ndarray:
    """First and last + 1 row and column at which any image of the batch is not zero."""
    occupied = np.any(images, axis=0)
    rows, columns = np.flatnonzero(occupied.any(axis=1)), np.flatnonzero(occupied.any(axis=0))
    if len(rows) == 0:
        return np.zeros(4, np.int64)
    return np.array([rows[0], rows[-1] + 1, columns[0], columns[-1] + 1], np.int64)
