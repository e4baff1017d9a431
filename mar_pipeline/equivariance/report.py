"""How equivariant a network is, layer by layer and as a whole, at any angle."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mar_pipeline.equivariance.fields import Fields, automatic_fields, check_fields, check_group_order
from mar_pipeline.equivariance.report_tables import EquivarianceReport, EquivarianceRow, LabelRow
from mar_pipeline.equivariance.residuals import ResidualSums, Turn
from mar_pipeline.equivariance.selection import Selector, check_keys, lookup, select_layers, unwrap
from mar_pipeline.equivariance.strict import FourierConv2d, StrictConv2d

logger = logging.getLogger(__name__)

WHOLE_NETWORK = "whole network"
RIGHT_ANGLES_DEG = (90.0, 180.0, 270.0)
LAYER_TYPES = (nn.Conv2d, StrictConv2d, FourierConv2d)


@torch.no_grad()
def equivariance_report(
    model: nn.Module,
    x: Tensor | Sequence[Tensor],
    fields: Mapping[str, Fields] | None = None,
    group_order: int = 4,
    angles_deg: Sequence[float] = RIGHT_ANGLES_DEG,
    layers: Selector | Sequence[Selector] | None = None,
    labels: Tensor | None = None,
    data_range: float | None = None,
    *,
    exclude: str | Sequence[str] = (),
    output: Callable[..., Tensor] | None = None,
    output_fields: Fields | None = None,
    input_fields: Sequence[Fields] | None = None,
    batch_size: int | None = None,
    disk_margin: float = 0.12,
    border: float = 0.0,
) -> EquivarianceReport:
    """Measure the residual r = pi f(x) - f(pi x) of layers and the whole network f for rotations pi of the input x.

    The relative error is ||r|| / sqrt((||a||^2 + ||b||^2) / 2) with a = pi f(x) and b = f(pi x): 0 for an equivariant
    layer, and sqrt 2, once centred, for unrelated maps. 90, 180 and 270 degrees are exact. Other angles interpolate:
    they are compared in a disk, beside the floor, the error of f(x) turned there and back: interpolation alone may
    make so much. Regular fields
    have the multiples of 360 / t degrees only; at other angles the mean over the orientations of each group is
    compared, which is asking less.

    The network runs in evaluation mode without gradients, once an angle, on both inputs in one batch; its modes and
    hooks are afterwards as they were. A layer called several times is measured over all its calls.

    Args:
        model: the network; inside of DistributedDataParallel or torch.compile it is called without them.
        x: its input, Float["batch channels H W"], or all its inputs; see ``input_fields`` for what a turn does to them.
        fields: fields of a layer's output under its name or a pattern; other layers follow their own `out_field` if
            they are strict, else `fields.automatic_fields`.
        group_order: t of regular fields.
        angles_deg: of the rotations, counter-clockwise.
        layers: types, names and patterns, see `selection.select_layers`; None takes all convolutions.
        labels: Int["batch"], right classes, for a classifier.
        data_range: of the output images, for EQ-R in dB; None takes their own range.
        exclude: names and patterns that are left out.
        output: ``(answer, *inputs)`` -> the output, such as ``lambda answer, image: answer[1]``; None takes the answer
            if it is a tensor, else its first item.
        output_fields: fields of output images; None takes every channel as trivial.
        input_fields: fields of each input, such as views for a sinogram; None takes all as images.
        batch_size: samples per call of the network; None takes all at once.
        disk_margin: for interpolated rotations, the share of the radius that is not compared.
        border: and the pixels of the input as far as zero padding reaches into it: half the receptive field.

    Returns:
        The errors; for images also EQ-R = 10 log10(range^2 / mean r^2) in dB, for classifiers, Float["batch
        classes"], the agreement of the labels, and the accuracy of the rotated samples.

    Raises:
        ValueError: unknown layers, fields that do not fit, images that are not square, labels of another number.

    Example:
        >>> mean_of_neighbours = nn.Conv2d(1, 1, 3, padding=1, bias=False)
        >>> _ = nn.init.constant_(mean_of_neighbours.weight, 1 / 9)
        >>> report = equivariance_report(mean_of_neighbours, torch.rand(1, 1, 8, 8))
        >>> max(row.error for row in report.layers) < 1e-6
        True
    """
    check_group_order(group_order)
    inputs = (x,) if isinstance(x, Tensor) else tuple(x)
    kinds = input_fields or [(("trivial", image.shape[1]),) for image in inputs if image.ndim > 1]
    turns = [Turn.of(angle) for angle in angles_deg]
    _check_inputs(inputs, kinds, turns, labels, batch_size)
    network = unwrap(model)
    chosen = select_layers(network, layers, exclude, LAYER_TYPES)
    check_keys(fields or {}, chosen, "fields")
    known = {name: known_fields(name, module, fields) for name, module in chosen.items()}
    rows: list[EquivarianceRow] = []
    label_rows: list[LabelRow] = []
    left_out: dict[str, None] = {}
    size = len(inputs[0]) if batch_size is None else batch_size
    batches = [tuple(image[i : i + size] for image in inputs) for i in range(0, len(inputs[0]), size)]
    pick = output or first_tensor
    with evaluation_mode(network):
        for turn in turns:
            measurement = _Measurement(turn, group_order, known, disk_margin, border)
            with _hooks(chosen, measurement):
                outputs = [
                    _call_on_both(network, batch, kinds, turn, measurement, pick, output_fields) for batch in batches
                ]
            rows += measurement.rows(data_range)
            left_out |= measurement.left_out
            if outputs[0][0].ndim == 2:
                label_rows += _label_rows(outputs, labels, turn, first=not label_rows)
            elif labels is not None:
                raise ValueError(f"labels: the output {tuple(outputs[0][0].shape)} is no classifier's [batch, classes]")
    for reason in left_out:
        logger.warning("equivariance report: left out: %s", reason)
    whole = [row for row in rows if row.layer == WHOLE_NETWORK]
    parts = [row for row in rows if row.layer != WHOLE_NETWORK]
    shapes = tuple(tuple(image.shape) for image in inputs)
    return EquivarianceReport(tuple(whole), tuple(parts), tuple(label_rows), tuple(left_out), group_order, shapes)


def first_tensor(answer: Any, *inputs: Tensor) -> Tensor:
    """Return what a network answers, if it is a tensor, else its first item.

    Raises:
        ValueError: the first item is no tensor.
    """
    first = answer[0] if isinstance(answer, tuple | list) else answer
    if not isinstance(first, Tensor):
        raise ValueError(f"the network answers {type(answer).__name__}; name its tensor with output=")
    return first


def known_fields(name: str, module: nn.Module, fields: Mapping[str, Fields] | None) -> Fields | None:
    """Return fields that are given for a layer, or that it has as a strict layer; None leaves them to the channels."""
    given = lookup(fields or {}, name)
    if given is None and isinstance(module, StrictConv2d | FourierConv2d):
        return (module.out_field,)
    return given


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, and each module back into its own."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class _Measurement:
    """The sums of every layer for one rotation."""

    def __init__(
        self, turn: Turn, group_order: int, known: dict[str, Fields | None], margin: float, border: float
    ) -> None:
        self.turn, self.group_order, self.left_out = turn, group_order, dict[str, None]()
        self._known, self._margin, self._border = known, margin, border
        self._sums: dict[str, tuple[Fields, ResidualSums, ResidualSums]] = {}
        self._range = math.inf, -math.inf
        self.input_side = 1

    def add(self, name: str, both: Tensor, fields: Fields) -> None:
        """Add the maps of a layer, or of the output, for inputs and turned inputs."""
        maps, of_turned = both.chunk(2)
        height, width = maps.shape[-2:]
        spatial = any(kind in ("regular", "trivial") for kind, _ in fields)
        border = self._border * min(height, width) / self.input_side
        _, sums, floor = self._sums.get(name) or (
            fields,
            ResidualSums(self.group_order),
            ResidualSums(self.group_order),
        )
        maps, kinds = self.turn.comparable(maps, fields, self.group_order)
        of_turned, _ = self.turn.comparable(of_turned, fields, self.group_order)
        try:
            turned = self.turn.act(maps, kinds, self.group_order)
            pixels = self.turn.compared_pixels(height, width, self._margin, border) if spatial else None
            sums.add(turned, of_turned, kinds, pixels)
        except ValueError as error:
            self.left_out[f"{name} at {self.turn.angle_deg:g} degrees: {error}"] = None
            return
        if pixels is not None:
            floor.add(self.turn.there_and_back(maps), maps, kinds, pixels)
        self._sums[name] = fields, sums, floor
        if name == WHOLE_NETWORK:
            self._range = min(self._range[0], maps.amin().item()), max(self._range[1], maps.amax().item())

    def add_layer(self, name: str, both: Any) -> None:
        """`add` for what a layer answers."""
        if not isinstance(both, Tensor) or both.ndim != 4:
            got = tuple(both.shape) if isinstance(both, Tensor) else type(both).__name__
            raise ValueError(f"layer {name}: answers {got}, expected maps [batch, channels, H, W]; exclude it")
        fields = self._known[name] or automatic_fields(both.shape[1], self.group_order)
        self._known[name] = fields
        try:
            check_fields(fields, both.shape[1], self.group_order)
        except ValueError as error:
            raise ValueError(f"layer {name}: {error}") from error
        self.add(name, both, fields)

    def rows(self, data_range: float | None) -> list[EquivarianceRow]:
        """One row for each layer that was called, in the order of the calls."""
        found = []
        for name, (fields, sums, floor) in self._sums.items():
            span = self._range[1] - self._range[0] if data_range is None else data_range
            found.append(
                EquivarianceRow(
                    layer=name,
                    fields=tuple(fields),
                    angle_deg=self.turn.angle_deg,
                    error=sums.error,
                    centred_error=sums.centred_error,
                    floor=floor.error,
                    centred_floor=floor.centred_error,
                    eq_r_db=_decibel(span, sums.mean_square) if name == WHOLE_NETWORK else None,
                )
            )
        return found


@contextmanager
def _hooks(chosen: Mapping[str, nn.Module], measurement: _Measurement) -> Iterator[None]:
    handles = []
    try:
        for name, module in chosen.items():
            handles.append(
                module.register_forward_hook(lambda _, __, both, name=name: measurement.add_layer(name, both))
            )
        yield
    finally:
        for handle in handles:
            handle.remove()


def _call_on_both(
    network: nn.Module,
    batch: Sequence[Tensor],
    kinds: Sequence[Fields],
    turn: Turn,
    measurement: _Measurement,
    pick: Callable[..., Tensor],
    output_fields: Fields | None,
) -> Tensor:
    """Return what the network answers to a batch, and below that to the turned batch; images are measured as well."""
    both = [torch.cat([x, turn.act(x, fields, 4)]) for x, fields in zip(batch, kinds, strict=True)]
    measurement.input_side = min(side for image in batch for side in image.shape[-2:])
    output = pick(network(*both), *both)
    if output.ndim not in (2, 4) or len(output) != len(both[0]):
        raise ValueError(
            f"the output has the shape {tuple(output.shape)} for {len(both[0])} samples; expected images [batch, "
            "channels, H, W] or classes [batch, classes]; pick it with output="
        )
    if output.ndim == 4:
        measurement.add(WHOLE_NETWORK, output, output_fields or (("trivial", output.shape[1]),))
    return output.unflatten(0, (2, -1))


def _label_rows(outputs: Sequence[Tensor], labels: Tensor | None, turn: Turn, first: bool) -> list[LabelRow]:
    """Agreement and accuracy; beside the first angle also the accuracy of the samples as they are."""
    plain, turned = torch.cat(list(outputs), dim=1).argmax(dim=-1)

    def share(equal: Tensor) -> float:
        return equal.double().mean().item()

    right = None if labels is None else labels.to(plain.device)
    rows = [LabelRow(0.0, 1.0, None if right is None else share(plain == right))] if first else []
    return [*rows, LabelRow(turn.angle_deg, share(plain == turned), None if right is None else share(turned == right))]


def _decibel(span: float, mean_square: float) -> float | None:
    if span <= 0:
        return None
    return math.inf if mean_square == 0 else 10 * math.log10(span**2 / mean_square)


def _check_inputs(
    inputs: Sequence[Tensor],
    kinds: Sequence[Fields],
    turns: Sequence[Turn],
    labels: Tensor | None,
    batch_size: int | None,
) -> None:
    shapes = [tuple(image.shape) for image in inputs]
    if not inputs or any(len(shape) != 4 for shape in shapes) or len({shape[0] for shape in shapes}) > 1:
        raise ValueError(f"x: got the shapes {shapes}, expected images [batch, channels, H, W] of one batch")
    if not turns or 0 in shapes[0] or (batch_size is not None and batch_size < 1):
        raise ValueError("expected at least one sample, one angle and a batch_size of 1 or more")
    if any(turn.exact and 4 * turn.n % (2 * turn.order) for turn in turns) and any(
        s[2] != s[3] and fields[0][0] != "views" for s, fields in zip(shapes, kinds, strict=True)
    ):
        raise ValueError(
            f"x: got the shapes {shapes}; at 90 and 270 degrees only square images can share a batch with their "
            "rotations; crop them, or ask for 180 degrees only"
        )
    if labels is not None and tuple(labels.shape) != (shapes[0][0],):
        raise ValueError(f"labels: got the shape {tuple(labels.shape)}, expected ({shapes[0][0]},), one each sample")
