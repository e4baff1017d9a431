"""Natural images that ship inside scikit-image's wheel: they are there offline, on every machine."""

from importlib.resources import as_file, files

import numpy as np
from skimage.color import gray2rgb
from skimage.io import imread

from simulation.errors import InputError, UsageError

_FILES = {
    "astronaut": "astronaut.png",
    "coffee": "coffee.png",
    "rocket": "rocket.jpg",
    "camera": "camera.png",
    "brick": "brick.png",
    "grass": "grass.png",
    "page": "page.png",
    "coins": "coins.png",
    "clock": "clock_motion.png",
    "chelsea": "chelsea.png",
    "stereo_motorcycle": "motorcycle_left.png",
    "moon": "moon.png",
    "text": "text.png",
    "gravel": "gravel.png",
}

TRAIN_IMAGES = ("astronaut", "coffee", "rocket", "camera", "brick", "grass", "page", "coins", "clock")
"""What the tasks train on by default."""

TEST_IMAGES = ("chelsea", "stereo_motorcycle", "moon", "text", "gravel")
"""What they are scored on; never trained on."""


def embedded_image(name: str) -> np.ndarray:
    """Return an image of scikit-image's own, read from the installed package; nothing is ever downloaded.

    The functions of `skimage.data` would fetch a file that they miss or that was changed.

    Args:
        name: one of `TRAIN_IMAGES` or `TEST_IMAGES`; of the motorcycle the left view.

    Returns:
        UInt8["H W 3"]; grey images are repeated in all three channels.

    Raises:
        UsageError: there is no such image.
        InputError: the installed package lacks its file.
    """
    if name not in _FILES:
        raise UsageError(f"unknown embedded image {name!r}; expected one of {', '.join(_FILES)}")
    try:
        with as_file(files("skimage.data") / _FILES[name]) as path:
            image = imread(path)
    except FileNotFoundError as error:
        raise InputError(
            f"embedded images: the installed scikit-image has no data/{_FILES[name]}; install its wheel from PyPI"
        ) from error
    return gray2rgb(image) if image.ndim == 2 else image
