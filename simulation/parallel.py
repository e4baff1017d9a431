"""Run the same work on many items, in one process or several, and stop it in order."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from simulation.errors import InputError
from simulation.progress import with_progress

Item = TypeVar("Item")
Result = TypeVar("Result")


_STOPPING = (signal.SIGINT, signal.SIGTERM)
_seen: list[signal.Signals] = []
"""Signals that have asked this process to stop, since the outermost `stop_noticed` began: a signal is the process's."""


@contextmanager
def stop_noticed(*signals: signal.Signals) -> Iterator[list[signal.Signals]]:
    """Turn signals into KeyboardInterrupt within the block, and yield the list of those that have come.

    An exception that a signal raises inside a destructor or a weak reference's callback is printed and forgotten by
    Python, so long work calls `check_stopped` now and then. Outside the main thread, and for a signal that is ignored,
    as SIGINT under nohup, nothing changes.

    Args:
        signals: SIGINT and SIGTERM if none is named.
    """
    wanted = [number for number in signals or _STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield []  # signals go to the main thread
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        _seen.append(signal.Signals(number))
        raise KeyboardInterrupt

    def report(unraisable: Any) -> None:
        if unraisable.exc_type is not KeyboardInterrupt:
            hook(unraisable)

    handlers, hook = {number: signal.signal(number, interrupt) for number in wanted}, sys.unraisablehook
    sys.unraisablehook = report
    try:
        yield _seen
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook
        _seen.clear()


def check_stopped() -> None:
    """Raise KeyboardInterrupt again if a signal has asked to stop and the exception was forgotten."""
    if _seen:
        raise KeyboardInterrupt


_function: Callable[[Any], Any] | None = None


def _start_worker(function: Callable[[Any], Any], parent: int) -> None:
    """Keep the function in the worker, leave Ctrl-C to the main process, and end when that process is gone."""
    global _function
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _function = function


def _end_with(parent: int) -> None:
    """End this process once its parent is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _call(item: Any) -> Any:
    if _function is None:
        raise RuntimeError("the worker has not been started by _start_worker")
    return _function(item)


def run_parallel(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    task: str,
    unit: str = "slice",
    in_order: bool = True,
) -> Generator[Result, None, None]:
    """Yield function(item) of all items; closing the iterator ends the workers at once.

    Args:
        function: any; what it returns can be pickled.
        items: can be pickled.
        workers: number of processes; 1 works in this one.
        task: what is being done, for the progress line.
        unit: what an item is, such as "slice".
        in_order: yield in the order of the items, not as they come.

    Raises:
        InputError: a worker was killed.
        KeyboardInterrupt: a signal has asked to stop, see `stop_noticed`.
    """
    if min(workers, len(items)) <= 1:
        for result in with_progress(map(function, items), len(items), task, unit):
            check_stopped()
            yield result
        check_stopped()
        return
    context = multiprocessing.get_context("fork")  # workers share what is compiled and loaded
    pool = ProcessPoolExecutor(min(workers, len(items)), context, _start_worker, (function, os.getpid()))
    try:
        futures = [pool.submit(_call, item) for item in items]
        results = (future.result() for future in (futures if in_order else as_completed(futures)))
        for result in with_progress(results, len(items), task, unit):
            check_stopped()
            yield result
        check_stopped()
    except BrokenProcessPool as error:
        check_stopped()  # a cluster sends SIGTERM to the workers as well
        raise InputError(
            "a worker process was killed, most likely for want of memory; use fewer --workers and start the same "
            "command again"
        ) from error
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in multiprocessing.active_children():
            worker.kill()  # one that has not begun yet would take a SIGTERM for the main process's
        raise
    finally:
        pool.shutdown()
