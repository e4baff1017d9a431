"""What `mar info` tells: versions, machine, GPU and the names that commands accept."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from mar_pipeline import __version__
from simulation.geometry import GEOMETRIES
from simulation.materials import METAL_CODES

LIBRARIES = (
    "astra-toolbox",
    "h5py",
    "jsonargparse",
    "matplotlib",
    "nibabel",
    "numba",
    "numpy",
    "pillow",
    "pydicom",
    "scikit-image",
    "scipy",
    "spekpy",
    "submitit",
    "torch",
    "xraydb",
)


def collect() -> dict[str, Any]:
    """Facts about this installation and machine, ready for JSON; heavy libraries are read, not imported."""
    return {
        "version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": usable_cpus(),
        "memory_gib": memory_gib(),
        "cuda": cuda(),
        "libraries": library_versions(),
        "presets": sorted(GEOMETRIES),
        "metals": list(METAL_CODES),
    }


def usable_cpus() -> int:
    """Processors this process may run on; fewer than the machine has inside a batch job."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_gib() -> float | None:
    """Physical memory in GiB, None where the system does not tell."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def library_versions() -> dict[str, str | None]:
    """Version of each library of `LIBRARIES`, None for one that is not installed."""
    return {name: _version(name) for name in LIBRARIES}


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def cuda() -> dict[str, Any]:
    """Whether a GPU is usable, and if not, why; on a machine without one no CUDA library is even loaded."""
    reason = _why_no_cuda()
    if reason:
        return {"available": False, "reason": reason, "devices": []}

    import torch

    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"available": True, "reason": None, "devices": devices}


def _why_no_cuda() -> str | None:
    if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg")):
        return "this machine has no NVIDIA device"

    import torch

    from simulation.projector import cuda_available

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA"
    if not torch.cuda.is_available():
        return "torch finds no usable device: its driver or the permissions"
    if not cuda_available():
        return "ASTRA finds no usable device"
    return None


def as_text(facts: dict[str, Any]) -> str:
    """The facts as lines for a reader."""
    gpu = ", ".join(facts["cuda"]["devices"]) if facts["cuda"]["available"] else f"none: {facts['cuda']['reason']}"
    memory = "unknown" if facts["memory_gib"] is None else f"{facts['memory_gib']} GiB"
    lines = [
        f"mar         {facts['version']} (Python {facts['python']}, {facts['platform']})",
        f"processors  {facts['cpus']}",
        f"memory      {memory}",
        f"GPU         {gpu}",
        f"presets     {', '.join(facts['presets'])}",
        f"metals      {', '.join(facts['metals'])}",
        "libraries   " + ", ".join(f"{name} {version or 'absent'}" for name, version in facts["libraries"].items()),
    ]
    return "\n".join(lines)
