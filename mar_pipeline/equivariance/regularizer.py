"""EQ-Reg: rotation equivariance asked of any network by a penalty on its layers and its output."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self, get_args

import numpy as np
import torch
from torch import Tensor, nn

from mar_pipeline.equivariance.batch import double, samples_kept
from mar_pipeline.equivariance.capture import Capture
from mar_pipeline.equivariance.fields import Fields, check_group_order
from mar_pipeline.equivariance.layer_fields import LayerFields
from mar_pipeline.equivariance.penalty import Mode, exact, kept_pixels, residual_penalty
from mar_pipeline.equivariance.selection import Selector, select_layers, unwrap

OUTPUT = "output"


class EquivarianceRegularizer:
    """Penalty of the residual r = pi_n f(x) - f(pi_n x) of layers f of an unmodified network.

    Each training step draws n from 1..t-1 and runs the network once on both halves of cat(x, pi_n x).

    The loss is k (weight * mean penalty of the layers that ran + output_weight * penalty of the whole network), k =
    `every_k`; the mode `paper` sums over the layers. Rotated is the input of the network, not that of the layer.

    Forward hooks copy the outputs before a norm or activation can write into them; a layer that is called several
    times counts with the mean of its calls. Names of layers, and the keys of `state_dict`, are those of the network
    without wrappers. Attach before the first call of a compiled network. With a group order other than 2 and 4 the
    rotations are interpolated and compared in a disk: even a strictly equivariant network then stays above zero.

    Y. Bai, J. Fu, Q. Xie, D. Meng, "A regularization-guided equivariant approach for image restoration", CVPR 2025
    (arXiv 2505.19799).

    Args:
        model: the network, also inside DistributedDataParallel or torch.compile.
        group_order: t, rotations by multiples of 360 / t degrees.
        mode: see `penalty.residual_penalty`.
        layers: types, names and patterns, see `selection.select_layers`; None takes every Conv2d, () only what is
            given to `tap`.
        fields: fields of a layer's output under its name or a pattern. Other layers follow
            `fields.automatic_fields`: fewer channels than t are an image, else regular groups and a trivial rest.
        weight: of the layers; with 0 none are chosen.
        output_weight: of the whole network's output.
        output_fields: fields of the output; None takes every channel as trivial: images.
        batch_fraction: share of the samples that is kept, each beside its rotated copy; 1 doubles the batch.
        every_k: only every k-th step is regularised, with k times the weight.
        seed: of the rotations. Processes of one training may have different ones.
        strict: refuse channels that do not divide into regular groups.
        exclude: names and patterns that are left out, such as the findings of `structure.check_structure`.
        output_layers: names and patterns of layers whose output is an image of t or more channels: all trivial.
        disk_margin: for interpolated rotations, the share of the radius that is not compared.
        border: and the pixels of the input as far as zero padding reaches into it: half the receptive field.

    Raises:
        ValueError: an unknown layer, no layer, fields or a group order that fit no layer, or a number out of range.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))
        >>> regularizer = EquivarianceRegularizer(network)
        >>> image, target = regularizer.prepare(torch.rand(4, 1, 16, 16), torch.rand(4, 1, 16, 16))
        >>> output = network(image)
        >>> loss = nn.functional.mse_loss(output, target) + regularizer.loss(output)
        >>> loss.backward()
        >>> list(regularizer.values)
        ['0', '2', 'output']
    """

    def __init__(
        self,
        model: nn.Module,
        group_order: int = 4,
        mode: Mode = "relative",
        layers: Selector | Sequence[Selector] | None = None,
        fields: Mapping[str, Fields] | None = None,
        weight: float = 1.0,
        output_weight: float = 0.0,
        output_fields: Fields | None = None,
        batch_fraction: float = 0.5,
        every_k: int = 1,
        seed: int = 0,
        strict: bool = False,
        *,
        exclude: str | Sequence[str] = (),
        output_layers: str | Sequence[str] = (),
        disk_margin: float = 0.12,
        border: float = 0.0,
    ) -> None:
        check_group_order(group_order)
        _check_numbers(mode, weight, output_weight, batch_fraction, every_k)
        self.model = unwrap(model)
        self.group_order, self.mode, self.strict = group_order, mode, strict
        self.weight, self.output_weight, self.output_fields = weight, output_weight, output_fields
        self.batch_fraction, self.every_k = batch_fraction, every_k
        self.disk_margin, self.border = disk_margin, border
        self.n = 0
        self._kept = 0
        self._input_side = 1
        self._prepared = False
        self._values: dict[str, Tensor] = {}
        self.reseed(seed)
        taps_only = layers is not None and not isinstance(layers, str | type) and not len(layers)
        chosen = select_layers(self.model, layers, exclude) if weight > 0 else {}
        if not chosen and weight > 0 and not taps_only:
            raise ValueError("no 2-D convolution to regularise; name layers, exclude fewer, or weigh the layers with 0")
        image_layers = select_layers(self.model, output_layers) if output_layers else {}
        named = fields if fields and weight > 0 else {}
        self._fields = LayerFields(chosen, named, image_layers, group_order, strict)
        self._capture = Capture(chosen)
        self.attach()

    def attach(self) -> None:
        """Put the hooks on the layers; the constructor does."""
        self._capture.attach()

    def detach(self) -> None:
        """Take the hooks off; what was prepared is dropped."""
        self._capture.detach()
        self._prepared = False

    def __enter__(self) -> Self:
        self.attach()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def reseed(self, seed: int, step: int = 0) -> None:
        """Start the sequence of rotations and the count of steps again; the n of a step depends on both alone.

        Args:
            seed: not negative.
            step: steps already made, where a training resumes.

        Raises:
            ValueError: a negative number.
        """
        if seed < 0 or step < 0:
            raise ValueError(f"seed and step: got {seed} and {step}, expected whole numbers from 0 on")
        self.seed, self.step = seed, step

    @property
    def values(self) -> dict[str, float]:
        """Penalty of each layer, and of the network under "output", in the last step that was regularised."""
        return {name: float(value) for name, value in self._values.items()}

    def prepare(self, *images: Tensor, fields: Sequence[Fields | None] | None = None) -> tuple[Tensor, ...]:
        """Draw n, and join the first samples of a batch and their rotated copies in one batch.

        Inputs and targets go together. In evaluation mode, and in the steps that `every_k` leaves out, they come back
        as they are.

        Args:
            images: Float["B C H W"]; or "B" and "B K", labels and numbers that no rotation changes.
            fields: fields of each; None, also for a single one, means images: all channels trivial.

        Returns:
            cat(x, pi_n x) for each x: 2 round(batch_fraction B) samples.

        Raises:
            ValueError: a batch too small, images of unequal number or not square, or fields that do not fit.
            RuntimeError: the hooks are off.
        """
        if not self._capture.attached:
            raise RuntimeError("the regularizer is detached from the network; call attach() first")
        self._capture.stop()
        self._prepared, self.n = True, 0
        if not self.model.training:
            return images
        step, self.step = self.step, self.step + 1
        if step % self.every_k:
            return images
        kept = samples_kept(images, self.batch_fraction)
        n = int(np.random.default_rng((self.seed, step)).integers(1, self.group_order))
        kinds = fields if fields is not None else [None] * len(images)
        doubled = tuple(double(x[:kept], n, kind, self.group_order) for x, kind in zip(images, kinds, strict=True))
        self.n, self._kept = n, kept
        self._input_side = max((min(x.shape[-2:]) for x in images if x.ndim == 4), default=1)
        if self.weight > 0:
            self._capture.start()
        return doubled

    def tap(self, x: Tensor, name: str, fields: Fields | None = None) -> Tensor:
        """Add what a functional convolution answers to the layers; for use inside a network's forward.

        Args:
            x: Float["2b C H W"].
            name: under which the value is logged.
            fields: its fields; None takes the automatic ones.

        Returns:
            `x`.
        """
        if fields is not None:
            self._fields.add(name, fields)
        self._capture.keep(name, x)
        return x

    def loss(self, output: Tensor | Sequence[Tensor] | None = None) -> Tensor:
        """Return the regularisation of this step: once after the forward pass, before the backward pass.

        Args:
            output: what the network answered to the prepared batch, one tensor or several: maps Float["2b C H W"] or
                classes Float["2b K"]. Without an `output_weight` it is only reported.

        Returns:
            Scalar, float32 (float64 for a float64 network); 0 in steps without regularisation.

        Raises:
            RuntimeError: nothing was prepared, or no layer ran.
            ValueError: no output where it has a weight, or maps that cannot be compared.
        """
        if not self._prepared:
            raise RuntimeError("loss() without prepare(); call prepare() once a step, before the network")
        outputs, n = self._capture.stop(), self.n
        self._prepared, self.n = False, 0
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        total = torch.zeros((), device=device)
        if n == 0:
            return total
        self._values = {}
        if self.weight > 0:
            total = total + self.weight * self.every_k * self._layer_term(outputs, n)
        if output is None:
            if self.output_weight > 0:
                raise ValueError("output_weight is above 0: pass what the network answered to loss(output)")
        elif self.output_weight > 0:
            total = total + self.output_weight * self.every_k * self._output_term(output, n)
        else:
            with torch.no_grad():
                self._output_term(output, n)
        return total

    def _layer_term(self, outputs: Mapping[str, Sequence[Tensor]], n: int) -> Tensor:
        if not outputs:
            raise RuntimeError(
                "no chosen layer ran between prepare() and loss(): call the network on the prepared batch in training "
                "mode; a compiled network that ran before the hooks were attached needs torch.compiler.reset()"
            )
        means = []
        for name, calls in outputs.items():
            for x in calls:
                self._check_maps(f"layer {name!r}", x)
            penalties = [self._penalty(f"layer {name!r}", x, n, self._fields.of(name, x.shape[1])) for x in calls]
            means.append(torch.stack(penalties).mean())
            self._values[name] = means[-1].detach()
        return self._over_maps(means)

    def _output_term(self, output: Tensor | Sequence[Tensor], n: int) -> Tensor:
        penalties = []
        for x in [output] if isinstance(output, Tensor) else output:
            maps = x[..., None, None] if x.ndim == 2 else x
            self._check_maps("the network's output", maps)
            fields = self.output_fields or (("trivial", maps.shape[1]),)
            penalties.append(self._penalty("the network's output", maps, n, fields))
        if not penalties:
            raise ValueError("loss() got an empty list of outputs")
        total = self._over_maps(penalties)
        self._values[OUTPUT] = total.detach()
        return total

    def _over_maps(self, penalties: Sequence[Tensor]) -> Tensor:
        stacked = torch.stack(list(penalties))
        return stacked.sum() if self.mode == "paper" else stacked.mean()

    def _check_maps(self, what: str, x: Tensor) -> None:
        if x.ndim != 4 or len(x) != 2 * self._kept:
            raise ValueError(
                f"{what}: got {tuple(x.shape)}, expected maps [{2 * self._kept}, C, H, W] of the prepared batch; "
                "exclude this layer"
            )

    def _penalty(self, what: str, x: Tensor, n: int, fields: Fields) -> Tensor:
        pixels = None
        try:
            if not exact(self.group_order):
                height, width = x.shape[-2:]
                border = self.border * min(height, width) / self._input_side
                pixels = kept_pixels(height, width, self.disk_margin, border).to(x.device)
            first, second = x.chunk(2)
            return residual_penalty(first, second, n, fields, self.group_order, self.mode, pixels)
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from error


def _check_numbers(mode: str, weight: float, output_weight: float, batch_fraction: float, every_k: int) -> None:
    if mode not in get_args(Mode):
        raise ValueError(f"mode: got {mode!r}, expected one of {', '.join(get_args(Mode))}")
    if not (weight >= 0 and output_weight >= 0):
        raise ValueError(f"weights: got {weight} and {output_weight}, expected numbers of at least 0")
    if not 0 < batch_fraction <= 1:
        raise ValueError(f"batch_fraction: got {batch_fraction}, expected above 0 and at most 1")
    if every_k < 1:
        raise ValueError(f"every_k: got {every_k}, expected a whole number of at least 1")
