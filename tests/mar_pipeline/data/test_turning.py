"""A turned sample is the sample of the turned scene: projected, simulated or stored."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from small_scanner import NAME, SMALL, body_hu, disc
from small_scans import EVERYTHING, scan_batch

from mar_pipeline.data import CommunityPairs
from mar_pipeline.data.measured import pair_arrays
from mar_pipeline.data.selection import Selection
from mar_pipeline.data.turning import field_of, rotate_sample
from mar_pipeline.sample import IMAGES, SINOGRAMS, Sample, to_sample
from simulation.correction import linear_interpolation, metal_trace
from simulation.physics.projector import Projector
from simulation.physics.protocols import PROTOCOLS
from simulation.simulator import Simulator
from simulation.units import hu_to_mu

quarters = pytest.mark.parametrize("n", [1, 2, 3])
CLASSIFIED = ("prior", "metal_trace")
"""Made with thresholds, which a rounding error may cross in a pixel."""


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@quarters
def test_the_projection_of_a_turned_image_has_its_views_shifted(n: int) -> None:
    random = np.random.default_rng(0).random(SMALL.image_shape)
    image = torch.from_numpy(ndimage.gaussian_filter(random, 2).astype(np.float32))[None]
    projector = Projector(SMALL, "cpu", threads=1)
    sample = {"image": image, "ma_sinogram": projector.forward(image)}
    turned = rotate_sample(sample, n)
    assert torch.equal(turned["image"], torch.rot90(image, n, (-2, -1)))
    assert torch.equal(turned["ma_sinogram"], sample["ma_sinogram"].roll(16 * n, -2))
    assert relative(turned["ma_sinogram"], projector.forward(turned["image"])) < 1e-5
    assert relative(sample["ma_sinogram"].roll(-16 * n, -2), projector.forward(turned["image"])) > 0.01 or n == 2


def noiseless_sample(image_mu: np.ndarray, metal_mask: np.ndarray) -> Sample:
    """Of the simulator, whose photons arrive in their expected number."""
    simulator = Simulator(NAME, "cpu", threads=1)
    scan = simulator.simulate(image_mu, metal_mask, Expected())
    arrays = pair_arrays(EVERYTHING, scan, image_mu, metal_mask, simulator.projector, PROTOCOLS[NAME].weighting)
    return to_sample(arrays, EVERYTHING)


class Expected:
    """A random generator whose draws are their mean."""

    def poisson(self, mean: np.ndarray) -> np.ndarray:
        return np.asarray(mean)

    def normal(self, mean: float = 0.0, deviation: float = 1.0, size: object = None) -> np.ndarray:
        return np.full(size, mean)  # type: ignore[arg-type]


@quarters
@pytest.mark.usefixtures("small_scanner")
def test_simulate_then_rotate_is_rotate_then_simulate(n: int) -> None:
    image_mu = np.maximum(hu_to_mu(body_hu(bone_column=14)), 0).astype(np.float32)
    image_mu[20:24, 25:40] = 0.4
    metal_mask = disc(3, row=8, column=-5) | disc(2, row=-10, column=3)
    then_turned = rotate_sample(noiseless_sample(image_mu, metal_mask), n)
    turned_first = noiseless_sample(np.rot90(image_mu, n).copy(), np.rot90(metal_mask, n).copy())
    assert set(then_turned) == {*IMAGES, *SINOGRAMS}
    for name, array in then_turned.items():
        expected = turned_first[name]
        if name in CLASSIFIED:
            assert ((array - expected).abs() > 0.5).float().mean() < 1e-3, name
        else:
            assert relative(array, expected) < 1e-4, name
    untouched = noiseless_sample(image_mu, metal_mask)
    assert min(relative(untouched[name], turned_first[name]) for name in turned_first) > 0.01


@quarters
def test_a_batch_turns_like_its_samples(n: int) -> None:
    batch = scan_batch(3)
    turned = rotate_sample(batch, n)
    for index in range(3):
        alone = rotate_sample({name: own[index] for name, own in batch.items()}, n)
        assert all(torch.equal(turned[name][index], own) for name, own in alone.items())


def test_the_group_order_is_that_of_the_rotation() -> None:
    sample = scan_batch(1)
    half, quarter = rotate_sample(sample, 1, group_order=2), rotate_sample(sample, 2, group_order=4)
    assert all(torch.equal(half[name], own) for name, own in quarter.items())


def test_views_that_cannot_be_shifted_are_refused() -> None:
    with pytest.raises(ValueError, match="62 views are not a multiple of the group order 4"):
        rotate_sample({"li_sinogram": torch.zeros(1, 62, 5)}, 1)


def test_every_array_of_a_sample_is_an_image_or_a_sinogram() -> None:
    assert {field_of(name) for name in IMAGES} == {(("trivial", 1),)}
    assert {field_of(name) for name in SINOGRAMS} == {(("views", 1),)}


def test_a_real_pair_turned_four_times_is_itself(shared_data: Path) -> None:
    folder = shared_data / "syndeeplesion"
    pairs = CommunityPairs(
        Selection(folder / "train", mask_stack=str(folder / "testmask.npy"), limit=1, layout=EVERYTHING)
    )
    sample = turned = pairs[0]
    for count in range(1, 5):
        turned = rotate_sample(turned, 1)
        assert all(torch.equal(turned[name], own) for name, own in sample.items()) == (count == 4)


def test_the_sinograms_of_a_real_pair_turn_with_its_image(shared_data: Path) -> None:
    """What is stored of the turned slice follows from its turned image: the trace, LI, and the true projection."""
    folder = shared_data / "syndeeplesion"
    pairs = CommunityPairs(
        Selection(folder / "train", mask_stack=str(folder / "testmask.npy"), limit=1, layout=EVERYTHING)
    )
    turned = {name: own[0].numpy() for name, own in rotate_sample(pairs[0], 1).items()}
    projector = Projector(PROTOCOLS[NAME].geometry, "cpu")
    expected = projector.forward(turned["target"] / 255) * 255 / 4
    assert np.abs(turned["target_sinogram"] - expected).max() < 0.01
    assert np.mean(metal_trace(projector, turned["metal_mask"]) != turned["metal_trace"]) < 1e-4
    interpolated = linear_interpolation(turned["ma_sinogram"], turned["metal_trace"])
    assert np.abs(interpolated - turned["li_sinogram"]).max() < 1e-3
    image = projector.fbp(turned["li_sinogram"] * 4 / 255).clip(0, 1) * 255
    assert np.linalg.norm(image - turned["li"]) < 1e-3 * np.linalg.norm(image)
