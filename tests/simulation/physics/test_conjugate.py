"""Conjugate rays tell the column offset, and when a sinogram is of another order."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simulation.errors import InputError
from simulation.physics.conjugate import conjugate_disagreement, find_column_offset
from simulation.physics.geometry import FanBeam
from simulation.physics.projector import Projector

SMALL = FanBeam((64, 64), 4.0, 550.0, 400.0, views=180, bins=150, pitch_mm=4.0, detector="arc", column_offset=-1.25)
SCANS = {
    "arc": SMALL,
    "flat": replace(SMALL, detector="flat"),
    "clockwise, reversed": replace(SMALL, clockwise=True, reversed_bins=True, first_view_rad=1.0),
    "like a clinical scanner": replace(SMALL, reversed_bins=True, first_view_rad=-1.5),
}


def sinogram(scan: FanBeam) -> np.ndarray:
    x, y = np.meshgrid(*[np.arange(64) - 31.5] * 2, indexing="ij")
    image = np.exp(-((x - 6) ** 2 + (y + 3) ** 2) / 60) + 0.4 * np.exp(-((x + 12) ** 2 + (y - 9) ** 2) / 30)
    return Projector(scan, "cpu").forward(image.astype(np.float32))


@pytest.mark.parametrize("scan", SCANS.values(), ids=SCANS)
@pytest.mark.parametrize("offset", [0.0, -1.25, 0.6])
def test_the_offset_of_a_scan_is_found(scan: FanBeam, offset: float) -> None:
    of_offset = sinogram(replace(scan, column_offset=offset))
    assert find_column_offset(of_offset, scan) == pytest.approx(offset, abs=0.03)
    assert conjugate_disagreement(of_offset, replace(scan, column_offset=offset)) < 0.02


def test_a_sinogram_of_another_order_is_refused() -> None:
    shuffled = np.random.default_rng(0).permutation(sinogram(SMALL))
    with pytest.raises(InputError, match="are views and bins in the order of this scan"):
        find_column_offset(shuffled, SMALL)
    with pytest.raises(InputError, match=r"got shape \(150, 180\); expected views x bins"):
        find_column_offset(sinogram(SMALL).T, SMALL)


@pytest.mark.shared_data
def test_the_challenges_sample_has_no_offset_and_xcists_scans_have_the_published_one(shared_data: Path) -> None:
    scan = FanBeam.preset("ctmar")
    sample = np.fromfile(shared_data / "ctmar/out.prep", "<f4").reshape(1000, 900)
    assert find_column_offset(sample, scan) == pytest.approx(0, abs=0.1)
    with np.load(shared_data / "xcist/w30_full.npz") as results:
        assert find_column_offset(results["sino"], scan) == pytest.approx(-1.25, abs=0.02)
