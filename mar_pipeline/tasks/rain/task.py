"""Rain removal: rainy images in, clean ones out, RGB in grey levels 0..255."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mar_pipeline.data.loaders import Loaders
from mar_pipeline.equivariance.fields import Fields
from mar_pipeline.networks.build import build_network, network_inputs
from mar_pipeline.networks.rcdnet import RainOutput
from mar_pipeline.tasks.images.answers import IMAGES, checked_answer
from mar_pipeline.tasks.images.loading import ordered_loader, training_loaders
from mar_pipeline.tasks.rain import luminance
from mar_pipeline.tasks.rain.loss import image_of, rain_loss
from mar_pipeline.tasks.rain.samples import samples_to_test, training_samples
from mar_pipeline.tasks.rain.settings import RainData, RainSet, check_rain_data, check_rain_set
from mar_pipeline.tasks.task import Batch, HeldOutSet, Score, Shown, Task, TaskContext

_TASK = "rain"
_FIELDS: dict[str, Fields | None] = {"image": (("trivial", 3),), "target": (("trivial", 3),)}
_SCORES = {"psnr": Score("PSNR of Y (dB)", 2), "ssim": Score("SSIM of Y", 4)}
_INPUT = "input"


def rain_task(context: TaskContext) -> Task:
    """Make the task of rain removal: RCDNet and its own loss, or another network and the mean square error.

    Args:
        context: network and data.

    Raises:
        UsageError: no such network, or impossible settings.
        InputError: the data cannot be used.
    """
    data: RainData = context.data
    check_rain_data(data)
    network = build_network(context.network, context.arguments, device=context.device, task=_TASK)
    return Task(
        network=network,
        inputs=network_inputs(network, ("image",)),
        fields=_FIELDS,
        loss=rain_loss,
        prediction=_prediction,
        turning_output=_correction,
        scores=tuple(_SCORES),
        score=rain_scores,
        picture=_picture,
        loaders=_loaders(data, context.seed, context.rank, context.world),
        facts={"source": data.source if data.is_synthetic else Path(data.source).resolve().name},
        baseline=(_INPUT, _rainy),
    )


def rain_test(data: RainSet) -> HeldOutSet:
    """Return held-out rainy images and how answers to them are scored.

    Args:
        data: synthetic rain over the embedded test images, or the test pairs of a folder.

    Raises:
        UsageError: impossible settings.
        InputError: the data cannot be used.
    """
    check_rain_set(data)
    samples = samples_to_test(data)
    name = f"{data.source} synthetic rain" if data.is_synthetic else data.source
    return HeldOutSet(
        name=name,
        samples=samples.names,
        states=luminance.STATES,
        loader=ordered_loader(samples),
        fields=_FIELDS,
        scores=_SCORES,
        prediction=_prediction,
        score=rain_scores,
        turning_output=_correction,
        baselines={_INPUT: _rainy},
        figure=rain_figure,
    )


def rain_scores(prediction: Tensor, batch: Batch) -> dict[str, list[float]]:
    """Return PSNR in dB and SSIM of the luminance of each sample, see `luminance.score`.

    Args:
        prediction: Float["batch 3 H W"], 0..255 meant.
        batch: with the target.

    Raises:
        UsageError: the prediction is not of the target's shape.
        InputError: images smaller than the window of the SSIM.
    """
    pairs = zip(checked_answer(prediction, batch["target"].shape), batch["target"], strict=True)
    scores = [luminance.score(_pixels(output), _pixels(truth)) for output, truth in pairs]
    return {name: [own[name] for own in scores] for name in _SCORES}


def rain_figure(batch: Batch, answers: Sequence[Shown], name: str) -> Any:
    """Draw input, answers and truth, and below the rain that each took out, as in figure 4 of the EQ-Reg paper.

    Args:
        batch: of one sample.
        answers: to it; the input is shown once, also where it is among them.
        name: of the sample.
    """
    from mar_pipeline.tasks.images.figure import Panel
    from mar_pipeline.tasks.rain.figure import rain_layers_figure

    rainy, truth = _pixels(batch["image"][0]), _pixels(batch["target"][0])
    panels = [Panel("Input", rainy, luminance.score(rainy, truth)["psnr"])]
    panels += [
        Panel(own.label, _pixels(own.prediction), own.scores["psnr"]) for own in answers if own.label.lower() != _INPUT
    ]
    return rain_layers_figure([*panels, Panel("Truth", truth)], f"{name} (PSNR of Y)")


def _loaders(data: RainData, seed: int, rank: int, world: int) -> Loaders:
    train, validation = training_samples(data, seed)
    batches = data.batch_size, data.batches_per_epoch
    return training_loaders(train, validation, seed, *batches, data.workers, rank=rank, world=world)


def _prediction(output: RainOutput | Tensor) -> Tensor:
    return checked_answer(image_of(output), IMAGES).float()


def _correction(output: RainOutput | Tensor, batch: Batch) -> Tensor:
    """Return what the network changes: the rainy image itself turns exactly."""
    return checked_answer(image_of(output), batch["image"].shape).float() - batch["image"]


def _rainy(batch: Batch) -> Tensor:
    return batch["image"]


def _pixels(image: Tensor) -> np.ndarray:
    """Return UInt8 or Float["3 H W"] as Float["H W 3"]."""
    return image.detach().float().cpu().permute(1, 2, 0).numpy()


def _picture(prediction: Tensor, batch: Batch, index: int) -> Any:
    one = {name: tensor[index : index + 1] for name, tensor in batch.items()}
    scores = rain_scores(prediction[index : index + 1], one)
    shown = Shown("Network", prediction[index], {name: values[0] for name, values in scores.items()})
    return rain_figure(one, [shown], "Validation image")
