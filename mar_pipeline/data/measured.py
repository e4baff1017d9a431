"""What networks see of a scan: the arrays of a pair in network units, those that are not stored computed from it."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import TypeVar

import numpy as np

from mar_pipeline.sample import (
    HARDENING,
    IMAGE,
    LI,
    LI_SINOGRAM,
    MA_SINOGRAM,
    MAX_LINE_INTEGRAL,
    METAL_MASK,
    METAL_TRACE,
    NMAR,
    NMAR_SINOGRAM,
    PRIOR,
    TARGET,
    TARGET_SINOGRAM,
    Layout,
    PairArrays,
    sinogram_to_network,
    to_network,
)
from simulation.correction import hardening_corrected, nmar, nmar_prior, reprojected
from simulation.dataset.reader import Pair
from simulation.errors import InputError
from simulation.physics.projector import Projector, Weighting
from simulation.simulator import Sample

_SOURCES = {
    IMAGE: ("ma_CT",),
    LI: ("LI_CT",),
    PRIOR: ("LI_CT",),
    NMAR: ("LI_CT", "ma_sinogram", "metal_trace"),
    NMAR_SINOGRAM: ("LI_CT", "ma_sinogram", "metal_trace"),
    HARDENING: ("ma_sinogram", "LI_sinogram"),
    MA_SINOGRAM: ("ma_sinogram", "LI_sinogram"),
    LI_SINOGRAM: ("LI_sinogram",),
    METAL_TRACE: ("metal_trace",),
}
Scan = TypeVar("Scan", Sample, Pair)

_BEYOND_RANGE = 1e-3
"""Share of bins, after LI, that may exceed what networks tell apart."""


def needed(layout: Layout) -> set[str]:
    """Return names of the arrays of a scan that a layout is made from."""
    names = {own for name in (*layout.images, *layout.sinograms) for own in _SOURCES.get(name, ())}
    return names | ({"LI_sinogram"} if layout.sinograms else set())


def pair_arrays(
    layout: Layout,
    scan: Sample | Pair,
    truth_mu: np.ndarray | None,
    metal_mask: np.ndarray,
    projector: Projector,
    weighting: Weighting,
) -> PairArrays:
    """Return the arrays that a layout names.

    Args:
        layout: the names.
        scan: of the slice with metal, simulated or stored; what no name asks for may be None.
        truth_mu: the slice without, Float["rows columns"], 1/cm; None if the layout does without.
        metal_mask: Bool["rows columns"].
        projector: of the scan.
        weighting: of its filtered back projection.

    Returns:
        float32.

    Raises:
        InputError: line integrals beyond what networks tell apart, or the scan lacks what a name needs.
    """
    if missing := sorted(own for own in needed(layout) if getattr(scan, own) is None):
        raise InputError(
            f"the scan has no {', '.join(missing)}, which the network needs; give it measured data, or correct them "
            "with a network of images"
        )

    @cache
    def prior_mu() -> np.ndarray:
        return np.asarray(nmar_prior(scan.LI_CT, metal_mask))

    @cache
    def normalised() -> tuple[np.ndarray, np.ndarray]:
        return nmar(scan.ma_sinogram, scan.metal_trace, prior_mu(), projector, weighting)

    makers: dict[str, Callable[[], np.ndarray]] = {
        IMAGE: lambda: to_network(scan.ma_CT),
        LI: lambda: to_network(scan.LI_CT),
        TARGET: lambda: to_network(_given(truth_mu)),
        METAL_MASK: lambda: metal_mask,
        PRIOR: lambda: to_network(prior_mu()),
        NMAR: lambda: to_network(normalised()[1]),
        NMAR_SINOGRAM: lambda: sinogram_to_network(normalised()[0]),
        HARDENING: lambda: to_network(
            hardening_corrected(scan.ma_sinogram, scan.LI_sinogram, metal_mask, projector, weighting)
        ),
        MA_SINOGRAM: lambda: sinogram_to_network(scan.ma_sinogram),
        LI_SINOGRAM: lambda: sinogram_to_network(scan.LI_sinogram),
        METAL_TRACE: lambda: np.asarray(scan.metal_trace) > 0,
        TARGET_SINOGRAM: lambda: sinogram_to_network(projector.forward(_given(truth_mu))),
    }
    if layout.sinograms:
        refuse_long_rays(scan)
    shapes = (projector.geometry.image_shape, projector.geometry.sinogram_shape)
    stacks = [np.empty((len(names), *shape), np.float32) for names, shape in zip(layout, shapes, strict=True)]
    for names, stack in zip(layout, stacks, strict=True):
        for place, name in enumerate(names):
            stack[place] = makers[name]()
    return PairArrays(*stacks)


def with_projected_data(scan: Scan, metal_mask: np.ndarray, projector: Projector, weighting: Weighting) -> Scan:
    """Return the scan as if its raw data were gone: sinograms, metal trace and LI image come from the corrupted image.

    Args:
        scan: only its ma_CT is read; all that is replaced may be None.
        metal_mask: Bool["rows columns"].
        projector: of the scan that is assumed.
        weighting: of its filtered back projection.

    Returns:
        The same with ma_sinogram, LI_sinogram, metal_trace and LI_CT of `simulation.correction.reprojected`.

    Raises:
        InputError: wrong shapes, or a view lies in the trace from end to end.
    """
    sinogram, li_sinogram, trace, li_mu = reprojected(scan.ma_CT, metal_mask, projector, weighting)
    return replace(scan, ma_sinogram=sinogram, LI_sinogram=li_sinogram, metal_trace=trace, LI_CT=li_mu)


def _given(truth_mu: np.ndarray | None) -> np.ndarray:
    if truth_mu is None:
        raise ValueError("the layout names the truth, which was not given")
    return truth_mu


def refuse_long_rays(scan: Sample | Pair) -> None:
    """Refuse bodies whose line integrals are clipped in network units.

    Raises:
        InputError: more than a thousandth of the bins, after LI, are beyond 4.
    """
    beyond = float(np.mean(np.asarray(scan.LI_sinogram) > MAX_LINE_INTEGRAL))
    if beyond > _BEYOND_RANGE:
        raise InputError(
            f"{100 * beyond:.1f} % of the line integrals are above {MAX_LINE_INTEGRAL:g}, from where on all are the "
            "same to dual-domain networks; make the data with the preset syndeeplesion, whose bodies are small enough, "
            "or train a network of images"
        )
