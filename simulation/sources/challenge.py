"""The files of the AAPM CT-MAR challenge, read: raw images and sinograms of a case with and without metal.

    body1/Target/training_body_nometal_img1_512x512x1.raw          HU without metal, the label
    body1/Target/training_body_nometal_sino1_900x1000.raw          line integrals, 1000 views of 900 columns in memory
    body1/Baseline/training_body_metalart_img1_512x512x1.raw       HU with metal
    body1/Baseline/training_body_metalart_sino1_900x1000.raw
    body1/Mask/training_body_metalonlymask_img1_512x512x1.raw      0 and 1
    body1/Mask/training_body_metalonlymask_sino1_900x1000.raw
    .../metalinfo1.json

All raw files are little-endian float32 without a header. Heads are called head in place of body.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simulation.errors import InputError
from simulation.sources.slices import SliceRef, image_from_hu, reading, safe_name

IMAGE_SHAPE, SINOGRAM_SHAPE = (512, 512), (1000, 900)
FIELD_OF_VIEW_MM = {"body": 400.0, "head": 220.16}
_TARGET = re.compile(r"training_(body|head)_nometal_img(\d+)_512x512x1\.raw")
_LARGEST = {"img": 1e5, "sino": 30.0}
"""Nothing in HU, and no line integral, is larger; another type of number or byte order is."""


@dataclass(frozen=True)
class ChallengeCase:
    """One case: an image with and without metal.

    Args:
        folder: of the case, such as body1.
        region: body or head.
        number: in the files' names.
    """

    folder: Path
    region: str
    number: int

    @property
    def pixel_mm(self) -> float:
        """Return the side of a pixel."""
        return FIELD_OF_VIEW_MM[self.region] / IMAGE_SHAPE[0]

    def path(self, part: str, kind: str) -> Path:
        """Return the path of one of its raw files.

        Args:
            part: Baseline (with metal), Target (without) or Mask.
            kind: img or sino.
        """
        what = {"Baseline": "metalart", "Target": "nometal", "Mask": "metalonlymask"}[part]
        size = "512x512x1" if kind == "img" else "900x1000"
        return self.folder / part / f"training_{self.region}_{what}_{kind}{self.number}_{size}.raw"

    def read(self, part: str, kind: str) -> np.ndarray:
        """Return an image in HU, line integrals, or a mask of 0 and 1: float32, (512, 512) or (1000 views, 900 bins).

        Raises:
            InputError: the file is missing, of another size, or holds other numbers.
        """
        return read_raw(self.path(part, kind), IMAGE_SHAPE if kind == "img" else SINOGRAM_SHAPE, _LARGEST[kind])

    def metal_info(self) -> dict[str, Any]:
        """Return what its JSON says of the metal; empty where there is none. Its keys are the challenge's own.

        Raises:
            InputError: it is no JSON object.
        """
        found = sorted(self.folder.rglob(f"metalinfo{self.number}.json"))
        if not found:
            return {}
        with reading(found[0].name, "a JSON object"):
            content = json.loads(found[0].read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise InputError(f"{found[0]}: got {type(content).__name__}; expected a JSON object")
        return content


def read_raw(path: Path, shape: tuple[int, int], largest: float) -> np.ndarray:
    """Return a headerless file of little-endian float32.

    Args:
        path: the file.
        shape: rows and columns, or views and bins.
        largest: absolute value that none of its numbers exceeds.

    Raises:
        InputError: it is missing, of another size, or holds other numbers.
    """
    expected = 4 * shape[0] * shape[1]
    with reading(path.name, f"a raw file of {expected} bytes"):
        size = path.stat().st_size
        if size != expected:
            raise InputError(
                f"{path}: got {size} bytes; expected {expected}, float32 of {shape[0]} x {shape[1]} without a header"
            )
        values = np.fromfile(path, "<f4").reshape(shape)
    low, high = float(np.min(values)), float(np.max(values))
    if not (np.isfinite([low, high]).all() and max(-low, high) <= largest):
        raise InputError(
            f"{path}: holds {low:.3g} .. {high:.3g}; expected little-endian float32 within {largest:g}: is it of "
            "another type or byte order?"
        )
    return values


def find_cases(path: Path) -> list[ChallengeCase]:
    """Return the cases under a folder by region and number; empty where there are none.

    Args:
        path: a folder that holds body1, head1 and so on, or one of these itself.
    """
    if not path.is_dir():
        return []
    cases = []
    for target in path.rglob("Target/*.raw"):
        if match := _TARGET.fullmatch(target.name):
            cases.append(ChallengeCase(target.parent.parent, match[1], int(match[2])))
    return sorted(cases, key=lambda case: (case.region, case.number, str(case.folder)))


def list_challenge(cases: list[ChallengeCase]) -> list[SliceRef]:
    """Return the images without metal as slices."""
    return [
        SliceRef(
            safe_name(case.folder.name),
            f"{case.region}{case.number}",
            "/".join(case.path("Target", "img").parts[-3:]),
            read_target,
            (case,),
        )
        for case in cases
    ]


def read_target(case: ChallengeCase) -> tuple[np.ndarray, float]:
    """Read the image without metal: 1/cm, and the side of its pixels in mm.

    Raises:
        InputError: the file cannot be used.
    """
    return image_from_hu(case.read("Target", "img")), case.pixel_mm
