"""Weights of networks in files: written as safetensors, read without ever executing what is in them."""

import json
import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from simulation.errors import InputError
from simulation.files import whole_file

SAFETENSORS = ".safetensors"
TORCH_FILES = (".pt", ".pth")
_METADATA = "mar_pipeline"
"""One key holds all texts: safetensors writes several in an order that changes from run to run."""

_log = logging.getLogger(__name__)


def save_weights(path: Path, state_dict: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write weights as safetensors, whole or not at all; the same content gives the same bytes.

    Args:
        path: ends in .safetensors; its folder exists.
        state_dict: tensors by name, on any device.
        metadata: texts kept beside them, such as the network's name and arguments.

    Raises:
        InputError: another ending.
        OSError: the file cannot be written.
    """
    if path.suffix != SAFETENSORS:
        raise InputError(f"{path}: weights are written as {SAFETENSORS}; give a name that ends so")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    with whole_file(path) as partial:
        texts = {_METADATA: json.dumps(dict(metadata), sort_keys=True)}
        partial.write_bytes(safetensors.torch.save(tensors, texts))


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read weights, on the CPU.

    A .pt or .pth file is a pickle, which may hold code: only plain tensors are taken from it, nothing is executed.

    Args:
        path: .safetensors, or .pt / .pth with a state dict.

    Returns:
        Tensors by name, and the metadata, empty for a .pt or .pth file.

    Raises:
        InputError: no such file, another ending, a damaged file, one that would have to be executed, or one without
            a state dict.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected weights as {SAFETENSORS}, .pt or .pth")
    if path.suffix == SAFETENSORS:
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                texts = dict(file.metadata() or {})
                texts |= json.loads(texts.pop(_METADATA, "{}"))
                return {name: file.get_tensor(name) for name in file.keys()}, texts  # noqa: SIM118
        except (safetensors.SafetensorError, json.JSONDecodeError) as error:
            raise InputError(f"{path}: damaged safetensors file ({_first_line(error)}); copy it once more") from error
    if path.suffix in TORCH_FILES:
        return _read_torch_file(path), {}
    raise InputError(f"{path}: unknown kind of weights; expected a name that ends in {SAFETENSORS}, .pt or .pth")


def load_into(network: nn.Module, state_dict: Mapping[str, Tensor], strict: bool = True) -> None:
    """Load weights into a network.

    Args:
        network: takes them over; untouched if they do not fit.
        state_dict: tensors by name.
        strict: refuses weights that are missing, unknown or of another shape; otherwise those that fit are loaded and
            the others are logged.

    Raises:
        InputError: weights do not fit; names the first of each kind.
    """
    expected = network.state_dict()
    misshapen = [name for name in expected if name in state_dict and state_dict[name].shape != expected[name].shape]
    missing = [name for name in expected if name not in state_dict]
    unexpected = [name for name in state_dict if name not in expected]
    faults = [
        f"{len(names)} {what} (first: {names[0]}{detail(names[0])})"
        for what, names, detail in (
            ("missing", missing, lambda name: ""),
            ("unknown", unexpected, lambda name: ""),
            (
                "of another shape",
                misshapen,
                lambda name: f", got {_shape(state_dict[name])}, expected {_shape(expected[name])}",
            ),
        )
        if names
    ]
    if faults and strict:
        raise InputError(
            f"weights do not fit {type(network).__name__}: {', '.join(faults)}; "
            "build the network with the arguments it was trained with"
        )
    if faults:
        _log.warning("weights fit %s only in part: %s", type(network).__name__, ", ".join(faults))
    fitting = {name: tensor for name, tensor in state_dict.items() if name in expected and name not in misshapen}
    network.load_state_dict(fitting, strict=False)


def _read_torch_file(path: Path) -> dict[str, Tensor]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: refused: it holds more than tensors, which is never executed, or is damaged; "
            f"save the state dict alone, best as {SAFETENSORS}"
        ) from error
    except (EOFError, KeyError, RuntimeError, ValueError) as error:
        raise InputError(f"{path}: damaged torch file ({_first_line(error)}); copy it once more") from error
    tensors = isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    )
    if not tensors:
        got = f"a dict with {', '.join(map(str, content))}" if isinstance(content, dict) else type(content).__name__
        raise InputError(f"{path}: no state dict, got {got:.200}; expected tensors by name: save the state dict alone")
    return dict(content)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"
