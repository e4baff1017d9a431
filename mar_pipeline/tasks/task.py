"""What the trainer needs to know of a task."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mar_pipeline.data.loaders import Loaders
from mar_pipeline.equivariance.fields import Fields

Batch = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Task:
    """Data, network, loss and score of one training.

    Args:
        network: called with the tensors of ``inputs``.
        inputs: keys of a batch that the network takes, in order.
        fields: key of a batch -> what a rotation does to it, see `mar_pipeline.equivariance.fields`: inputs and truth,
            each Float["batch channels H W"].
        loss: (output, batch) -> scalar.
        output_image: output -> Float["batch channels H W"].
        turning_output: (output, batch) -> what EQ-Reg's output term compares, Float["batch channels H W"].
        score: (output image, batch) -> name -> one value per sample; "psnr" decides which weights are the best.
        picture: (output image, batch, index in the batch) -> matplotlib figure.
        loaders: batches of training and validation.
        facts: what a weights file has to say about the data, name -> text.
    """

    network: nn.Module
    inputs: tuple[str, ...]
    fields: dict[str, Fields]
    loss: Callable[[Any, Batch], torch.Tensor]
    output_image: Callable[[Any], torch.Tensor]
    turning_output: Callable[[Any, Batch], torch.Tensor]
    score: Callable[[torch.Tensor, Batch], dict[str, list[float]]]
    picture: Callable[[torch.Tensor, Batch, int], Any]
    loaders: Loaders
    facts: dict[str, str]
