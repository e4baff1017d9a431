"""Laws of the classical correction: what is outside the trace stays, what is inside follows from its neighbours."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from simulation.correction import (
    hardening_corrected,
    linear_interpolation,
    metal_trace,
    nmar,
    nmar_prior,
    replace_trace,
    reprojected,
    tissue_prior,
)
from simulation.errors import InputError
from simulation.physics.geometry import FanBeam
from simulation.physics.projector import Projector
from simulation.units import MU_WATER_PER_CM, hu_to_mu

SCAN = FanBeam((96, 96), 1.0, 300.0, 300.0, views=120, bins=181, pitch_mm=1.6)
BONE_MU = 0.5


@pytest.fixture(scope="module")
def projector() -> Projector:
    return Projector(SCAN, "cpu")


@pytest.fixture(scope="module")
def body_mu() -> np.ndarray:
    """A water ellipse with two bones in air."""
    x = np.arange(96) - 47.5
    body = np.where(np.add.outer((x / 36) ** 2, (x / 42) ** 2) < 1, MU_WATER_PER_CM, 0)
    for row, column, radius in ((10, -15, 8), (-12, 20, 6)):
        body[np.hypot.outer(x - row, x - column) < radius] = BONE_MU
    return body.astype(np.float32)


@pytest.fixture(scope="module")
def metal_mask() -> np.ndarray:
    x = np.arange(96) - 47.5
    return (np.hypot.outer(x - 8, x - 8) < 4) | (np.hypot.outer(x + 18, x + 10) < 3)


@pytest.fixture(scope="module")
def scan(projector: Projector, body_mu: np.ndarray, metal_mask: np.ndarray) -> tuple[np.ndarray, ...]:
    """Metal-free sinogram, the one with a wrong reading behind metal, and the trace."""
    clean = projector.forward(body_mu)
    trace = metal_trace(projector, metal_mask)
    return clean, np.where(trace, 9.0, clean).astype(np.float32), trace


def rms(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))


# The trace


def test_the_trace_is_where_rays_meet_metal(projector: Projector, metal_mask: np.ndarray) -> None:
    trace = metal_trace(projector, metal_mask)
    assert trace.dtype == bool
    np.testing.assert_array_equal(trace, projector.forward(metal_mask.astype(np.float32)) > 0)
    assert 0 < trace.mean() < 0.3
    assert not metal_trace(projector, np.zeros_like(metal_mask)).any()


def test_metal_codes_make_the_same_trace(projector: Projector, metal_mask: np.ndarray) -> None:
    trace = metal_trace(projector, metal_mask)
    np.testing.assert_array_equal(metal_trace(projector, metal_mask * np.uint8(5)), trace)
    both = metal_trace(projector, torch.from_numpy(np.stack([metal_mask, ~metal_mask])))
    assert isinstance(both, torch.Tensor)
    assert both.dtype == torch.bool
    np.testing.assert_array_equal(both[0], trace)


def test_a_mask_of_another_shape_is_refused(projector: Projector) -> None:
    with pytest.raises(InputError, match="expected 96 x 96"):
        metal_trace(projector, np.ones((96, 95), bool))


# LI


def test_interpolation_by_hand() -> None:
    """Between two neighbours a straight line, beyond the last one its value, as np.interp does."""
    row = np.array([[0, 9, 9, 6, 5, 9, 1], [9, 9, 4, 4, 8, 9, 9], [9, 1, 9, 2, 9, 3, 9]], np.float32)
    trace = np.array([[0, 1, 1, 0, 0, 1, 0], [1, 1, 0, 0, 0, 1, 1], [1, 0, 1, 0, 1, 0, 1]], bool)
    expected = [[0, 2, 4, 6, 5, 3, 1], [4, 4, 4, 4, 8, 8, 8], [1, 1, 1.5, 2, 2.5, 3, 3]]
    np.testing.assert_allclose(linear_interpolation(row, trace), expected, rtol=1e-6)


def test_linear_rows_are_restored_exactly() -> None:
    row = np.linspace(-3, 5, 40, dtype=np.float32) * np.ones((6, 1), np.float32)
    trace = np.random.default_rng(0).random(row.shape) < 0.6
    trace[:, [0, -1]] = False
    np.testing.assert_allclose(linear_interpolation(np.where(trace, 99, row), trace), row, atol=1e-6)


def test_outside_the_trace_no_bit_changes_and_inside_the_old_value_has_no_say(scan) -> None:
    _, measured, trace = scan
    result = linear_interpolation(measured, trace)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result[~trace], measured[~trace])
    np.testing.assert_array_equal(linear_interpolation(np.where(trace, -5, measured), trace), result)
    np.testing.assert_array_equal(linear_interpolation(measured, np.zeros_like(trace)), measured)
    assert measured[trace].min() == 9  # the input was left alone


def test_views_and_batches_are_interpolated_alone(scan) -> None:
    _, measured, trace = scan
    result = linear_interpolation(measured, trace)
    np.testing.assert_array_equal(linear_interpolation(measured[7:9], trace[7:9]), result[7:9])
    batch = linear_interpolation(np.stack([measured, 2 * measured])[None], np.stack([trace, trace])[None])
    assert batch.shape == (1, 2, *measured.shape)
    np.testing.assert_array_equal(batch[0, 0], result)


def test_tensors_come_out_as_tensors(scan) -> None:
    _, measured, trace = scan
    result = linear_interpolation(torch.from_numpy(measured), torch.from_numpy(trace))
    assert isinstance(result, torch.Tensor)
    np.testing.assert_array_equal(result, linear_interpolation(measured, trace))
    np.testing.assert_array_equal(linear_interpolation(measured, trace.astype(np.uint8)), result)


def test_a_view_without_anything_to_interpolate_from_is_refused(scan) -> None:
    _, measured, trace = scan
    covered = trace.copy()
    covered[17] = True
    with pytest.raises(InputError, match="view 17 lies in the metal trace from end to end"):
        linear_interpolation(np.stack([measured, measured]), np.stack([trace, covered]))


def test_shapes_that_differ_are_refused(projector, scan, body_mu) -> None:
    _, measured, trace = scan
    with pytest.raises(InputError, match="differ in shape"):
        linear_interpolation(measured, trace[:-1])
    with pytest.raises(InputError, match="differ in shape"):
        nmar_prior(body_mu, trace)
    with pytest.raises(InputError, match="expected 96 x 96"):
        nmar(measured, trace, body_mu[:-1], projector)


# NMAR


def test_the_prior_is_air_water_and_bone(body_mu: np.ndarray, metal_mask: np.ndarray) -> None:
    """Values away from edges; noise is gone from air and water."""
    noisy = body_mu + np.random.default_rng(1).normal(0, 0.004, body_mu.shape)
    noisy[metal_mask] = 3.0
    prior = nmar_prior(noisy.astype(np.float32), metal_mask)
    assert prior.dtype == np.float32
    reach = {"size": 15, "mode": "nearest"}
    flat = ndimage.maximum_filter(body_mu, **reach) == ndimage.minimum_filter(body_mu, **reach)
    air, water = flat & (body_mu == 0), flat & (body_mu == np.float32(MU_WATER_PER_CM))
    assert air.sum() > 100
    assert water.sum() > 100
    assert np.all(prior[air] == 0)
    np.testing.assert_allclose(prior[water], MU_WATER_PER_CM, rtol=1e-6)
    assert prior[57, 32] == pytest.approx(BONE_MU, abs=0.01)


def test_metal_is_water_in_the_prior(body_mu: np.ndarray, metal_mask: np.ndarray) -> None:
    noisy = body_mu + np.random.default_rng(2).normal(0, 0.004, body_mu.shape)
    with_metal, with_air = (np.where(metal_mask, mu, noisy).astype(np.float32) for mu in (20.0, 0.0))
    np.testing.assert_array_equal(nmar_prior(with_metal, metal_mask), nmar_prior(with_air, metal_mask))
    inside = ndimage.binary_erosion(metal_mask, iterations=2)
    assert inside.any()
    np.testing.assert_allclose(nmar_prior(with_metal, metal_mask)[inside], MU_WATER_PER_CM, rtol=0.05)


def test_an_image_without_noise_is_its_own_prior(body_mu: np.ndarray) -> None:
    prior = nmar_prior(body_mu, np.zeros(body_mu.shape, bool))
    assert prior[47, 47] == pytest.approx(MU_WATER_PER_CM)
    assert rms(prior, body_mu) < 0.03


def test_nmar_with_the_truth_as_prior_recovers_the_metal_free_scan(projector, scan, body_mu) -> None:
    """Then the normalised sinogram is one everywhere; LI knows nothing of the bones."""
    clean, measured, trace = scan
    corrected, image = nmar(measured, trace, body_mu, projector)
    li = linear_interpolation(measured, trace)
    assert rms(corrected, clean) < 1e-5
    assert rms(corrected, clean) < 1e-3 * rms(li, clean)
    np.testing.assert_array_equal(corrected[~trace], measured[~trace])
    np.testing.assert_array_equal(image, projector.fbp(corrected))


def test_nmar_with_its_own_prior_beats_li(projector, scan, body_mu, metal_mask) -> None:
    clean, measured, trace = scan
    li = linear_interpolation(measured, trace)
    prior = nmar_prior(projector.fbp(li, "standard"), metal_mask)
    corrected, image = nmar(measured, trace, prior, projector, "standard")
    assert rms(corrected, clean) < 0.7 * rms(li, clean)
    np.testing.assert_array_equal(image, projector.fbp(corrected, "standard"))


def test_nmar_does_not_know_the_scale_of_its_prior(projector, scan, body_mu) -> None:
    _, measured, trace = scan
    one, two = (nmar(measured, trace, scale * body_mu, projector)[0] for scale in (1, 1.3))
    body_rays = projector.forward(body_mu) > 0.1
    np.testing.assert_allclose(one[body_rays], two[body_rays], rtol=1e-4)


def test_nmar_takes_batches_and_tensors(projector, scan, body_mu, metal_mask) -> None:
    _, measured, trace = scan
    sinogram, image = nmar(measured, trace, body_mu, projector)
    pair = [torch.from_numpy(np.stack([a, a])) for a in (measured, trace, body_mu)]
    for result, expected in zip(nmar(*pair, projector), (sinogram, image), strict=True):
        assert isinstance(result, torch.Tensor)
        np.testing.assert_array_equal(result[1], expected)
    priors = nmar_prior(torch.from_numpy(np.stack([body_mu, body_mu])), torch.from_numpy(np.stack([metal_mask] * 2)))
    assert isinstance(priors, torch.Tensor)
    np.testing.assert_array_equal(priors[0], nmar_prior(body_mu, metal_mask))


# The parts of CNNMAR


def test_tissue_prior_is_air_water_and_bone_as_it_is(body_mu: np.ndarray, metal_mask: np.ndarray) -> None:
    noisy = body_mu + np.random.default_rng(0).normal(0, 0.01, body_mu.shape).astype(np.float32)
    noisy[metal_mask] = 5.0
    prior = tissue_prior(noisy, metal_mask)
    air, bone = (body_mu == 0) & ~metal_mask, (body_mu == BONE_MU) & ~metal_mask
    assert prior.dtype == np.float32
    np.testing.assert_array_equal(prior[air], 0)
    np.testing.assert_array_equal(prior[bone], noisy[bone])
    np.testing.assert_array_equal(prior[~air & ~bone], np.float32(MU_WATER_PER_CM))  # metal too


def test_bone_of_the_tissue_prior_has_350_hu_or_more(metal_mask: np.ndarray) -> None:
    """The clusters alone would part 330 HU from water."""
    rows = np.repeat([-1000.0, 0.0, 330.0, 510.0], [24, 60, 4, 8])
    image_mu = np.tile(hu_to_mu(rows).astype(np.float32), (96, 1))
    prior = tissue_prior(image_mu, np.zeros_like(metal_mask))
    np.testing.assert_array_equal(prior[:, :24], 0)
    np.testing.assert_array_equal(prior[:, 24:88], np.float32(MU_WATER_PER_CM))
    np.testing.assert_array_equal(prior[:, 88:], image_mu[:, 88:])


def test_tissue_prior_of_a_batch_and_of_tensors(body_mu: np.ndarray, metal_mask: np.ndarray) -> None:
    images, masks = np.stack([body_mu, 0.9 * body_mu]), np.stack([metal_mask, ~metal_mask])
    batch = tissue_prior(torch.from_numpy(images)[:, None], torch.from_numpy(masks)[:, None])
    assert isinstance(batch, torch.Tensor)
    for one, image, mask in zip(batch[:, 0], images, masks, strict=True):
        np.testing.assert_array_equal(one, tissue_prior(image, mask))
    with pytest.raises(InputError, match=r"tissue prior: image \(96, 96\) and metal mask \(96, 95\) differ in shape"):
        tissue_prior(body_mu, metal_mask[:, 1:])


def test_the_true_prior_makes_the_replacement_perfect(projector: Projector, body_mu: np.ndarray, scan: tuple) -> None:
    clean, corrupted, trace = scan
    sinogram, image_mu = replace_trace(corrupted, trace, body_mu, projector)
    np.testing.assert_array_equal(sinogram[~trace], corrupted[~trace])
    np.testing.assert_allclose(sinogram, clean, atol=1e-5)
    np.testing.assert_allclose(image_mu, projector.fbp(clean), atol=1e-4)
    standard = replace_trace(corrupted, trace, body_mu, projector, "standard")[1]
    np.testing.assert_allclose(standard, projector.fbp(sinogram, "standard"), atol=1e-6)


def test_the_replacement_has_no_step_at_the_border(projector: Projector, body_mu: np.ndarray, scan: tuple) -> None:
    """A prior with wrong values but the right shape: LI of the difference, by hand."""
    clean, corrupted, trace = scan
    prior_mu = 1.2 * body_mu
    sinogram, _ = replace_trace(corrupted, trace, prior_mu, projector)
    prior = projector.forward(prior_mu)
    bins, view = np.arange(SCAN.bins), 17
    hidden = trace[view]
    assert hidden.any()
    difference = np.interp(bins[hidden], bins[~hidden], (clean - prior)[view, ~hidden])
    np.testing.assert_allclose(sinogram[view, hidden], prior[view, hidden] + difference, atol=1e-5)
    assert rms(sinogram, clean) < 0.3 * rms(np.where(trace, prior, corrupted), clean)


def test_a_flat_prior_is_li(projector: Projector, scan: tuple) -> None:
    _, corrupted, trace = scan
    nothing = torch.zeros(SCAN.image_shape)
    sinogram, image_mu = replace_trace(torch.from_numpy(corrupted), torch.from_numpy(trace), nothing, projector)
    assert isinstance(sinogram, torch.Tensor) and isinstance(image_mu, torch.Tensor)
    np.testing.assert_allclose(sinogram, linear_interpolation(corrupted, trace), atol=1e-6)


def test_a_trace_from_end_to_end_cannot_be_replaced(projector: Projector, body_mu: np.ndarray, scan: tuple) -> None:
    with pytest.raises(InputError, match="lies in the metal trace from end to end"):
        replace_trace(scan[0], np.ones_like(scan[2]), body_mu, projector)


def test_hardening_of_the_second_and_third_order_is_taken_off(
    projector: Projector, body_mu: np.ndarray, metal_mask: np.ndarray
) -> None:
    """What is left is the linear part alone, wherever the rest of the scan is known."""
    clean, lengths = projector.forward(body_mu), projector.forward(metal_mask.astype(np.float32))
    measured = clean + 2.0 * lengths - 0.5 * lengths**2 + 0.1 * lengths**3
    image_mu = hardening_corrected(measured, clean, metal_mask, projector)
    linear = projector.fbp(clean + 2.0 * lengths)
    np.testing.assert_allclose(image_mu, linear, atol=2e-3)
    assert rms(projector.fbp(measured), linear) > 0.01
    tensor = hardening_corrected(torch.from_numpy(measured), clean, torch.from_numpy(metal_mask), projector, "standard")
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_allclose(tensor, projector.fbp(clean + 2.0 * lengths, "standard"), atol=2e-3)


def test_without_metal_there_is_no_hardening(projector: Projector, scan: tuple, metal_mask: np.ndarray) -> None:
    clean, *_ = scan
    image_mu = hardening_corrected(clean, clean, np.zeros_like(metal_mask), projector)
    np.testing.assert_array_equal(image_mu, projector.fbp(clean))


def test_wrong_shapes_are_refused_by_the_hardening_correction(projector: Projector, scan: tuple) -> None:
    with pytest.raises(InputError, match="expected 96 x 96"):
        hardening_corrected(scan[0], scan[0], np.ones((96, 95), bool), projector)


# An image whose raw data are gone


def test_reprojection_is_the_scan_of_the_image(
    projector: Projector, body_mu: np.ndarray, metal_mask: np.ndarray
) -> None:
    image_mu = np.where(metal_mask, 2.4, body_mu).astype(np.float32)
    sinogram, interpolated, trace, li_mu = reprojected(image_mu, metal_mask, projector)
    np.testing.assert_array_equal(sinogram, projector.forward(image_mu))
    np.testing.assert_array_equal(trace, metal_trace(projector, metal_mask))
    np.testing.assert_array_equal(interpolated, linear_interpolation(sinogram, trace))
    np.testing.assert_array_equal(li_mu, projector.fbp(interpolated))
    standard = reprojected(image_mu, metal_mask, projector, "standard")[3]
    np.testing.assert_array_equal(standard, projector.fbp(interpolated, "standard"))
    outside = ~metal_mask & SCAN.inside_field_of_view
    assert rms(standard[outside], body_mu[outside]) < rms(projector.fbp(sinogram)[outside], body_mu[outside]) + 0.05
    with pytest.raises(InputError, match="expected 96 x 96"):
        reprojected(image_mu, metal_mask[1:], projector)
