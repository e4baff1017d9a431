"""The scan as a value: one frozen dataclass and its named presets."""

import math
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

import numpy as np

from simulation.errors import InputError, UsageError

Detector = Literal["flat", "arc"]


@dataclass(frozen=True, repr=False)
class FanBeam:
    """Full-circle fan-beam scan with a flat detector, or with one on an arc around the source.

    Axes: x runs along the rows of the image (index i, row 0 anterior), y along its columns (index j); both start at the
    isocentre, the middle of the image. At the angle theta the source is at R (sin, -cos), the middle of the detector at
    D (-sin, cos), and the bins follow u = (cos, sin), the way the source goes. View v is taken at
    theta = first_view_rad + v 2 pi / views. Seen on a screen, row 0 on top, the source starts on the left at theta = 0
    and goes anticlockwise.

    Args:
        image_shape: rows and columns of the image.
        pixel_mm: side of a square pixel.
        source_mm: distance R from the source to the isocentre.
        detector_mm: distance D from the isocentre to the detector.
        views: number of views over 2 pi.
        bins: number of detector bins.
        pitch_mm: width of a bin, on the detector.
        detector: "flat", or "arc": bins at equal angles 2 atan(pitch / 2 (R + D)) around the source.
        column_offset: by how many bins the detector is shifted; a quarter makes opposite rays interleave.
        first_view_rad: angle of the first view; None is half a step, pi / views.
        clockwise: whether the source goes clockwise on the screen: theta falls from view to view.
        reversed_bins: whether the bins follow -u.

    Raises:
        InputError: if a length or count is not positive, the image reaches the source or detector, or the fan is wider
            than pi.

    Example:
        >>> from dataclasses import replace
        >>> from simulation import FanBeam
        >>> scan = FanBeam((256, 256), 2.0, source_mm=600, detector_mm=450, views=720, bins=700, pitch_mm=1.4)
        >>> scan.sinogram_shape, scan.magnification, round(scan.field_of_view_mm)
        ((720, 700), 1.75, 507)
        >>> replace(FanBeam.preset("clinical"), views=500).sinogram_shape
        (500, 900)
    """

    image_shape: tuple[int, int]
    pixel_mm: float
    source_mm: float
    detector_mm: float
    views: int
    bins: int
    pitch_mm: float
    detector: Detector = "flat"
    column_offset: float = 0.0
    first_view_rad: float | None = None
    clockwise: bool = False
    reversed_bins: bool = False

    def __repr__(self) -> str:
        """Return the call that makes it; what has its default value is left out."""
        return f"FanBeam({', '.join(f'{name}={value!r}' for name, value in self._stated().items())})"

    @property
    def facts(self) -> dict[str, Any]:
        """Return its arguments for a manifest; what has its default value is left out."""
        return {name: asdict(self)[name] for name in self._stated()}

    def _stated(self) -> dict[str, Any]:
        values = {one.name: (getattr(self, one.name), one.default) for one in fields(self)}
        return {name: value for name, (value, default) in values.items() if default is MISSING or value != default}

    def __post_init__(self) -> None:
        if min(self.image_shape) < 1 or self.views < 1 or self.bins < 2:
            raise InputError(
                f"fan-beam geometry: got image {self.image_shape}, {self.views} views, {self.bins} bins; "
                "expected at least one pixel and view and two bins"
            )
        if min(self.pixel_mm, self.source_mm, self.pitch_mm) <= 0 or self.detector_mm < 0:
            raise InputError(
                f"fan-beam geometry: lengths must be positive, got pixel {self.pixel_mm}, source {self.source_mm}, "
                f"detector {self.detector_mm}, pitch {self.pitch_mm} mm"
            )
        half_diagonal_mm = math.hypot(*self.image_shape) * self.pixel_mm / 2
        if half_diagonal_mm >= self.source_mm:
            raise InputError(
                f"fan-beam geometry: the image corner is {half_diagonal_mm:.0f} mm from the isocentre and reaches the "
                f"source at {self.source_mm:.0f} mm; use a smaller pixel or a longer source distance"
            )
        if self.detector not in get_args(Detector):
            raise InputError(f"fan-beam geometry: got detector {self.detector!r}, expected flat or arc")
        angles = (self.column_offset, self.first_view_rad or 0.0)
        if not all(map(math.isfinite, angles)) or abs(self.column_offset) > self.bins / 2:
            raise InputError(
                f"fan-beam geometry: got a column offset of {self.column_offset} of {self.bins} bins and a first view "
                f"at {self.first_view_rad}; expected numbers, and the central ray on the detector"
            )
        if self.detector == "arc" and np.abs(self.fan_rad).max() + self.bin_rad / 2 >= math.pi / 2:
            raise InputError(
                f"fan-beam geometry: {self.bins} bins of {self.pitch_mm} mm on an arc make a fan wider than pi; use "
                "fewer or narrower bins, or a longer distance"
            )

    @property
    def sinogram_shape(self) -> tuple[int, int]:
        """(views, bins)."""
        return self.views, self.bins

    @property
    def angles_rad(self) -> np.ndarray:
        """Angle theta of every view, float64 of shape (views,)."""
        step = 2 * math.pi / self.views
        if self.first_view_rad is None and not self.clockwise:
            return (np.arange(self.views) + 0.5) * step
        first = step / 2 if self.first_view_rad is None else self.first_view_rad
        return first + np.arange(self.views) * (-step if self.clockwise else step)

    @property
    def central_bin(self) -> float:
        """Bin, as a fraction, that the ray through the isocentre meets."""
        return (self.bins - 1) / 2 - self.column_offset

    @property
    def bins_mm(self) -> np.ndarray:
        """Position of every bin along a flat detector, the way the bins run, float64 of shape (bins,)."""
        return (np.arange(self.bins) - self.central_bin) * self.pitch_mm

    @property
    def bin_rad(self) -> float:
        """Angle of a bin of an arc, seen from the source."""
        return 2 * math.atan(self.pitch_mm / 2 / (self.source_mm + self.detector_mm))

    @property
    def fan_rad(self) -> np.ndarray:
        """Angle between the ray to every bin and that through the isocentre, float64 of shape (bins,)."""
        if self.detector == "flat":
            return np.arctan(self.bins_mm / (self.source_mm + self.detector_mm))
        return (np.arange(self.bins) - self.central_bin) * self.bin_rad

    @property
    def magnification(self) -> float:
        """Size on the detector of what has size 1 at the isocentre."""
        return (self.source_mm + self.detector_mm) / self.source_mm

    @property
    def field_of_view_mm(self) -> float:
        """Diameter of the circle that every view sees whole."""
        half_bins = self.bins / 2 - abs(self.column_offset)
        half_fan_rad = half_bins * self.bin_rad
        if self.detector == "flat":
            half_fan_rad = math.atan2(half_bins * self.pitch_mm, self.source_mm + self.detector_mm)
        return 2 * self.source_mm * math.sin(half_fan_rad)

    @property
    def inside_field_of_view(self) -> np.ndarray:
        """Pixels that every view sees, bool in the shape of the image."""
        rows, columns = self.image_shape
        x_mm = (np.arange(rows) - (rows - 1) / 2)[:, None] * self.pixel_mm
        y_mm = (np.arange(columns) - (columns - 1) / 2) * self.pixel_mm
        inside: np.ndarray = np.hypot(x_mm, y_mm) <= self.field_of_view_mm / 2
        return inside

    @classmethod
    def preset(cls, name: str) -> "FanBeam":
        """Return a named geometry.

        Args:
            name: a key of `GEOMETRIES`.

        Raises:
            UsageError: if the name is unknown.

        Example:
            >>> FanBeam.preset("syndeeplesion").image_shape
            (416, 416)
        """
        if name not in GEOMETRIES:
            raise UsageError(f"unknown geometry {name!r}; expected one of {', '.join(GEOMETRIES)}")
        return GEOMETRIES[name]


_BENCHMARK_PIXEL_MM = 10 * 0.03 * 512 / 416

_CTMAR = FanBeam(
    image_shape=(512, 512),
    pixel_mm=400 / 512,
    source_mm=550.0,
    detector_mm=400.0,
    views=1000,
    bins=900,
    pitch_mm=1.0,
    detector="arc",
    column_offset=-1.25,
    first_view_rad=-math.pi / 2,  # the source starts on top
    reversed_bins=True,
)

GEOMETRIES: dict[str, FanBeam] = {
    # Measured on the public SynDeepLesion files: ODL's fan-beam geometry around a 15.36 cm image (the body is shrunk).
    "syndeeplesion": FanBeam(
        image_shape=(416, 416),
        pixel_mm=_BENCHMARK_PIXEL_MM,
        source_mm=1075 * _BENCHMARK_PIXEL_MM,
        detector_mm=1075 * _BENCHMARK_PIXEL_MM,
        views=640,
        bins=641,
        pitch_mm=2 * math.sqrt(2) * 153.6 / 641,
    ),
    # The AAPM CT-MAR challenge's scanner (XCIST's settings), with the image over 500 mm: a body has its real size.
    "clinical": replace(_CTMAR, pixel_mm=500 / 512),
    # The same with the challenge's field of view for bodies, 400 mm.
    "ctmar": _CTMAR,
}
