"""Rain removal: rainy images in, clean ones out, RGB in grey levels 0..255."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from mar_pipeline.equivariance.fields import Fields
from mar_pipeline.networks.build import build_network, network_inputs
from mar_pipeline.networks.rcdnet import RainOutput
from mar_pipeline.tasks.images.loading import ordered_loader, training_loaders
from mar_pipeline.tasks.rain import luminance
from mar_pipeline.tasks.rain.loss import rain_loss
from mar_pipeline.tasks.rain.samples import samples_to_test, training_samples
from mar_pipeline.tasks.rain.settings import RainData, RainSet, check_rain_data, check_rain_set
from mar_pipeline.tasks.task import Batch, Score, Shown, Task, TestSet
from simulation.errors import UsageError

_TASK = "rain"
_FIELDS: dict[str, Fields | None] = {"image": (("trivial", 3),), "target": (("trivial", 3),)}
_SCORES = {"psnr": Score("PSNR of Y (dB)", 2), "ssim": Score("SSIM of Y", 4)}
_INPUT = "input"


def rain_task(network_name: str, arguments: Mapping[str, Any], data: RainData, seed: int, device: str = "cpu") -> Task:
    """Rain removal with RCDNet and its own loss, or with another network and the mean square error.

    Args:
        network_name: see `build_network`.
        arguments: of its class.
        data: where the images come from.
        seed: of batches, crops and synthetic rain; weights follow torch's own generator.
        device: of the network.

    Raises:
        UsageError: no such network, or impossible settings.
        InputError: the data cannot be used.
    """
    check_rain_data(data)
    network = build_network(network_name, arguments, device=device, task=_TASK)
    train, validation = training_samples(data, seed)
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
        loaders=training_loaders(
            train, validation, seed, data.batch_size, data.batches_per_epoch, workers=data.workers
        ),
        facts={"task": _TASK, "source": data.source},
    )


def rain_test(data: RainSet) -> TestSet:
    """Held-out rainy images and how answers to them are scored.

    Args:
        data: synthetic rain over the embedded test images, or the test pairs of a folder.

    Raises:
        UsageError: impossible settings.
        InputError: the data cannot be used.
    """
    check_rain_set(data)
    samples = samples_to_test(data)
    name = f"{data.source} synthetic rain" if data.is_synthetic else data.source
    return TestSet(
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
    """PSNR in dB and SSIM of the luminance of each sample, see `luminance.score`.

    Args:
        prediction: Float["batch 3 H W"], 0..255 meant.
        batch: with the target.
    """
    pairs = zip(prediction, batch["target"], strict=True)
    scores = [luminance.score(_pixels(output), _pixels(truth)) for output, truth in pairs]
    return {name: [own[name] for own in scores] for name in _SCORES}


def rain_figure(batch: Batch, answers: Sequence[Shown], name: str) -> Any:
    """Input, answers and truth, and below the rain that each took out, as in figure 4 of the EQ-Reg paper.

    Args:
        batch: of one sample.
        answers: to it; the input is shown once, also where it is among them.
        name: of the sample.
    """
    from mar_pipeline.tasks.rain.figure import Panel, rain_layers_figure

    rainy, truth = _pixels(batch["image"][0]), _pixels(batch["target"][0])
    panels = [Panel("Input", rainy, luminance.score(rainy, truth)["psnr"])]
    panels += [
        Panel(own.label, _pixels(own.prediction), own.scores["psnr"]) for own in answers if own.label.lower() != _INPUT
    ]
    return rain_layers_figure([*panels, Panel("Truth", truth)], f"{name} (PSNR of Y)")


def _prediction(output: RainOutput | Tensor) -> Tensor:
    image = getattr(output, "image", output)
    if not isinstance(image, Tensor) or image.dim() != 4 or image.shape[1] != 3:
        got = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise UsageError(
            f"network: answers {got} to rainy images, expected [batch, 3, height, width]; give it three input channels "
            "and three output channels with --network.arguments"
        )
    return image.float()


def _correction(output: RainOutput | Tensor, batch: Batch) -> Tensor:
    """What the network changes: the rainy image itself turns exactly."""
    return _prediction(output) - batch["image"]


def _rainy(batch: Batch) -> Tensor:
    return batch["image"]


def _pixels(image: Tensor) -> np.ndarray:
    """UInt8 or Float["3 H W"] as Float["H W 3"]."""
    return image.detach().float().cpu().permute(1, 2, 0).numpy()


def _picture(prediction: Tensor, batch: Batch, index: int) -> Any:
    one = {name: tensor[index : index + 1] for name, tensor in batch.items()}
    scores = rain_scores(prediction[index : index + 1], one)
    shown = Shown("Network", prediction[index], {name: values[0] for name, values in scores.items()})
    return rain_figure(one, [shown], "Validation image")
