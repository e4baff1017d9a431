"""A square body with bone, fat and a rod of metal, for scores and regions of interest."""

import numpy as np


def square_case() -> tuple[np.ndarray, np.ndarray]:
    """Return a body of water of 100 mm with noise, a piece of bone and one of fat, and where a rod of metal lies."""
    truth = np.full((128, 128), -1000.0)
    truth[14:114, 14:114], truth[90:110, 60:100], truth[20:60, 90:110] = 0, 700, -100
    metal = np.zeros(truth.shape, bool)
    metal[62:67, 20:30] = True
    return truth + np.random.default_rng(1).normal(0, 5, truth.shape), metal
