"""Laws of the digits: one split, turned exactly; and of the folder with MNIST-rot."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from mar_pipeline.tasks.classification import digits
from mar_pipeline.tasks.classification.digits import load_part
from simulation.errors import InputError, UsageError


def test_the_parts_hold_every_digit_once() -> None:
    parts = [load_part("digits", part) for part in ("train", "val", "test")]
    assert [len(part.labels) for part in parts] == [300, 500, 997]
    names = [name for part in parts for name in part.names]
    assert len(set(names)) == len(load_digits().target) == 1797
    for part in parts:
        numbers = [int(name.removeprefix("digit_")) for name in part.names]
        assert np.array_equal(load_digits().target[numbers], part.labels)


def test_every_class_has_its_share_in_every_part() -> None:
    for part in ("train", "val", "test"):
        counts = np.bincount(load_part("digits", part).labels, minlength=10)
        assert counts.max() - counts.min() <= 0.1 * counts.mean()


def test_fewer_images_are_the_first_ones() -> None:
    some, all_of_them = load_part("digits", "test", 7), load_part("digits", "test")
    assert some.names == all_of_them.names[:7]
    assert np.array_equal(some.images, all_of_them.images[:7])


def test_upsampling_commutes_with_quarter_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    images, _ = digits._embedded()
    bunch = load_digits()
    for turns in (1, 2, 3):
        small = type(bunch)(images=np.rot90(bunch.images, turns, (1, 2)).copy(), target=bunch.target)
        monkeypatch.setattr("sklearn.datasets.load_digits", lambda small=small: small)
        np.testing.assert_allclose(digits._embedded()[0], np.rot90(images, turns, (1, 2)), atol=1e-6)


def test_images_are_16_pixels_wide_between_paper_and_ink() -> None:
    images = load_part("digits", "train").images
    assert images.shape[1:] == (16, 16)
    assert images.min() == 0.0
    assert images.max() == 1.0


def test_more_images_than_there_are_are_refused() -> None:
    with pytest.raises(UsageError, match=r"--data.train_images: got 301, but this part of the source has 300 images"):
        load_part("digits", "train", 301)


def test_a_folder_without_the_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no mnist_all_rotation_normalized_float_test\.amat"):
        load_part(str(tmp_path), "test")
    with pytest.raises(InputError, match="there is no such folder; expected digits"):
        load_part(str(tmp_path / "nowhere"), "train")


@pytest.fixture
def small_mnist_rot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like MNIST-rot's, with 6 and 4 lines instead of 12,000 and 50,000."""
    monkeypatch.setattr(digits, "_LINES", {"train": 6, "val": 6, "test": 4})
    monkeypatch.setattr(digits, "_PLACES", {"train": (0, 4), "val": (4, 6), "test": (0, 4)})
    for name, count in (("train_valid", 6), ("test", 4)):
        values = np.zeros((count, 785))
        values[:, 0] = np.arange(count) / 10
        values[:, -1] = np.arange(count)
        np.savetxt(tmp_path / f"mnist_all_rotation_normalized_float_{name}.amat", values)
    return tmp_path


def test_validation_takes_the_last_lines_of_the_training_file(small_mnist_rot: Path) -> None:
    parts = {part: load_part(str(small_mnist_rot), part) for part in ("train", "val", "test")}
    assert {part: own.labels.tolist() for part, own in parts.items()} == {
        "train": [0, 1, 2, 3],
        "val": [4, 5],
        "test": [0, 1, 2, 3],
    }
    np.testing.assert_allclose(parts["val"].images[:, 0, 0], [0.4, 0.5])
    assert parts["test"].images.shape == (4, 28, 28)
    assert parts["val"].names == ("digit_00004", "digit_00005")


def test_some_lines_of_mnist_rot_are_taken(small_mnist_rot: Path) -> None:
    assert load_part(str(small_mnist_rot), "train", 2).labels.tolist() == [0, 1]
    with pytest.raises(UsageError, match=r"--data.val_images: got 3, but this part of the source has 2 images"):
        load_part(str(small_mnist_rot), "val", 3)


def test_the_published_split() -> None:
    assert digits._PLACES == {"train": (0, 10_000), "val": (10_000, 12_000), "test": (0, 50_000)}
    assert digits._LINES == {"train": 12_000, "val": 12_000, "test": 50_000}
