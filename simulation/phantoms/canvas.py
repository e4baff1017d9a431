"""Drawing for the embedded phantoms: smooth closed curves in mm, painted supersampled with tissue texture."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from scipy.interpolate import CubicSpline
from scipy.ndimage import distance_transform_edt, gaussian_filter

AIR_HU, FAT_HU, MUSCLE_HU = -1000.0, -100.0, 55.0
_SUPERSAMPLING = 2
_CURVE_POINTS = 160
_BLUR_PX = 0.6
Box = tuple[slice, slice]


def spline(knots: Sequence[Sequence[float]] | np.ndarray, scale: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    """Return a smooth closed curve through knots, a periodic cubic spline in chord length.

    Args:
        knots: (k, 2) points (x, y).
        scale: factors of x and y applied to the knots first, e.g. half width and half height in mm.

    Returns:
        (160, 2) points, evenly spaced in the spline's parameter.
    """
    points = np.asarray(knots, dtype=float) * scale
    closed = np.vstack([points, points[:1]])
    chord = np.concatenate([[0.0], np.cumsum(np.sqrt(np.linalg.norm(np.diff(closed, axis=0), axis=1)))])
    return CubicSpline(chord, closed, bc_type="periodic")(np.linspace(0, chord[-1], _CURVE_POINTS, endpoint=False))


def mirrored(half: Sequence[Sequence[float]], scale: tuple[float, float]) -> np.ndarray:
    """Return a closed curve symmetric in x from its right half, first and last knot on the axis."""
    left = [(-x, y) for x, y in reversed(half[1:-1])]
    return spline([*half, *left], scale)


def ellipse(
    centre: Sequence[float] | np.ndarray, radii: Sequence[float] | np.ndarray, angle_deg: float = 0.0
) -> np.ndarray:
    """Return an ellipse as (160, 2) points; the angle turns x towards y."""
    phase = np.linspace(0, 2 * np.pi, _CURVE_POINTS, endpoint=False)
    return turned(np.stack([radii[0] * np.cos(phase), radii[1] * np.sin(phase)], axis=1), angle_deg) + centre


def turned(points: np.ndarray, angle_deg: float) -> np.ndarray:
    """Return points turned about the origin, x towards y."""
    cosine, sine = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    return points @ np.array([[cosine, sine], [-sine, cosine]])


def shifted(points: np.ndarray, x_mm: float, y_mm: float) -> np.ndarray:
    """Return points (..., 2) moved by (x, y)."""
    return points + np.array([x_mm, y_mm])


def _normals(points: np.ndarray, closed: bool) -> np.ndarray:
    tangent = np.roll(points, -1, 0) - np.roll(points, 1, 0) if closed else np.gradient(points, axis=0)
    length = np.linalg.norm(tangent, axis=1, keepdims=True)
    return np.stack([tangent[:, 1], -tangent[:, 0]], axis=1) / np.maximum(length, 1e-9)


def offset(points: np.ndarray, amount_mm: float | np.ndarray) -> np.ndarray:
    """Return a closed curve moved along its outward normals; a negative amount (scalar or one a point) goes inwards."""
    x, y = points.T
    orientation = np.sign(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))
    return points + orientation * _normals(points, closed=True) * np.reshape(amount_mm, (-1, 1))


def wobbled(points: np.ndarray, rng: np.random.Generator, amount_mm: float, modes: int = 6) -> np.ndarray:
    """Return a closed curve with a random Fourier perturbation along its normals, rms amount_mm, from mode 2 on."""
    phase = np.linspace(0, 2 * np.pi, len(points), endpoint=False)
    order = np.arange(2, modes + 2)[:, None]
    weights = rng.standard_normal((modes, 1)) / np.sqrt(order)
    wave = np.sum(weights * np.cos(order * phase + rng.uniform(0, 2 * np.pi, (modes, 1))), axis=0)
    return offset(points, wave * (amount_mm / max(float(wave.std()), 1e-9)))


def band(path: Sequence[Sequence[float]] | np.ndarray, width_mm: float | Sequence[float] | np.ndarray) -> np.ndarray:
    """Return a closed outline of a smooth strip along an open path, rounded and tapered at its ends.

    Args:
        path: (k, 2) knots of the centre line in mm, k >= 2.
        width_mm: width, one value or one a knot.
    """
    knots = np.asarray(path, dtype=float)
    chord = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(knots, axis=0), axis=1))])
    at = np.linspace(0, chord[-1], 60)
    line = CubicSpline(chord, knots, bc_type="natural")(at)
    half = np.interp(at, chord, np.broadcast_to(width_mm, len(knots))) / 2
    to_end = np.minimum(at, chord[-1] - at)
    half = half * np.sqrt(np.clip(1 - (1 - np.minimum(to_end / np.maximum(half, 1e-9), 1)) ** 2, 0, 1))
    side = _normals(line, closed=False) * half[:, None]
    return np.vstack([line + side, (line - side)[::-1]])


def texture(size: int, sigma_px: float, rng: np.random.Generator) -> np.ndarray:
    """Return band-limited noise of mean 0 and standard deviation 1: float32 (size, size)."""
    field = gaussian_filter(rng.standard_normal((size, size), dtype=np.float32), sigma_px, mode="wrap")
    if sigma_px > 0:
        field -= gaussian_filter(field, 3 * sigma_px, mode="wrap")
    return field / field.std()


class Canvas:
    """A slice being drawn: curves in mm (x to patient left, y posterior, origin in the middle), later over earlier.

    Args:
        size: rows and columns of the final image.
        pixel_mm: side of its pixels.
        rng: source of textures and noise.
        tilt_deg: rotation of the patient.
        shift_mm: (x, y) position of the patient's origin.
    """

    def __init__(
        self, size: int, pixel_mm: float, rng: np.random.Generator, tilt_deg: float, shift_mm: tuple[float, float]
    ) -> None:
        self.size, self.pixel_mm, self.rng = size, pixel_mm, rng
        self._tilt_deg, self._shift_mm = tilt_deg, np.asarray(shift_mm)
        self._fine = size * _SUPERSAMPLING
        self._step_mm = pixel_mm / _SUPERSAMPLING
        self._hu = np.full((self._fine, self._fine), AIR_HU, np.float32)
        self._body = np.zeros_like(self._hu, dtype=bool)
        self._mottle = self._texture(3.2)
        self._grain = self._texture(0.9)

    def _texture(self, sigma_mm: float) -> np.ndarray:
        field = texture(self.size, sigma_mm / self.pixel_mm, self.rng)
        return field.repeat(_SUPERSAMPLING, 0).repeat(_SUPERSAMPLING, 1)

    def _pixels(self, points: np.ndarray) -> np.ndarray:
        return (turned(points, self._tilt_deg) + self._shift_mm) / self._step_mm + (self._fine - 1) / 2

    def _mask(self, outlines: Sequence[np.ndarray], holes: Sequence[np.ndarray] = ()) -> tuple[Box, np.ndarray]:
        """Return the union of outlines minus holes: the box it lies in, and bool in that box."""
        curves = [self._pixels(points) for points in outlines]
        low = np.clip(np.floor(np.min([c.min(0) for c in curves], axis=0)).astype(int) - 3, 0, self._fine - 1)
        high = np.clip(np.ceil(np.max([c.max(0) for c in curves], axis=0)).astype(int) + 4, low + 1, self._fine)
        picture = Image.new("L", (int(high[0] - low[0]), int(high[1] - low[1])), 0)
        draw = ImageDraw.Draw(picture)
        for curve in curves:
            draw.polygon([tuple(p) for p in curve - low], fill=1)
        for points in holes:
            draw.polygon([tuple(p) for p in self._pixels(points) - low], fill=0)
        return (slice(low[1], high[1]), slice(low[0], high[0])), np.asarray(picture, dtype=bool)

    def area(self, points: np.ndarray) -> np.ndarray:
        """Return the inside of a curve as a bool array of the canvas, to confine what is painted (`inside`)."""
        box, mask = self._mask([points])
        full = np.zeros_like(self._body)
        full[box] = mask
        return full

    def bodies(self) -> np.ndarray:
        """Return all that `body` outlined so far, as a bool array of the canvas."""
        return self._body

    def above(self, y_mm: float) -> np.ndarray:
        """Return the half plane anterior of y_mm: gas over a fluid level."""
        rows = (np.arange(self._fine) - (self._fine - 1) / 2) * self._step_mm - self._shift_mm[1]
        return np.broadcast_to((rows < y_mm)[:, None], self._body.shape)

    def body(self, points: np.ndarray, skin_mm: float = 1.8) -> None:
        """Draw the body's outline: skin over fat."""
        box, mask = self._mask([points])
        self._body[box] |= mask
        self.paint(points, 15.0)
        self.paint(offset(points, -skin_mm), FAT_HU, mottle=7.0)

    def paint(
        self,
        outline: np.ndarray | Sequence[np.ndarray],
        hu: float,
        mottle: float = 0.0,
        grain: float = 0.0,
        marbling: float = 0.0,
        inside: np.ndarray | None = None,
        holes: Sequence[np.ndarray] = (),
    ) -> None:
        """Fill an outline (or the union of several).

        Args:
            outline: closed curve or curves in mm.
            hu: mean value.
            mottle: standard deviation of a coarse texture (about 3 mm), HU.
            grain: standard deviation of a fine texture (about 1 mm), HU.
            marbling: fraction 0 .. 1 of fat in streaks, as in ageing muscle.
            inside: bool canvas; nothing is painted elsewhere.
            holes: curves cut out.
        """
        box, mask = self._mask([outline] if isinstance(outline, np.ndarray) else outline, holes)
        if inside is not None:
            mask = mask & inside[box]
        value = hu + mottle * self._mottle[box][mask] + grain * self._grain[box][mask]
        if marbling:
            streak = 0.6 * self._grain[box][mask] + 0.8 * self._mottle[box][mask]
            value += np.clip((streak - 1.9 + 3 * marbling) * 0.8, 0, 0.8) * (FAT_HU - hu)
        self._hu[box][mask] = value

    def bone(
        self,
        outlines: np.ndarray | Sequence[np.ndarray],
        cortex_mm: float,
        holes: Sequence[np.ndarray] = (),
        cortex_hu: float = 950.0,
        marrow_hu: float = 190.0,
        inside: np.ndarray | None = None,
    ) -> None:
        """Draw a bone: the union of outlines minus holes, with a cortical shell of some thickness."""
        box, mask = self._mask([outlines] if isinstance(outlines, np.ndarray) else outlines, holes)
        if inside is not None:
            mask = mask & inside[box]
        depth_mm = distance_transform_edt(mask) * self._step_mm
        local_mm = cortex_mm * (1 + 0.25 * self._mottle[box])
        cortex = np.clip((local_mm - depth_mm) / 0.8 + 0.5, 0, 1)
        marrow = marrow_hu * (1 + 0.13 * self._mottle[box] + 0.16 * self._grain[box])
        hu = cortex * cortex_hu * (1 + 0.05 * self._grain[box]) + (1 - cortex) * marrow
        self._hu[box][mask] = hu[mask]

    def strokes(
        self,
        paths: Sequence[tuple[np.ndarray, float]],
        hu: float,
        inside: np.ndarray | None = None,
        opacity: float = 1.0,
    ) -> None:
        """Draw thin lines such as vessels: (points in mm, width in mm) each."""
        picture = Image.new("L", (self._fine, self._fine), 0)
        draw = ImageDraw.Draw(picture)
        for points, width_mm in paths:
            line = [tuple(p) for p in self._pixels(points)]
            draw.line(line, fill=1, width=max(1, round(width_mm / self._step_mm)), joint="curve")
        mask = np.asarray(picture, dtype=bool)
        if inside is not None:
            mask = mask & inside
        self._hu[mask] += opacity * (hu - self._hu[mask])

    def image(self, noise_hu: float) -> np.ndarray:
        """Return the slice: averaged to its pixels, blurred, with quantum-like noise in the body.

        Args:
            noise_hu: standard deviation of the noise in the middle of the body; half of that at the skin.

        Returns:
            float32 (size, size), HU, not below -1000; exactly -1000 in the air around body and table.
        """
        shape = (self.size, _SUPERSAMPLING, self.size, _SUPERSAMPLING)
        hu = gaussian_filter(self._hu.reshape(shape).mean((1, 3)), _BLUR_PX)
        body = self._body.reshape(shape).mean((1, 3), dtype=np.float32)
        depth = gaussian_filter(body, self.size / 16) * body
        white = self.rng.standard_normal(hu.shape, dtype=np.float32)
        noise = gaussian_filter(white, 0.65) - 0.8 * gaussian_filter(white, 2.2)
        hu += noise * (noise_hu / float(noise.std())) * (0.5 * body + 0.5 * depth)
        return np.maximum(hu, AIR_HU).astype(np.float32)
