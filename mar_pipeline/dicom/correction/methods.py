"""The method that a run corrects with: LI, NMAR or a trained network."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mar_pipeline.dicom.correction.projection import SINOGRAM_METHODS, ProjectionCorrection
from mar_pipeline.dicom.correction.suitability import unsuitable
from mar_pipeline.dicom.correction.virtual_scan import virtual_scan
from mar_pipeline.dicom.settings import DicomSettings
from simulation.errors import UsageError
from simulation.files import sha256_of
from simulation.physics.projector import Projector


@dataclass(frozen=True)
class Method:
    """How slices are corrected.

    Args:
        label: name in SeriesDescription and the report: letters, digits and `_ . + -`.
        facts: for summary.json.
        weights_sha256: of a network.
        make: (rows and columns, spacing in mm, whether a slice is cut off) -> what corrects slices of that kind, and
            what the user should know of all of them.
        forks: whether slices may be corrected in forked processes; networks use threads.
        remarks: what speaks against the method; every corrected series is given them as warnings.
    """

    label: str
    facts: dict[str, Any]
    weights_sha256: str | None
    make: Callable[[tuple[int, int], tuple[float, float], bool], tuple[ProjectionCorrection, tuple[str, ...]]]
    forks: bool
    remarks: tuple[str, ...] = ()


def method_of(settings: DicomSettings) -> Method:
    """Return the method that the settings name.

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
    def make(
        shape: tuple[int, int], spacing_mm: tuple[float, float], extend: bool
    ) -> tuple[ProjectionCorrection, tuple[str, ...]]:
        grid, geometry = virtual_scan(shape, spacing_mm, extend)
        projector = Projector(geometry, "cpu", threads=1)
        fill = SINOGRAM_METHODS[settings.method]
        return ProjectionCorrection(fill, grid, projector, settings.max_trace), ()

    return Method(settings.method.upper(), {"name": settings.method}, None, make, forks=True)


def _network_method(settings: DicomSettings) -> Method:
    # PyTorch's networks take seconds to import, which LI and NMAR do without.
    from mar_pipeline.dicom.correction.network import network_fill
    from mar_pipeline.runtime.device import torch_device
    from mar_pipeline.weights.shipped import SHIPPED, shipped_or_path
    from mar_pipeline.weights.trained import load_trained

    if not shipped_or_path(settings.method).exists():
        raise UsageError(
            f"--method: got {settings.method!r}, expected {', '.join(SINOGRAM_METHODS)}, {', '.join(SHIPPED)}, or the "
            "path of a run folder or weights file"
        )
    trained = load_trained(settings.method, torch_device(settings.device))
    remarks = unsuitable(trained.preset, trained.metadata)
    label = re.sub(r"[^A-Za-z0-9_.+-]+", "_", trained.label).strip("_")[:32] or trained.name

    def make(
        shape: tuple[int, int], spacing_mm: tuple[float, float], extend: bool
    ) -> tuple[ProjectionCorrection, tuple[str, ...]]:
        grid, geometry = virtual_scan(shape, spacing_mm, extend)
        side, pixel_mm = geometry.image_shape[0], geometry.pixel_mm
        fill = network_fill(trained, side, pixel_mm, settings.device, settings.precision, settings.workers)
        projector = Projector(geometry, "cpu", settings.workers)
        return ProjectionCorrection(fill, grid, projector, settings.max_trace), (*remarks, *fill.remarks)

    facts = {"name": label, "network": trained.name, "preset": trained.preset, "parameters": trained.parameters}
    return Method(label, facts, sha256_of(trained.source), make, False, remarks)
