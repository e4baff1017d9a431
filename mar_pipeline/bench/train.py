"""Cost of a training step with EQ-Reg beside the plain step of the same network on the same batch, one thread.

DICDNet with fewer stages, which cost alike, 16 crops of 64 x 64, its own loss and typed fields, Adam; in float32, and
under bfloat16 autocast where the processor has it.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mar_pipeline.bench.measure import crops, fastest_cpu_seconds, network_sample, say
from mar_pipeline.data import IMAGE, LI, METAL_MASK, TARGET
from mar_pipeline.equivariance import EquivarianceRegularizer, weight_penalty
from mar_pipeline.networks import NETWORKS
from mar_pipeline.networks.build import loss_of
from mar_pipeline.networks.typed_fields import typed_layers
from mar_pipeline.training.precision import autocast_dtype

_NETWORK, _STAGES = "dicdnet", 3
_ROUNDS = 3
_NAMES = IMAGE, LI, METAL_MASK, TARGET


def main() -> None:
    """Print CPU-seconds of a step: plain, with EQ-Reg's schedules, and with the penalty of the weights."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        batch = crops(network_sample(), 16, 64)
        say(f"{_NETWORK} of {_STAGES} stages, 16 crops of 64 x 64, least of {_ROUNDS} rounds in turns")
        for dtype in dict.fromkeys((None, autocast_dtype("auto", torch.device("cpu")))):
            _report(batch, dtype)
    finally:
        torch.set_num_threads(threads)


def _report(batch: dict[str, Tensor], dtype: torch.dtype | None) -> None:
    steps: dict[str, tuple[Callable[[], None], int]] = {
        "plain": (_plain_step(batch, dtype), 1),
        "EQ-Reg, half the samples and their copies (default)": (_regularised_step(batch, dtype), 1),
        "EQ-Reg, default, and its output term": (_regularised_step(batch, dtype, output_weight=1.0), 1),
        "EQ-Reg, all samples and their copies (public scheme)": (
            _regularised_step(batch, dtype, batch_fraction=1.0),
            1,
        ),
        "EQ-Reg, public scheme every 4th step": (_regularised_step(batch, dtype, batch_fraction=1.0, every_k=4), 4),
        "penalty of the weights": (_plain_step(batch, dtype, _weight_penalty), 1),
    }
    functions = {name: _repeated(step, count) for name, (step, count) in steps.items()}
    seconds = fastest_cpu_seconds(functions, _ROUNDS)
    say("bfloat16 autocast" if dtype else "float32")
    for name, (_, count) in steps.items():
        own = seconds[name] / count
        say(f"  {name:54}{own:8.3f} CPU-s a step {own / seconds['plain']:8.2f} x plain")


def _repeated(step: Callable[[], None], count: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(count):
            step()

    return run


def _network() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = NETWORKS[_NETWORK](stages=_STAGES).train()
    return network, torch.optim.Adam(network.parameters(), 2e-4, (0.5, 0.999))


def _plain_step(
    batch: dict[str, Tensor], dtype: torch.dtype | None, penalty: Callable[[nn.Module], Tensor] | None = None
) -> Callable[[], None]:
    network, optimizer = _network()

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            output = network(batch[IMAGE], batch[LI], batch[METAL_MASK])
        loss = loss_of(network)(output, batch)
        if penalty is not None:
            loss = loss + penalty(network)
        loss.backward()
        optimizer.step()

    return step


def _weight_penalty(network: nn.Module) -> Tensor:
    typed = typed_layers(network)
    return weight_penalty(network, fields=typed.ends, exclude=typed.exclude)


def _regularised_step(
    batch: dict[str, Tensor],
    dtype: torch.dtype | None,
    batch_fraction: float = 0.5,
    every_k: int = 1,
    output_weight: float = 0.0,
) -> Callable[[], None]:
    network, optimizer = _network()
    typed = typed_layers(network)
    regularizer = EquivarianceRegularizer(
        network,
        fields=typed.outputs,
        exclude=typed.exclude,
        batch_fraction=batch_fraction,
        every_k=every_k,
        output_weight=output_weight,
    )

    def step() -> None:
        optimizer.zero_grad()
        prepared = dict(zip(_NAMES, regularizer.prepare(*(batch[name] for name in _NAMES)), strict=True))
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            output = network(prepared[IMAGE], prepared[LI], prepared[METAL_MASK])
        loss = loss_of(network)(output, prepared) + regularizer.loss(output.image)
        loss.backward()
        optimizer.step()

    return step
