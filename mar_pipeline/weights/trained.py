"""Trained networks: from a run folder, or from a weights file alone."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mar_pipeline.networks import NETWORKS
from mar_pipeline.networks.build import MAR, build_network, plain
from mar_pipeline.networks.own_file import file_of, is_own_file
from mar_pipeline.weights.files import SAFETENSORS, load_into, load_weights
from mar_pipeline.weights.shipped import shipped_or_path
from simulation.errors import InputError
from simulation.files import sha256_of

BEST = Path("checkpoints") / "best.safetensors"


@dataclass(frozen=True)
class Trained:
    """A trained network and where it comes from.

    Args:
        name: key of `NETWORKS`, import path of its class, or a file and the class in it.
        label: what tables call it.
        network: in evaluation mode, called with what `build.network_inputs` names, in the units of its task.
        arguments: of its class.
        seed: of its training; None if unknown.
        group: the same for runs that differ by seed alone.
        parameters: number of learnable values.
        preset: scanner whose images it knows.
        best_psnr: of its validation, dB; None if unknown.
        source: the weights file.
        metadata: everything the weights file says about itself.
        task: what it was trained for.
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
    task: str = MAR


TRUSTED_PACKAGES = ("mar_pipeline", "monai", "torch")
TRUST_VARIABLE = "MAR_TRUST_PACKAGES"
"""Further packages, separated by commas, whose classes weights files may name."""


def refuse_unknown_import(name: str, weights: Path) -> None:
    """Refuse weights of a class whose import would run code that the user did not ask for.

    Args:
        name: key of `NETWORKS`, or import path.
        weights: the file that says so.

    Raises:
        InputError: no such network, or the class is of a package that is not trusted.
    """
    if "." not in name and name not in NETWORKS:
        raise InputError(f"{weights}: is of a network {name!r}, which this version does not have; update the package")
    trusted = (*TRUSTED_PACKAGES, *os.environ.get(TRUST_VARIABLE, "").split(","))
    if name not in NETWORKS and name.partition(".")[0] not in trusted:
        raise InputError(
            f"{weights}: names the class {name}, which would be imported and run; if you trust it, set "
            f"{TRUST_VARIABLE}={name.partition('.')[0]}"
        )


def refuse_other_file(name: str, sha256: str, weights: Path) -> None:
    """Refuse a network's file that is not the one that the weights were trained with.

    Args:
        name: `FILE.py:CLASS`, with an absolute path.
        sha256: of the file in the training.
        weights: the file that says so.

    Raises:
        InputError: the file is missing, or another one.
    """
    file = file_of(name)
    if not file.is_file():
        raise InputError(f"{weights}: needs the network's file {file}, which is missing; put it back there")
    if sha256_of(file) != sha256:
        raise InputError(
            f"{weights}: was trained with another {file} (SHA-256 {sha256[:12]}..., now {sha256_of(file)[:12]}...); "
            "restore that file, or train anew"
        )


def load_trained(path: str | Path, device: str | torch.device = "cpu", task: str = MAR) -> Trained:
    """Return the best weights of a run, in their network.

    Args:
        path: a run folder, a weights file that `mar train` or `mar export` wrote, or a name of `shipped.SHIPPED`.
        device: where the network goes.
        task: what it is to do.

    Raises:
        InputError: nothing there, a broken file, weights of another task, or such that do not say or do not fit their
            network.

    Example:
        >>> trained = load_trained("unet_small")
        >>> image, li = torch.full((1, 1, 64, 64), 0.2), torch.full((1, 1, 64, 64), 0.2)
        >>> metal_mask = torch.zeros(1, 1, 64, 64)
        >>> trained.network(image, li, metal_mask).image.shape
        torch.Size([1, 1, 64, 64])
    """
    path = shipped_or_path(path)
    weights = path / BEST if path.is_dir() else path
    if not weights.is_file():
        hint = "expected a run folder that has validated once, or a weights file"
        raise InputError(f"{weights}: no such file; {hint}")
    state, metadata = load_weights(weights)
    if "network" not in metadata:
        raise InputError(f"{weights}: does not say which network it is of; expected a file of mar train or mar export")
    own_task = metadata.get("task", MAR)
    if own_task != task:
        raise InputError(
            f"{weights}: was trained for the task {own_task}, expected {task}; mar evaluate --task {own_task} scores it"
        )
    try:
        arguments = json.loads(metadata.get("arguments", "{}"))
    except json.JSONDecodeError as error:
        raise InputError(f"{weights}: its network arguments are not JSON ({error})") from error
    if is_own_file(metadata["network"]):
        refuse_other_file(metadata["network"], metadata.get("network_sha256", ""), weights)
    else:
        refuse_unknown_import(metadata["network"], weights)
    preset = metadata.get("preset", "syndeeplesion")
    network = build_network(metadata["network"], arguments, preset, torch.device(device).type, task)
    try:
        load_into(plain(network), state)
    except InputError as error:
        raise InputError(f"{weights}: {error}") from error
    try:
        seed = int(metadata["seed"]) if "seed" in metadata else None
        psnr = float(metadata["psnr"]) if "psnr" in metadata else None
    except ValueError as error:
        raise InputError(f"{weights}: its seed or PSNR is no number ({error})") from error
    return Trained(
        name=metadata["network"],
        label=metadata.get("label") or path.name.removesuffix(SAFETENSORS),
        network=network.to(device).eval(),
        arguments=arguments,
        seed=seed,
        group=metadata.get("group", str(path)),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        preset=preset,
        best_psnr=psnr,
        source=weights,
        metadata=metadata,
        task=task,
    )
