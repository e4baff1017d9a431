"""The names of the package's root: described, with an example that runs."""

import doctest

import numpy as np
import pytest

import simulation
from simulation import FanBeam, Simulator


@pytest.mark.parametrize("name", simulation.__all__)
def test_every_public_name_has_an_example_that_runs(name):
    public = getattr(simulation, name)
    (test,) = (own for own in doctest.DocTestFinder(recurse=False).find(public, name, globs={}) if own.name == name)
    assert test.examples, f"{name}: its docstring has no example"
    said = []
    failed = doctest.DocTestRunner().run(test, out=said.append).failed
    assert failed == 0, "".join(said)


@pytest.mark.parametrize("name", ["linear_interpolation", "metal_trace", "nmar", "nmar_prior", "read_pair", "verify"])
def test_every_public_function_says_what_goes_in_and_what_comes_out(name):
    text = getattr(simulation, name).__doc__
    assert all(f"\n    {section}:\n" in text for section in ("Args", "Returns", "Raises"))


def test_a_simulator_takes_a_scanner_of_ones_own():
    scan = FanBeam((48, 48), 5.0, source_mm=520, detector_mm=390, views=60, bins=80, pitch_mm=6)
    simulator = Simulator(scan, "cpu")
    assert simulator.protocol.geometry == simulator.projector.geometry == scan
    image_mu = np.zeros((48, 48), np.float32)
    image_mu[12:36, 12:36] = 0.2
    sinogram, image = simulator.clean(image_mu, np.random.default_rng(0))
    assert (sinogram.shape, image.shape) == ((60, 80), (48, 48))
    assert abs(float(image[24, 24]) - 0.2) < 0.02
    assert Simulator(scan, "cpu").physics_sha256 == simulator.physics_sha256 != Simulator("clinical").physics_sha256
