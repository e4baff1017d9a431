"""NIfTI volumes: oriented by their affine, checked to be axial and in HU, read slice by slice."""

import contextlib
import functools
import gzip
import logging
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from simulation.errors import InputError
from simulation.sources.slices import SliceRef, image_from_hu, reading, safe_name, square_pixel_mm, unique_names

logger = logging.getLogger(__name__)

SUFFIXES = (".nii", ".nii.gz")
MAX_TILT_DEG = 1.0
"""An axis further than this from the patient's axes is oblique (1 degree: 4 mm across a body of 250 mm)."""
UNIT_MM = {"mm": 1.0, "micron": 1e-3, "meter": 1e3}
PLAUSIBLE_MM = (0.1, 10.0)
NIFTI2_LENGTHS = (struct.pack("<i", 540), struct.pack(">i", 540))
"""First bytes of a NIfTI-2 file; nibabel tells the two kinds apart by the file name, which may lie."""


@dataclass(frozen=True)
class _Volume:
    """A volume as stored, a view along the patient's axes: [anterior-posterior, right-left, inferior-superior]."""

    stored: np.ndarray
    slope: float
    intercept: float
    pixel_mm: float

    def hu(self, part: Any) -> np.ndarray:
        """Return HU of a part of the volume (an index into `stored`), float32."""
        return self.stored[part].astype(np.float32) * np.float32(self.slope) + np.float32(self.intercept)


def find_volumes(path: Path) -> list[Path]:
    """Return the NIfTI files a source means: itself, or those directly in it, by name."""
    if path.is_file():
        return [path] if path.name.lower().endswith(SUFFIXES) else []
    files = (file for file in path.iterdir() if file.name.lower().endswith(SUFFIXES) and not file.name.startswith("."))
    return sorted(file for file in files if file.is_file())


def list_nifti(volumes: list[Path]) -> list[SliceRef]:
    """Return all axial slices, volume by volume, from inferior to superior; a volume that cannot be used once.

    Args:
        volumes: the files.
    """
    stems = [safe_name(volume.name.split(".nii")[0]) for volume in volumes]
    refs = []
    for volume, case in zip(volumes, unique_names(stems), strict=True):
        for index in range(_slice_count(volume)):
            origin = f"{volume.name}[{index}]"
            refs.append(SliceRef(case, f"{index:03d}", origin, read_nifti, (str(volume), index)))
    return refs


def report_padding(refs: Sequence[SliceRef]) -> None:
    """Log one line if volumes among the sources are not square, as their slices will be padded.

    Args:
        refs: slices that `list_nifti` gave.
    """
    volumes = dict.fromkeys(str(ref.arguments[0]) for ref in refs)
    shapes = {Path(volume).name: _slice_shape(Path(volume)) for volume in volumes}
    other = [(name, shape) for name, shape in shapes.items() if shape is not None and shape[0] != shape[1]]
    if other:
        (name, (rows, columns)), side = other[0], max(other[0][1])
        logger.info(
            "%d of %d volumes are not square: their slices are padded with air, those of %s from %d x %d to %d x %d "
            "(--pad-square false refuses them)",
            *(len(other), len(shapes), name, rows, columns, side, side),
        )


def read_nifti(path: str, index: int) -> tuple[np.ndarray, float]:
    """Read one axial slice; the volume stays in memory until another one is asked for.

    Args:
        path: the volume.
        index: the slice, counted from inferior.

    Returns:
        (image_mu float32 (rows, columns) in 1/cm, pixel_mm).

    Raises:
        InputError: if the volume is broken, not three-dimensional, oblique, not in HU, or of unknown size.
    """
    with reading(Path(path).name, "a NIfTI volume"):
        changed_ns = Path(path).stat().st_mtime_ns
    volume = _cached_volume(path, changed_ns)
    if isinstance(volume, InputError):
        raise InputError(str(volume)) from volume
    return image_from_hu(volume.hu(np.s_[:, :, index])), volume.pixel_mm


@functools.lru_cache(maxsize=1)
def _cached_volume(path: str, changed_ns: int) -> _Volume | InputError:
    """Return the volume, or why it cannot be used: kept too, so that a broken file is unpacked only once."""
    try:
        return _read_volume(Path(path))
    except InputError as error:
        return error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Yield (image, stream) of a NIfTI-1 or NIfTI-2 file; every way of failing to read it becomes an InputError."""
    with reading(path.name, "a whole NIfTI volume"):
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if packed else path.open("rb") as stream:
            header_length = stream.read(4)
            stream.seek(0)
            kind = nibabel.Nifti2Image if header_length in NIFTI2_LENGTHS else nibabel.Nifti1Image
            yield kind.from_stream(stream), stream


def _slice_count(path: Path) -> int:
    """Return axial slices of a volume from its header; 1 if it cannot be used (loading that slice says why)."""
    try:
        with _opened(path) as (image, _):
            order, _, _ = _axes(image, path.name)
            return int(image.shape[order[2]])
    except InputError:
        return 1


def _slice_shape(path: Path) -> tuple[int, int] | None:
    """Return rows and columns of the axial slices of a volume from its header; None if it cannot be used."""
    try:
        with _opened(path) as (image, _):
            order, _, _ = _axes(image, path.name)
            return int(image.shape[order[0]]), int(image.shape[order[1]])
    except InputError:
        return None


def _read_volume(path: Path) -> _Volume:
    with _opened(path) as (image, stream):
        order, flips, spacing_mm = _axes(image, path.name)
        stored = np.asarray(image.dataobj.get_unscaled())
        while stream.read(1 << 20):  # to the end: only there gzip compares its checksum
            pass
        slope, intercept = float(image.dataobj.slope), float(image.dataobj.inter)
    pixel_mm = square_pixel_mm(spacing_mm[0], spacing_mm[1], path.name)
    oriented = np.flip(stored.transpose(order), tuple(axis for axis in range(3) if flips[axis]))
    volume = _Volume(oriented, slope, intercept, pixel_mm)
    _check_hu(volume, path.name)
    return volume


def _axes(image: Any, where: str) -> tuple[list[int], list[bool], list[float]]:
    """Return how the stored axes lie in the patient, for (anterior to posterior, right to left, inferior to superior).

    Args:
        image: a nibabel image, its header read.
        where: the file, for the messages.

    Returns:
        The stored axis of each, whether it must be flipped, and its spacing in mm.

    Raises:
        InputError: if the volume is not three-dimensional, not grey, without orientation, oblique or of unknown size.
    """
    if len(image.shape) != 3 or min(image.shape) < 1:
        raise InputError(f"{where}: got the shape {image.shape}; expected a 3-D volume; split it first")
    if image.get_data_dtype().kind not in "iuf":
        raise InputError(f"{where}: got voxels of type {image.get_data_dtype()}; expected one HU value a voxel")
    if not (int(image.header["qform_code"]) or int(image.header["sform_code"])):
        raise InputError(f"{where}: qform_code and sform_code are 0, the orientation is unknown; set one in the header")
    affine = np.asarray(image.affine, dtype=np.float64)[:3, :3]
    spacing = np.linalg.norm(affine, axis=0)
    if not (np.isfinite(spacing).all() and spacing.min() > 0):
        raise InputError(f"{where}: got a singular affine; expected three axes of positive length; repair the header")
    directions = affine / spacing  # directions[world, stored], world = right, anterior, superior
    world = np.abs(directions).argmax(axis=0)
    tilt_deg = math.degrees(math.acos(min(1.0, float(np.abs(directions).max(axis=0).min()))))
    if sorted(world) != [0, 1, 2] or tilt_deg > MAX_TILT_DEG:
        raise InputError(
            f"{where}: got an oblique volume ({tilt_deg:.1f} degrees); expected axes along the patient's within "
            f"{MAX_TILT_DEG:g} degree; resample it to axial slices first"
        )
    spacing_mm = spacing * _unit_mm(image.header, spacing, where)
    order = [int(np.flatnonzero(world == axis)[0]) for axis in (1, 0, 2)]
    wanted = (-1, -1, 1)  # posterior, left, superior
    flips = [bool(directions[world[stored], stored] * sign < 0) for stored, sign in zip(order, wanted, strict=True)]
    return order, flips, [float(spacing_mm[stored]) for stored in order]


def _unit_mm(header: Any, spacing: np.ndarray, where: str) -> float:
    """Return millimetres of the header's spatial unit; an unknown unit means mm if that gives 0.1 .. 10 mm."""
    unit = header.get_xyzt_units()[0]
    if unit in UNIT_MM:
        return UNIT_MM[unit]
    if spacing.min() < PLAUSIBLE_MM[0] or spacing.max() > PLAUSIBLE_MM[1]:
        raise InputError(
            f"{where}: got the spacing {', '.join(f'{length:g}' for length in spacing)} in an unknown unit; "
            f"expected mm ({PLAUSIBLE_MM[0]:g} .. {PLAUSIBLE_MM[1]:g}); set xyzt_units in the header"
        )
    return 1.0


def _check_hu(volume: _Volume, where: str) -> None:
    """Refuse intensities that are not HU: a CT has air near -1000 (0.1 % of the voxels) and tissue near 0 (0.5 %).

    Raises:
        InputError: if either is missing; it names the likely cause.
    """
    step = max(1, math.ceil((volume.stored.size / 2e6) ** (1 / 3)))
    sample = volume.hu(np.s_[::step, ::step, ::step])
    if not np.isfinite(sample).all():
        raise InputError(f"{where}: got NaN or infinite values; expected finite HU; repair the file")
    air = float(np.mean((sample > -1100) & (sample < -850)))
    tissue = float(np.mean(np.abs(sample) < 200))
    if air >= 1e-3 and tissue >= 5e-3:
        return
    low, high = float(sample.min()), float(sample.max())
    if high <= 10 and low > -0.5:
        remedy = "it looks like attenuation in 1/cm: convert it with HU = 1000 (mu - 0.192) / 0.192"
    elif low > -500 and high > 500:
        remedy = "it looks like HU + 1024 (or + 1000): subtract the offset, or set scl_inter in the header"
    else:
        remedy = "convert it to HU; a crop needs some air in it"
    raise InputError(
        f"{where}: got values {low:g} .. {high:g}, {air:.2%} near -1000 and {tissue:.2%} near 0; "
        f"expected HU with air and tissue; {remedy}"
    )
