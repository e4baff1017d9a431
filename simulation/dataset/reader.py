"""Read a data set: its listing, a pair of either layout, the masks of a slice."""

import zipfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from simulation.correction import linear_interpolation
from simulation.dataset.shard_file import Shard
from simulation.errors import InputError
from simulation.physics.projector import Projector, Weighting
from simulation.simulator import Sample

GT = ("image", "poly_CT", "poly_sinogram")
PAIR = ("ma_CT", "LI_CT", "ma_sinogram", "LI_sinogram", "metal_trace")
SCAN = ("ma_sinogram", "LI_sinogram", "ma_CT", "LI_CT", "metal_trace")


@dataclass(frozen=True)
class Pair:
    """A stored pair: a slice with and without metal.

    Args:
        image: Float["rows columns"], 1/cm, the truth.
        poly_CT: Float["rows columns"], 1/cm, the scan without metal.
        poly_sinogram: Float["views bins"], line integrals without metal.
        ma_CT: Float["rows columns"], 1/cm, the scan with metal.
        LI_CT: Float["rows columns"], 1/cm, after linear interpolation.
        ma_sinogram: Float["views bins"], line integrals with metal.
        LI_sinogram: Float["views bins"], after linear interpolation.
        metal_trace: Bool["views bins"].
    """

    image: np.ndarray
    poly_CT: np.ndarray
    poly_sinogram: np.ndarray
    ma_CT: np.ndarray
    LI_CT: np.ndarray
    ma_sinogram: np.ndarray
    LI_sinogram: np.ndarray
    metal_trace: np.ndarray


def read_pair(path: str | Path) -> Pair:
    """Read N.h5 and the gt.h5 beside it.

    Args:
        path: of N.h5.

    Returns:
        The pair, see `Pair`.

    Raises:
        InputError: a file is missing or truncated, or a dataset is missing or of another shape.

    Example:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from simulation import Sample, read_pair, write_case
        >>> image_mu, sinogram = np.full((64, 64), 0.2, np.float32), np.ones((90, 96), np.float32)
        >>> sample = Sample(sinogram, sinogram, image_mu, image_mu, sinogram > 0)
        >>> with TemporaryDirectory() as folder:
        ...     write_case(Path(folder), image_mu, sinogram, image_mu, {0: sample})
        ...     pair = read_pair(Path(folder, "0.h5"))
        >>> pair.image.shape, pair.ma_sinogram.shape, pair.metal_trace.dtype
        ((64, 64), (90, 96), dtype('bool'))
    """
    path = Path(path)
    arrays = read_h5(path.with_name("gt.h5"), GT) | read_h5(path, PAIR)
    for name, array in arrays.items():
        expected = arrays["ma_sinogram"] if "sinogram" in name or name == "metal_trace" else arrays["image"]
        if array.ndim != 2 or array.shape != expected.shape:
            raise InputError(f"{path}: {name} has shape {array.shape}, expected {expected.shape}")
    arrays["metal_trace"] = arrays["metal_trace"] != 0
    return Pair(**arrays)


def read_h5(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return the named datasets of a file.

    Raises:
        InputError: the file is missing or truncated, or lacks one of them.
    """
    try:
        with h5py.File(path, "r") as file:
            missing = [name for name in names if not isinstance(file.get(name), h5py.Dataset)]
            if missing:
                raise InputError(f"{path}: no {', '.join(missing)} in it; it has {', '.join(file) or 'nothing'}")
            return {name: file[name][()] for name in names}
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be read as h5, missing or truncated ({error})") from error


def read_masks(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return indices and labels (n, 512, 512) of a slice's masks.npz.

    Raises:
        InputError: it is broken.
    """
    try:
        with path.open("rb") as file, np.load(file) as stored:  # np.load(path) leaks a broken file
            return stored["indices"], stored["masks"]
    except (ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: broken ({error}); remove it and start the same command again") from error


def scan_of(
    shard: Shard, row: int, projector: Projector, weighting: Weighting, names: Collection[str] = SCAN
) -> Sample:
    """Return the scan with metal of a pair.

    Args:
        shard: holds it.
        row: of the pair.
        projector: of the scan.
        weighting: of its filtered back projection.
        names: the arrays that are needed; the others are None.

    Raises:
        InputError: the shard cannot be read, or holds no sinogram to compute an array from.
    """
    arrays: dict[str, Any] = {name: shard.read(name, row) for name in names if name in shard}
    missing = [name for name in names if name not in arrays]
    if missing:
        sinogram = shard.read("ma_sinogram", row)
        if {"LI_sinogram", "LI_CT"} & set(missing):
            arrays["LI_sinogram"] = linear_interpolation(sinogram, shard.read("metal_trace", row))
        made_from = {"ma_CT": sinogram, "LI_CT": arrays.get("LI_sinogram")}
        wanted = [name for name in made_from if name in missing]
        if wanted:
            images = projector.fbp(np.stack([np.asarray(made_from[name]) for name in wanted]), weighting)
            arrays |= dict(zip(wanted, images, strict=True))
    if "metal_trace" in arrays:
        arrays["metal_trace"] = arrays["metal_trace"] != 0
    return Sample(**{name: arrays.get(name) for name in SCAN})
