"""Layers that cannot be equivariant exactly, whatever their weights: the floor that no training takes away."""

import copy
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mar_pipeline.equivariance.fields import act, automatic_fields
from mar_pipeline.equivariance.penalty import residual_penalty
from mar_pipeline.equivariance.selection import unwrap
from mar_pipeline.equivariance.weight_space import CONVOLUTIONS, PER_CHANNEL, exact_rotations, project_to_equivariant

logger = logging.getLogger(__name__)

THRESHOLD = 1e-6  # of a squared ratio: rounding in float32 stays below 1e-11
SAMPLES = 2


@dataclass(frozen=True)
class Finding:
    """A layer whose structure breaks the equivariance.

    Args:
        layer: its name, as `EquivarianceRegularizer(exclude=...)` takes it.
        kind: its type.
        shape: (C, H, W) of the input that shows it.
        why: the reason.
        floor: its `relative` penalty on white noise with strictly equivariant weights: up to 2.
    """

    layer: str
    kind: str
    shape: tuple[int, ...]
    why: str
    floor: float


def check_structure(
    model: nn.Module, example_inputs: Tensor | Sequence[Any], group_order: int = 4, threshold: float = THRESHOLD
) -> list[Finding]:
    """List the layers of a network whose structural floor is above zero.

    Every layer without inner layers that maps one image to another is probed, at each shape that it meets, on its own:
    with random weights projected on strict ones, white noise in, and automatic fields. A stride is exact only if
    (H + 2p - d (k - 1) - 1) mod stride = 0 on both axes. Operations outside layers are not seen, nor are layers with
    weights other than of convolutions, norms and PReLU; `equivariance_report` measures the whole.

    Args:
        model: the network; it runs once, in evaluation mode, and is left as it was.
        example_inputs: what it takes, of the shapes it is trained on: a tensor or a sequence of arguments.
        group_order: t; only the quarter turns among its rotations are probed.
        threshold: of the floors listed.

    Returns:
        Findings in the order of the network; empty for a network that can be exact.

    Raises:
        ValueError: a group order without a half turn.
    """
    rotations = [n for n in exact_rotations(group_order) if n]
    findings = []
    for name, layer, shapes in _layers_and_shapes(unwrap(model), example_inputs):
        probe = _probe(layer, group_order)
        if probe is None:
            logger.debug("%s: %s has weights that are not probed", name, type(layer).__name__)
            continue
        floors = {shape: max(_floor(probe, shape, n, group_order) for n in rotations) for shape in shapes}
        shape = max(floors, key=lambda key: floors[key])
        if floors[shape] > threshold:
            why = _why(layer, shape, group_order)
            findings.append(Finding(name, type(layer).__name__, shape, why, floors[shape]))
    return findings


def names(findings: Iterable[Finding]) -> tuple[str, ...]:
    """Return names of the layers found, for the `exclude` of the regulariser and of the weight penalty."""
    return tuple(finding.layer for finding in findings)


@torch.no_grad()
def _layers_and_shapes(
    model: nn.Module, example_inputs: Tensor | Sequence[Any]
) -> list[tuple[str, nn.Module, list[tuple[int, ...]]]]:
    """Return layers that map one image to one image, with the shapes (C, H, W) of what they got."""
    shapes: dict[str, dict[tuple[int, ...], None]] = defaultdict(dict)

    def note(name: str, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        maps = (*arguments, output)
        if len(arguments) == 1 and all(isinstance(x, Tensor) and x.ndim == 4 for x in maps):
            shapes[name][tuple(arguments[0].shape[1:])] = None

    leaves = [(name, module) for name, module in model.named_modules() if not any(module.children())]
    handles = [module.register_forward_hook(partial(note, name)) for name, module in leaves]
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        model(*([example_inputs] if isinstance(example_inputs, Tensor) else example_inputs))
    finally:
        for module, mode in modes:
            module.training = mode
        for handle in handles:
            handle.remove()
    return [(name, module, list(shapes[name])) for name, module in leaves if name in shapes]


def _probe(layer: nn.Module, group_order: int) -> nn.Module | None:
    """Return a copy with random strict weights, float32, on the CPU; None for weights of an unknown kind."""
    probe = copy.deepcopy(layer).float().cpu().eval()
    generator = torch.Generator().manual_seed(0)
    for values in probe.parameters():
        values.data.copy_(torch.randn(values.shape, generator=generator))
    if isinstance(layer, CONVOLUTIONS + PER_CHANNEL):
        try:
            project_to_equivariant(probe, group_order)
        except ValueError as error:  # a kernel or groups that no weights make equivariant: its floor shows it
            logger.debug("not projected: %s", error)
    elif any(True for _ in layer.parameters()):
        return None
    return probe


@torch.no_grad()
def _floor(probe: nn.Module, shape: tuple[int, ...], n: int, group_order: int) -> float:
    fields = automatic_fields(shape[0], group_order)
    x = torch.randn(SAMPLES, *shape, generator=torch.Generator().manual_seed(1))
    straight, turned = probe(x), probe(act(x, n, fields, group_order))
    fields = automatic_fields(straight.shape[1], group_order)
    if act(straight, n, fields, group_order).shape != turned.shape:
        return 2.0  # nothing in common: as of uncorrelated maps
    return float(residual_penalty(straight, turned, n, fields, group_order))


def _why(layer: nn.Module, shape: tuple[int, ...], group_order: int) -> str:
    if isinstance(layer, nn.PixelShuffle | nn.PixelUnshuffle):
        return "its sub-pixels are not in the cyclic order of the orientations"
    if isinstance(layer, nn.GroupNorm):
        return f"{layer.num_groups} groups cut through the {group_order} orientations of {layer.num_channels} channels"
    if getattr(layer, "groups", 1) > 1:
        reason = f"its {layer.groups} groups may cut through the orientations"
    else:
        reason = "measured"
    return _why_of_windows(layer, shape) or reason


def _why_of_windows(layer: nn.Module, shape: tuple[int, ...]) -> str:
    kernel = getattr(layer, "kernel_size", None)
    if kernel is None:
        return ""
    windows = [[_pair(getattr(layer, name, default))[axis] for name, default in _WINDOW] for axis in (0, 1)]
    if windows[0] != windows[1]:
        return "kernel, stride, padding or dilation differ between the axes"
    k, stride, padding, dilation, output_padding = windows[0]
    if isinstance(layer, nn.ConvTranspose2d):
        return "its output padding is on one side" if output_padding else ""
    if padding == "same":
        return "its 'same' padding is wider on one side" if dilation * (k - 1) % 2 else ""
    padding = 0 if padding == "valid" else padding
    rests = [(size + 2 * padding - dilation * (k - 1) - 1) % (stride or k) for size in shape[-2:]]
    if any(rests):
        return f"(H + 2p - d(k - 1) - 1) mod stride is {rests[0]} and {rests[1]}, not 0, at {shape[-2]} x {shape[-1]}"
    return ""


_WINDOW = (("kernel_size", 1), ("stride", 1), ("padding", 0), ("dilation", 1), ("output_padding", 0))


def _pair(value: Any) -> tuple[Any, Any]:
    return (value[0], value[1]) if isinstance(value, tuple | list) else (value, value)
