"""The weights that come with the package: whole, described, and worth using."""

import numpy as np
import pytest

from mar_pipeline.data.pairs import find_pairs, load_masks, load_pair
from mar_pipeline.evaluation.methods import METHODS, Scanner
from mar_pipeline.evaluation.network_methods import load_networks
from mar_pipeline.tasks.metrics import score
from mar_pipeline.weights import shipped
from mar_pipeline.weights.shipped import SHIPPED, shipped_or_path
from mar_pipeline.weights.trained import load_trained
from simulation.errors import InputError


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_are_whole_small_and_described(name):
    path = shipped_or_path(name)
    assert path.stat().st_size <= 8e6
    assert load_trained(name).label == name
    card = path.with_suffix(".md").read_text()
    assert SHIPPED[name] in card and "Not a medical device" in card


def test_altered_weights_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(shipped, "_FOLDER", tmp_path)
    (tmp_path / "unet_small.safetensors").write_bytes(b"other")
    with pytest.raises(InputError, match="not the file that was shipped"):
        load_trained("unet_small")


def test_a_file_of_the_name_goes_first(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unet_small").mkdir()
    with pytest.raises(InputError, match="no such file; expected a run folder"):
        load_trained("unet_small")


@pytest.mark.shared_data
def test_unet_small_beats_nmar_by_2_db_on_a_held_out_slice(shared_data):
    """Masks 0 and 1 of the third public slice; test masks 0 and 1 are the train masks 0 and 1."""
    folder = shared_data / "syndeeplesion"
    stacks = load_masks(folder / "train", str(folder / "testmask.npy"))
    scanner = Scanner.of("syndeeplesion", "cpu")
    network = load_networks(["unet_small"], "cpu", "float32")[0].answer
    gains = []
    for file in find_pairs(folder / "train", "train")[0]:
        if file.case == "000321_03_01" and file.mask in (0, 1):
            pair, metal_mask = load_pair(file, stacks, scanner.projector)
            images_mu = [correct(pair, metal_mask, scanner) for correct in (METHODS["nmar"], network)]
            psnr = [score(image_mu, pair.image, metal_mask)["psnr"] for image_mu in images_mu]
            gains.append(psnr[1] - psnr[0])
    assert len(gains) == 2 and np.mean(gains) >= 2.0
