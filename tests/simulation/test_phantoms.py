"""Laws of the embedded phantoms: values, sizes, reproducibility."""

import numpy as np
import pytest
from scipy import ndimage

from simulation.errors import UsageError
from simulation.phantoms import REGIONS, phantom

# Width and height of the body in mm, from .. to.
BODY_MM = {
    "abdomen": ((260, 380), (180, 310)),
    "pelvis": ((310, 380), (200, 265)),
    "thorax": ((280, 390), (190, 290)),
    "head": ((140, 180), (165, 225)),
}


@pytest.fixture(scope="module")
def slices():
    return {region: phantom(region, np.random.default_rng(3)) for region in REGIONS}


def body_of(hu):
    labels, _ = ndimage.label(ndimage.binary_opening(hu > -500, iterations=2))
    return ndimage.binary_fill_holes(labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1)


def share(hu, body, low, high):
    return np.count_nonzero((hu > low) & (hu < high) & body) / np.count_nonzero(body)


@pytest.mark.parametrize("region", REGIONS)
def test_form_of_a_slice(slices, region):
    hu, pixel_mm = slices[region]
    assert hu.shape == (512, 512)
    assert hu.dtype == np.float32
    assert isinstance(pixel_mm, float)
    low, high = (0.45, 0.55) if region == "head" else (0.7, 0.95)
    assert low <= pixel_mm <= high


@pytest.mark.parametrize("region", REGIONS)
def test_values_are_those_of_tissue_without_metal(slices, region):
    hu, _ = slices[region]
    assert hu.min() >= -1000
    assert hu[0, 0] == -1000
    assert 700 < hu.max() < 2700
    body = body_of(hu)
    assert share(hu, body, -130, -60) > 0.04, "fat"
    assert share(hu, body, 20, 90) > 0.1, "muscle and organs"
    assert 0.01 < share(hu, body, 250, 3000) < 0.2, "bone"


@pytest.mark.parametrize("region", REGIONS)
def test_air_around_the_body_is_air(slices, region):
    hu, _ = slices[region]
    outside = ~ndimage.binary_dilation(body_of(hu), iterations=4)
    assert np.mean(hu[outside] == -1000) > 0.85


def test_lungs_fill_a_third_of_the_thorax_and_nothing_else(slices):
    for region, (hu, _) in slices.items():
        lung = share(hu, body_of(hu), -960, -700)
        assert lung > 0.25 if region == "thorax" else lung < 0.05, region


def test_only_the_head_has_teeth(slices):
    dense = {region: np.count_nonzero(hu > 1400) for region, (hu, _) in slices.items()}
    assert dense.pop("head") > 300
    assert not any(dense.values())


@pytest.mark.parametrize("region", REGIONS)
def test_bodies_have_real_sizes(region):
    for seed in range(3):
        hu, pixel_mm = phantom(region, np.random.default_rng(seed), size=256)
        rows, columns = np.nonzero(body_of(hu))
        (low_w, high_w), (low_h, high_h) = BODY_MM[region]
        assert low_w <= np.ptp(columns) * pixel_mm <= high_w
        assert low_h <= np.ptp(rows) * pixel_mm <= high_h
        assert rows.min() > 0 and columns.min() > 0 and rows.max() < 255 and columns.max() < 255, "cut off"


@pytest.mark.parametrize("region", REGIONS)
def test_noise_is_that_of_a_scan(slices, region):
    """Neighbouring differences within smooth soft tissue: 5 .. 25 HU of standard deviation, robustly."""
    hu, _ = slices[region]
    step = hu[:, 2:] - hu[:, :-2]
    soft = (np.abs(hu[:, 1:-1] - 50) < 60) & ndimage.binary_erosion(body_of(hu), iterations=12)[:, 1:-1]
    sigma = 1.4826 * np.median(np.abs(step[soft])) / np.sqrt(2)
    assert 5 < sigma < 25


@pytest.mark.parametrize("region", REGIONS)
def test_seed_decides(region):
    first, again, other = (phantom(region, np.random.default_rng(seed), size=128)[0] for seed in (7, 7, 8))
    assert first.tobytes() == again.tobytes()
    assert np.abs(first - other).mean() > 20


def test_anterior_is_up_and_liver_on_the_left_of_the_image():
    """The spine lies behind the middle of the body; the liver outweighs what is opposite."""
    hu, _ = phantom("abdomen", np.random.default_rng(1))
    body = body_of(hu)
    rows, columns = np.nonzero((hu > 300) & body)
    assert rows.mean() > np.nonzero(body)[0].mean() + 20
    middle = int(np.nonzero(body)[1].mean())
    organ = (ndimage.gaussian_filter(hu, 2) > 40) & (hu < 250) & body
    assert np.count_nonzero(organ[:, :middle]) > 1.1 * np.count_nonzero(organ[:, middle:])
    assert columns.size


def test_unknown_region_is_refused():
    with pytest.raises(UsageError, match=r"'knee'.*abdomen, pelvis, thorax, head"):
        phantom("knee", np.random.default_rng(0))


def test_tiny_size_is_refused():
    with pytest.raises(UsageError, match="at least 64"):
        phantom("head", np.random.default_rng(0), size=32)
