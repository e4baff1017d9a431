"""The task as the trainer and the evaluation see it: settings, loss, scores, an epoch, pictures."""

import dataclasses

import pytest
import torch
from PIL import Image

from mar_pipeline.networks.rcdnet import RainOutput
from mar_pipeline.tasks.images.figure import Panel
from mar_pipeline.tasks.rain.figure import rain_layers_figure
from mar_pipeline.tasks.rain.loss import rain_loss
from mar_pipeline.tasks.rain.luminance import score
from mar_pipeline.tasks.rain.settings import RainData, RainSet
from mar_pipeline.tasks.rain.task import rain_figure, rain_scores, rain_task, rain_test
from mar_pipeline.tasks.task import Shown, TaskContext
from mar_pipeline.training.regularization import make_regularizer
from mar_pipeline.training.settings import EquivarianceTraining
from simulation.errors import UsageError

DATA = RainData(patch=24, batch_size=4, batches_per_epoch=10)
TINY = {"stages": 2, "blocks": 1, "maps": 4, "dual_channels": 4, "kernel_size": 5}


def _nothing_done(image):
    """The answer that leaves all the rain where it is."""
    return RainOutput(image, (image,) * 3, (torch.zeros_like(image),) * 2)


def test_loss_by_hand():
    clean, rain = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    batch = {"image": clean + rain, "target": clean}
    output = RainOutput(clean + 1, (clean + 2, clean + 3, clean + 4), (rain + 5, rain + 6))
    expected = 0.1 * 4 + 0.1 * (9 + 16 + 25 + 36) + 1 + 0.9 * 36
    assert rain_loss(output, batch) == pytest.approx(expected, rel=1e-5)
    assert rain_loss(RainOutput(clean, (clean,) * 3, (rain,) * 2), batch) == pytest.approx(0, abs=1e-9)
    assert rain_loss(clean + 2, batch) == pytest.approx(4, rel=1e-5)


@pytest.mark.parametrize("regularised", [False, True])
def test_a_few_epochs_take_rain_out(regularised):
    torch.manual_seed(0)
    task = rain_task(TaskContext("rcdnet", TINY, DATA, 0))
    wanted = EquivarianceTraining(enabled=regularised, weight=10.0, output_weight=1.0)
    regularizer = make_regularizer(task.network, wanted)
    assert (regularizer is not None) == regularised
    optimizer, shares = torch.optim.Adam(task.network.parameters(), 1e-2), []
    for epoch in range(6):
        task.loaders.train.set_epoch(epoch)
        for batch in task.loaders.train:
            assert set(batch) == set(task.fields)
            penalty = 0.0
            if regularizer is not None:
                regularizer.attach()
                turned = regularizer.prepare(*batch.values(), fields=[task.fields[name] for name in batch])
                batch = dict(zip(batch, turned, strict=True))
            output = task.network(*(batch[name] for name in task.inputs))
            if regularizer is not None:
                penalty = regularizer.loss(task.turning_output(output, batch))
                assert penalty > 0
                regularizer.detach()
            loss = task.loss(output, batch)
            optimizer.zero_grad()
            (loss + penalty).backward()
            optimizer.step()
            shares.append(loss.item() / rain_loss(_nothing_done(batch["image"]), batch).item())
    assert sum(shares[-10:]) / 10 < 0.9


def test_scores_are_those_of_each_image():
    torch.manual_seed(0)
    truth, answer = 255 * torch.rand(2, 3, 12, 12), 300 * torch.rand(2, 3, 12, 12)
    scores = rain_scores(answer, {"target": truth})
    for index in range(2):
        own = score(*(image[index].permute(1, 2, 0).numpy() for image in (answer, truth)))
        assert {name: values[index] for name, values in scores.items()} == own
    assert list(scores) == ["psnr", "ssim"]


def test_the_output_term_compares_what_is_changed():
    task = rain_task(TaskContext("rcdnet", TINY, DATA, 0))
    image = torch.rand(1, 3, 8, 8)
    output = RainOutput(image - 3, (), ())
    assert torch.allclose(task.turning_output(output, {"image": image}), torch.full((1, 3, 8, 8), -3.0))
    assert torch.equal(task.prediction(output), output.image)


def test_any_network_of_three_channels_can_be_trained():
    task = rain_task(
        TaskContext("torch.nn.Conv2d", {"in_channels": 3, "out_channels": 3, "kernel_size": 3, "padding": 1}, DATA, 0)
    )
    batch = next(iter(task.loaders.train))
    output = task.network(*(batch[name] for name in task.inputs))
    assert task.prediction(output).shape == batch["target"].shape
    assert task.loss(output, batch) > 0


@pytest.mark.parametrize("wrong", [lambda image: image[:, :1], lambda image: image[..., 1:, :], lambda image: (image,)])
def test_wrong_answers_are_refused_by_loss_and_score(wrong):
    task = rain_task(TaskContext("rcdnet", TINY, DATA, 0))
    batch = next(iter(task.loaders.train))
    answer = wrong(batch["image"])
    for use in (task.loss, task.turning_output, task.score):
        with pytest.raises(UsageError, match=r"^network: answers .*, expected \[4, 3, 24, 24\]; give it"):
            use(answer, batch)
    if isinstance(answer, tuple) or answer.shape[1] != 3:
        with pytest.raises(UsageError, match=r"expected \[batch, 3, height, width\]"):
            task.prediction(answer)


def test_facts_name_no_place(tmp_path):
    for folder in ("rain", "norain"):
        (tmp_path / "Rain9/train" / folder).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (30, 30)).save(tmp_path / "Rain9/train" / folder / f"{number}.png")
    data = dataclasses.replace(DATA, source=str(tmp_path / "Rain9"), val_images=1)
    assert rain_task(TaskContext("rcdnet", TINY, data, 0)).facts == {"source": "Rain9"}
    assert rain_task(TaskContext("rcdnet", TINY, DATA, 0)).facts == {"source": "light"}


def test_an_evaluation_scores_the_input_too():
    test = rain_test(RainSet())
    batch = next(iter(test.loader))
    assert test.samples[0] == "chelsea" and len(test.loader) == len(test.samples)
    scores = test.score(test.baselines["input"](batch), batch)
    assert list(scores) == list(test.scores)
    assert 20 < scores["psnr"][0] < 33


@pytest.mark.parametrize(
    ("key", "value"),
    [("val_images", 0), ("patch", -1), ("batch_size", 0), ("batches_per_epoch", 0), ("workers", -1), ("patch", 0)],
)
def test_impossible_settings_are_named(key, value):
    with pytest.raises(UsageError, match=rf"^--data\.{key}: got {value}"):
        rain_task(TaskContext("rcdnet", TINY, dataclasses.replace(DATA, **{key: value}), 0))


def test_a_layout_needs_a_folder():
    with pytest.raises(UsageError, match=r"--data\.layout: got list for light rain, expected auto"):
        rain_test(RainSet(layout="list"))


def test_a_figure_shows_input_answers_and_truth_once_and_their_rain_below(tmp_path):
    torch.manual_seed(0)
    clean, rain = 100 * torch.rand(1, 3, 20, 30), 50 * (torch.rand(1, 1, 20, 30) > 0.8)
    batch = {"image": clean + rain, "target": clean}
    answers = [Shown("input", batch["image"][0], {"psnr": 1.0})]
    answers += [Shown(f"network {number}", clean[0], {"psnr": 30.0 + number}) for number in range(5)]
    figure = rain_figure(batch, answers, "chelsea")
    titles = [axes.get_title() for axes in figure.axes]
    assert [title for title in titles if title] == ["Input", *(f"network {number}" for number in range(5)), "Truth"]
    captions = [axes.texts[0].get_text() for axes in figure.axes if axes.texts]
    assert captions[2:] == [f"{30 + number}.00 dB" for number in range(5)]
    layers = [axes.images[0].get_array() for axes in figure.axes[1::2] if axes.images]
    assert len(layers) == 6
    for layer in layers:
        assert layer.max() == 255 and ((layer[..., 0] > 0) == (rain[0, 0] > 0).numpy()).all()
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000


@pytest.mark.parametrize("count", [2, 5, 7])
def test_panels_do_not_overlap(count):
    image = torch.zeros(20, 30, 3).numpy()
    figure = rain_layers_figure([Panel(f"{number}", image) for number in range(count)], "title")
    boxes = [axes.get_position() for axes in figure.axes]
    for number, one in enumerate(boxes):
        assert min(one.x0, one.y0) >= 0 and max(one.x1, one.y1) <= 1
        assert one.width * figure.get_figwidth() == pytest.approx(1.5 * one.height * figure.get_figheight())
        assert not any(one.overlaps(other) for other in boxes[number + 1 :])
