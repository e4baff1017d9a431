"""255 for 1/cm, there and back, and for a line integral of 4, for numpy and torch."""

import numpy as np
import pytest
import torch

from mar_pipeline.sample import sinogram_to_network, to_mu, to_network

MU = np.array([-0.01, 0.0, 0.192, 0.5, 1.0, 2.4], np.float32)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_known_values(kind):
    image = to_network(kind(MU.copy()))
    assert type(image) is type(kind(MU)) and image.dtype == kind(MU).dtype
    np.testing.assert_allclose(np.asarray(image), [0, 0, 48.96, 127.5, 255, 255], rtol=1e-6)


def test_back_again_between_air_and_the_limit():
    inside = MU[1:5]
    np.testing.assert_allclose(to_mu(to_network(inside)), inside, rtol=1e-6)
    assert to_mu(torch.tensor(510.0)) == 2.0  # an output is not clipped


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_line_integrals(kind):
    lines = np.array([[-0.1, 0.0, 1.0], [3.0, 4.0, 7.5]], np.float32)
    sinogram = sinogram_to_network(kind(lines.copy()))
    assert type(sinogram) is type(kind(lines)) and sinogram.dtype == kind(lines).dtype
    np.testing.assert_allclose(np.asarray(sinogram), [[0, 0, 63.75], [191.25, 255, 255]], rtol=1e-6)
