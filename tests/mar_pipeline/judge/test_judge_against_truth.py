"""The judge against truth: slices of held-out patients on several scanners, a third of them without metal."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from known_slices import KnownSlice, anatomies, is_held_out, known_slices
from scipy import ndimage

from mar_pipeline.dicom.correction.metal import decide
from mar_pipeline.dicom.correction.parts import find_candidates
from mar_pipeline.dicom.correction.projection import SINOGRAM_METHODS, ProjectionCorrection
from mar_pipeline.dicom.correction.virtual_scan import field_of_view, is_truncated, virtual_scan
from mar_pipeline.judge.verdict import Judge
from simulation.errors import InputError
from simulation.physics.projector import Projector

THRESHOLD_HU, LEAST_MM2 = 2500.0, 4.0


def judged(known: KnownSlice, method: str) -> Iterator[tuple[bool, float]]:
    """(whether the judge accepts, RMSE outside metal after - before in HU) of what is corrected as metal.

    In a control that no evidence takes for metal, everything above the threshold is, which the judge must refuse.
    """
    hu, spacing_mm = known.seen_hu, (known.spacing_mm,) * 2
    inside = field_of_view(hu.shape, spacing_mm, np.zeros(hu.shape, bool), None)
    found = [find_candidates(hu, inside, spacing_mm, THRESHOLD_HU)]
    metal = decide(found, [0.0], THRESHOLD_HU, LEAST_MM2).masks[0].unpack()
    if not metal.any() and not known.metal.any():
        metal = decide(found, [0.0], THRESHOLD_HU, LEAST_MM2, all_candidates=True).masks[0].unpack()
    if not metal.any():
        return
    truncated = is_truncated(hu, inside, spacing_mm)
    grid, geometry = virtual_scan(hu.shape, spacing_mm, truncated)
    correction = ProjectionCorrection(SINOGRAM_METHODS[method], grid, Projector(geometry, "cpu"), 0.6)
    try:
        result = correction(hu, metal, inside, truncated).hu
    except InputError:
        return
    result = np.clip(np.rint(result), -1024, 30000)
    where = inside & ~ndimage.binary_dilation(known.metal | metal, iterations=max(1, round(1 / known.spacing_mm)))
    before, after = (float(np.sqrt(np.mean((image - known.truth_hu)[where] ** 2))) for image in (hu, result))
    yield Judge(hu, metal, spacing_mm, inside)(result).helps, after - before


class Verdicts(NamedTuple):
    """Corrections judged: accepted or not, RMSE after - before in HU, beside dense bone or not; number of controls."""

    accepted: np.ndarray
    change: np.ndarray
    dense: np.ndarray
    controls: int


@pytest.fixture(scope="module")
def verdicts(shared_data: Path) -> Verdicts:
    """The judge's opinion and the truth of about 700 corrections."""
    found: list[tuple[bool, float]] = []
    kinds: list[str] = []
    controls = 0
    held_out = [one for one in anatomies(shared_data / "anatomy") if is_held_out(one[0])]
    for number, (_, name, hu, mm) in enumerate(held_out):
        for known in known_slices(name, hu, mm, 6, 4):
            one = list(judged(known, "li" if number % 4 == 0 else "nmar"))
            found += one
            kinds += [known.kind] * len(one)
            controls += len(one) * (not known.metal.any())
    accepted, change = (np.array(values) for values in zip(*found, strict=True))
    return Verdicts(accepted, change, np.array(["beside dense bone" in kind for kind in kinds]), controls)


@pytest.mark.slow
@pytest.mark.shared_data
def test_the_judge_agrees_with_the_truth(verdicts: Verdicts) -> None:
    accepted, change, _, controls = verdicts
    assert len(accepted) >= 600 and controls >= len(accepted) / 3
    assert (accepted == (change < 0)).mean() >= 0.95


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.xfail(
    reason="2.1 % pass: soft tissue gets better while bone as dense as metal's rim gets worse", strict=True
)
def test_of_harmful_corrections_the_judge_passes_one_in_a_hundred(verdicts: Verdicts) -> None:
    harmful = verdicts.change > 5
    assert harmful.sum() >= 200
    assert (verdicts.accepted & harmful).sum() <= 0.01 * harmful.sum()


@pytest.mark.slow
@pytest.mark.shared_data
def test_away_from_dense_bone_it_passes_one_in_a_hundred(verdicts: Verdicts) -> None:
    harmful = (verdicts.change > 5) & ~verdicts.dense
    assert harmful.sum() >= 200
    assert (verdicts.accepted & harmful).sum() <= 0.01 * harmful.sum()
