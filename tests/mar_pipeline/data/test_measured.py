"""The arrays of a pair that are not stored, and what no network can be given."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from small_scanner import SMALL
from small_scans import EVERYTHING, scan_of

from mar_pipeline.data.measured import pair_arrays
from mar_pipeline.data.sample import IMAGES, KEYS, SINOGRAMS, Layout, PairArrays
from simulation.correction import hardening_corrected, nmar_prior
from simulation.errors import InputError
from simulation.projector import Projector

PROJECTOR = Projector(SMALL, "cpu", threads=1)


def arrays_of(layout: Layout, truth: bool = True, **changes: Any) -> PairArrays:
    scan, truth_mu, metal_mask = scan_of()
    scan = dataclasses.replace(scan, **changes)
    return pair_arrays(layout, scan, truth_mu if truth else None, metal_mask, PROJECTOR, "benchmark")


def test_every_array_is_what_its_name_says() -> None:
    scan, truth_mu, metal_mask = scan_of()
    images, sinograms = arrays_of(EVERYTHING)
    assert images.dtype == sinograms.dtype == np.float32
    corrected = hardening_corrected(scan.ma_sinogram, scan.LI_sinogram, metal_mask, PROJECTOR)
    of_images = [scan.ma_CT, scan.LI_CT, truth_mu, None, nmar_prior(scan.LI_CT, metal_mask), corrected]
    of_sinograms = [scan.ma_sinogram, scan.LI_sinogram, None, PROJECTOR.forward(truth_mu)]
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
            with pytest.raises(InputError, match=r"^0\.1 % of the line integrals are above 4, .*; use the preset synd"):
                arrays_of(EVERYTHING, LI_sinogram=lines)
        else:
            arrays_of(EVERYTHING, LI_sinogram=lines)
