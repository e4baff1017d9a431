"""Trained networks: from a run folder, or from a weights file alone."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mar_pipeline.networks.build import build_network, plain
from mar_pipeline.weights import SAFETENSORS, load_into, load_weights
from simulation.errors import InputError

BEST = Path("checkpoints") / "best.safetensors"


@dataclass(frozen=True)
class Trained:
    """A trained network and where it comes from.

    Args:
        name: key of `NETWORKS` or import path of its class.
        label: what tables call it.
        network: in evaluation mode, called with (image, li, metal_mask) in network units.
        arguments: of its class.
        seed: of its training; None if unknown.
        group: the same for runs that differ by seed alone.
        parameters: number of learnable values.
        preset: scanner whose images it knows.
        best_psnr: of its validation, dB; None if unknown.
        source: the weights file.
        metadata: everything the weights file says about itself.
    """

    name: str
    label: str
    network: nn.Module
    arguments: dict[str, Any]
    seed: int | None
    group: str
    parameters: int
    preset: str
    best_psnr: float | None
    source: Path
    metadata: dict[str, str]


def load_trained(path: str | Path, device: str | torch.device = "cpu") -> Trained:
    """The best weights of a run, in their network.

    Args:
        path: a run folder, or a weights file that `mar train` or `mar export` wrote.
        device: where the network goes.

    Raises:
        InputError: nothing there, a broken file, or weights that do not say or do not fit their network.
    """
    path = Path(path)
    weights = path / BEST if path.is_dir() else path
    if not weights.is_file():
        hint = "has it validated once?" if path.is_dir() else "expected a run folder or a weights file"
        raise InputError(f"{weights}: no such file; {hint}")
    state, metadata = load_weights(weights)
    if "network" not in metadata:
        raise InputError(f"{weights}: does not say which network it is of; expected a file of mar train or mar export")
    try:
        arguments = json.loads(metadata.get("arguments", "{}"))
    except json.JSONDecodeError as error:
        raise InputError(f"{weights}: its network arguments are not JSON ({error})") from error
    network = build_network(metadata["network"], arguments)
    try:
        load_into(plain(network), state)
    except InputError as error:
        raise InputError(f"{weights}: {error}") from error
    seed, psnr = metadata.get("seed"), metadata.get("psnr")
    return Trained(
        name=metadata["network"],
        label=metadata.get("label") or path.name.removesuffix(SAFETENSORS),
        network=network.to(device).eval(),
        arguments=arguments,
        seed=None if seed is None else int(seed),
        group=metadata.get("group", str(path)),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        preset=metadata.get("preset", "syndeeplesion"),
        best_psnr=None if psnr is None else float(psnr),
        source=weights,
        metadata=metadata,
    )
