"""Laws of the reader of MNIST-rot's files: every number in its place, and nothing broken goes through."""

import re
from pathlib import Path

import numpy as np
import pytest

from mar_pipeline.tasks.classification.amat import read_amat
from simulation.errors import InputError

LINES = 6


def rows() -> np.ndarray:
    values = np.random.default_rng(0).random((LINES, 785)).astype(np.float32)
    values[:, -1] = [3, 0, 9, 1, 1, 7]
    return values


def lines_of(values: np.ndarray) -> list[str]:
    return ["   ".join([*(f"{value:.6e}" for value in row[:-1]), f"{row[-1]:.6e}"]) for row in values]


def written(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def lines() -> list[str]:
    return lines_of(rows())


def test_images_and_labels_come_back(tmp_path: Path, lines: list[str]) -> None:
    images, labels = read_amat(written(tmp_path / "a.amat", lines), LINES, 0, LINES, 10)
    assert labels.tolist() == [3, 0, 9, 1, 1, 7]
    np.testing.assert_allclose(images.reshape(LINES, -1), rows()[:, :-1], atol=1e-6)
    assert images.dtype == np.float32
    assert labels.dtype == np.int64


@pytest.mark.parametrize("word", ["1.0000005", "-5e-7", "0", "1"])
def test_pixels_may_be_rounded(tmp_path: Path, lines: list[str], word: str) -> None:
    images, _ = read_amat(written(tmp_path / "a.amat", changed(lines, 0, 3, word)), LINES, 0, LINES, 10)
    assert images[0, 0, 3] == pytest.approx(float(word), abs=1e-6)


def test_some_lines_are_those_of_all(tmp_path: Path, lines: list[str]) -> None:
    path = written(tmp_path / "a.amat", lines)
    images, labels = read_amat(path, LINES, 0, LINES, 10)
    some, own_labels = read_amat(path, LINES, 2, 3, 10)
    assert np.array_equal(some, images[2:5])
    assert np.array_equal(own_labels, labels[2:5])


def test_the_last_line_may_lack_its_end(tmp_path: Path, lines: list[str]) -> None:
    path = tmp_path / "a.amat"
    path.write_text("\n".join(lines))
    assert len(read_amat(path, LINES, 0, LINES, 10)[0]) == LINES


def changed(lines: list[str], number: int, place: int, word: str) -> list[str]:
    words = lines[number].split()
    words[place] = word
    return [*lines[:number], " ".join(words), *lines[number + 1 :]]


BROKEN = {
    "a cut last line": (lambda lines: [*lines[:-1], lines[-1][:900]], r"line 6 has \d+ numbers, expected 785"),
    "missing lines": (lambda lines: lines[:-2], r"got 4 lines, expected 6"),
    "too many lines": (lambda lines: [*lines, lines[0]], r"got 7 lines, expected 6"),
    "an empty line": (lambda lines: [*lines[:2], "", *lines[3:]], r"line 3 has 0 numbers"),
    "a label too large": (lambda lines: changed(lines, 4, -1, "10"), r"line 5: got the label 10, expected 0 to 9"),
    "a label between classes": (lambda lines: changed(lines, 1, -1, "2.5"), r"line 2: got the label 2.5"),
    "no number": (lambda lines: changed(lines, 3, 7, "0.1x"), r"line 4: got '0.1x' as number 8"),
    "not finite": (lambda lines: changed(lines, 0, 1, "nan"), r"line 1: got 'nan' as number 2"),
    "8 bit": (lambda lines: changed(lines, 2, 9, "255"), r"line 3: got 255 as number 10, expected 0 to 1"),
    "below 0": (lambda lines: changed(lines, 5, 783, "-0.01"), r"line 6: got -0\.01 as number 784, expected 0 to 1"),
    "just too much": (lambda lines: changed(lines, 0, 0, "1.00001"), r"line 1: got 1\.00001 as number 1, expected"),
    "another data set": (lambda lines: [line[: len(line) // 2] for line in lines], r"line 1 has \d+ numbers"),
    "a comment": (lambda lines: ["# size", *lines[1:]], r"line 1 has 2 numbers"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_files_are_refused_in_one_line(tmp_path: Path, lines: list[str], what: str) -> None:
    change, message = BROKEN[what]
    path = written(tmp_path / "a.amat", change(lines))
    with pytest.raises(InputError, match=message) as caught:
        read_amat(path, LINES, 0, LINES, 10)
    assert "\n" not in str(caught.value)
    assert re.search("a.amat", str(caught.value))


def test_a_fault_names_the_line_of_the_file_not_of_the_part(tmp_path: Path, lines: list[str]) -> None:
    path = written(tmp_path / "a.amat", changed(lines, 4, -1, "-1"))
    assert len(read_amat(path, LINES, 0, 3, 10)[0]) == 3
    with pytest.raises(InputError, match="line 5: got the label -1"):
        read_amat(path, LINES, 3, 3, 10)


def test_an_empty_line_outside_the_part_moves_no_image(tmp_path: Path, lines: list[str]) -> None:
    path = written(tmp_path / "a.amat", ["", *lines[1:]])
    assert read_amat(path, LINES, 2, 2, 10)[1].tolist() == [9, 1]


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.amat"
    path.write_bytes(bytes(range(256)) * 20 + b"\n")
    with pytest.raises(InputError, match=r"a.amat"):
        read_amat(path, path.read_bytes().count(b"\n"), 0, 3, 10)
