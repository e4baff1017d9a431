"""The method that a run corrects with: LI, NMAR or a trained network."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mar_pipeline.dicom.correction.projection import SINOGRAM_METHODS, Corrected, ProjectionCorrection
from mar_pipeline.dicom.correction.virtual_scan import virtual_scan
from mar_pipeline.dicom.settings import DicomSettings
from simulation.errors import UsageError
from simulation.files import sha256_of
from simulation.projector import Projector


class Correction(Protocol):
    """What corrects slices of one shape and pixel spacing."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the user should know of all of them."""

    def __call__(self, hu: np.ndarray, metal: np.ndarray, field_of_view: np.ndarray, truncated: bool) -> Corrected:
        """The corrected slice, see `projection.ProjectionCorrection`."""


@dataclass(frozen=True)
class Method:
    """How slices are corrected.

    Args:
        label: name in SeriesDescription and the report: letters, digits and `_ . + -`.
        facts: for summary.json.
        weights_sha256: of a network.
        make: (rows and columns, spacing in mm, whether a slice is cut off) -> what corrects slices of that kind.
        forks: whether slices may be corrected in forked processes; networks use threads.
    """

    label: str
    facts: dict[str, Any]
    weights_sha256: str | None
    make: Callable[[tuple[int, int], tuple[float, float], bool], Correction]
    forks: bool


def method_of(settings: DicomSettings) -> Method:
    """The method that the settings name.

    Raises:
        UsageError: neither a method nor a trained network.
        InputError: weights that cannot be used.
    """
    if settings.method in SINOGRAM_METHODS:
        if (settings.device, settings.precision) != ("cpu", "float32"):
            raise UsageError(f"--device and --precision are of networks; {settings.method} runs on the CPU in float32")
        return _projection_method(settings)
    return _network_method(settings)


def _projection_method(settings: DicomSettings) -> Method:
    def make(shape: tuple[int, int], spacing_mm: tuple[float, float], extend: bool) -> Correction:
        grid, geometry = virtual_scan(shape, spacing_mm, extend)
        projector = Projector(geometry, "cpu", threads=1)
        return ProjectionCorrection(settings.method, grid, projector, settings.max_trace)

    return Method(settings.method.upper(), {"name": settings.method}, None, make, forks=True)


def _network_method(settings: DicomSettings) -> Method:
    # PyTorch takes seconds to import, which LI and NMAR do without.
    from mar_pipeline.dicom.correction.network import network_correction
    from mar_pipeline.weights.shipped import SHIPPED, shipped_or_path
    from mar_pipeline.weights.trained import load_trained

    if not shipped_or_path(settings.method).exists():
        raise UsageError(
            f"--method: got {settings.method!r}, expected {', '.join(SINOGRAM_METHODS)}, {', '.join(SHIPPED)}, or the "
            "path of a run folder or weights file"
        )
    trained = load_trained(settings.method, settings.device)
    label = re.sub(r"[^A-Za-z0-9_.+-]+", "_", trained.label).strip("_")[:32] or trained.name
    weights_sha256 = sha256_of(trained.source)

    def make(shape: tuple[int, int], spacing_mm: tuple[float, float], extend: bool) -> Correction:
        return network_correction(
            trained, shape, spacing_mm, settings.device, settings.precision, settings.workers, settings.max_trace
        )

    facts = {"name": label, "network": trained.name, "preset": trained.preset, "parameters": trained.parameters}
    return Method(label, facts, weights_sha256, make, forks=False)
