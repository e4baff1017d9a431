"""Inpainting: noisy images with missing pixels in, restored images out, learnt with or without the truth."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from mar_pipeline.data.loaders import Loaders
from mar_pipeline.equivariance.fields import Fields
from mar_pipeline.networks.build import build_network, network_inputs
from mar_pipeline.tasks.images.answers import IMAGES, checked_answer
from mar_pipeline.tasks.images.loading import ordered_loader, training_loaders
from mar_pipeline.tasks.inpainting.losses import InpaintingLoss
from mar_pipeline.tasks.inpainting.samples import (
    TrainingImages,
    images_to_test,
    training_images,
    validation_images,
)
from mar_pipeline.tasks.inpainting.settings import (
    EMBEDDED,
    InpaintingData,
    InpaintingSet,
    check_inpainting_data,
    check_inpainting_set,
)
from mar_pipeline.tasks.task import Batch, HeldOutSet, Score, Shown, Task, TaskContext

_TASK = "inpainting"
_FIELDS: dict[str, Fields | None] = {
    "image": (("trivial", 3),),
    "target": (("trivial", 3),),
    "mask": (("trivial", 1),),
}
_SCORES = {"psnr": Score("PSNR (dB)", 2), "psnr_truth_max": Score("PSNR, peak of the truth (dB)", 2)}
_INPUT = "input"


def inpainting_task(context: TaskContext) -> Task:
    """Make the task of inpainting, with the loss that the settings name.

    Args:
        context: network and data.

    Raises:
        UsageError: no such network, or impossible settings.
        InputError: the images cannot be used.
    """
    data: InpaintingData = context.data
    check_inpainting_data(data)
    network = build_network(context.network, context.arguments, device=context.device, task=_TASK)
    inputs = network_inputs(network, ("image",))
    loss = InpaintingLoss(partial(_restore, network, inputs), data)
    return Task(
        network=network,
        inputs=inputs,
        fields=_FIELDS,
        loss=loss,
        prediction=_prediction,
        turning_output=_correction,
        scores=tuple(_SCORES),
        score=inpainting_scores,
        picture=_picture,
        loaders=_loaders(data, context.seed, context.rank, context.world),
        facts={"loss": data.loss, "gamma": f"{data.gamma:g}", "missing": f"{data.missing:g}"},
        empty_loss=loss.of_nothing,
        full_precision=loss.full_precision,
        baseline=(_INPUT, _measurement),
    )


def inpainting_test(data: InpaintingSet) -> HeldOutSet:
    """Return held-out images, measured once and for all, and how restored ones are scored.

    Raises:
        UsageError: impossible settings.
        InputError: the images cannot be read.
    """
    check_inpainting_set(data)
    samples = images_to_test(data)
    source = "scikit-image's embedded images" if data.source == EMBEDDED else data.source
    return HeldOutSet(
        name=f"inpainting of {source}",
        samples=samples.names,
        states=f"RGB in [0, 1], {data.image_size} x {data.image_size} pixels. Measurement: mask x gamma x Poisson(x / "
        f"gamma), gamma {data.gamma:g}, each pixel missing with the chance {data.missing:g} in all channels, "
        f"{data.mask} mask, measurement seed {data.measurement_seed}. PSNR over all pixels and channels of images as "
        "they come, not clipped; peak 1, or the largest value of the truth. The public code of Robust Equivariant "
        "Imaging has the latter and sums the squares of the three channels: its figures lie another 4.77 dB lower.",
        loader=ordered_loader(samples),
        fields=_FIELDS,
        scores=_SCORES,
        prediction=_prediction,
        score=inpainting_scores,
        turning_output=_correction,
        baselines={_INPUT: _measurement},
        figure=inpainting_figure,
    )


def inpainting_scores(prediction: Tensor, batch: Batch) -> dict[str, list[float]]:
    """Return the PSNR of each sample with peak 1, and with the truth's maximum as the peak: 10 log10(peak^2 / MSE).

    MSE is the mean over pixels and channels, the prediction as it comes, not clipped. The second is `cal_psnr` of the
    public code of Robust Equivariant Imaging plus 10 log10(3) dB: that divides the sum over all channels by H W.

    Args:
        prediction: Float["batch 3 H W"].
        batch: with the target.

    Raises:
        UsageError: the prediction is not of the target's shape.
    """
    truth = batch["target"].double()
    errors = (checked_answer(prediction, truth.shape).double() - truth).square().mean(dim=(1, 2, 3)).tolist()
    peaks = truth.amax(dim=(1, 2, 3)).tolist()
    return {
        "psnr": [_decibel(1.0, mse) for mse in errors],
        "psnr_truth_max": [_decibel(peak, mse) for peak, mse in zip(peaks, errors, strict=True)],
    }


def inpainting_figure(batch: Batch, answers: Sequence[Shown], name: str) -> Any:
    """Draw input, answers and truth side by side, as in figure 5 of Robust Equivariant Imaging.

    Args:
        batch: of one sample.
        answers: to it; the input is shown once, also where it is among them.
        name: of the sample.
    """
    from mar_pipeline.tasks.images.figure import Panel
    from mar_pipeline.tasks.inpainting.figure import images_figure

    image = _measurement(batch)
    scores = inpainting_scores(image, batch)
    panels = [Panel("Input", _pixels(image[0]), scores["psnr"][0])]
    panels += [
        Panel(own.label, _pixels(own.prediction), own.scores["psnr"]) for own in answers if own.label.lower() != _INPUT
    ]
    return images_figure([*panels, Panel("Truth", _pixels(batch["target"][0]))], f"{name} (PSNR: peak 1, not clipped)")


def _loaders(data: InpaintingData, seed: int, rank: int, world: int) -> Loaders:
    train, held_out = training_images(data)
    samples = TrainingImages(train, data, seed), validation_images(held_out, data)
    batches = data.batch_size, data.batches_per_epoch
    return training_loaders(*samples, seed, *batches, data.workers, rank=rank, world=world)


def _restore(network: nn.Module, inputs: Sequence[str], image: Tensor, mask: Tensor) -> Tensor:
    """Return what the network makes of a measurement, outside the trainer's autocast."""
    return network(*({"image": image, "mask": mask}[name] for name in inputs))


def _prediction(output: Tensor) -> Tensor:
    return checked_answer(output, IMAGES).float()


def _measurement(batch: Batch) -> Tensor:
    return batch["image"]


def _correction(output: Tensor, batch: Batch) -> Tensor:
    """Return what the network adds: the measurement itself turns exactly."""
    return checked_answer(output, batch["image"].shape).float() - batch["image"]


def _decibel(peak: float, mse: float) -> float:
    if mse == 0:
        return math.inf
    return 10 * math.log10(peak**2 / mse) if peak > 0 else -math.inf


def _pixels(image: Tensor) -> Any:
    return image.detach().float().cpu().permute(1, 2, 0).numpy()


def _picture(prediction: Tensor, batch: Batch, index: int) -> Any:
    one = {name: tensor[index : index + 1] for name, tensor in batch.items()}
    psnr = inpainting_scores(prediction[index : index + 1], one)
    shown = Shown("Network", prediction[index], {name: values[0] for name, values in psnr.items()})
    return inpainting_figure(one, [shown], "Validation image")
