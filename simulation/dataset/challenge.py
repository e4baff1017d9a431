"""The CT-MAR challenge's cases become a data set in the community layout, to train on and to score with."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from simulation.correction import linear_interpolation, metal_trace
from simulation.dataset.community import write_case, write_masks
from simulation.dataset.community_set import CommunitySet, SliceName
from simulation.dataset.manifest import CASE_MASKS, Counts, Identity, listing_sha256
from simulation.dataset.pairs import SliceResult
from simulation.dataset.settings import PROCEDURAL, SimulateSettings, units_of_part
from simulation.errors import InputError, UsageError
from simulation.files import PARTIAL, sha256_of
from simulation.implants.library import ImplantLibrary
from simulation.parallel import check_stopped
from simulation.physics.conjugate import find_column_offset
from simulation.physics.geometry import FanBeam
from simulation.physics.materials import METAL_CODES
from simulation.physics.projector import Projector
from simulation.physics.protocols import CTMAR
from simulation.simulator import Sample
from simulation.sources.challenge import ChallengeCase
from simulation.units import MU_WATER_PER_CM, hu_to_mu

_SNAP_BINS = 0.1
"""A column offset so near to the published one, or to none, is that."""


class CommunityFromChallenge:
    """Builds a case of the challenge as a slice with one pair.

    Line integrals are scaled so that water has 0.192 /cm in them, as it has in the images; the challenge's have 0.2.

    Args:
        settings: of the conversion.
        cases: all of one region, as images of bodies and of heads have other pixels.

    Raises:
        UsageError: there are bodies and heads.
        InputError: a sinogram is missing or of another scan.
    """

    unit = "case"
    device = "cpu"

    def __init__(self, settings: SimulateSettings, cases: Sequence[ChallengeCase]) -> None:
        regions = sorted({case.region for case in cases})
        if len(regions) > 1:
            raise UsageError(
                f"--convert: {settings.convert} holds {' and '.join(regions)} cases, which differ in pixel size; give "
                "the folders of one kind"
            )
        self._cases, self._compression = list(cases), settings.compression
        self._names = [SliceName(case.folder.name, f"{case.region}{case.number}") for case in cases]
        if len(set(self._names)) < len(cases):
            raise InputError(f"--convert: {settings.convert} holds a case twice; take one of them out")
        geometry = scan_of(cases[0])
        slices, shorter = listing_sha256(f"{name.case}/{name.name}" for name in self._names)
        identity = Identity(
            preset="ctmar",
            physics=f"the challenge's own files, column offset {geometry.column_offset:g}",
            slices=slices,
            masks=PROCEDURAL,
            metal="None",
            implants="",
            masks_per_slice=1,
            seed=0,
            device=self.device,
            pad_square=False,
            compression=settings.compression,
        )
        self.folder: CommunitySet = CommunitySet(Path(settings.out), settings.split, identity, geometry, shorter)
        self.numbers = units_of_part(settings.part, len(cases))
        self.slices, self.plan = len(self.numbers), {"planned": len(cases)}
        self._projector = Projector(geometry, "cpu", threads=1, kernel=CTMAR.kernel)

    def is_done(self, number: int) -> bool:
        """Return whether a case is there with all its files."""
        return self.folder.is_done(self._names[number])

    def earlier_results(self, number: int) -> list[SliceResult]:
        """Return nothing: a case that failed is not done."""
        return []

    def collate(self, results: Sequence[SliceResult]) -> Counts:
        """List the cases that are done."""
        left_out = {one.name: one.failed[0] for one in results if one.failed}
        in_set = self.folder.collate(self._names, ImplantLibrary(), 1, self.numbers, left_out)
        return Counts(sum(map(self.is_done, self.numbers)), in_set)

    def estimate(self, missing: Sequence[int]) -> tuple[str, dict[str, int]]:
        """Return what these cases would hold, in words and numbers."""
        return "with one pair each", {"slices": len(missing), "pairs": len(missing)}

    def build(self, number: int) -> list[SliceResult]:
        """Build a case; what its files are at fault for is in the result, not raised."""
        check_stopped()
        name = self._names[number]
        try:
            self._write(number)
        except InputError as error:
            return [SliceResult(f"{name.case}/{name.name}", failed=(str(error),))]
        return [SliceResult(f"{name.case}/{name.name}", 1)]

    def _write(self, number: int) -> None:
        case, name = self._cases[number], self._names[number]
        folder = self.folder.case_folder(name)
        for left_over in folder.glob(f"*{PARTIAL}"):
            left_over.unlink()
        scale = np.float32(MU_WATER_PER_CM / CTMAR.image_water_mu)
        clean, measured = (scale * case.read(part, "sino") for part in ("Target", "Baseline"))
        clean_mu, metal_mu = (hu_to_mu(case.read(part, "img")) for part in ("Target", "Baseline"))
        mask = case.read("Mask", "img") > 0.5
        if not mask.any():
            raise InputError(f"{case.path('Mask', 'img').name}: holds no metal; expected a mask of 0 and 1")
        shadow = case.path("Mask", "sino")
        trace = case.read("Mask", "sino") > 0.5 if shadow.is_file() else metal_trace(self._projector, mask)
        interpolated = linear_interpolation(measured, trace)
        li_mu = self._projector.fbp(interpolated, CTMAR.weighting)
        sample = Sample(measured, interpolated, metal_mu, li_mu, trace)
        write_case(folder, np.maximum(clean_mu, 0), clean, clean_mu, {number: sample}, self._compression)
        write_masks(folder / CASE_MASKS, {number: mask.astype(np.uint8) * np.uint8(METAL_CODES["titanium"])})
        files = {file: sha256_of(folder / file) for file in sorted(("gt.h5", f"{number}.h5", CASE_MASKS))}
        origin = f"{case.folder.name}/{case.region}{case.number}"
        record = {"number": number, "origin": origin, "pixel_mm": case.pixel_mm, "metal": case.metal_info()}
        self.folder.write_record(name, record | {"implants": {}, "failed": [], "files": files})


def scan_of(case: ChallengeCase) -> FanBeam:
    """Return the scan of a case; conjugate rays of its sinogram without metal say its column offset.

    Raises:
        InputError: the sinogram is missing or of another scan.
    """
    geometry = replace(CTMAR.geometry, pixel_mm=case.pixel_mm)
    offset = find_column_offset(case.read("Target", "sino"), geometry)
    known = [one for one in (0.0, CTMAR.geometry.column_offset) if abs(offset - one) < _SNAP_BINS]
    return replace(geometry, column_offset=known[0] if known else round(offset, 3))
