"""The embedded images are scikit-image's own, there without a network."""

import os
import socket

import numpy as np
import pytest
import skimage.data
from skimage.color import gray2rgb

from mar_pipeline.tasks.images import embedded
from mar_pipeline.tasks.images.embedded import TEST_IMAGES, TRAIN_IMAGES, embedded_image
from simulation.errors import InputError, UsageError

NAMES = TRAIN_IMAGES + TEST_IMAGES


@pytest.mark.parametrize("name", NAMES)
def test_is_what_scikit_image_shows(name):
    own = getattr(skimage.data, name)()
    own = own[0] if name == "stereo_motorcycle" else own
    image = embedded_image(name)
    assert image.dtype == np.uint8
    assert image.ndim == 3
    np.testing.assert_array_equal(image, gray2rgb(own) if own.ndim == 2 else own)


def test_no_image_is_both_trained_and_tested_on():
    images = [embedded_image(name).tobytes() for name in NAMES]
    assert len(set(images)) == len(NAMES) == len(TRAIN_IMAGES) + len(TEST_IMAGES) == 14


def test_touches_no_network_and_no_cache(monkeypatch, tmp_path):
    def refuse(*_arguments, **_options):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    monkeypatch.setenv("SKIMAGE_DATADIR", os.fspath(tmp_path))
    for name in NAMES:
        assert embedded_image(name).size
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_an_error_and_not_a_download(monkeypatch):
    monkeypatch.setitem(embedded._FILES, "moon", "not_there.png")
    with pytest.raises(InputError, match=r"not_there\.png"):
        embedded_image("moon")


def test_an_unknown_name_is_refused():
    with pytest.raises(UsageError, match="expected one of astronaut"):
        embedded_image("lena")
