"""The challenge's scores through `score`: the truth scores 0, the uncorrected image 4, and a correction between."""

from pathlib import Path

import numpy as np
import pytest

from mar_pipeline import score
from mar_pipeline.tasks.ctmar_scores import METRICS
from simulation import Simulator
from simulation.errors import UsageError


@pytest.mark.shared_data
def test_a_simulated_pair_scores_0_for_the_truth_and_4_for_the_input(shared_data: Path) -> None:
    """Steel hips on the challenge's scanner; LI lies between. Streaks make edges steeper, so sharpness may be 0."""
    with np.load(shared_data / "xcist" / "phantoms.npz") as phantoms:
        truth_mu, metal = phantoms["hips0_img"], phantoms["hips_mask"]
    simulator = Simulator("clinical", "cpu")
    rng = np.random.default_rng(0)
    clean_mu = simulator.clean(truth_mu, rng)[1]
    sample = simulator.simulate(np.where(metal, 0, truth_mu).astype(np.float32), metal, rng)
    pixel_mm = simulator.protocol.geometry.pixel_mm

    def scored(image_mu: np.ndarray) -> dict[str, float]:
        return score(image_mu, clean_mu, metal, "ctmar", input_mu=sample.ma_CT, pixel_mm=pixel_mm)

    of_truth, of_input, of_li = map(scored, (clean_mu, sample.ma_CT, sample.LI_CT))
    assert of_truth["total"] == 0 and {of_truth[name] for name in METRICS} == {0}
    for name in ("ct_number", "noise", "streaks", "ssim", "bone", "proton_range"):
        assert of_input[name] == pytest.approx(4, abs=0.1), name
    assert 0 < of_li["total"] < of_input["total"]
    assert of_li["raw_ct_number"] < of_input["raw_ct_number"]
    alone = score(sample.LI_CT, clean_mu, metal, "ctmar", pixel_mm=pixel_mm)
    assert set(alone) < set(of_li) and alone == {name: of_li[name] for name in alone}


def test_the_uncorrected_image_is_of_this_protocol_alone() -> None:
    image = np.full((16, 16), 0.2)
    with pytest.raises(UsageError, match="protocol float: takes no input_mu"):
        score(image, image, np.zeros((16, 16), bool), input_mu=image)
