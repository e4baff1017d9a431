"""The task as the trainer and the evaluation see it: settings, scores, an epoch, pictures."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from mar_pipeline.equivariance import EquivarianceRegularizer
from mar_pipeline.networks.typed_fields import typed_layers
from mar_pipeline.tasks.images.figure import Panel
from mar_pipeline.tasks.inpainting.figure import images_figure
from mar_pipeline.tasks.inpainting.settings import InpaintingData, InpaintingSet, check_inpainting_data
from mar_pipeline.tasks.inpainting.task import inpainting_figure, inpainting_scores, inpainting_task, inpainting_test
from mar_pipeline.tasks.task import Shown, TaskContext
from simulation.errors import UsageError

SMALL = InpaintingData(image_size=32, batch_size=2)
TINY = {"width": 4, "levels": 2}


def test_scores_are_scikit_images_of_unclipped_images():
    torch.manual_seed(0)
    truth, answer = 0.8 * torch.rand(2, 3, 16, 16), 1.5 * torch.rand(2, 3, 16, 16)
    scores = inpainting_scores(answer, {"target": truth})
    for index in range(2):
        pair = truth[index].double().numpy(), answer[index].double().numpy()
        assert scores["psnr"][index] == pytest.approx(peak_signal_noise_ratio(*pair, data_range=1))
        own = peak_signal_noise_ratio(*pair, data_range=pair[0].max())
        assert scores["psnr_truth_max"][index] == pytest.approx(own)
    assert inpainting_scores(truth, {"target": truth})["psnr"] == [math.inf] * 2


def test_the_second_score_is_the_public_codes_and_the_channels():
    """Its `cal_psnr` has sqrt(H W) max|x| over the norm of all differences of the three channels."""
    torch.manual_seed(0)
    truth, answer = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    public = 20 * torch.log10(16 * truth.max() / torch.linalg.vector_norm(answer - truth))
    score = inpainting_scores(answer, {"target": truth})["psnr_truth_max"][0]
    assert score - float(public) == pytest.approx(10 * math.log10(3), abs=1e-4)


@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("loss", ["supervised", "sure", "robust_equivariant_imaging"])
def test_an_epoch_lowers_the_loss(loss, with_mask):
    torch.manual_seed(0)
    data = dataclasses.replace(SMALL, loss=loss, transforms=1 if loss == "robust_equivariant_imaging" else 3)
    task = inpainting_task(TaskContext("inpainting_unet", TINY | {"with_mask": with_mask}, data, 0))
    optimizer, losses = torch.optim.Adam(task.network.parameters(), 1e-2), []
    for epoch in range(8):
        task.loaders.train.set_epoch(epoch)
        for batch in task.loaders.train:
            assert set(batch) == set(task.fields)
            output = task.network(*(batch[name] for name in task.inputs))
            loss_value = task.loss(output, batch)
            optimizer.zero_grad()
            loss_value.backward()
            optimizer.step()
            losses.append(loss_value.item())
    assert np.mean(losses[-8:]) < 0.7 * np.mean(losses[:4])
    assert float(task.empty_loss(output, batch)) > 0
    assert task.full_precision == (loss != "supervised")
    (batch,) = list(task.loaders.validation)
    scores = task.score(task.prediction(output[:1]), {name: own[:1] for name, own in batch.items()})
    assert tuple(scores) == task.scores


def test_the_equivariant_loss_and_the_regulariser_work_together():
    """The loss calls the network again after the regulariser has taken the layers' outputs."""
    data = dataclasses.replace(SMALL, loss="robust_equivariant_imaging", transforms=2)
    task = inpainting_task(TaskContext("inpainting_unet", TINY, data, 0))
    typed = typed_layers(task.network)
    regularizer = EquivarianceRegularizer(
        task.network, output_weight=1.0, fields=typed.outputs, exclude=typed.exclude, batch_fraction=1.0
    )
    for batch in task.loaders.train:
        doubled = regularizer.prepare(*(batch[key] for key in task.fields), fields=tuple(task.fields.values()))
        both = dict(zip(task.fields, doubled, strict=True))
        torch.testing.assert_close(both["image"] == 0, both["image"] * both["mask"] == 0)
        output = task.network(both["image"])
        penalty = regularizer.loss(task.turning_output(output, both))
        loss = task.loss(output, both)
        (loss + penalty).backward()
        assert set(regularizer.values) == {*typed.outputs, "output"}
        assert loss.isfinite()
        assert float(penalty.detach()) > 0


def test_the_output_term_compares_what_is_added():
    task = inpainting_task(TaskContext("inpainting_unet", TINY, SMALL, 0))
    batch = next(iter(task.loaders.train))
    torch.testing.assert_close(task.turning_output(batch["image"] + 0.1, batch), torch.full((2, 3, 32, 32), 0.1))


def test_an_evaluation_scores_the_input_too():
    test = inpainting_test(InpaintingSet(image_size=32))
    batches = list(test.loader)
    assert len(batches) == len(test.samples) == 5
    for batch in batches:
        assert torch.equal(test.baselines["input"](batch), batch["image"])
        assert set(test.score(batch["image"], batch)) == set(test.scores)
    assert "gamma 0.05" in test.states


def test_the_evaluation_is_measured_the_same_each_time():
    first, second = (list(inpainting_test(InpaintingSet(image_size=32)).loader) for _ in range(2))
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(first, second, strict=True))
    noisier = list(inpainting_test(InpaintingSet(image_size=32, gamma=0.1)).loader)
    assert not torch.equal(noisier[0]["image"], first[0]["image"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("gamma", 0.0),
        ("gamma", float("nan")),
        ("missing", 1.0),
        ("missing", float("nan")),
        ("image_size", 0),
        ("patch", 33),
        ("patch", -1),
        ("batch_size", 0),
        ("batches_per_epoch", 0),
        ("val_images", 0),
        ("sure_step", 0.0),
        ("equivariant_weight", -1.0),
        ("transforms", 0),
        ("workers", -1),
        ("measurement_seed", -1),
    ],
)
def test_impossible_settings_are_named(key, value):
    with pytest.raises(UsageError, match=rf"^--data\.{key}: got {value:g}"):
        inpainting_task(TaskContext("inpainting_unet", TINY, dataclasses.replace(SMALL, **{key: value}), 0))


EQUIVARIANT = ("equivariant_imaging", "robust_equivariant_imaging")
READ_BY = {
    "sure_step": (0.1, ("sure", "robust_equivariant_imaging")),
    "equivariant_weight": (2.0, EQUIVARIANT),
    "transform": ("rotation", EQUIVARIANT),
    "transforms": (2, EQUIVARIANT),
}


@pytest.mark.parametrize("loss", ["supervised", "measurement_consistency", "sure", *EQUIVARIANT])
@pytest.mark.parametrize("key", READ_BY)
def test_settings_that_the_loss_does_not_read_are_refused(key, loss):
    value, losses = READ_BY[key]
    data = dataclasses.replace(SMALL, **{"loss": loss, key: value})
    if loss in losses:
        check_inpainting_data(data)
    else:
        with pytest.raises(UsageError, match=rf"^--data\.{key}: got {value}, which the loss {loss} does not read"):
            check_inpainting_data(data)


def test_an_equivariant_loss_has_a_weight():
    with pytest.raises(UsageError, match=r"^--data\.equivariant_weight: got 0, expected a number above 0"):
        check_inpainting_data(dataclasses.replace(SMALL, loss="equivariant_imaging", equivariant_weight=0.0))


@pytest.mark.parametrize("loss", ["supervised", "sure", "equivariant_imaging"])
@pytest.mark.parametrize(
    "wrong", [lambda image: image[:, :1], lambda image: image[..., :1, :1], lambda image: (image,)]
)
def test_wrong_answers_are_refused_by_loss_and_score(wrong, loss):
    task = inpainting_task(TaskContext("inpainting_unet", TINY, dataclasses.replace(SMALL, loss=loss), 0))
    batch = next(iter(task.loaders.train))
    answer = wrong(batch["image"])
    for use in (task.loss, task.turning_output, task.score):
        with pytest.raises(UsageError, match=r"^network: answers .*, expected \[2, 3, 32, 32\]; give it"):
            use(answer, batch)
    if isinstance(answer, tuple) or answer.shape[1] != 3:
        with pytest.raises(UsageError, match=r"expected \[batch, 3, height, width\]"):
            task.prediction(answer)


def test_facts_tell_the_physics_and_the_loss():
    facts = inpainting_task(TaskContext("inpainting_unet", TINY, SMALL, 0)).facts
    assert facts == {"loss": "supervised", "gamma": "0.05", "missing": "0.3"}


def test_a_figure_shows_input_answers_and_truth_once(tmp_path):
    test = inpainting_test(InpaintingSet(image_size=32))
    batch = next(iter(test.loader))
    answers = [
        Shown("input", batch["image"][0], {"psnr": 1.0}),
        *(Shown(f"network {number}", batch["target"][0], {"psnr": 20.0 + number}) for number in range(5)),
    ]
    figure = inpainting_figure(batch, answers, "chelsea")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["Input", *(f"network {number}" for number in range(5)), "Truth"]
    captions = [axes.texts[0].get_text() for axes in figure.axes if axes.texts]
    assert captions[1:] == [f"{20 + number}.00 dB" for number in range(5)]
    assert len(captions) == 6
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_panels_do_not_overlap():
    image = np.zeros((16, 16, 3))
    for count in (1, 3, 5, 6, 11):
        figure = images_figure([Panel(str(number), image) for number in range(count)], "title")
        boxes = [axes.get_position() for axes in figure.axes]
        assert len(boxes) == count
        assert all(min(box.x0, box.y0) >= 0 and box.x1 <= 1 and box.y1 < 1 for box in boxes)
        pairs = [(a, b) for number, a in enumerate(boxes) for b in boxes[:number]]
        assert not any(a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1 for a, b in pairs)
