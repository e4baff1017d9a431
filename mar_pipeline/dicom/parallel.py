"""The same work on every slice, in one process or several, in order."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from simulation.dataset.workers import end_with
from simulation.errors import InputError
from simulation.progress import with_progress

Item = TypeVar("Item")
Result = TypeVar("Result")

_function: Callable[[Any], Any] | None = None
_stopped = threading.Event()


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM ends the work as Ctrl-C does, cleaning up.

    An exception that a signal raises inside a destructor or a fork is told and forgotten, so `each` asks again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals go to the main thread
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        _stopped.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _stopped.clear()


def _start_worker(function: Callable[[Any], Any], parent: int) -> None:
    """Keeps the function in the worker, leaves Ctrl-C to the main process, and ends when that process is gone."""
    global _function
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    _function = function


def _call(item: Any) -> Any:
    if _function is None:
        raise RuntimeError("the worker has not been started by _start_worker")
    return _function(item)


def each(function: Callable[[Item], Result], items: Sequence[Item], workers: int, what: str) -> Iterator[Result]:
    """function(item) of all items, in their order.

    Args:
        function: any; what it returns can be pickled.
        items: can be pickled.
        workers: processes; 1 works in this one.
        what: for the progress line.

    Raises:
        InputError: a worker was killed.
    """
    if min(workers, len(items)) <= 1:
        yield from _until_stopped(with_progress(map(function, items), len(items), what, "slice"))
        return
    context = multiprocessing.get_context("fork")  # workers share what is compiled and loaded
    pool = ProcessPoolExecutor(min(workers, len(items)), context, _start_worker, (function, os.getpid()))
    try:
        yield from _until_stopped(with_progress(pool.map(_call, items), len(items), what, "slice"))
    except BrokenProcessPool as error:
        raise InputError("a worker process was killed, most likely for want of memory; use fewer --workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


def check_stopped() -> None:
    """Raises KeyboardInterrupt again if SIGTERM has come and was forgotten."""
    if _stopped.is_set():
        raise KeyboardInterrupt


def _until_stopped(results: Iterable[Result]) -> Iterator[Result]:
    for result in results:
        check_stopped()
        yield result
    check_stopped()
