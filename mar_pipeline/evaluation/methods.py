"""The correction methods that can be scored, and the scanner they correct for; networks are in `network_methods`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from simulation.correction import nmar, nmar_prior
from simulation.dataset.reader import Pair
from simulation.physics.projector import Device, Projector, Weighting
from simulation.physics.protocols import AnyProtocol, protocol


@dataclass(frozen=True)
class Scanner:
    """What a method may know of the scan that made a pair.

    Args:
        preset: key of `simulation.physics.protocols.PROTOCOLS`.
        projector: of the set's geometry.
        weighting: of its filtered back projection.
    """

    preset: str
    projector: Projector
    weighting: Weighting

    @classmethod
    def of(cls, preset: str, device: Device = "auto", scan: AnyProtocol | None = None) -> "Scanner":
        """Return the scanner of a set; without its scan, that of the preset.

        Raises:
            UsageError: unknown preset or device.
        """
        scan = protocol(preset) if scan is None else scan
        return cls(preset, Projector(scan.geometry, device, kernel=scan.kernel), scan.weighting)


def _input(pair: Pair, metal_mask: np.ndarray, scanner: Scanner) -> np.ndarray:
    return pair.ma_CT


def _li(pair: Pair, metal_mask: np.ndarray, scanner: Scanner) -> np.ndarray:
    return pair.LI_CT


def _nmar(pair: Pair, metal_mask: np.ndarray, scanner: Scanner) -> np.ndarray:
    prior_mu = nmar_prior(pair.LI_CT, metal_mask)
    _, image_mu = nmar(pair.ma_sinogram, pair.metal_trace, prior_mu, scanner.projector, scanner.weighting)
    return np.asarray(image_mu)


Correction = Callable[[Pair, np.ndarray, Scanner], np.ndarray]
"""(pair, metal mask, scanner) -> corrected image, Float["rows columns"], 1/cm."""

METHODS: dict[str, Correction] = {"input": _input, "li": _li, "nmar": _nmar}
"""Method name -> (pair, metal mask, scanner) -> corrected image, Float["rows columns"], 1/cm."""

LABELS = {"input": "Input", "li": "LI", "nmar": "NMAR"}
"""How pictures call a method; others go by their own name."""

STORED = ("input", "li")
"""Methods whose image is in the data: there is nothing to compute and no time to measure."""


@dataclass(frozen=True)
class Method:
    """What is scored: a method as it is, or one trained run of a network.

    Args:
        column: head of its column in the tables; the runs of a network that differ by seed only share one.
        answer: what makes an answer of a sample: a `Correction` of a pair, or batch -> prediction of another task.
        run: name of the trained run, unlike any other's; empty for a method that is not trained.
        seed: of the run's training.
        equivariance: of a pair, as ``answer`` -> degrees -> relative error of the whole network; None where it is not
            measured pair by pair.
        facts: about the trained run: where it is from, parameters, preset and so on.
        settings: of its training, as JSON, as far as the weights file has them.
    """

    column: str
    answer: Callable[..., Any]
    run: str = ""
    seed: int | None = None
    equivariance: Callable[[Pair, np.ndarray, Scanner], dict[int, float]] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    settings: str = ""

    @property
    def name(self) -> str:
        """Return the run's name, or the method's."""
        return self.run or self.column


def first_seeds(methods: Sequence[Method]) -> list[Method]:
    """Return the first run of each column: what a picture shows."""
    first: dict[str, Method] = {}
    for method in methods:
        first.setdefault(method.column, method)
    return list(first.values())
