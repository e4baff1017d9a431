"""What a GPU makes of simulation and training: projection, pairs on the fly, steps of DICDNet, a run under nccl.

Goals are those of an NVIDIA GPU of a data centre: 150 pairs/s, less than 30 % of a training step spent simulating.
Without CUDA the same is measured on the CPU, with fewer repetitions and a shorter network, and says so.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mar_pipeline.bench.measure import say, workload
from mar_pipeline.data import DataSettings, make_loaders
from mar_pipeline.data.simulated import SimulatedPairs
from mar_pipeline.networks import NETWORKS
from mar_pipeline.networks.build import inputs_of, loss_of
from mar_pipeline.runtime.device import torch_device
from simulation.implants.library import ImplantLibrary
from simulation.physics.projector import Device, Projector
from simulation.physics.protocols import PROTOCOLS
from simulation.sources import list_slices

_PRESET, _NETWORK = "syndeeplesion", "dicdnet"
_BATCH, _PATCH, _CROPS_PER_PAIR = 16, 64, 4


def main() -> None:
    """Print seconds and rates on the GPU, or on the CPU where there is none."""
    device = torch_device("auto")
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name() if cuda else f"no CUDA device: {torch.get_num_threads()} threads of the CPU"
    say(f"{name}; {_PRESET}, images of 416 x 416, sinograms of 640 x 641")
    _project(device, 50 if cuda else 2)
    _simulate("cuda" if cuda else "cpu", 200 if cuda else 10)
    stages = 10 if cuda else 1
    _train(device, stages, 20 if cuda else 1)
    _run_alone(device)


def _seconds(function: Callable[[], Any], repeats: int, device: torch.device) -> float:
    """Mean wall time of a call, after one that warms up."""
    function()
    _finish(device)
    start = time.monotonic()
    for _ in range(repeats):
        function()
    _finish(device)
    return (time.monotonic() - start) / repeats


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _project(device: torch.device, repeats: int) -> None:
    projector = Projector(PROTOCOLS[_PRESET].geometry, "cuda" if device.type == "cuda" else "cpu")
    image = torch.from_numpy(workload()[0]).to(device)
    for count in (1, 8):
        images = image.expand(count, 1, -1, -1).contiguous()
        sinograms = projector.forward(images)
        forward = _seconds(lambda x=images: projector.forward(x), repeats, device) / count  # type: ignore[misc]
        fbp = _seconds(lambda x=sinograms: projector.fbp(x), repeats, device) / count  # type: ignore[misc]
        say(f"an image of a batch of {count}: forward {1e3 * forward:8.2f} ms, FBP {1e3 * fbp:8.2f} ms")


def _simulate(device: Device, pairs: int) -> None:
    made = SimulatedPairs(list_slices("phantom", "train", 0, 4), _PRESET, ImplantLibrary(), device=device)
    for index in range(4):
        made.pair(index)  # projects the slice, which stays in memory
    start = time.monotonic()
    for draw in range(pairs):
        made.pair(draw, 1)
    rate = pairs / (time.monotonic() - start)
    say(f"pairs on the fly, one process, slices in memory   {rate:8.1f} pairs/s (goal on a GPU: 150)")


def _train(device: torch.device, stages: int, steps: int) -> None:
    cuda = device.type == "cuda"
    settings = DataSettings(
        "simulate", source="phantom", simulate_device="cuda" if cuda else "cpu", workers=0, patch=_PATCH,
        batch_size=_BATCH, crops_per_pair=_CROPS_PER_PAIR, batches_per_epoch=steps + 1, val_pairs=1,
    )  # fmt: skip
    batches = iter(make_loaders(settings, 0).train)
    first = next(batches)
    start = time.monotonic()
    for _ in range(steps):
        next(batches)
    simulating = (time.monotonic() - start) / steps
    batch = {name: tensor.to(device) for name, tensor in first.items()}
    say(f"{_NETWORK} of {stages} stages, {_BATCH} crops of {_PATCH} x {_PATCH}, {_CROPS_PER_PAIR} of a new pair")
    for name, dtype in (("float32", None), ("bfloat16 autocast", torch.bfloat16)):
        step = _seconds(_step(batch, device, stages, dtype), steps, device)
        share = simulating / (simulating + step)
        say(f"  {name:18} simulating {simulating:7.3f} s, step {step:7.3f} s: {share:5.0%} simulating (goal: < 30 %)")


def _step(batch: dict[str, Tensor], device: torch.device, stages: int, dtype: torch.dtype | None) -> Callable[[], None]:
    torch.manual_seed(0)
    network = NETWORKS[_NETWORK](stages=stages).to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), 2e-4, (0.5, 0.999))

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            output = network(*inputs_of(network, batch))
        loss_of(network)(output, batch).backward()
        optimizer.step()

    return step


def _run_alone(device: torch.device) -> None:
    """`mar train` under torchrun with one process: nccl on CUDA, gloo elsewhere."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", "-m", "--"]
        command += ["mar_pipeline", "-q", "train", "--task=classification", "--network.name=cnn", "--epochs=2"]
        command += [f"--device={device.type}", f"--run={folder}/run", "--data.val_images=50", "--sample-pictures=0"]
        command += ["--network.arguments={groups: 2}", "--data.batches_per_epoch=5"]
        start = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True)
        backend = "nccl" if device.type == "cuda" else "gloo"
        if not (Path(folder) / "run" / "DONE").exists():
            raise SystemExit(f"torchrun, one process, {backend}: FAILED: {done.stderr[-500:]}")
    say(f"torchrun, one process, {backend}: done in {time.monotonic() - start:.1f} s")
