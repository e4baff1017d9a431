"""The slices or shards of a data set made by one process or several."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol

from simulation.dataset.pairs import SliceResult
from simulation.errors import InputError
from simulation.progress import with_progress


class Maker(Protocol):
    """What makes the units of a data set."""

    def make(self, number: int) -> list[SliceResult]:
        """Makes a unit; answers what became of its slices."""


@contextmanager
def interrupts_noticed() -> Iterator[Callable[[], None]]:
    """Ctrl-C as usual, and a function that raises KeyboardInterrupt again if Python dropped it.

    An exception that a signal raises inside a destructor or a weak reference's callback is told and forgotten.
    """
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as under nohup
    if ignored or threading.current_thread() is not threading.main_thread():
        yield lambda: None  # signals go to the main thread
        return
    seen = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        seen.set()
        raise KeyboardInterrupt

    def check() -> None:
        if seen.is_set():
            raise KeyboardInterrupt

    def tell(unraisable: Any) -> None:
        if unraisable.exc_type is not KeyboardInterrupt:
            hook(unraisable)

    handler, hook = signal.signal(signal.SIGINT, interrupt), sys.unraisablehook
    sys.unraisablehook = tell
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, handler)
        sys.unraisablehook = hook


_maker: Maker | None = None


def _start_worker(maker: Maker, parent: int) -> None:
    """Keeps the maker in the worker, leaves Ctrl-C to the main process, and ends when that process is gone."""
    global _maker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    _maker = maker


def end_with(parent: int) -> None:
    """Ends this process once its parent is gone; for a thread of a worker."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _make(number: int) -> list[SliceResult]:
    if _maker is None:
        raise RuntimeError("the worker has not been started by _start_worker")
    return _maker.make(number)


def make_units(
    maker: Maker, numbers: list[int], workers: int, unit: str, check_interrupt: Callable[[], None]
) -> Generator[SliceResult, None, None]:
    """Makes units and yields what became of each slice as it comes; closing the iterator ends the workers at once.

    Args:
        maker: makes a unit.
        numbers: those to make.
        workers: number of processes; 1 works in this one.
        unit: what a unit is, such as "slice".
        check_interrupt: called now and then; it raises what ends the work.

    Raises:
        InputError: a worker was killed.
        OSError: the folder cannot be written.
    """
    if min(workers, len(numbers)) <= 1:
        for results in with_progress(map(maker.make, numbers), len(numbers), "simulate", unit):
            yield from results
        return
    context = multiprocessing.get_context("fork")  # workers share what is compiled and loaded
    pool = ProcessPoolExecutor(min(workers, len(numbers)), context, _start_worker, (maker, os.getpid()))
    try:
        futures = [pool.submit(_make, number) for number in numbers]
        made = (future.result() for future in as_completed(futures))
        for results in with_progress(made, len(numbers), "simulate", unit):
            check_interrupt()
            yield from results
    except BrokenProcessPool as error:
        raise InputError(
            "a worker process was killed, most likely for want of memory; use fewer --workers and start the same "
            "command again"
        ) from error
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in multiprocessing.active_children():
            worker.terminate()
        raise
    finally:
        pool.shutdown()
