"""Where a process stands among those of one training: its rank, and what they share.

`torchrun` starts the processes and tells each its place by environment variables.
"""

import atexit
import gc
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from mar_pipeline.runtime.device import torch_device
from simulation.errors import InputError, UsageError

_INTERRUPTED = 130
_FAILED = "mar/failed"
_TIME_TO_SPEAK_S = 1.0


@dataclass(frozen=True)
class Processes:
    """The processes of one training.

    Args:
        rank: of this one.
        world: their number.
    """

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Return whether this is the one that writes and speaks."""
        return self.rank == 0


def joins() -> bool:
    """Return whether this process has joined those that `torchrun` started, if only itself."""
    return dist.is_available() and dist.is_initialized()


def processes() -> Processes:
    """Return those that this one has joined; itself alone if none."""
    return Processes(dist.get_rank(), dist.get_world_size()) if joins() else Processes()


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the processes that `torchrun` started; does nothing where it did not.

    Tensors on the CPU travel by gloo, those on CUDA by nccl. An error in one process ends all of them: the first that
    fails raises what it was, the others exit without a word and with its exit code.

    Raises:
        InputError: another process ended without a word.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield processes()
        return
    store, rank, world = next(dist.rendezvous("env://"))
    if torch.cuda.is_available():
        torch.cuda.set_device(_local_rank() % torch.cuda.device_count())
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world)
    if rank:
        for package in ("simulation", "mar_pipeline"):
            logging.getLogger(package).setLevel(logging.ERROR)
    try:
        yield Processes(rank, world)
    except BaseException as error:
        code = _exit_code(error)
        other = _exit_code_of_another(store, rank, code)
        atexit.register(_exit_at_once, other or code)
        if other:
            raise SystemExit(other) from None
        if _is_lost_connection(error):
            raise InputError("another process of this training ended; its own messages may say why") from error
        raise
    leave()


def leave() -> None:
    """Leave the processes that were joined.

    What still holds their group has to go first: its threads would outlive Python, and abort the process.
    """
    gc.collect()
    dist.destroy_process_group()


def _exit_at_once(code: int) -> None:
    """End this process without waiting for threads that wait for other processes."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _exit_code_of_another(store: dist.Store, rank: int, exit_code: int) -> int:
    """Settle which failing process tells the user why: the leading one, unless another failed before it.

    Returns:
        The exit code of the one that does, 0 for this one.
    """
    if rank:  # torchrun ends all at the first exit
        time.sleep(_TIME_TO_SPEAK_S)
    try:
        teller, code = store.compare_set(_FAILED, "", f"{rank} {exit_code}").decode().split()
    except RuntimeError:  # whoever kept the store is gone
        return 0
    return 0 if int(teller) == rank else int(code)


def _exit_code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return _INTERRUPTED
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 0
    return int(getattr(error, "exit_code", 1))


def _is_lost_connection(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and ("gloo" in str(error) or isinstance(error, dist.DistError))


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def process_device(name: str) -> torch.device:
    """Return the device of this process: on CUDA each has a GPU of its own.

    Args:
        name: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UsageError: cuda without a CUDA device, or more processes than GPUs.
    """
    device = torch_device(name)
    if device.type != "cuda" or processes().world == 1:
        return device
    gpus = torch.cuda.device_count()
    if _local_rank() >= gpus:
        raise UsageError(
            f"--nproc-per-node: got {_local_rank() + 1} or more processes for {gpus} GPUs; start one for each"
        )
    return torch.device("cuda", _local_rank())


def cores_share(cores: int) -> int:
    """Return cores for this process where several share a machine.

    Args:
        cores: of the machine.
    """
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def wait_for_all() -> None:
    """Return when all processes have come here."""
    mean_over_processes([0.0])


def refuse_differences(facts: Mapping[str, Any]) -> None:
    """Refuse processes that do not see the same.

    Args:
        facts: name -> what every process should find alike.

    Raises:
        UsageError: some find something else, as where a folder is not shared by their machines.
    """
    if not joins():
        return
    everyone: list[Any] = [None] * processes().world
    dist.all_gather_object(everyone, dict(facts))
    for name in facts:
        found = list(dict.fromkeys(str(own[name]) for own in everyone))
        if len(found) > 1:
            raise UsageError(
                f"the processes of this training differ in the {name}: {' / '.join(found)}; put the run and the data "
                "where all machines see them, and train on machines that are alike"
            )


def least_over_processes(number: int) -> int:
    """Return the smallest of a number of each process."""
    if not joins():
        return number
    least = torch.tensor(number)
    dist.all_reduce(least, dist.ReduceOp.MIN)
    return int(least)


def mean_over_processes(values: Sequence[float]) -> list[float]:
    """Return the mean of each number over the processes, the same bits in all of them.

    Args:
        values: as many in every process.
    """
    if not joins():
        return list(values)
    numbers = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(numbers)
    return (numbers / processes().world).tolist()


def average_over_processes(tensors: Sequence[torch.Tensor]) -> None:
    """Replace tensors by their mean over the processes.

    Args:
        tensors: as many, of the same shapes, in every process.
    """
    for tensor in tensors if joins() else ():
        dist.all_reduce(tensor)
        tensor /= processes().world
