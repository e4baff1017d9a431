"""The projector's four linear maps on the CPU: compiled kernels over threads, batches interleaved."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from simulation.physics import kernels
from simulation.physics.geometry import FanBeam
from simulation.units import MM_PER_CM


def usable_cores() -> int:
    """Return the number of cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class CpuOperators:
    """Forward, adjoint, back projection and its transpose on arrays (batch, ...) of one number type.

    A square image and its turned and mirrored copies have the same sinogram but for the order of views and bins, where
    the number of views is a multiple of 8 (see `_Symmetry`). So one octant of views is projected, of eight copies side
    by side in the kernels' lanes.

    Threads are started by each call and joined before it returns, so a process that forks holds none of them.

    Args:
        geometry: the scan.
        threads: threads a call may use; None takes the usable cores.
        precision: float32 or float64, of the arrays and sums; the matrix is the same, its elements float32.
    """

    def __init__(self, geometry: FanBeam, threads: int | None = None, precision: str = "float32") -> None:
        self.geometry, self.dtype = geometry, np.dtype(precision)
        self.threads = threads or usable_cores()
        self._symmetry = _Symmetry(geometry)
        angles = geometry.angles_rad[: self._symmetry.views]
        self._sines, self._cosines = np.sin(angles), np.cos(angles)
        self._rays = _ray_table(geometry, angles)
        self._arc = geometry.detector == "arc"
        bins_a_unit = 1 / (geometry.bin_rad if self._arc else geometry.pitch_mm)
        self._scan: tuple[Any, ...] = (
            geometry.source_mm,
            geometry.source_mm + geometry.detector_mm,
            -bins_a_unit if geometry.reversed_bins else bins_a_unit,
            geometry.central_bin + 1,
            np.int32(geometry.bins),
            geometry.pixel_mm,
        )
        if self._arc:
            beyond_rad = min(np.abs(geometry.fan_rad).max() + 2 * geometry.bin_rad, 0.49 * np.pi)
            largest = float(np.tan(beyond_rad))
            self._scan += (largest, kernels.arc_tangent(largest))

    def forward(self, images: np.ndarray) -> np.ndarray:
        """Return line integrals (batch, views, bins) of images (batch, rows, columns) in 1/cm."""

        def project(part: np.ndarray) -> np.ndarray:
            width = part.shape[-1]
            image, image_t = _pad_middle(part), _pad_middle(part.transpose(1, 0, 2))
            out = np.empty((self._symmetry.views, self.geometry.bins, width), self.dtype)
            kernel = kernels.joseph_forward(width, self.dtype.name)
            self._run(kernel, len(out), *self._rays, image, image_t, _nonzero_box(part), out)
            return out

        copies = self._symmetry.copies_of_images(images)
        return self._symmetry.merged_sinograms(_by_lanes(project, copies, (len(self._sines), self.geometry.bins)))

    def adjoint(self, sinograms: np.ndarray) -> np.ndarray:
        """Return the exact transpose of `forward`: (batch, rows, columns) from sinograms (batch, views, bins)."""
        rows, columns = self.geometry.image_shape

        def spread(part: np.ndarray) -> np.ndarray:
            width = part.shape[-1]
            steep = np.zeros((rows, columns + 2, width), self.dtype)
            flat = np.zeros((columns, rows + 2, width), self.dtype)
            self._run(kernels.joseph_adjoint(width), rows, *self._rays, True, part, steep)
            self._run(kernels.joseph_adjoint(width), columns, *self._rays, False, part, flat)
            return steep[:, 1:-1] + flat[:, 1:-1].transpose(1, 0, 2)

        copies = self._symmetry.copies_of_sinograms(sinograms)
        return self._symmetry.merged_images(_by_lanes(spread, copies, (rows, columns)))

    def backproject(self, sinograms: np.ndarray, power: int) -> np.ndarray:
        """Return the sum over views of the interpolated sinogram times magnification ** power, as images."""
        rows, columns = self.geometry.image_shape

        def spread(part: np.ndarray) -> np.ndarray:
            width = part.shape[-1]
            out = np.zeros((rows, columns, width), self.dtype)
            kernel = kernels.backproject(width, self.dtype.name, self._arc)
            self._run(kernel, rows, self._sines, self._cosines, self._scan, power, _pad_middle(part), out)
            return out

        copies = self._symmetry.copies_of_sinograms(sinograms)
        return self._symmetry.merged_images(_by_lanes(spread, copies, (rows, columns)))

    def backproject_transpose(self, images: np.ndarray, power: int) -> np.ndarray:
        """Return the exact transpose of `backproject`: (batch, views, bins)."""

        def project(part: np.ndarray) -> np.ndarray:
            width = part.shape[-1]
            out = np.zeros((self._symmetry.views, self.geometry.bins + 2, width), self.dtype)
            kernel = kernels.backproject_transpose(width, self._arc)
            self._run(kernel, len(out), self._sines, self._cosines, self._scan, power, part, out)
            return out[:, 1:-1]

        copies = self._symmetry.copies_of_images(images)
        return self._symmetry.merged_sinograms(_by_lanes(project, copies, (len(self._sines), self.geometry.bins)))

    def _run(self, kernel: Callable[..., None], count: int, *arguments: object) -> None:
        """Call kernel(*arguments, first, last) over 0..count, in several threads where there are several."""
        if self.threads == 1:
            kernel(*arguments, 0, count)
            return
        edges = np.linspace(0, count, 4 * self.threads + 1).astype(int)
        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(lambda first, last: kernel(*arguments, first, last), edges[:-1], edges[1:]))


class _Symmetry:
    """The turns and mirrorings that map a scan onto itself, and the copies of images and sinograms that go with them.

    A quarter turn of a square image moves its sinogram by a quarter of the views. A mirrored image has the views in
    reverse order, each with its bins in reverse order, if anticlockwise views start at half a step and the detector has
    no offset. The images are 8 copies: 4 turns, each also mirrored; of their sinograms, the first eighth of views is
    the whole sinogram of the image. Without the mirror it is 4 copies and a quarter. Other scans have one copy.

    Args:
        geometry: the scan.
    """

    def __init__(self, geometry: FanBeam) -> None:
        rows, columns = geometry.image_shape
        views = geometry.views
        from_half_a_step = geometry.first_view_rad is None and not geometry.clockwise
        self._mirrors = views % 8 == 0 and geometry.column_offset == 0 and from_half_a_step
        if rows != columns or views % 4 != 0:
            self.copies = 1
        else:
            self.copies = 8 if self._mirrors else 4
        self.views = views // self.copies
        first = np.arange(self.views)
        quarter = -views // 4 if geometry.clockwise else views // 4
        turned = [(first + turn * quarter) % views for turn in range(4)]
        mirrored = [(views - 1 - first + turn * quarter) % views for turn in range(4)]
        pairs = zip(turned, mirrored, strict=True)
        self._views_of_copies = [view for pair in pairs for view in (pair if self._mirrors else pair[:1])]

    def copies_of_images(self, images: np.ndarray) -> np.ndarray:
        """Return (batch * copies, rows, columns) of (batch, rows, columns)."""
        if self.copies == 1:
            return images
        turned = [np.rot90(images, -turn, axes=(1, 2)) for turn in range(4)]
        copies = [copy for image in turned for copy in ((image, image[:, ::-1]) if self._mirrors else (image,))]
        return np.stack(copies, axis=1).reshape(-1, *images.shape[1:])

    def merged_images(self, copies: np.ndarray) -> np.ndarray:
        """Return the transpose of `copies_of_images`: the sum of all copies, turned back."""
        if self.copies == 1:
            return copies
        parts = copies.reshape(-1, self.copies, *copies.shape[1:])
        total = np.zeros(parts.shape[:1] + parts.shape[2:], copies.dtype)
        for number in range(self.copies):
            turn, mirrored = divmod(number, 2) if self._mirrors else (number, 0)
            part = parts[:, number, ::-1] if mirrored else parts[:, number]
            total += np.rot90(part, turn, axes=(1, 2))
        return total

    def copies_of_sinograms(self, sinograms: np.ndarray) -> np.ndarray:
        """Return (batch * copies, views / copies, bins) of (batch, views, bins)."""
        if self.copies == 1:
            return sinograms
        parts = [sinograms[:, views, :: self._bin_step(n)] for n, views in enumerate(self._views_of_copies)]
        return np.stack(parts, axis=1).reshape(-1, self.views, sinograms.shape[-1])

    def merged_sinograms(self, copies: np.ndarray) -> np.ndarray:
        """Return the inverse, and the transpose, of `copies_of_sinograms`."""
        if self.copies == 1:
            return copies
        parts = copies.reshape(-1, self.copies, *copies.shape[1:])
        whole = np.empty((len(parts), self.copies * self.views, copies.shape[-1]), copies.dtype)
        for number, views in enumerate(self._views_of_copies):
            whole[:, views] = parts[:, number, :, :: self._bin_step(number)]
        return whole

    def _bin_step(self, number: int) -> int:
        return -1 if self._mirrors and number % 2 else 1


def _by_lanes(
    kernel: Callable[[np.ndarray], np.ndarray], arrays: np.ndarray, result_shape: tuple[int, int]
) -> np.ndarray:
    """Run a kernel that takes and returns arrays (.., .., lanes) over a batch, as many lanes at once as it can."""
    results = np.empty((len(arrays), *result_shape), arrays.dtype)
    for part in _parts(len(arrays)):
        results[part] = kernel(np.ascontiguousarray(arrays[part].transpose(1, 2, 0))).transpose(2, 0, 1)
    return results


def _ray_table(geometry: FanBeam, angles_rad: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return rays as start + slope * step across the pixels, length of a step in cm, and whether the steps are rows."""
    rows, columns = geometry.image_shape
    sine, cosine = np.sin(angles_rad)[:, None], np.cos(angles_rad)[:, None]
    source = geometry.source_mm / geometry.pixel_mm
    if geometry.detector == "flat":
        detector, along = geometry.detector_mm / geometry.pixel_mm, geometry.bins_mm[None] / geometry.pixel_mm
    else:
        radius = (geometry.source_mm + geometry.detector_mm) / geometry.pixel_mm
        detector = radius * np.cos(geometry.fan_rad)[None] - source
        along = radius * np.sin(geometry.fan_rad)[None]
    along = -along if geometry.reversed_bins else along
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


def _parts(batch: int) -> Iterator[slice]:
    """Yield cut a batch into slices of the widths for which kernels exist."""
    done = 0
    while done < batch:
        width = next(w for w in kernels.WIDTHS if w <= batch - done)
        yield slice(done, done + width)
        done += width


def _pad_middle(array: np.ndarray) -> np.ndarray:
    """Return a contiguous copy with one zero on each side of the middle axis."""
    padded = np.zeros((array.shape[0], array.shape[1] + 2, array.shape[2]), array.dtype)
    padded[:, 1:-1] = array
    return padded


def _nonzero_box(images: np.ndarray) -> np.ndarray:
    """Return the first and last + 1 row and column at which any image of the batch is not zero."""
    occupied = np.any(images, axis=-1)
    rows, columns = np.flatnonzero(occupied.any(axis=1)), np.flatnonzero(occupied.any(axis=0))
    if len(rows) == 0:
        return np.zeros(4, np.int64)
    return np.array([rows[0], rows[-1] + 1, columns[0], columns[-1] + 1], np.int64)
