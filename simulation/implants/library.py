"""Metal masks for slices: a procedural library placed by anatomy, or a stack of given masks."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from simulation.errors import InputError, UsageError
from simulation.implants.anatomy import Anatomy
from simulation.implants.masks import (
    SHAPES_KEY,
    MaskStack,
    check_metals,
    checked_image,
    load_shapes,
    load_stack,
    mat_keys,
    one_metal,
)
from simulation.implants.placed import CHALLENGE_METALS, PlacedShapes, shapes_from
from simulation.implants.shapes import SHAPERS, Part, suitable
from simulation.physics.arrays import like
from simulation.physics.materials import METAL_CODES

KINDS = tuple(SHAPERS)
ALWAYS_POSSIBLE = ("clips", "electrodes", "needle")
# At 416 x 416 pixels, as the masks of the public benchmark (35 .. 2061); scales with the number of pixels.
SIZE_RANGE_416 = (16, 2600)
_ATTEMPTS = 40


@dataclass(frozen=True)
class ImplantLibrary:
    """Draws procedural implants, placed by the anatomy that a slice shows.

    Args:
        kinds: which of `KINDS` to draw from; None = all.
        pixel_mm: side of a pixel of the slices; None scales implants with the body, as slices need whose body was
            shrunk (the benchmark's).
        metal: a key of METAL_CODES that all implants are made of, or several of which each implant gets one; None =
            each part of what is usual for it.

    Raises:
        UsageError: if a kind or the metal is unknown or no kind is given.

    Example:
        >>> import numpy as np
        >>> from simulation import ImplantLibrary
        >>> image_mu = np.zeros((128, 128), np.float32)
        >>> image_mu[24:104, 14:114] = 0.2  # 1/cm, a body
        >>> metal_mask, description = ImplantLibrary(("needle",)).sample(image_mu, np.random.default_rng(0))
        >>> metal_mask.shape, description["kind"]
        ((128, 128), 'needle')
        >>> int((metal_mask > 0).sum()) == description["pixels"]
        True
    """

    kinds: tuple[str, ...] | None = None
    pixel_mm: float | None = None
    metal: str | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds or () if kind not in KINDS]
        if unknown or (self.kinds is not None and not self.kinds):
            raise UsageError(
                f"implants: got {' '.join(self.kinds or ()) or 'none'}, expected some of {', '.join(KINDS)}"
            )
        if self.pixel_mm is not None and not self.pixel_mm > 0:
            raise UsageError(f"implants: pixel_mm must be positive, got {self.pixel_mm}")
        if self.metal is not None:
            check_metals(self.metal)

    @classmethod
    def from_masks(cls, path: str | Path, metal: str | tuple[str, ...] | None = None) -> "MaskStack | PlacedShapes":
        """Open a (512, 512, n) stack of 0/1 masks, or the CT-MAR challenge's shapes, which are placed in each slice.

        Args:
            path: a .npy file, axis 2 numbering the masks; SampleMasks.mat of SynDeepLesion; or the challenge's mask
                file with its key tumor_imgs.
            metal: a key of METAL_CODES, or several of which each pair gets one; None is titanium for a stack, and the
                challenge's metals for its shapes.

        Raises:
            InputError: if the file is neither, or one of its masks is empty.
            UsageError: if the metal is unknown.
        """
        path = Path(path)
        if path.suffix.lower() == ".mat" and SHAPES_KEY in mat_keys(path):
            return PlacedShapes(shapes_from(load_shapes(path)), metal or CHALLENGE_METALS)
        return MaskStack(stack=load_stack(path), metal=metal or "titanium")

    @property
    def shared_stack(self) -> None:
        """None, as every slice has masks of its own."""

    def anatomy(self, image_mu: Any) -> Anatomy:
        """Return what a slice shows, to be found once for many implants; takes as many seconds as some of them.

        Args:
            image_mu: (n, n), 1/cm, row 0 anterior; numpy or torch.

        Raises:
            InputError: if the image is not a finite square.
        """
        return Anatomy(checked_image(image_mu), self.pixel_mm)

    def sample(
        self, image_mu: Any, rng: np.random.Generator, anatomy: Anatomy | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Return a random implant for a slice.

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
        metal = one_metal(self.metal, rng)
        weights = np.array([1.0 if kind in ALWAYS_POSSIBLE else 4.0 for kind in kinds])
        kind = str(rng.choice(kinds, p=weights / weights.sum()))
        low, high = np.array(SIZE_RANGE_416) * (image.size / 416**2)
        for _ in range(_ATTEMPTS):
            shapes = SHAPERS[kind](anatomy, rng)
            if metal is not None:
                shapes = [replace(part, metal=metal) for part in shapes]
            mask, parts = _assembled(shapes, anatomy.body)
            pixels = int(np.count_nonzero(mask))
            if low <= pixels <= high:
                return like(mask, image_mu), {"kind": kind, "parts": parts, "pixels": pixels}
        raise InputError(
            f"implants: no {kind} of {low:.0f} .. {high:.0f} pixels fits this slice (body of {anatomy.width} x "
            f"{anatomy.height} pixels) in {_ATTEMPTS} attempts; choose other kinds or check the slice"
        )

    def draw(
        self, index: int, image_mu: np.ndarray, rng: np.random.Generator, anatomy: Anatomy | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Return a random implant, whatever its index, see `sample`."""
        return self.sample(image_mu, rng, anatomy)


def _assembled(parts: list[Part], body: np.ndarray) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Return label map of parts cut to the body, later over earlier, and what is left of each."""
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
