"""Metal masks: where they come from, at the size of a slice, checked, or packed into some hundred bytes."""

import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import scipy.io
from PIL import Image
from scipy import ndimage

from simulation.errors import InputError, UsageError
from simulation.implants.anatomy import Anatomy, find_body
from simulation.physics.arrays import like, to_numpy
from simulation.physics.materials import METAL_CODES, check_metal
from simulation.units import check_mu

STACK_SIZE = 512
STACK_KEY, SHAPES_KEY = "CT_samples_bwMetal", "tumor_imgs"
"""Arrays in the MATLAB files of masks: SynDeepLesion's SampleMasks.mat, and the CT-MAR challenge's metal shapes."""
_STACK_REMEDY = f"expected a numpy file of shape ({STACK_SIZE}, {STACK_SIZE}, n) with 0 and 1"
_MAX_OUTSIDE = 0.5


class MaskSource(Protocol):
    """Where the masks of slices come from: `ImplantLibrary` or `MaskStack`.

    Attributes:
        metal: a key of METAL_CODES, several, or None.
        shared_stack: (512, 512, n) 0/1 masks that all slices have; None where each slice has masks of its own.
    """

    @property
    def metal(self) -> str | tuple[str, ...] | None:
        """What all metal is made of."""

    @property
    def shared_stack(self) -> np.ndarray | None:
        """The masks that all slices have."""

    def anatomy(self, image_mu: Any) -> Anatomy | None:
        """Return what a slice shows, to be found once for many masks."""

    def draw(
        self, index: int, image_mu: np.ndarray, rng: np.random.Generator, anatomy: Anatomy | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the mask of an index, uint8 (512, 512) of 0 and metal codes, and its description."""

    def sample(
        self, image_mu: Any, rng: np.random.Generator, anatomy: Anatomy | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Return a random mask at the slice's size, 0 or metal codes, and its description."""


@dataclass(frozen=True)
class MaskStack:
    """Given masks, resized to each slice as the benchmark's readers do.

    Args:
        stack: uint8, bool or integer (512, 512, n), values 0 and 1.
        metal: a key of METAL_CODES, or several of which each pair gets one.

    Raises:
        UsageError: if the metal is unknown.
    """

    stack: np.ndarray = field(repr=False)
    metal: str | tuple[str, ...] = "titanium"

    def __post_init__(self) -> None:
        check_metals(self.metal)

    @property
    def shared_stack(self) -> np.ndarray:
        """The stack."""
        return self.stack

    def __len__(self) -> int:
        return int(self.stack.shape[2])

    def mask(self, index: int) -> np.ndarray:
        """Return mask of one index as it is stored: uint8 (512, 512), 0 or 1."""
        if not 0 <= index < len(self):
            raise UsageError(f"mask index {index} is out of range; the stack has masks 0 .. {len(self) - 1}")
        return np.ascontiguousarray(self.stack[:, :, index]).astype(np.uint8)

    def anatomy(self, image_mu: Any) -> None:
        """Return None: given masks do not follow the anatomy."""

    def draw(
        self, index: int, image_mu: np.ndarray, rng: np.random.Generator, anatomy: Anatomy | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Return a mask of the stack as it is stored, labelled with a metal.

        Args:
            index: of the mask.
            image_mu: not looked at, as where the body is does not matter (see `check_mask`).
            rng: chooses the metal, if there are several.
            anatomy: not looked at.

        Returns:
            labels: uint8 (512, 512), 0 or the metal's code.
            description: {"kind": "mask", "metal"}, JSON-serialisable.
        """
        metal = one_metal(self.metal, rng)
        return self.mask(index) * np.uint8(METAL_CODES[metal]), {"kind": "mask", "metal": metal}

    def sample(
        self, image_mu: Any, rng: np.random.Generator, anatomy: Anatomy | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Return a random mask of the stack at the slice's size.

        Args:
            image_mu: (n, n), 1/cm.
            rng: chooses the mask, and the metal if there are several.
            anatomy: not looked at.

        Returns:
            metal_mask: uint8 (n, n), 0 or the metal's code.
            description: as of `ImplantLibrary.sample`, kind "mask" and the mask's "index".
        """
        shape = checked_image(image_mu).shape
        index = int(rng.integers(len(self)))
        metal = one_metal(self.metal, rng)
        mask = resize_mask(self.mask(index), shape) * np.uint8(METAL_CODES[metal])
        pixels = int(np.count_nonzero(mask))
        parts = [{"shape": "mask", "metal": metal, "pixels": pixels}]
        return like(mask, image_mu), {"kind": "mask", "index": index, "parts": parts, "pixels": pixels}


@dataclass(frozen=True)
class PackedMask:
    """A mask in some hundred bytes, so that memory does not grow with a series.

    Args:
        shape: rows and columns.
        data: its bits, or its labels, compressed.
        is_bool: whether it holds bits.

    Example:
        >>> mask = np.eye(3, dtype=bool)
        >>> bool((PackedMask.of(mask).unpack() == mask).all())
        True
    """

    shape: tuple[int, int]
    data: bytes
    is_bool: bool = True

    @classmethod
    def of(cls, mask: np.ndarray) -> "PackedMask":
        """Pack a mask, bool or uint8 labels, (rows, columns)."""
        is_bool = mask.dtype == bool
        content = np.packbits(mask) if is_bool else np.ascontiguousarray(mask, np.uint8)
        return cls((mask.shape[0], mask.shape[1]), zlib.compress(content.tobytes(), -1 if is_bool else 1), is_bool)

    def unpack(self) -> np.ndarray:
        """Return the mask, bool or uint8 labels, (rows, columns)."""
        content = np.frombuffer(zlib.decompress(self.data), np.uint8)
        if self.is_bool:
            content = np.unpackbits(content, count=self.shape[0] * self.shape[1]).astype(bool)
        return content.reshape(self.shape)

    def union(self, other: "PackedMask") -> "PackedMask":
        """Return what lies in either of two masks of bits of one shape."""
        return PackedMask.of(self.unpack() | other.unpack())


def resize_mask(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return a mask at another size, as the benchmark's readers do: PIL bilinear on uint8 0/1, labels from the nearest.

    Args:
        mask: (rows, columns) bool or integer, 0 or a label.
        shape: rows and columns wanted.

    Returns:
        uint8, of that shape.

    Raises:
        InputError: if the mask is not two-dimensional, or nothing of it is left.
    """
    if mask.ndim != 2:
        raise InputError(f"metal mask: expected two dimensions to resize it, got shape {mask.shape}")
    labels = np.asarray(mask).astype(np.uint8)
    if labels.shape == tuple(shape):
        return labels.copy()
    size = (shape[1], shape[0])
    union = np.asarray(Image.fromarray((labels > 0).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)) > 0
    if not union.any():
        raise InputError(
            f"metal mask of {np.count_nonzero(labels)} pixels vanishes when resized from {labels.shape} to "
            f"{tuple(shape)}; leave it out or use a larger mask"
        )
    nearest = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
    filled = labels[tuple(nearest)]
    return np.where(union, np.asarray(Image.fromarray(filled).resize(size, Image.Resampling.NEAREST)), 0).astype(
        np.uint8
    )


def check_mask(metal_mask: np.ndarray, image_mu: np.ndarray, body: np.ndarray | None = None) -> None:
    """Refuse a mask that cannot be metal in this slice: empty, or more than half of its pixels outside the body.

    The body is the largest component of mu > 0.5 water with its holes filled (lungs and gut gas are inside).

    Args:
        metal_mask: (n, n), 0 or a label.
        image_mu: (n, n), 1/cm.
        body: what `find_body` gave for this image; None finds it.

    Raises:
        InputError: if the shapes differ, the mask is empty, or it lies outside the body.
    """
    metal = np.asarray(metal_mask) > 0
    if metal.shape != np.shape(image_mu):
        raise InputError(f"metal mask has shape {metal.shape}, its slice {np.shape(image_mu)}; resize it first")
    if not metal.any():
        raise InputError("metal mask is empty: expected at least one metal pixel; leave this mask out")
    body = find_body(np.asarray(image_mu)) if body is None else body
    outside = 1 - float(body[metal].mean())
    if outside > _MAX_OUTSIDE:
        raise InputError(
            f"metal mask lies outside the body: {outside:.0%} of its {np.count_nonzero(metal)} pixels, allowed are "
            f"{_MAX_OUTSIDE:.0%}; use another mask for this slice"
        )


def open_stack(path: Path) -> np.ndarray:
    """Return a stack of masks as it lies on disk, (rows, columns, n) of bool or integers; its values are not checked.

    Raises:
        InputError: if the file is no such array.
    """
    if not path.is_file():
        raise InputError(f"mask stack {path}: no such file; {_STACK_REMEDY}")
    if path.suffix.lower() == ".mat":
        return _array_of_mat(path, STACK_KEY)
    try:
        stack = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(
            f"mask stack {path} is broken, truncated, or no .npy file of numbers; {_STACK_REMEDY}"
        ) from error
    if not isinstance(stack, np.ndarray):
        raise InputError(f"mask stack {path} is an archive of several arrays; {_STACK_REMEDY}: save one with np.save")
    if stack.ndim != 3 or stack.shape[2] == 0:
        raise InputError(f"mask stack {path} has shape {stack.shape}; {_STACK_REMEDY}, axis 2 numbering the masks")
    if stack.dtype.kind not in "bui":
        raise InputError(f"mask stack {path} holds {stack.dtype}; {_STACK_REMEDY}: convert it to uint8")
    return stack


def mat_keys(path: Path) -> list[str]:
    """Return the names of the arrays in a MATLAB file.

    Raises:
        InputError: it is missing or no such file.
    """
    if not path.is_file():
        raise InputError(f"masks {path}: no such file; expected a .npy or .mat file of masks")
    try:
        return [name for name, _, _ in scipy.io.whosmat(path)]
    except Exception as error:  # whatever the damage leads to
        raise InputError(f"masks {path}: broken, or no MATLAB file before version 7.3") from error


def _array_of_mat(path: Path, key: str) -> np.ndarray:
    if key not in mat_keys(path):
        raise InputError(f"masks {path}: has {', '.join(mat_keys(path)) or 'nothing'}; expected {key}")
    try:
        array = np.asarray(scipy.io.loadmat(path, variable_names=[key])[key])
    except Exception as error:
        raise InputError(f"masks {path}: {key} cannot be read; fetch the file again") from error
    if array.dtype.kind not in "bui" and not (array.dtype.kind == "f" and (array == np.rint(array)).all()):
        raise InputError(f"masks {path}: {key} holds {array.dtype}; expected whole numbers")
    return array.astype(np.int16)


def load_shapes(path: Path) -> np.ndarray:
    """Return grey images of metal shapes, Integer["shapes rows columns"], of the CT-MAR challenge's mask file.

    Raises:
        InputError: the file cannot be used.
    """
    return _array_of_mat(path, SHAPES_KEY)


def load_stack(path: Path) -> np.ndarray:
    """Open a mask stack and check all of it; see `ImplantLibrary.from_masks`."""
    stack = open_stack(path)
    remedy = _STACK_REMEDY
    if stack.shape[:2] != (STACK_SIZE, STACK_SIZE):
        raise InputError(f"mask stack {path} has shape {stack.shape}; {remedy}, axis 2 numbering the masks")
    low, high = int(stack.min()), int(stack.max())
    if low < 0 or high > 1:
        raise InputError(f"mask stack {path} has values {low} .. {high}; {remedy}: threshold it first")
    empty = np.flatnonzero(~stack.any(axis=(0, 1)))
    if len(empty):
        raise InputError(f"mask stack {path}: mask {empty[0]} is empty ({len(empty)} of {stack.shape[2]}); remove it")
    return stack


def metals_of(metal: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the metals as a tuple; empty for None."""
    return () if metal is None else (metal,) if isinstance(metal, str) else metal


def check_metals(metal: str | tuple[str, ...]) -> None:
    """Raise UsageError for an unknown metal, or for none."""
    metals = metals_of(metal)
    if not metals:
        raise UsageError(f"metal: got none, expected some of {', '.join(METAL_CODES)}")
    for name in metals:
        check_metal(name)


def one_metal(metal: Any, rng: np.random.Generator) -> Any:
    """Draw one of several metals; a single one, or None, takes nothing from the generator."""
    metals = metals_of(metal)
    if len(metals) < 2:
        return metals[0] if metals else None
    return str(rng.choice(metals))


def checked_image(image_mu: Any) -> np.ndarray:
    """Return a slice as float32 (n, n); raise InputError if it is not square or not in 1/cm."""
    image = to_numpy(image_mu).astype(np.float32)
    if image.ndim != 2 or image.shape[0] != image.shape[1]:
        raise InputError(f"implants: expected a square slice (n, n), got shape {image.shape}; crop or pad it")
    check_mu(image, "slice for implants")
    return image
