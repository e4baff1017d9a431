"""Metal artifact reduction: images with artifacts, for some networks their sinograms too, in; corrected images out."""

from functools import partial
from typing import Any

import numpy as np
import torch

from mar_pipeline.data import IMAGE, LI, METAL_MASK, TARGET, DataSettings, make_loaders
from mar_pipeline.data.turning import field_of
from mar_pipeline.networks import NetworkOutput
from mar_pipeline.networks.build import build_network, loss_of, network_inputs, start_of, truths_of
from mar_pipeline.sample import Layout, to_mu
from mar_pipeline.tasks.metrics import score
from mar_pipeline.tasks.task import Batch, Task, TaskContext


def mar_task(context: TaskContext) -> Task:
    """Make the task of metal artifact reduction, with a network and its own loss.

    Args:
        context: network and data.

    Raises:
        UsageError: no such network, or impossible settings.
        InputError: the data cannot be used.
    """
    data: DataSettings = context.data
    network = build_network(context.network, context.arguments, data.preset, context.device)
    inputs = network_inputs(network)
    layout = Layout.of((*inputs, *truths_of(network)))
    loaders = make_loaders(data, context.seed, context.rank, context.world, layout)
    return Task(
        network=network,
        inputs=inputs,
        fields={name: field_of(name) for name in (*layout.images, *layout.sinograms)},
        loss=loss_of(network),
        prediction=_image,
        turning_output=partial(_correction, start=start_of(network)),
        scores=("psnr", "ssim", "rmse_hu"),
        score=_score,
        picture=_picture,
        loaders=loaders,
        facts={"preset": data.preset},
        baseline=("LI", _li),
    )


def _image(output: NetworkOutput) -> torch.Tensor:
    return output.image


def _li(batch: Batch) -> torch.Tensor:
    return batch[LI]


def _correction(output: NetworkOutput, batch: Batch, start: str) -> torch.Tensor:
    """Return what the network adds to what it starts from."""
    return output.image - batch[start]


def _sample(image: torch.Tensor, batch: Batch, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return output and truth in 1/cm, and the metal mask."""
    output, truth = (to_mu(tensor[index, 0].float().cpu().numpy()) for tensor in (image, batch[TARGET]))
    return output, truth, batch[METAL_MASK][index, 0].cpu().numpy() > 0


def _score(image: torch.Tensor, batch: Batch) -> dict[str, list[float]]:
    """Return PSNR, SSIM and RMSE in HU of each sample, float protocol."""
    scores = [score(*_sample(image, batch, index), "float") for index in range(len(image))]
    return {name: [own[name] for own in scores] for name in ("psnr", "ssim", "rmse_hu")}


def _picture(image: torch.Tensor, batch: Batch, index: int) -> Any:
    from mar_pipeline.tasks.pair_figure import case_figure

    output, truth, metal_mask = _sample(image, batch, index)
    images = {
        "Input": to_mu(batch[IMAGE][index, 0].cpu().numpy()),
        "LI": to_mu(batch[LI][index, 0].cpu().numpy()),
        "Network": output,
    }
    captions = {name: f"{score(own, truth, metal_mask)['psnr']:.2f} dB" for name, own in images.items()}
    return case_figure(images, truth, metal_mask, captions, "Validation pair (PSNR: float protocol)")
