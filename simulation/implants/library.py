"""Metal masks for slices: a procedural library placed by anatomy, or a stack of given masks."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from simulation.errors import InputError, UsageError
from simulation.implants.anatomy import Anatomy, find_body
from simulation.implants.shapes import SHAPERS, Part, suitable
from simulation.physics.arrays import like, to_numpy
from simulation.physics.materials import METAL_CODES, check_metal
from simulation.units import check_mu

KINDS = tuple(SHAPERS)
ALWAYS_POSSIBLE = ("clips", "electrodes", "needle")
STACK_SIZE = 512
_STACK_REMEDY = f"expected a numpy file of shape ({STACK_SIZE}, {STACK_SIZE}, n) with 0 and 1"
# At 416 x 416 pixels, as the masks of the public benchmark (35 .. 2061); scales with the number of pixels.
SIZE_RANGE_416 = (16, 2600)
_MAX_OUTSIDE = 0.5
_ATTEMPTS = 40


@dataclass(frozen=True)
class ImplantLibrary:
    """Procedural implants, placed by the anatomy that a slice shows.

    Args:
        kinds: which of `KINDS` to draw from; None = all.
        pixel_mm: side of a pixel of the slices; None scales implants with the body, as slices need whose body was
            shrunk (the benchmark's).
        metal: a key of METAL_CODES that all implants are made of; None = each part of what is usual for it.

    Raises:
        UsageError: if a kind or the metal is unknown or no kind is given.
    """

    kinds: tuple[str, ...] | None = None
    pixel_mm: float | None = None
    metal: str | None = None

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds or () if kind not in KINDS]
        if unknown or (self.kinds is not None and not self.kinds):
            raise UsageError(
                f"implants: got {' '.join(self.kinds or ()) or 'none'}, expected some of {', '.join(KINDS)}"
            )
        if self.pixel_mm is not None and not self.pixel_mm > 0:
            raise UsageError(f"implants: pixel_mm must be positive, got {self.pixel_mm}")
        if self.metal is not None:
            check_metal(self.metal)

    @classmethod
    def from_masks(cls, path: str | Path, metal: str = "titanium") -> "MaskStack":
        """The library of a (512, 512, n) stack of 0/1 masks, all of one metal.

        Args:
            path: a .npy file; axis 2 numbers the masks.
            metal: a key of METAL_CODES.

        Raises:
            InputError: if the file is not such a stack, or one of its masks is empty.
            UsageError: if the metal is unknown.
        """
        return MaskStack(stack=_load_stack(Path(path)), metal=metal)

    def anatomy(self, image_mu: Any) -> Anatomy:
        """What a slice shows, to be found once for many implants; takes as many seconds as some of them.

        Args:
            image_mu: (n, n), 1/cm, row 0 anterior; numpy or torch.

        Raises:
            InputError: if the image is not a finite square.
        """
        return Anatomy(_checked_image(image_mu), self.pixel_mm)

    def sample(
        self, image_mu: Any, rng: np.random.Generator, anatomy: Anatomy | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """A random implant for a slice.

        Args:
            image_mu: (n, n), 1/cm, row 0 anterior; numpy or torch.
            rng: source of kind, place and shape; the same state gives the same mask.
            anatomy: what `anatomy` gave for this image; None finds it.

        Returns:
            metal_mask: uint8 (n, n), 0 or the METAL_CODES of the metal there; inside the body.
            description: {"kind", "parts": [{"shape", "metal", "pixels"}, ...], "pixels"}, JSON-serialisable.

        Raises:
            InputError: if the image is not a finite square, or shows no body or no place for the library's kinds.
        """
        anatomy = self.anatomy(image_mu) if anatomy is None else anatomy
        image = anatomy.image_mu
        wanted = self.kinds or KINDS
        kinds = [kind for kind in wanted if suitable(anatomy, kind)]
        if not kinds:
            raise InputError(f"implants: this slice shows no place for {' or '.join(wanted)}; allow other kinds")
        weights = np.array([1.0 if kind in ALWAYS_POSSIBLE else 4.0 for kind in kinds])
        kind = str(rng.choice(kinds, p=weights / weights.sum()))
        low, high = np.array(SIZE_RANGE_416) * (image.size / 416**2)
        for _ in range(_ATTEMPTS):
            shapes = SHAPERS[kind](anatomy, rng)
            if self.metal is not None:
                shapes = [replace(part, metal=self.metal) for part in shapes]
            mask, parts = _assembled(shapes, anatomy.body)
            pixels = int(np.count_nonzero(mask))
            if low <= pixels <= high:
                return like(mask, image_mu), {"kind": kind, "parts": parts, "pixels": pixels}
        raise InputError(
            f"implants: no {kind} of {low:.0f} .. {high:.0f} pixels fits this slice (body of {anatomy.width} x "
            f"{anatomy.height} pixels) in {_ATTEMPTS} attempts; choose other kinds or check the slice"
        )


@dataclass(frozen=True)
class MaskStack(ImplantLibrary):
    """Given masks, resized to each slice as the benchmark's readers do.

    Args:
        stack: uint8, bool or integer (512, 512, n), values 0 and 1.
        metal: a key of METAL_CODES.

    Raises:
        UsageError: if the metal is unknown.
    """

    stack: np.ndarray = field(default_factory=lambda: np.zeros((STACK_SIZE, STACK_SIZE, 0), np.uint8), repr=False)
    metal: str = "titanium"

    def __post_init__(self) -> None:
        check_metal(self.metal)

    def __len__(self) -> int:
        return self.stack.shape[2]

    def mask(self, index: int) -> np.ndarray:
        """Mask of one index as it is stored: uint8 (512, 512), 0 or 1."""
        if not 0 <= index < len(self):
            raise UsageError(f"mask index {index} is out of range; the stack has masks 0 .. {len(self) - 1}")
        return np.ascontiguousarray(self.stack[:, :, index]).astype(np.uint8)

    def sample(
        self, image_mu: Any, rng: np.random.Generator, anatomy: Anatomy | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """A random mask of the stack at the slice's size; where the body is does not matter (see `check_mask`).

        Args:
            image_mu: (n, n), 1/cm.
            rng: chooses the mask.
            anatomy: not looked at.

        Returns:
            metal_mask: uint8 (n, n), 0 or the metal's code.
            description: as of `ImplantLibrary.sample`, kind "mask" and the mask's "index".
        """
        shape = _checked_image(image_mu).shape
        index = int(rng.integers(len(self)))
        mask = resize_mask(self.mask(index), shape) * np.uint8(METAL_CODES[self.metal])
        pixels = int(np.count_nonzero(mask))
        parts = [{"shape": "mask", "metal": self.metal, "pixels": pixels}]
        return like(mask, image_mu), {"kind": "mask", "index": index, "parts": parts, "pixels": pixels}


def resize_mask(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A mask at another size, as the benchmark's readers do it: PIL bilinear on uint8 0/1, labels from the nearest.

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


def _checked_image(image_mu: Any) -> np.ndarray:
    image = to_numpy(image_mu).astype(np.float32)
    if image.ndim != 2 or image.shape[0] != image.shape[1]:
        raise InputError(f"implants: expected a square slice (n, n), got shape {image.shape}; crop or pad it")
    check_mu(image, "slice for implants")
    return image


def _assembled(parts: list[Part], body: np.ndarray) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Label map of parts cut to the body, later over earlier, and what is left of each."""
    owner = np.zeros(body.shape, np.int32)
    for number, part in enumerate(parts, start=1):
        owner[part.mask & body] = number
    pixels = np.bincount(owner.ravel(), minlength=len(parts) + 1)
    codes = np.array([0, *(METAL_CODES[part.metal] for part in parts)], dtype=np.uint8)
    seen = [
        {"shape": part.shape, "metal": part.metal, "pixels": int(count)}
        for part, count in zip(parts, pixels[1:], strict=True)
        if count
    ]
    return codes[owner], seen


def open_stack(path: Path) -> np.ndarray:
    """A stack of masks as it lies on disk, (rows, columns, n) of bool or integers; what it holds is not looked at.

    Raises:
        InputError: if the file is no such array.
    """
    if not path.is_file():
        raise InputError(f"mask stack {path}: no such file; {_STACK_REMEDY}")
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


def _load_stack(path: Path) -> np.ndarray:
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
