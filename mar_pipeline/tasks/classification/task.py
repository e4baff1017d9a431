"""Classification: images of digits in, logits out; the right class whichever way up the digit is."""

from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy

from mar_pipeline.data.loaders import Loaders
from mar_pipeline.equivariance.fields import Fields
from mar_pipeline.networks.build import build_network, network_inputs
from mar_pipeline.tasks.classification.digits import CLASSES, load_part
from mar_pipeline.tasks.classification.samples import (
    IMAGE,
    LABEL,
    QUARTER_TURNS,
    LabelledImages,
    TrainingImages,
    TurnedImages,
)
from mar_pipeline.tasks.classification.settings import (
    DIGITS,
    ClassificationData,
    ClassificationSet,
    check_classification_data,
    check_classification_set,
)
from mar_pipeline.tasks.images.answers import checked_answer
from mar_pipeline.tasks.images.loading import ordered_loader, training_loaders
from mar_pipeline.tasks.task import Batch, HeldOutSet, Score, Task, TaskContext

_TASK = "classification"
_FIELDS: dict[str, Fields | None] = {IMAGE: (("trivial", 1),), LABEL: None}
_LOGITS = ("batch", CLASSES)
_ACCURACY = "accuracy"
_EVALUATION_BATCH = 50 * QUARTER_TURNS
_ANGLES_DEG = tuple(float(angle) for angle in range(0, 360, 30))


def classification_task(context: TaskContext) -> Task:
    """Make the task of classification, with the cross entropy.

    Args:
        context: network and data.

    Raises:
        UsageError: no such network, or impossible settings.
        InputError: the images cannot be read.
    """
    data: ClassificationData = context.data
    check_classification_data(data)
    network = build_network(context.network, context.arguments, device=context.device, task=_TASK)
    return Task(
        network=network,
        inputs=network_inputs(network, (IMAGE,)),
        fields=_FIELDS,
        loss=_cross_entropy,
        prediction=_logits,
        turning_output=_compared_logits,
        scores=(_ACCURACY,),
        score=accuracy,
        picture=_picture,
        loaders=_loaders(data, context.seed, context.rank, context.world),
        facts={"source": _source(data)},
    )


def classification_test(data: ClassificationSet) -> HeldOutSet:
    """Return held-out digits, upright as they come, and turned by every 30 degrees.

    Raises:
        UsageError: impossible settings.
        InputError: the images cannot be read.
    """
    from mar_pipeline.tasks.classification.figure import accuracy_figure

    check_classification_set(data)
    digits = load_part(data.source, "test", data.test_images)
    side = digits.images.shape[-1]
    name = f"test images of {_source(data)}"
    split = (
        "scikit-learn's 1797 digits of 8 x 8 pixels, upsampled bilinearly, that fill the frame: between quarter turns "
        "their ends are cut off; a fixed stratified split into 300 to train, 500 to validate and 997 to test"
        if data.source == DIGITS
        else "turned by any angle as they come; 10,000 to train, 2,000 to validate and 50,000 to test"
    )
    return HeldOutSet(
        name=name,
        samples=digits.names,
        states=f"Grey in [0, 1], 1 is ink, {side} x {side} pixels: {split}. Accuracy: share of right classes. Turned "
        "images: quarter turns are exact, between them bilinear, and what comes from outside the image is paper.",
        loader=ordered_loader(LabelledImages(digits), _EVALUATION_BATCH),
        fields=_FIELDS,
        scores={_ACCURACY: Score("Accuracy", 3)},
        prediction=_logits,
        score=accuracy,
        turning_output=_compared_logits,
        angles_deg=_ANGLES_DEG,
        angle_figure=lambda curves: accuracy_figure(curves, f"{len(digits.labels)} {name}"),
    )


def accuracy(prediction: Tensor, batch: Batch) -> dict[str, list[float]]:
    """Return 1 for each sample whose class is right, else 0.

    Args:
        prediction: logits, Float["batch classes"].
        batch: with the label.
    """
    return {_ACCURACY: (prediction.argmax(dim=1) == batch[LABEL]).float().tolist()}


def _loaders(data: ClassificationData, seed: int, rank: int, world: int) -> Loaders:
    train = TrainingImages(load_part(data.source, "train", data.train_images), data.rotations, seed)
    validation = TurnedImages(load_part(data.source, "val", data.val_images))
    batches = data.batch_size, data.batches_per_epoch
    return training_loaders(train, validation, seed, *batches, data.workers, _EVALUATION_BATCH, rank, world)


def _cross_entropy(output: Tensor, batch: Batch) -> Tensor:
    return cross_entropy(_logits(output), batch[LABEL])


def _logits(output: Tensor) -> Tensor:
    return checked_answer(output, _LOGITS).float()


def _compared_logits(output: Tensor, batch: Batch) -> Tensor:
    return _logits(output)


def _source(data: ClassificationSet) -> str:
    return "scikit-learn's digits" if data.source == DIGITS else "MNIST-rot"


def _picture(prediction: Tensor, batch: Batch, index: int) -> Any:
    from mar_pipeline.tasks.classification.figure import answers_figure

    images, labels = batch[IMAGE][index:, 0].float().cpu().numpy(), batch[LABEL][index:].cpu().numpy()
    return answers_figure(images, labels, prediction[index:].argmax(dim=1).cpu().numpy(), QUARTER_TURNS)
