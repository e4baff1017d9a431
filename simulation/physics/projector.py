"""The fan-beam projector: forward projection, its transpose and filtered back projection, on CPU or CUDA.

numpy or torch, any leading batch dimensions; what comes in comes out. Every map is differentiable for torch.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
import scipy.fft
from scipy.interpolate import make_interp_spline

from simulation.errors import InputError, UsageError
from simulation.physics.arrays import is_tensor, like, to_numpy
from simulation.physics.geometry import FanBeam
from simulation.physics.projector_cpu import CpuOperators
from simulation.units import MM_PER_CM

Device = Literal["auto", "cpu", "cuda"]
Weighting = Literal["benchmark", "standard"]
Kernel = Literal["ramp", "soft", "standard", "bone"]
Precision = Literal["float32", "float64"]


def why_no_cuda() -> str:
    """Return why nothing can be computed on a GPU here; empty if it can. Without a GPU, CUDA is never called."""
    import astra

    if not astra.use_cuda():  # asks the driver alone
        return "ASTRA finds no GPU on this machine"
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA"
    return "" if torch.cuda.is_available() else "torch finds no usable GPU: its driver or the permissions"


class Projector:
    """Computes the line integrals of a fan-beam scan, their transpose, and filtered back projections.

    The forward projection is Joseph's method (P. M. Joseph, IEEE Trans. Med. Imaging 1982): on the CPU by compiled
    kernels, on CUDA by ASTRA, whose texture units round the interpolation weight to 8 bits.

    Args:
        geometry: the scan.
        device: where to compute; "auto" takes CUDA where ASTRA sees a GPU.
        threads: CPU threads a call may use; None takes the usable cores.
        precision: float32, or float64 to check gradients on the CPU.
        kernel: of its filtered back projections where they name none.

    Raises:
        UsageError: unknown device or kernel, CUDA asked for where there is none or for an arc, or float64 for CUDA.

    Example:
        >>> import numpy as np
        >>> from simulation import FanBeam, Projector
        >>> scan = FanBeam((64, 64), 2.4, source_mm=400, detector_mm=400, views=64, bins=81, pitch_mm=5.4)
        >>> projector = Projector(scan, "cpu")
        >>> image_mu = np.zeros((64, 64), np.float32)
        >>> image_mu[20:44, 20:44] = 0.192  # 1/cm, a square of water
        >>> sinogram = projector.forward(image_mu)
        >>> sinogram.shape, projector.adjoint(sinogram).shape
        ((64, 81), (64, 64))
        >>> abs(float(projector.fbp(sinogram, "standard")[32, 32]) - 0.192) < 0.01
        True
    """

    def __init__(
        self,
        geometry: FanBeam,
        device: Device = "auto",
        threads: int | None = None,
        precision: Precision = "float32",
        kernel: Kernel = "ramp",
    ) -> None:
        if device not in get_args(Device):
            raise UsageError(f"unknown device {device!r}; expected one of {', '.join(get_args(Device))}")
        if device != "cpu" and precision != "float32":
            raise UsageError(f"projector: got {precision} on {device}, but CUDA computes in float32; use device cpu")
        reason = "" if device == "cpu" else why_no_cuda()
        if device != "cpu" and not reason and geometry.detector == "arc":
            reason = "ASTRA has no fan beam with a detector on an arc"
        if device == "cuda" and reason:
            raise UsageError(f"device cuda: {reason}; use --device cpu or auto")
        self.geometry, self.precision, self.kernel = geometry, precision, _checked_kernel(kernel)
        self.device = "cpu" if device == "cpu" or reason else "cuda"
        self._operators: Any
        if self.device == "cuda":
            from simulation.physics.projector_cuda import CudaOperators

            self._operators = CudaOperators(geometry)
        else:
            self._operators = CpuOperators(geometry, threads, precision)

    def forward(self, image_mu: Any) -> Any:
        """Return the line integrals P(mu).

        Args:
            image_mu: Float["... rows columns"], 1/cm. Other number types are read as the projector's.

        Returns:
            Float["... views bins"], without unit.

        Raises:
            InputError: the last two dimensions are not the geometry's image shape.
        """
        return self._apply(image_mu, self.geometry.image_shape, self._operators.forward, self._operators.adjoint)

    def adjoint(self, sinogram: Any) -> Any:
        """Return P' y: the exact transpose of `forward` on the CPU; on CUDA ASTRA's matched back projection.

        Args:
            sinogram: Float["... views bins"].

        Returns:
            Float["... rows columns"], cm times the sinogram's unit.

        Raises:
            InputError: the last two dimensions are not the geometry's sinogram shape.
        """
        return self._apply(sinogram, self.geometry.sinogram_shape, self._operators.adjoint, self._operators.forward)

    def fbp(self, sinogram: Any, weighting: Weighting = "benchmark", kernel: Kernel | None = None) -> Any:
        """Return the filtered back projection.

        "benchmark" reproduces the CTs of SynDeepLesion (ODL's fan-beam FBP): ramp filter without cosine weighting, back
        projection weighted by the magnification. It is biased by about +1 % in soft tissue. "standard" is the fan-beam
        formula for an equispaced flat detector (Kak and Slaney, Principles of Computerized Tomographic Imaging, section
        3.4.2): cosine weighting, ramp filter, inverse square of the distance; 0 outside the field of view, where some
        views are missing. On an arc it is the formula for equal angles (section 3.4.1), of which "benchmark" lacks the
        factor (angle / sine)^2, as in XCIST: that adds some HU to the whole image.

        Args:
            sinogram: Float["... views bins"], line integrals.
            weighting: "benchmark" or "standard".
            kernel: "ramp", or a window on it as clinical scanners have: "soft", "standard", "bone", see `WINDOWS`; None
                is the projector's.

        Returns:
            Float["... rows columns"], 1/cm.

        Raises:
            InputError: the last two dimensions are not the geometry's sinogram shape.
            UsageError: unknown weighting or kernel.
        """
        if weighting not in get_args(Weighting):
            raise UsageError(f"unknown weighting {weighting!r}; expected one of {', '.join(get_args(Weighting))}")
        kernel = _checked_kernel(kernel or self.kernel)
        ramp, cosines, scale, power = _fbp_recipe(self.geometry, weighting)
        cosines = (cosines * scale).astype(self.precision)
        seen = np.ones(self.geometry.image_shape, self.precision)
        if weighting == "standard" or self.geometry.detector == "arc":
            seen = self.geometry.inside_field_of_view.astype(self.precision)

        def reconstruct(sinograms: Any) -> Any:
            filtered = _convolve_rows(_times(sinograms, cosines), ramp, kernel)
            return _times(self._operators.backproject(filtered, power), seen)

        def transpose(images: Any) -> Any:
            rows = self._operators.backproject_transpose(_times(images, seen), power)
            return _times(_convolve_rows(rows, ramp, kernel), cosines)

        return self._apply(sinogram, self.geometry.sinogram_shape, reconstruct, transpose)

    def _apply(
        self, array: Any, shape: tuple[int, int], map_: Callable[[Any], Any], transpose: Callable[[Any], Any]
    ) -> Any:
        """Apply a linear map to the last two dimensions of a numpy array or tensor, on this projector's device."""
        if tuple(array.shape[-2:]) != tuple(shape):
            raise InputError(
                f"projector: got an array of shape {tuple(array.shape)}, expected {shape[0]} x {shape[1]} in its last "
                "two dimensions; resize it or choose the geometry it was made for"
            )
        if is_tensor(array):
            from simulation.physics.projector_torch import apply_linear_map

            return apply_linear_map(array, map_, transpose, self.device, self.precision)
        batch = np.asarray(array, self.precision).reshape(-1, *shape)
        if self.device == "cuda":
            import torch

            with torch.no_grad():
                result = to_numpy(map_(torch.from_numpy(np.ascontiguousarray(batch)).cuda()))
        else:
            result = map_(batch)
        return result.reshape(*array.shape[:-2], *result.shape[-2:])


@lru_cache(maxsize=8)
def _fbp_recipe(geometry: FanBeam, weighting: str) -> tuple[np.ndarray, np.ndarray, float, int]:
    """Return convolution kernel (2 bins - 1), weight of each bin, scale, and power of the magnification."""
    bins, pitch_cm = geometry.bins, geometry.pitch_mm / MM_PER_CM
    offsets = np.arange(1 - bins, bins)
    view_rad = 2 * np.pi / geometry.views
    if weighting == "benchmark" and geometry.detector == "flat":
        # |w| / (4 pi) at n = 2 bins - 1 frequencies that miss zero by half a step, as in ODL's padded transform. Rows
        # padded to n never wrap around, so the filter is this convolution whatever the length of the FFT.
        n = 2 * bins - 1
        omega = (2 * np.pi / n * np.arange(n) - np.pi) / pitch_cm
        kernel = np.cos(np.outer(offsets * pitch_cm, omega)) @ (np.abs(omega) / (4 * np.pi)) / n
        return kernel, np.ones(bins), view_rad, 1
    kernel = np.zeros(2 * bins - 1)
    odd = offsets % 2 == 1
    sdd_mm = geometry.source_mm + geometry.detector_mm
    if geometry.detector == "arc":
        kernel[bins - 1] = 1 / (8 * geometry.bin_rad**2)
        kernel[odd] = -1 / (2 * np.pi**2 * np.sin(offsets[odd] * geometry.bin_rad) ** 2)
        if weighting == "benchmark":
            # XCIST samples |w| at n frequencies, a little off zero, and has no factor (angle / sine)^2.
            n = 4 << (bins - 1).bit_length()
            ramp = (np.abs(scipy.fft.fftfreq(n)) + 0.003 / n) / (2 * geometry.bin_rad**2)
            kernel = scipy.fft.ifft(ramp).real[offsets]
        source_cm, sdd_cm = geometry.source_mm / MM_PER_CM, sdd_mm / MM_PER_CM
        return kernel, np.cos(geometry.fan_rad), view_rad * geometry.bin_rad * source_cm / sdd_cm**2, 2
    isocentre_cm = pitch_cm / geometry.magnification
    kernel[bins - 1] = 1 / (4 * isocentre_cm**2)
    kernel[odd] = -1 / (np.pi * offsets[odd] * isocentre_cm) ** 2
    cosines = sdd_mm / np.hypot(sdd_mm, geometry.bins_mm)
    return kernel, cosines, 0.5 * view_rad * isocentre_cm / geometry.magnification**2, 2


WINDOW_GAIN = 0.997
WINDOWS = {
    "soft": (1, 0.815, 0.4564, 0.1636, 0),
    "standard": (1, 0.9338, 0.7441, 0.4425, 0.0531),
    "bone": (1, 1.0485, 1.17, 1.2202, 0.9201),
}
"""What is left of the ramp at 0, 1/4, 1/2, 3/4 and all of the Nyquist frequency, quadratic in between, times the gain
(XCIST's kernels): uniform tissue loses 0.3 %."""


@lru_cache(maxsize=16)
def _window(kernel: Kernel, length: int) -> np.ndarray:
    """Return what a kernel leaves of the ramp at the frequencies of a real FFT of this length."""
    frequencies = 2 * scipy.fft.rfftfreq(length)
    if kernel == "ramp":
        return np.ones_like(frequencies)
    return WINDOW_GAIN * np.asarray(make_interp_spline((0, 0.25, 0.5, 0.75, 1), WINDOWS[kernel], k=2)(frequencies))


def _checked_kernel(kernel: Kernel) -> Kernel:
    if kernel not in get_args(Kernel):
        raise UsageError(f"unknown kernel {kernel!r}; expected one of {', '.join(get_args(Kernel))}")
    return kernel


def _times(array: Any, weights: np.ndarray) -> Any:
    """Return the array times weights over its last dimensions, as what it is."""
    return array * like(weights, array)


def _convolve_rows(array: Any, ramp: np.ndarray, kernel: Kernel) -> Any:
    """Return convolution of the last axis with a symmetric ramp of 2 bins - 1 samples, windowed, same length out."""
    bins = array.shape[-1]
    length = scipy.fft.next_fast_len(2 * bins - 1, real=True)  # what wraps around falls outside the part that is kept
    response = (scipy.fft.rfft(ramp, length) * _window(kernel, length)).astype(np.complex64)
    part = slice(bins - 1, 2 * bins - 1)
    if is_tensor(array):
        import torch

        spectrum = torch.fft.rfft(array, length) * like(response, array)
        return torch.fft.irfft(spectrum, length)[..., part]
    return scipy.fft.irfft(scipy.fft.rfft(array, length) * response, length)[..., part]
