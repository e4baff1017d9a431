"""Samples of a task, scored upright and turned: means, errors and columns that follow from hand-made networks."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mar_pipeline.data.batches import Key, KeyedSamples
from mar_pipeline.evaluation.method_facts import Measurements
from mar_pipeline.evaluation.methods import Method
from mar_pipeline.evaluation.score_tables import to_csv
from mar_pipeline.evaluation.task_scores import measure, network_answer
from mar_pipeline.evaluation.task_tables import ERROR, ROTATED, results_of, to_markdown
from mar_pipeline.tasks.images.loading import ordered_loader
from mar_pipeline.tasks.task import HeldOutSet, Score
from mar_pipeline.weights.trained import Trained
from simulation.errors import InputError

SIDE = 6


class Ramps(KeyedSamples):
    """Five images that no turn leaves as they are, of 6 x 6 or 6 x 9 pixels; the label is their number."""

    def __init__(self, width: int = SIDE) -> None:
        self.width = width

    def __len__(self) -> int:
        return 5

    def __getitem__(self, key: Key) -> dict[str, Tensor]:
        image = torch.rand((1, SIDE, self.width), generator=torch.Generator().manual_seed(key[2]))
        return {"image": image, "label": torch.tensor(key[2])}


def held_out(width: int = SIDE, batch: int = 2, angles: tuple[float, ...] = ()) -> HeldOutSet:
    def score(prediction: Tensor, batch: dict[str, Tensor]) -> dict[str, list[float]]:
        if prediction.ndim == 2:
            return {"mean": (prediction.argmax(1) == batch["label"]).float().tolist()}
        return {"mean": prediction.mean((1, 2, 3)).tolist()}

    samples = Ramps(width)
    return HeldOutSet(
        name="ramps",
        samples=[f"ramp {number}" for number in range(5)],
        states="Ramps.",
        loader=ordered_loader(samples, batch),
        fields={"image": (("trivial", 1),), "label": None},
        scores={"mean": Score("mean", 4)},
        prediction=lambda output: output,
        score=score,
        turning_output=lambda prediction, batch: prediction if prediction.ndim == 2 else prediction - batch["image"],
        baselines={"input": lambda batch: batch["image"]},
        angles_deg=angles,
    )


class Function(nn.Module):
    inputs = ("image",)

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, image: Tensor) -> Tensor:
        return self.function(image)


def contender(test: HeldOutSet, function: Callable[[Tensor], Tensor], seed: int = 0, name: str = "net") -> Method:
    trained = Trained("f", name, Function(function), {}, seed, "g", 7, "", None, Path(name), {}, "rain")
    answer = network_answer(trained, test, "cpu", "float32")
    return Method("nets", answer, f"{name} {seed}", seed, facts={"parameters": 7})


def smeared(image: Tensor) -> Tensor:
    """Adds what lies above: no turn commutes with it."""
    return image + image.roll(1, -2)


@pytest.mark.parametrize("width", [SIDE, SIDE + 3])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_equivariant_networks_have_no_error_and_others_what_their_formula_says(width: int, batch: int) -> None:
    test = held_out(width, batch)
    nets = [contender(test, lambda x: x.square(), 0), contender(test, smeared, 1)]
    scores = measure(test, nets, Measurements("cpu"), None)
    assert scores.samples == 5
    assert max(scores.errors["net 0"].values()) < 1e-6
    images = [Ramps(width)[(0, 0, index)]["image"] for index in range(5)]
    for angle, error in scores.errors["net 1"].items():
        turned = [torch.rot90(x.roll(1, -2), round(angle / 90), (-2, -1)) for x in images]
        of_turned = [torch.rot90(x, round(angle / 90), (-2, -1)).roll(1, -2) for x in images]
        residual = sum(float((a - b).square().sum()) for a, b in zip(turned, of_turned, strict=True))
        terms = sum(float(x.square().sum()) for x in images)
        assert error == pytest.approx(math.sqrt(residual / terms), rel=1e-5)


def test_a_correction_that_is_nothing_is_equivariant() -> None:
    test = held_out()
    assert set(measure(test, [contender(test, lambda x: x)], Measurements("cpu"), None).errors["net 0"].values()) == {0}


@pytest.mark.parametrize(("wanted", "turned"), [(None, 5), (0, 0), (1, 1), (3, 5)])
def test_so_many_samples_are_turned_at_least_whole_batches(wanted: int | None, turned: int) -> None:
    test = held_out(batch=2)
    scores = measure(test, [contender(test, smeared)], Measurements("cpu"), wanted)
    assert scores.samples == turned
    assert bool(scores.errors) == (turned > 0)


def test_scores_are_means_over_samples_then_over_seeds() -> None:
    test = held_out()
    nets = [contender(test, lambda x: 0 * x + 1.0, 0), contender(test, lambda x: 0 * x + 4.0, 1)]
    scores = measure(test, [Method("input", test.baselines["input"]), *nets], Measurements("cpu"), 0)
    baseline, trained = results_of([Method("input", test.baselines["input"]), *nets], scores, test)
    assert trained.values["mean"] == (1.0, 4.0)
    assert trained.seeds == (0, 1)
    assert trained.as_json()["mean"] == 2.5
    assert trained.as_json()["mean_std"] == pytest.approx(math.sqrt(4.5))
    expected = torch.stack([Ramps()[(0, 0, index)]["image"] for index in range(5)]).mean()
    assert baseline.values["mean"][0] == pytest.approx(float(expected), abs=1e-6)
    assert "2.5000 ± 2.1213" in to_markdown([baseline, trained], test)
    assert ERROR not in trained.values
    assert len(to_csv(scores.rows, {}).splitlines()) == 1 + 3 * 5


def brightest_quadrant(image: Tensor) -> Tensor:
    """Classes that a turn permutes: each quadrant's sum."""
    half = SIDE // 2
    corners = image[..., :half, :half], image[..., :half, half:], image[..., half:, half:], image[..., half:, :half]
    return torch.stack([corner.sum((1, 2, 3)) for corner in corners] + [image.sum((1, 2, 3)) * 0], 1)


def test_classes_are_scored_at_angles_and_their_mean_over_quarter_turns_is_a_column() -> None:
    test = held_out(angles=(0, 45, 90, 180, 270))
    net = contender(test, brightest_quadrant)
    scores = measure(test, [net], Measurements("cpu"), 0)
    assert {row.angle_deg for row in scores.rows} == {0, 45, 90, 180, 270}
    result = results_of([net], scores, test)[0]
    images = torch.stack([Ramps()[(0, 0, index)]["image"] for index in range(5)])
    right = [
        float((brightest_quadrant(torch.rot90(images, n, (-2, -1))).argmax(1) == torch.arange(5)).float().mean())
        for n in range(4)
    ]
    assert result.values["mean"] == (pytest.approx(right[0]),)
    assert result.values[ROTATED] == (pytest.approx(sum(right[1:]) / 3),)
    straight, turned = brightest_quadrant(images), brightest_quadrant(torch.rot90(images, 1, (-2, -1)))
    mean_square = (straight.square().sum() + turned.square().sum()) / 2
    expected = ((straight - turned).square().sum() / mean_square).sqrt()
    assert scores.errors["net 0"][90] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: x * math.nan, "values that are not finite"),
        (lambda x: x @ torch.ones(3, 3), "net: the network cannot answer to ramps"),
    ],
)
def test_a_network_that_cannot_answer_is_named(function: Callable[[Tensor], Tensor], words: str) -> None:
    test = replace(held_out())
    with pytest.raises(InputError, match=words):
        measure(test, [contender(test, function)], Measurements("cpu"), None)
