"""A network by name: one of `NETWORKS`, or any image-to-image class that Python can import or that a file holds."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from mar_pipeline.networks import NETWORKS, NetworkOutput
from mar_pipeline.networks.losses import Loss, image_loss
from mar_pipeline.networks.own_file import is_own_file, load_class
from mar_pipeline.networks.scan import Scan
from mar_pipeline.sample import IMAGE, LI, METAL_MASK, UNITS_PER_MU
from simulation.errors import InputError, UsageError
from simulation.physics.projector import Device, Projector
from simulation.physics.protocols import protocol


class ResidualNetwork(nn.Module):
    """Any network from two channels to one as a network for metal artifact reduction.

    ``output = li + net(cat(image, li) / 255)``: the network reads numbers around 1 and answers what LI leaves to be
    corrected, a few network units.

    Args:
        net: Float["batch 2 H W"] -> Float["batch 1 H W"].
    """

    loss = staticmethod(image_loss)

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: torch.Tensor, li: torch.Tensor, metal_mask: torch.Tensor) -> NetworkOutput:
        """Return the corrected image; ``metal_mask`` is not used.

        Args:
            image: Float["batch 1 H W"], network units.
            li: as ``image``, corrected by linear interpolation.
            metal_mask: as ``image``, 1 where metal is.
        """
        try:
            correction = self.net(torch.cat([image, li], 1) / UNITS_PER_MU)
        except RuntimeError as error:
            if "channels" not in str(error):
                raise
            reason = str(error).splitlines()[0]
            raise UsageError(
                f"network {type(self.net).__name__}: takes another input than two channels ({reason}); give it two "
                "input channels and one output channel with --network.arguments"
            ) from error
        if not isinstance(correction, torch.Tensor) or correction.shape != li.shape:
            got = tuple(correction.shape) if isinstance(correction, torch.Tensor) else type(correction).__name__
            raise UsageError(
                f"network {type(self.net).__name__}: answers {got} to two channels, expected {tuple(li.shape)}; give "
                "it two input channels and one output channel"
            )
        return NetworkOutput(li + correction.float())


IMAGE_INPUTS = (IMAGE, LI, METAL_MASK)

MAR = "mar"
"""The task of networks that do not say otherwise."""


def build_network(
    name: str,
    arguments: Mapping[str, Any],
    preset: str = "syndeeplesion",
    device: str = "cpu",
    task: str = MAR,
) -> nn.Module:
    """Build a network with fresh weights, called with what `network_inputs` names.

    Args:
        name: a key of `NETWORKS`; or an import path such as ``monai.networks.nets.BasicUNet``, or a file and its class
            such as ``./mynet.py:MyNet``. For metal artifact reduction such a class is wrapped in `ResidualNetwork`,
            unless it names its ``inputs``: then it is called with these and returns a `NetworkOutput`.
        arguments: keyword arguments of the class; none for a key of `NETWORKS` is the published configuration.
        preset: the scanner that a dual-domain network projects with.
        device: where it projects: the network's.
        task: what it is for.

    Raises:
        UsageError: no such network, one for another task, or the class refuses the arguments.
    """
    known = networks_for(task)
    if name in NETWORKS and name not in known:
        raise UsageError(
            f"network {name}: is for the task {task_of(NETWORKS[name])}; for {task} there are {', '.join(known)}"
        )
    network_class = known[name] if name in known else _imported(name, task)
    speaks = name in NETWORKS or hasattr(network_class, "inputs")
    operators = _operators(network_class, preset, device) if speaks else {}
    if taken := sorted(set(operators) & set(arguments)):
        raise UsageError(
            f"network {name}: got {', '.join(taken)} among its arguments, which the preset of the data decides"
        )
    try:
        network = network_class(**arguments, **operators)
    except (TypeError, ValueError) as error:
        own = inspect.signature(network_class).parameters
        accepted = ", ".join(parameter for parameter in own if parameter not in operators)
        given = ", ".join(f"{key}: {value!r}" for key, value in arguments.items())
        raise UsageError(f"network {name}: got {{{given}}} ({error}); it takes {accepted}") from error
    return network if speaks or task != MAR else ResidualNetwork(network)


def networks_for(task: str) -> dict[str, type[nn.Module]]:
    """Return those of `NETWORKS` that are for a task."""
    return {name: network_class for name, network_class in NETWORKS.items() if task_of(network_class) == task}


def task_of(network: nn.Module | type[nn.Module]) -> str:
    """Return the task that one of `NETWORKS`, or one of its classes, is for."""
    return str(getattr(network, "task", MAR))


def network_inputs(network: nn.Module | type[nn.Module], default: tuple[str, ...] = IMAGE_INPUTS) -> tuple[str, ...]:
    """Return names of what the network, or one of the class, is called with, in order: keys of a batch.

    Args:
        network: any.
        default: what a class that does not say so is called with.
    """
    return tuple(getattr(network, "inputs", default))


def inputs_of(network: nn.Module, sample: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """Return what the network is called with."""
    return [sample[name] for name in network_inputs(network)]


def start_of(network: nn.Module) -> str:
    """Return the name of the corrected image that the network starts from, always its second input: LI's, or NMAR's.

    It turns exactly, so that what the network adds to it is what shows whether the network does.
    """
    return network_inputs(network)[1]


def loss_of(network: nn.Module | type[nn.Module]) -> Loss:
    """Return the loss that the network's class owns; the mean square error of the image where it owns none."""
    return cast(Loss, getattr(network, "loss", image_loss))


def truths_of(network: nn.Module | type[nn.Module]) -> tuple[str, ...]:
    """Return what the network's loss compares with beside the true image: keys of a batch."""
    return tuple(getattr(network, "truths", ()))


def has_projector(network: nn.Module) -> bool:
    """Return whether it is a dual-domain network, which knows one scan geometry."""
    return hasattr(network, "scan")


def projector_of(network: nn.Module) -> Projector | None:
    """Return what a dual-domain network projects with."""
    return cast(Scan, network.scan).projector if has_projector(network) else None


def refuse_other_geometry(network: nn.Module, projector: Projector) -> None:
    """Refuse data of another scan than the one that a dual-domain network projects with, even of the same sizes.

    Args:
        network: any.
        projector: of the scan that made the data.

    Raises:
        InputError: they differ.
    """
    own = projector_of(network)
    if own is not None and own.geometry != projector.geometry:
        raise InputError(
            f"network: projects with {own.geometry}, but the data are of {projector.geometry}; "
            "give it data of the preset it was trained for"
        )


def plain(network: nn.Module) -> nn.Module:
    """Return the network without `ResidualNetwork` around it: what is saved, and what EQ-Reg watches."""
    return network.net if isinstance(network, ResidualNetwork) else network


def _operators(network_class: type[nn.Module], preset: str, device: str) -> dict[str, Any]:
    """Return projector and weighting of the preset, where the class takes them."""
    accepted = inspect.signature(network_class).parameters
    if "projector" not in accepted:
        return {}
    scan = protocol(preset)
    where: Device = "cuda" if device == "cuda" else "cpu"
    operators: dict[str, Any] = {
        "projector": Projector(scan.geometry, where, torch.get_num_threads(), kernel=scan.kernel),
        "weighting": scan.weighting,
    }
    return {name: operator for name, operator in operators.items() if name in accepted}


def _imported(name: str, task: str) -> type[nn.Module]:
    if is_own_file(name):
        return load_class(name)
    module, _, class_name = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), class_name) if module else None
    except (ImportError, AttributeError) as error:
        raise UsageError(f"network {name}: cannot be imported ({error})") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        expected = ", ".join(networks_for(task))
        raise UsageError(
            f"unknown network {name!r}; expected {expected}, the import path of a torch nn.Module, or a file and its "
            "class such as ./mynet.py:MyNet"
        )
    return found
