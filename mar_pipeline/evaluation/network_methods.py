"""Trained networks as methods: pairs in, corrected images out, and how far a network is from equivariant."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from mar_pipeline.data import METAL_MASK
from mar_pipeline.data.measured import pair_arrays
from mar_pipeline.data.turning import rotate_sample
from mar_pipeline.equivariance import act
from mar_pipeline.evaluation.equivariance_error import EquivarianceError
from mar_pipeline.evaluation.methods import METHODS, Method, Scanner
from mar_pipeline.evaluation.run_columns import load_runs, run_facts
from mar_pipeline.evaluation.settings import known_methods
from mar_pipeline.inference.fast import Precision, fast_network
from mar_pipeline.networks.build import (
    MAR,
    has_projector,
    inputs_of,
    network_inputs,
    refuse_other_geometry,
    start_of,
)
from mar_pipeline.sample import Layout, to_mu, to_sample
from mar_pipeline.weights.trained import Trained
from simulation.dataset.reader import Pair
from simulation.errors import InputError, MarError, UsageError


@dataclass(frozen=True)
class NetworkMethod:
    """A trained run as a method.

    Args:
        trained: the run.
        name: what the user reads of it.
        infer: what the network is called with -> corrected image, Float["batch 1 rows columns"], network units.
        device: of the network, cpu or cuda.
    """

    trained: Trained
    name: str
    infer: Callable[..., Tensor]
    device: str

    def __call__(self, pair: Pair, metal_mask: np.ndarray, scanner: Scanner) -> np.ndarray:
        """Return the image that the network makes of a pair.

        Args:
            pair: the pair.
            metal_mask: Bool["rows columns"].
            scanner: its projector makes what is not stored, such as a prior image.

        Returns:
            Float32["rows columns"], 1/cm; inside the metal as the network gives it.

        Raises:
            InputError: the network cannot compute an image of this size on this machine, or knows another geometry.
        """
        return to_mu(self._run(self._inputs(pair, metal_mask, scanner)))[0, 0].cpu().numpy()

    def equivariance_errors(self, pair: Pair, metal_mask: np.ndarray, scanner: Scanner) -> dict[int, float]:
        """Return how far the correction of a turned slice is from the turned correction, outside the metal.

        The correction f(x) is what the network adds to the image it starts from, LI's, which itself turns exactly and
        would hide the network. r = pi_n f(x) - f(pi_n x) for the rotations pi_n by 90 n degrees; the error is
        ||r|| / sqrt((||pi_n f(x)||^2 + ||f(pi_n x)||^2) / 2), not centred: 0 for an equivariant network.

        Args:
            pair: the pair.
            metal_mask: Bool["rows columns"].
            scanner: as calling it.

        Returns:
            Degrees -> error; images that are not square are only turned by 180 degrees.

        Raises:
            InputError: as calling it.
        """
        inputs = self._inputs(pair, metal_mask, scanner)
        start = start_of(self.trained.network)
        straight = self._run(inputs) - inputs[start]
        errors = {}
        for n in (1, 2, 3) if metal_mask.shape[0] == metal_mask.shape[1] else (2,):
            turned = rotate_sample(inputs, n)
            outside = 1 - turned[METAL_MASK]
            of_turned = self._run(turned) - turned[start]
            error = EquivarianceError()
            error.add(act(straight, n, [("trivial", 1)]) * outside, of_turned * outside)
            if not math.isfinite(error.value):
                raise InputError("the network's image of the turned slice has values that are not finite")
            errors[90 * n] = error.value
        return errors

    def _inputs(self, pair: Pair, metal_mask: np.ndarray, scanner: Scanner) -> dict[str, Tensor]:
        refuse_other_geometry(self.trained.network, scanner.projector)
        layout = Layout.of(network_inputs(self.trained.network))
        arrays = pair_arrays(layout, pair, pair.image, metal_mask, scanner.projector, scanner.weighting)
        return {name: tensor.to(self.device)[None] for name, tensor in to_sample(arrays, layout).items()}

    def _run(self, sample: Mapping[str, Tensor]) -> Tensor:
        inputs = inputs_of(self.trained.network, sample)
        try:
            image = self.infer(*inputs)
        except MarError:
            raise
        except (RuntimeError, ValueError) as error:  # torch's word for shapes that do not fit and for no memory left
            reason = " ".join(str(error).split())
            memory = "memory" in reason.lower()
            remedy = "; try --precision bfloat16 or --device cpu" if memory else ""
            raise InputError(f"the network cannot compute this image ({reason[:300]}){remedy}") from error
        if image.shape != inputs[0].shape:
            raise InputError(f"the network gives shape {tuple(image.shape)} for {tuple(inputs[0].shape)}")
        return image

    def describe(self) -> dict[str, Any]:
        """Return facts for report.json."""
        trained = self.trained
        return run_facts(trained, self.name) | {
            "preset": trained.preset,
            "dual_domain": has_projector(trained.network),
            "best_psnr": _finite(trained.best_psnr),
        }


def load_networks(paths: Sequence[str], device: str, precision: Precision) -> list[Method]:
    """Load the trained networks of run folders or weights files, those that differ by seed only in one column.

    Args:
        paths: what the user named.
        device: cpu or cuda.
        precision: float32 or bfloat16.

    Returns:
        In the order of the paths; `Method.answer` is a `NetworkMethod`.

    Raises:
        UsageError: a path is not there, or two of them are the same weights.
        InputError: a run or file cannot be used.
    """
    methods = []
    for column, name, run in load_runs(paths, METHODS, device, MAR, known_methods()).values():
        answer = NetworkMethod(run, name, fast_network(run.network, precision), device)
        settings = run.metadata.get("settings", "")
        methods.append(Method(column, answer, name, run.seed, answer.equivariance_errors, answer.describe(), settings))
    return methods


def refuse_other_preset(methods: Sequence[Method], presets: Mapping[str, str], allowed: bool = False) -> None:
    """Refuse networks that learned from another scanner than the one that made the data.

    Args:
        methods: any; methods that are not trained, and runs that do not record their preset, pass.
        presets: split -> preset of the data.
        allowed: only dual-domain networks are refused, which cannot project for another scanner.

    Raises:
        UsageError: a network was trained for another preset.
    """
    for method in methods:
        trained = method.facts.get("preset")
        others = [(split, preset) for split, preset in presets.items() if trained and trained != preset]
        projects = method.facts.get("dual_domain")
        if others and (projects or not allowed):
            remedy = "leave it out" if projects else "--any-preset to score it all the same"
            raise UsageError(
                f"{method.name}: trained for the preset {trained}, but the {others[0][0]} data are {others[0][1]}; "
                f"name data of its preset, or {remedy}"
            )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
