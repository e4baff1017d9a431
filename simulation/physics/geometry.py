"""The scan as a value: one frozen dataclass and its named presets."""

import math
from dataclasses import dataclass

import numpy as np

from simulation.errors import InputError, UsageError


@dataclass(frozen=True)
class FanBeam:
    """Full-circle fan-beam scan with a flat detector.

    Axes: x runs along the rows of the image (index i, row 0 anterior), y along its columns (index j); both start at the
    isocentre, the middle of the image. At the angle theta the source is at R (sin, -cos), the middle of the detector at
    D (-sin, cos), and the bins follow u = (cos, sin). View v is taken at theta = (v + 1/2) 2 pi / views.

    Args:
        image_shape: rows and columns of the image.
        pixel_mm: side of a square pixel.
        source_mm: distance R from the source to the isocentre.
        detector_mm: distance D from the isocentre to the detector.
        views: number of views over 2 pi.
        bins: number of detector bins.
        pitch_mm: width of a bin, on the detector.

    Raises:
        InputError: if a length or count is not positive, or the image reaches the source or detector.

    Example:
        >>> from dataclasses import replace
        >>> from simulation import FanBeam
        >>> scan = FanBeam((256, 256), 2.0, source_mm=600, detector_mm=450, views=720, bins=700, pitch_mm=1.4)
        >>> scan.sinogram_shape, scan.magnification, round(scan.field_of_view_mm)
        ((720, 700), 1.75, 507)
        >>> replace(FanBeam.preset("clinical"), views=500).sinogram_shape
        (500, 972)
    """

    image_shape: tuple[int, int]
    pixel_mm: float
    source_mm: float
    detector_mm: float
    views: int
    bins: int
    pitch_mm: float

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

    @property
    def sinogram_shape(self) -> tuple[int, int]:
        """(views, bins)."""
        return self.views, self.bins

    @property
    def angles_rad(self) -> np.ndarray:
        """Angle of every view, (v + 1/2) 2 pi / views, float64 of shape (views,)."""
        return (np.arange(self.views) + 0.5) * (2 * math.pi / self.views)

    @property
    def bins_mm(self) -> np.ndarray:
        """Position of every bin along the detector, float64 of shape (bins,)."""
        return (np.arange(self.bins) - (self.bins - 1) / 2) * self.pitch_mm

    @property
    def magnification(self) -> float:
        """Size on the detector of what has size 1 at the isocentre."""
        return (self.source_mm + self.detector_mm) / self.source_mm

    @property
    def field_of_view_mm(self) -> float:
        """Diameter of the circle that every view sees whole."""
        half_detector_mm = self.bins * self.pitch_mm / 2
        return 2 * self.source_mm * math.sin(math.atan2(half_detector_mm, self.source_mm + self.detector_mm))

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
    # Distances and views of the AAPM CT-MAR challenge's scanner, its arc of 1 mm cells laid out flat so that it still
    # covers the whole 500 mm field of view; a body has its real size.
    "clinical": FanBeam(
        image_shape=(512, 512),
        pixel_mm=500 / 512,
        source_mm=550.0,
        detector_mm=400.0,
        views=1000,
        bins=972,
        pitch_mm=1.0,
    ),
}
