"""The community layout of SynDeepLesion: `image` of every gt.h5, used bit for bit."""

import logging
from pathlib import Path, PurePosixPath

import h5py
import numpy as np

from simulation.errors import InputError, UsageError
from simulation.sources.slices import SliceRef, reading, safe_name

LISTS = ("train", "test")
MAX_MU_PER_CM = 50.0
"""Gold at 70 keV has about 40 /cm: more is not attenuation in 1/cm."""

logger = logging.getLogger(__name__)


def find_gt(path: Path, split: str) -> list[str] | None:
    """Return the gt.h5 files of a folder in the community layout, relative to it; None if it is something else.

    The folder holds ``{split}_640geo_dir.txt`` and ``{split}_640geo``, or has them in ``{split}/``, or holds
    case/slice/gt.h5 itself (then there is no split).

    Args:
        path: the source.
        split: "train", "val" or "test"; the layout has no "val".

    Raises:
        UsageError: if there is a list, but not one for this split.
        InputError: if a line of the list is not case/slice/gt.h5.
    """
    if not path.is_dir():
        return None
    lists = {name: text for name in LISTS for text in _list_files(path, name) if text.is_file()}
    if split in lists:
        return _listed_files(path, lists[split], split)
    if lists:
        found = ", ".join(text.relative_to(path).as_posix() for text in lists.values())
        raise UsageError(f"source {path}: no list for the split {split!r}; found {found}; choose another split")
    gt_files = sorted(file.relative_to(path).as_posix() for file in path.glob("*/*/gt.h5"))
    return gt_files or None


def _list_files(path: Path, split: str) -> list[Path]:
    """Return where the list of a split may be; the last one that exists wins."""
    name = f"{split}_640geo_dir.txt"
    return [path / split / name, path / name]


def read_listing(path: Path) -> list[tuple[str, str]]:
    """Return (case, name) of every slice that a ``{split}_640geo_dir.txt`` lists, once each, in its order.

    Args:
        path: the text file, one case/slice/gt.h5 a line; empty lines are passed over, a backslash counts as a slash.

    Raises:
        InputError: it cannot be read, or a line is something else.
    """
    with reading(path.name, "a text file with case/slice/gt.h5 lines"):
        lines = path.read_text(encoding="utf-8").splitlines()
    slices: dict[tuple[str, str], None] = {}
    for number, line in enumerate(map(str.strip, lines), start=1):
        parts = line.replace("\\", "/").split("/")
        if line and (len(parts) != 3 or parts[2] != "gt.h5" or not {"", ".", ".."}.isdisjoint(parts)):
            raise InputError(f"{path.name} line {number}: got {line[:80]!r}; expected case/slice/gt.h5")
        if line:
            slices[parts[0], parts[1]] = None
    return list(slices)


def _listed_files(path: Path, text: Path, split: str) -> list[str]:
    """Return the gt.h5 files that a listing names, relative to the source."""
    slices = read_listing(text)
    if not slices:
        raise InputError(f"{text.name}: got an empty list; expected one case/slice/gt.h5 a line")
    folder = text.parent.relative_to(path) / f"{split}_640geo"
    return [(folder / case / name / "gt.h5").as_posix() for case, name in slices]


def list_community(path: Path, gt_files: list[str]) -> list[SliceRef]:
    """Return references to gt.h5 files; case and slice name are the two folders above the file.

    Args:
        path: the source.
        gt_files: relative to it, in the order to keep.
    """
    refs = []
    for relative in gt_files:
        case, name = PurePosixPath(relative).parts[-3:-1]
        refs.append(SliceRef(safe_name(case), safe_name(name), relative, read_gt, (str(path), relative)))
    return refs


def read_gt(root: str, relative: str) -> tuple[np.ndarray, None]:
    """Read `image` of a gt.h5: float32 (n, n), 1/cm, as stored; the pixel size is not in the file.

    Raises:
        InputError: if the file is truncated, has no `image`, or holds something else than attenuation.
    """
    with reading(relative, "a whole HDF5 file"), h5py.File(Path(root, relative), "r") as file:
        image = file.get("image")
        values = image[()] if isinstance(image, h5py.Dataset) else None
        found = ", ".join(sorted(file)[:6]) or "nothing"
    if values is None:
        raise InputError(f"{relative}: got {found}; expected a dataset 'image' (attenuation in 1/cm)")
    values = np.asarray(values)
    if values.dtype.kind != "f":
        raise InputError(f"{relative}: 'image' has type {values.dtype}; expected floating point, 1/cm")
    if values.size and not (np.min(values) >= 0 and np.max(values) <= MAX_MU_PER_CM) and np.isfinite(values).all():
        raise InputError(
            f"{relative}: 'image' spans {np.min(values):g} .. {np.max(values):g}; expected attenuation in 1/cm, "
            "not negative; convert HU with mu = 0.192 (1 + HU / 1000)"
        )
    return values.astype(np.float32, copy=False), None
