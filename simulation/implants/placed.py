"""Given shapes of metal, placed in slices: turned, scaled, several pieces of one metal, as in the CT-MAR challenge."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import ndimage

from simulation.errors import InputError
from simulation.implants.anatomy import Anatomy, find_body
from simulation.implants.masks import STACK_SIZE, check_metals, checked_image, one_metal
from simulation.physics.arrays import like
from simulation.physics.materials import METAL_CODES

CHALLENGE_METALS = ("amalgam", "steel", "copper", "cobalt", "titanium")
MOST_PIECES = 5
_DIAMETERS = (0.0075, 0.1)
"""Equivalent diameters over the image's side, evenly drawn on a logarithmic scale: 3 to 40 mm of 400. The challenge's
own distribution is not published."""
_ATTEMPTS = 20


@dataclass(frozen=True)
class PlacedShapes:
    """Draws one to five of the shapes for a slice, all of one metal, inside the body.

    Args:
        shapes: Bool["rows columns"] each, none of them empty.
        metal: a key of METAL_CODES, or several of which each mask gets one.

    Raises:
        UsageError: the metal is unknown.
    """

    shapes: tuple[np.ndarray, ...] = field(repr=False)
    metal: str | tuple[str, ...] = CHALLENGE_METALS

    def __post_init__(self) -> None:
        check_metals(self.metal)

    @property
    def shared_stack(self) -> None:
        """None, as every slice has masks of its own."""

    def anatomy(self, image_mu: Any) -> None:
        """Return None: the shapes lie anywhere in the body."""

    def draw(
        self, index: int, image_mu: np.ndarray, rng: np.random.Generator, anatomy: Anatomy | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Return a random mask, whatever its index, see `sample`."""
        return self.sample(image_mu, rng, anatomy)

    def sample(
        self, image_mu: Any, rng: np.random.Generator, anatomy: Anatomy | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Return a random mask for a slice.

        Args:
            image_mu: (n, n), 1/cm; numpy or torch.
            rng: source of shapes, sizes, places and metal.
            anatomy: not looked at.

        Returns:
            metal_mask: uint8 (n, n), 0 or the metal's code.
            description: {"kind": "shapes", "parts", "pixels"}, JSON-serialisable.

        Raises:
            InputError: the image shows no body, or no piece fits into it.
        """
        image = checked_image(image_mu)
        metal = str(one_metal(self.metal, rng))
        depth = ndimage.distance_transform_edt(find_body(image))
        mask, parts = np.zeros(image.shape, bool), []
        for _ in range(int(rng.integers(1, MOST_PIECES + 1))):
            number = int(rng.integers(len(self.shapes)))
            piece = self._place(number, depth, rng)
            if piece is not None:
                mask |= piece
                parts.append({"shape": f"shape {number}", "metal": metal, "pixels": int(piece.sum())})
        if not parts:
            raise InputError("implants: none of the shapes fits into the body of this slice")
        labels = mask.astype(np.uint8) * np.uint8(METAL_CODES[metal])
        return like(labels, image_mu), {"kind": "shapes", "parts": parts, "pixels": int(mask.sum())}

    def _place(self, number: int, depth: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
        """Return a piece, wholly in the body where there is room, as an image; None if it vanishes or has no room."""
        side = len(depth)
        shape = self.shapes[number].astype(np.float32)
        for _ in range(_ATTEMPTS):
            wanted = side * float(np.exp(rng.uniform(*np.log(_DIAMETERS))))
            turned = ndimage.rotate(shape, float(rng.uniform(0, 360)), order=1)
            piece = ndimage.zoom(turned, wanted / np.sqrt(4 * shape.sum() / np.pi), order=1) > 0.5
            room = np.argwhere(depth > max(piece.shape) / 2)
            if not piece.any() or not len(room):
                continue
            row, column = room[rng.integers(len(room))] - np.array(piece.shape) // 2
            placed = np.zeros(depth.shape, bool)
            placed[row : row + piece.shape[0], column : column + piece.shape[1]] = piece
            return placed
        return None


def shapes_from(images: np.ndarray, above: int = 25) -> tuple[np.ndarray, ...]:
    """Return the shapes in grey images, each cut to its box.

    Args:
        images: Integer["shapes rows columns"].
        above: a pixel brighter than this belongs to the shape.

    Raises:
        InputError: an image is empty, or their number or size is not that of shapes.
    """
    if images.ndim != 3 or not 1 <= len(images) <= 10_000 or max(images.shape[1:]) > 4 * STACK_SIZE:
        raise InputError(f"metal shapes: got an array of shape {images.shape}; expected (shapes, rows, columns)")
    shapes = []
    for number, image in enumerate(images):
        found = ndimage.find_objects((image > above).astype(np.uint8))
        if not found:
            raise InputError(f"metal shapes: shape {number} has no pixel above {above}; remove it")
        shapes.append(np.ascontiguousarray(image[found[0]] > above))
    return tuple(shapes)
