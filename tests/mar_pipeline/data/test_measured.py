"""The arrays of a pair that are not stored, and what no network can be given."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from small_scanner import SMALL, disc
from small_scans import EVERYTHING, scan_of

from mar_pipeline.data.measured import pair_arrays, with_projected_data
from mar_pipeline.sample import IMAGES, KEYS, SINOGRAMS, Layout, PairArrays
from simulation.correction import hardening_corrected, linear_interpolation, nmar, nmar_prior
from simulation.dataset.reader import Pair
from simulation.errors import InputError
from simulation.physics.projector import Projector, Weighting
from simulation.simulator import Sample

PROJECTOR = Projector(SMALL, "cpu", threads=1)
STORED = ("ma_CT", "LI_CT", "ma_sinogram", "LI_sinogram", "metal_trace")


def arrays_of(layout: Layout, truth: bool = True, **changes: Any) -> PairArrays:
    scan, truth_mu, metal_mask = scan_of()
    scan = dataclasses.replace(scan, **changes)
    return pair_arrays(layout, scan, truth_mu if truth else None, metal_mask, PROJECTOR, "benchmark")


def test_every_array_is_what_its_name_says() -> None:
    scan, truth_mu, metal_mask = scan_of()
    images, sinograms = arrays_of(EVERYTHING)
    assert images.dtype == sinograms.dtype == np.float32
    corrected = hardening_corrected(scan.ma_sinogram, scan.LI_sinogram, metal_mask, PROJECTOR)
    prior_mu = nmar_prior(scan.LI_CT, metal_mask)
    nmar_lines, nmar_mu = nmar(scan.ma_sinogram, scan.metal_trace, prior_mu, PROJECTOR)
    of_images = [scan.ma_CT, scan.LI_CT, truth_mu, None, prior_mu, nmar_mu, corrected]
    of_sinograms = [scan.ma_sinogram, scan.LI_sinogram, nmar_lines, None, PROJECTOR.forward(truth_mu)]
    for name, array, image_mu in zip(IMAGES, images, of_images, strict=True):
        expected = metal_mask if image_mu is None else 255 * image_mu.clip(0, 1)
        np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-3, err_msg=name)
    for name, array, lines in zip(SINOGRAMS, sinograms, of_sinograms, strict=True):
        expected = scan.metal_trace if lines is None else 63.75 * lines.clip(0, 4)
        np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-3, err_msg=name)


def test_nothing_is_computed_that_no_name_asks_for() -> None:
    images, sinograms = arrays_of(Layout.of(KEYS), ma_sinogram=None, LI_sinogram=None, metal_trace=None)
    assert images.shape == (4, 64, 64) and sinograms.shape == (0, 64, 81)
    without_truth = Layout(("image", "li"), ("li_sinogram",))
    assert arrays_of(without_truth, truth=False).sinograms.shape == (1, 64, 81)


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (("ma_sinogram",), "ma_sinogram"),
        (("li_sinogram",), "LI_sinogram"),
        (("metal_trace",), "metal_trace"),
        (("hardening_corrected",), "LI_sinogram, ma_sinogram"),
        (("prior",), "LI_CT"),
    ],
)
def test_what_the_scan_lacks_is_named(names: tuple[str, ...], missing: str) -> None:
    changes = dict.fromkeys(missing.split(", "))
    with pytest.raises(InputError, match=f"^the scan has no {missing}, which the network needs; give it") as caught:
        arrays_of(Layout.of(names), **changes)
    assert "\n" not in str(caught.value)


def test_a_layout_with_the_truth_needs_it() -> None:
    with pytest.raises(ValueError, match="the layout names the truth, which was not given"):
        arrays_of(EVERYTHING, truth=False)


def test_bodies_whose_rays_networks_cannot_tell_apart_are_refused() -> None:
    """A thousandth of the bins may lie beyond a line integral of 4, and no more; images alone may come from any."""
    scan, *_ = scan_of()
    bins = scan.LI_sinogram.size
    for beyond, refused in ((bins // 1000, False), (bins // 1000 + 1, True)):
        lines = scan.LI_sinogram.copy()
        lines.ravel()[:beyond] = 4.01
        assert arrays_of(Layout.of(KEYS), LI_sinogram=lines).images.any()
        if refused:
            with pytest.raises(
                InputError, match=r"^0\.1 % of the line integrals are above 4, .*; make the data with the preset synd"
            ):
                arrays_of(EVERYTHING, LI_sinogram=lines)
        else:
            arrays_of(EVERYTHING, LI_sinogram=lines)


# An image whose raw data are gone


@pytest.mark.parametrize("weighting", ["benchmark", "standard"])
def test_an_image_alone_becomes_its_own_scan(weighting: Weighting) -> None:
    scan, truth_mu, metal_mask = scan_of()
    alone = Sample(None, None, scan.ma_CT, None, None)
    pair = Pair(truth_mu, truth_mu, scan.ma_sinogram, *(getattr(scan, name) for name in STORED))
    for own in (alone, pair):
        made = with_projected_data(own, metal_mask, PROJECTOR, weighting)
        np.testing.assert_array_equal(made.ma_sinogram, PROJECTOR.forward(scan.ma_CT))
        np.testing.assert_array_equal(made.metal_trace, PROJECTOR.forward(metal_mask.astype(np.float32)) > 0)
        np.testing.assert_array_equal(made.LI_sinogram, linear_interpolation(made.ma_sinogram, made.metal_trace))
        np.testing.assert_array_equal(made.LI_CT, PROJECTOR.fbp(made.LI_sinogram, weighting))
        assert made.ma_CT is scan.ma_CT
        assert pair_arrays(EVERYTHING, made, truth_mu, metal_mask, PROJECTOR, weighting).sinograms.any()
    assert made.image is truth_mu and made.poly_sinogram is scan.ma_sinogram
    assert not np.array_equal(pair.ma_sinogram, made.ma_sinogram)


@pytest.mark.parametrize("with_mask", [False, True])
def test_an_image_without_artifacts_stays_as_it_is_outside_metal(with_mask: bool) -> None:
    """Without a mask nothing is interpolated; the mask of a tissue-like implant costs little more."""
    body, inside = disc(26), disc(22)
    truth_mu = np.where(body, 0.2, 0).astype(np.float32)
    metal_mask = disc(2) if with_mask else np.zeros_like(body)
    alone = Sample(None, None, truth_mu, None, None)
    made = with_projected_data(alone, metal_mask, PROJECTOR, "standard")
    assert made.metal_trace.any() == with_mask
    assert np.array_equal(made.LI_sinogram, made.ma_sinogram) != with_mask
    error = (made.LI_CT - truth_mu) / 0.2
    seen = PROJECTOR.geometry.inside_field_of_view & ~metal_mask
    for region, largest in ((inside & seen, 0.025), (~disc(29) & seen, 0.05)):
        assert np.sqrt(np.mean(error[region] ** 2)) < largest
