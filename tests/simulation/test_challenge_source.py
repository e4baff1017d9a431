"""The CT-MAR challenge's files as a source: found, read, in HU and mm; what is damaged says so."""

import json
from pathlib import Path

import numpy as np
import pytest

from simulation.errors import InputError
from simulation.sources import list_slices
from simulation.sources.challenge import IMAGE_SHAPE, SINOGRAM_SHAPE, find_cases
from simulation.units import MU_WATER_PER_CM


def write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values.astype("<f4").tofile(path)


@pytest.fixture
def challenge(tmp_path: Path) -> Path:
    """Two bodies and a head, each with 100 HU in a part of the image."""
    for folder, region, number in (("body1", "body", 1), ("body1", "body", 12), ("head7", "head", 7)):
        hu = np.full(IMAGE_SHAPE, -1000.0)
        hu[100:256, 100:400] = 100
        write(tmp_path / folder / "Target" / f"training_{region}_nometal_img{number}_512x512x1.raw", hu)
        sinogram = np.arange(SINOGRAM_SHAPE[0])[:, None] / 100 + np.zeros(SINOGRAM_SHAPE)
        write(tmp_path / folder / "Baseline" / f"training_{region}_metalart_sino{number}_900x1000.raw", sinogram)
    (tmp_path / "body1" / "metalinfo12.json").write_text(json.dumps({"material": "Ti"}))
    return tmp_path


def test_cases_are_found_by_region_and_number(challenge: Path) -> None:
    cases = find_cases(challenge)
    assert [(case.region, case.number) for case in cases] == [("body", 1), ("body", 12), ("head", 7)]
    assert find_cases(challenge / "body1") == cases[:2] and find_cases(challenge / "absent") == []
    assert cases[1].metal_info() == {"material": "Ti"} and cases[0].metal_info() == {}


def test_sinograms_hold_a_view_a_row_whatever_their_name_says(challenge: Path) -> None:
    sinogram = find_cases(challenge)[0].read("Baseline", "sino")
    np.testing.assert_allclose(sinogram[:, 0], np.arange(1000) / 100)


def test_images_without_metal_are_slices_of_real_size(challenge: Path) -> None:
    slices = [ref.load() for ref in list_slices(str(challenge))]
    assert [(one.case, one.name) for one in slices] == [("body1", "body1"), ("body1", "body12"), ("head7", "head7")]
    assert [one.pixel_mm for one in slices] == pytest.approx([400 / 512, 400 / 512, 220.16 / 512])
    assert slices[0].image_mu[150, 200] == pytest.approx(1.1 * MU_WATER_PER_CM)
    assert slices[0].image_mu[300, 200] == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (np.zeros(512 * 511, "<f4").tobytes(), "got 1046528 bytes; expected 1048576"),
        (np.full(512 * 512, 40, "<f8").tobytes(), "got 2097152 bytes"),
        (np.full(512 * 512, 2e6, "<f4").tobytes(), "type or byte order"),
        (np.full(512 * 512, np.nan, "<f4").tobytes(), "type or byte order"),
    ],
)
def test_what_is_no_such_file_is_refused(challenge: Path, content: bytes, words: str) -> None:
    case = find_cases(challenge)[0]
    case.path("Target", "img").write_bytes(content)
    with pytest.raises(InputError, match=words):
        case.read("Target", "img")
    with pytest.raises(InputError, match="No such file"):
        case.read("Mask", "img")


def test_metal_information_that_is_no_object_is_refused(challenge: Path) -> None:
    (challenge / "body1" / "metalinfo12.json").write_text("[1]")
    with pytest.raises(InputError, match="got list; expected a JSON object"):
        find_cases(challenge)[1].metal_info()
