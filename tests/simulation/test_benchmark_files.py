"""The public SynDeepLesion files are reproduced down to their Poisson noise: the table of the simulator's issue.

Scores of the stored images themselves are in tests/mar_pipeline/test_metrics.py.
"""

from functools import cache
from pathlib import Path

import h5py
import numpy as np
import pytest

from mar_pipeline.tasks.metrics import score
from simulation.correction import linear_interpolation, metal_trace, nmar, nmar_prior
from simulation.implants.masks import resize_mask
from simulation.simulator import Simulator

pytestmark = pytest.mark.shared_data

SLICES = ("000321_03_01/011", "000195_02_02/202", "000129_03_01/115")
KNOWN_MASKS = [("000321_03_01/011", 0), ("000321_03_01/011", 1), ("000195_02_02/202", 0)]
PAIRS = [*[("000321_03_01/011", i) for i in range(5)], ("000195_02_02/202", 0), ("000129_03_01/115", 80)]
SPECTRA = ("shipped nodes", "nodes fitted to the csv", "all 101 energies")
spectra = pytest.mark.parametrize("spectrum", SPECTRA)
slices = pytest.mark.parametrize("case", SLICES)
pairs = pytest.mark.parametrize(("case", "index"), PAIRS)
known = pytest.mark.parametrize(("case", "index"), KNOWN_MASKS)


@pytest.fixture(scope="module")
def simulator_of(shared_data):
    @cache
    def make(spectrum: str) -> Simulator:
        csv = shared_data / "spectrum_ge14_120kvp.csv"
        return {
            "shipped nodes": lambda: Simulator("syndeeplesion", "cpu"),
            "nodes fitted to the csv": lambda: Simulator("syndeeplesion", "cpu", spectrum=csv),
            "all 101 energies": lambda: Simulator("syndeeplesion", "cpu", spectrum=csv, tolerance=0),
        }[spectrum]()

    return make


@pytest.fixture(scope="module")
def projector(simulator_of):
    return simulator_of("shipped nodes").projector


@pytest.fixture(scope="module")
def stored(shared_data):
    folder = shared_data / "syndeeplesion" / "train" / "train_640geo"

    @cache
    def read(case: str, name: str | int) -> dict[str, np.ndarray]:
        with h5py.File(folder / case / f"{name}.h5") as file:
            return {key: value[:] for key, value in file.items()}

    return read


@pytest.fixture(scope="module")
def mask_of(shared_data: Path):
    stack = np.load(shared_data / "syndeeplesion" / "testmask.npy")
    return lambda index: resize_mask(stack[:, :, index], (416, 416)) > 0


def counts_of(sinogram: np.ndarray) -> np.ndarray:
    """Stored photon counts n = 2e7 exp(-p): the water correction undone by Newton's method in float64."""
    c1, c2, c3 = 0.80370341, 0.02301414, -0.0008444
    corrected = sinogram.astype(np.float64)
    p = corrected.copy()
    for _ in range(20):
        p -= (p * (c1 + p * (c2 + p * c3)) - corrected) / (c1 + p * (2 * c2 + 3 * c3 * p))
    assert np.abs(p * (c1 + p * (c2 + p * c3)) - corrected).max() < 1e-10
    return 2e7 * np.exp(-p)


def chi2(sinogram: np.ndarray, expected: np.ndarray) -> float:
    return float(np.mean((counts_of(sinogram) - expected) ** 2 / expected))


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a.astype(float) - b) / np.linalg.norm(b.astype(float)))


def test_stored_counts_are_whole_numbers(stored) -> None:
    """The inverse of the water correction is right: where counts are few, float32 leaves them close to integers."""
    counts = counts_of(stored("000321_03_01/011", 1)["ma_sinogram"])
    few = counts[counts < 1e5]
    assert len(few) > 100
    distance = np.abs(few - np.round(few)).mean()
    assert distance < 0.1, f"{distance:.3f}, chance gives 0.25"


@spectra
@slices
def test_the_metal_free_sinogram_is_the_image_scanned(simulator_of, stored, spectrum: str, case: str) -> None:
    files = stored(case, "gt")
    value = chi2(files["poly_sinogram"], simulator_of(spectrum).expected_counts(files["image"]))
    assert 0.99 < value < 1.01, f"chi2 {value:.4f}"


@spectra
@known
def test_the_sinogram_with_metal_is_the_image_and_mask_scanned(
    simulator_of, stored, mask_of, spectrum: str, case: str, index: int
) -> None:
    """The rim of the metal's shadow is that of the stored trace."""
    pair, image = stored(case, index), stored(case, "gt")["image"]
    expected = simulator_of(spectrum).expected_counts(image, mask_of(index), pair["metal_trace"])
    value = chi2(pair["ma_sinogram"], expected)
    assert 0.98 < value < 1.02, f"chi2 {value:.4f}"
    shadow = pair["metal_trace"] > 0
    inside = float(np.mean(((counts_of(pair["ma_sinogram"]) - expected) ** 2 / expected)[shadow]))
    assert 0.9 < inside < 1.25, f"chi2 behind metal {inside:.4f}"


@known
def test_the_trace_is_the_masks_shadow(projector, stored, mask_of, case: str, index: int) -> None:
    trace = metal_trace(projector, mask_of(index))
    differing = np.count_nonzero(trace != (stored(case, index)["metal_trace"] > 0))
    assert differing <= 10, f"{differing} bins"


@pairs
def test_li_is_the_stored_li(stored, case: str, index: int) -> None:
    pair = stored(case, index)
    worst = np.abs(linear_interpolation(pair["ma_sinogram"], pair["metal_trace"]) - pair["LI_sinogram"]).max()
    assert worst < 1e-6, f"{worst:.1e}"


@slices
def test_fbp_of_the_metal_free_sinogram_is_its_ct(projector, stored, case: str) -> None:
    files = stored(case, "gt")
    error = relative(projector.fbp(files["poly_sinogram"]), files["poly_CT"])
    assert error < 1e-4, f"{error:.1e}"


@pairs
def test_fbp_of_the_pair_is_its_cts(projector, stored, case: str, index: int) -> None:
    pair = stored(case, index)
    ma_CT, LI_CT = projector.fbp(np.stack([pair["ma_sinogram"], pair["LI_sinogram"]]))
    errors = relative(ma_CT, pair["ma_CT"]), relative(LI_CT, pair["LI_CT"])
    assert errors[0] < 4e-4, f"ma {errors[0]:.1e}"
    assert errors[1] < 1e-4, f"LI {errors[1]:.1e}"


@pairs
def test_the_benchmark_is_never_starved_of_photons(stored, case: str, index: int) -> None:
    darkest = counts_of(stored(case, index)["ma_sinogram"]).min()
    assert darkest > 1e4, f"{darkest:.0f} photons"


def test_nmar_is_better_than_li_on_the_real_pairs(projector, stored, mask_of) -> None:
    gains = {}
    for case, index in KNOWN_MASKS:
        pair, truth, mask = stored(case, index), stored(case, "gt")["image"], mask_of(index)
        prior = nmar_prior(pair["LI_CT"], mask)
        corrected = nmar(pair["ma_sinogram"], pair["metal_trace"], prior, projector)[1]
        psnr = [float(score(image, truth, mask, "float")["psnr"]) for image in (corrected, pair["LI_CT"])]
        gains[case, index] = round(psnr[0] - psnr[1], 3)
    assert np.mean(list(gains.values())) >= 0.3, f"dB over LI: {gains}"


@known
def test_a_simulated_pair_is_as_far_from_the_truth_as_the_stored_one(
    simulator_of, stored, mask_of, case: str, index: int
) -> None:
    """From image and mask alone, with noise of its own: the scores of input and LI agree within 0.1 dB."""
    pair, truth, mask = stored(case, index), stored(case, "gt")["image"], mask_of(index)
    sample = simulator_of("shipped nodes").simulate(truth, mask, np.random.default_rng(0))
    for name in ("ma_CT", "LI_CT"):
        ours, theirs = (float(score(ct, truth, mask)["psnr"]) for ct in (getattr(sample, name), pair[name]))
        assert ours == pytest.approx(theirs, abs=0.1), name
