"""What `mar info` tells: versions, machine, GPU and the names that commands accept."""

import os
import platform
from pathlib import Path
from typing import Any

from mar_pipeline import __version__
from mar_pipeline.commands import run_alone
from mar_pipeline.evaluation.methods import METHODS
from mar_pipeline.weights.shipped import SHIPPED
from simulation.implants.library import KINDS
from simulation.physics.materials import METAL_CODES
from simulation.physics.projector_cpu import usable_cores
from simulation.physics.protocols import PROTOCOLS
from simulation.provenance import library_versions


def collect() -> dict[str, Any]:
    """Return facts about this installation and machine, ready for JSON; of libraries the versions are read."""
    return {
        "version": __version__,
        "platform": platform.platform(),
        "cpus": usable_cores(),
        "memory_gib": memory_gib(),
        "cuda": cuda(),
        "libraries": library_versions(),
        "presets": list(PROTOCOLS),
        "metals": list(METAL_CODES),
        "implants": list(KINDS),
        "networks": network_names(),
        "methods": [*METHODS, *SHIPPED],
        "weights": list(SHIPPED),
    }


def network_names() -> dict[str, list[str]]:
    """Return the names of the networks of each task."""
    from mar_pipeline.networks import NETWORKS
    from mar_pipeline.networks.build import task_of

    names: dict[str, list[str]] = {}
    for name, network_class in NETWORKS.items():
        names.setdefault(task_of(network_class), []).append(name)
    return names


def memory_gib() -> float | None:
    """Return physical memory in GiB, None where the system does not tell."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def cuda() -> dict[str, Any]:
    """Return whether a GPU is usable, and if not, why; on a machine without one no CUDA library is even loaded."""
    reason = _why_no_cuda()
    if reason:
        return {"available": False, "reason": reason, "devices": []}

    import torch

    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"available": True, "reason": None, "devices": devices}


def _why_no_cuda() -> str | None:
    if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg")):
        return "this machine has no NVIDIA device"

    from simulation.physics.projector import why_no_cuda

    return why_no_cuda() or None


def as_text(facts: dict[str, Any]) -> str:
    """Return the facts as lines for a reader."""
    gpu = ", ".join(facts["cuda"]["devices"]) if facts["cuda"]["available"] else f"none: {facts['cuda']['reason']}"
    networks = facts["networks"]
    memory = "unknown" if facts["memory_gib"] is None else f"{facts['memory_gib']} GiB"
    lines = [
        f"mar         {facts['version']} (Python {facts['libraries']['python']}, {facts['platform']})",
        f"processors  {facts['cpus']}",
        f"memory      {memory}",
        f"GPU         {gpu}",
        f"presets     {', '.join(facts['presets'])}",
        f"metals      {', '.join(facts['metals'])}",
        f"implants    {', '.join(facts['implants'])}",
        *(f"{'networks' if task == 'mar' else '':<12}{task}: {', '.join(own)}" for task, own in networks.items()),
        f"methods     {', '.join(facts['methods'])}",
        f"weights     {', '.join(facts['weights'])}",
        "libraries   " + ", ".join(f"{name} {version or 'absent'}" for name, version in facts["libraries"].items()),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    run_alone("info")
