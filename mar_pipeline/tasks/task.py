"""What the trainer and the evaluation need to know of a task."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from mar_pipeline.data.batches import PairLoader
from mar_pipeline.data.loaders import Loaders
from mar_pipeline.equivariance.fields import Fields

Batch = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class TaskContext:
    """What a task is made from.

    Args:
        network: name of the network, see `build_network`.
        arguments: of its class.
        data: settings of the task's data.
        seed: of batches, crops and what is drawn; weights follow torch's own generator.
        device: of the network, and where a dual-domain network projects.
        rank: of this process.
        world: number of processes, which share the data out.
    """

    network: str
    arguments: Mapping[str, Any]
    data: Any
    seed: int
    device: str = "cpu"
    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class Task:
    """Data, network, loss and score of one training.

    Args:
        network: called with the tensors of ``inputs``.
        inputs: keys of a batch that the network takes, in order.
        fields: key of a batch -> what a rotation does to it, see `mar_pipeline.equivariance.fields`: inputs and truth,
            each Float["batch channels H W"]; None for numbers and labels, which stay as they are.
        loss: (output, batch) -> scalar.
        prediction: output -> what is scored: images Float["batch channels H W"], or logits Float["batch classes"].
        turning_output: (output, batch) -> what EQ-Reg's output term compares, shaped like a prediction.
        scores: names of the scores, higher is better; the first one decides which weights are the best.
        score: (prediction, batch) -> name -> one value per sample.
        picture: (prediction, batch, index in the batch) -> matplotlib figure.
        loaders: batches of training and validation.
        facts: what a weights file has to say about the data, name -> text.
        empty_loss: (output, batch) -> the loss of an answer that is all zeros, of which the first epoch's loss may be a
            few times at most; None calls ``loss`` with zeros.
        full_precision: whether the loss cannot bear bfloat16.
        baseline: what a validation shows beside the network: its label, and batch -> prediction; None for nothing.
    """

    network: nn.Module
    inputs: tuple[str, ...]
    fields: dict[str, Fields | None]
    loss: Callable[[Any, Batch], torch.Tensor]
    prediction: Callable[[Any], torch.Tensor]
    turning_output: Callable[[Any, Batch], torch.Tensor]
    scores: tuple[str, ...]
    score: Callable[[torch.Tensor, Batch], dict[str, list[float]]]
    picture: Callable[[torch.Tensor, Batch, int], Any]
    loaders: Loaders
    facts: dict[str, str]
    empty_loss: Callable[[Any, Batch], torch.Tensor] | None = None
    full_precision: bool = False
    baseline: tuple[str, Callable[[Batch], torch.Tensor]] | None = None


@dataclass(frozen=True)
class Score:
    """A column of the results.

    Args:
        label: name and unit, such as "PSNR (dB)".
        digits: decimals to show.
    """

    label: str
    digits: int


@dataclass(frozen=True)
class Shown:
    """One answer to one sample, for a picture.

    Args:
        label: whose it is.
        prediction: Float["channels H W"].
        scores: name -> value.
    """

    label: str
    prediction: torch.Tensor
    scores: Mapping[str, float]


@dataclass(frozen=True)
class HeldOutSet:
    """Held-out samples of a task and how answers to them are scored: the same whoever answers.

    Args:
        name: of the data, in a few words.
        samples: names of the samples, in the order of the loader.
        states: value range, physics and metric, in sentences for the head of every table.
        loader: batches in a fixed order, see `mar_pipeline.tasks.images.samples`.
        fields: as in `Task`.
        scores: name -> column.
        prediction: as in `Task`.
        score: as in `Task`.
        turning_output: as in `Task`: of this the whole-network equivariance error is measured.
        baselines: name -> what is scored beside the networks, from a batch; empty where there is none.
        angles_deg: rotations of the input at which the first score is measured too; empty for none.
        figure: (batch of one sample, answers to it, name of the sample) -> matplotlib figure; None draws nothing.
        angle_figure: method -> degrees -> the first score of each seed -> matplotlib figure; None draws nothing.
    """

    name: str
    samples: Sequence[str]
    states: str
    loader: PairLoader
    fields: dict[str, Fields | None]
    scores: Mapping[str, Score]
    prediction: Callable[[Any], torch.Tensor]
    score: Callable[[torch.Tensor, Batch], dict[str, list[float]]]
    turning_output: Callable[[Any, Batch], torch.Tensor]
    baselines: Mapping[str, Callable[[Batch], torch.Tensor]] = field(default_factory=dict)
    angles_deg: Sequence[float] = ()
    figure: Callable[[Batch, Sequence[Shown], str], Any] | None = None
    angle_figure: Callable[[Mapping[str, Mapping[float, Sequence[float]]]], Any] | None = None
