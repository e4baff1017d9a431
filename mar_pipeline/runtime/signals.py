"""Signals that ask a process to stop: noted, instead of died of."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2
"""What clusters, and submitit, send some time before they kill."""


class _Note:
    """A handler that keeps the name of the first signal."""

    name = ""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.name = self.name or signal.Signals(number).name


@contextmanager
def noted_signals() -> Iterator[Callable[[], str]]:
    """Note the signals that ask to stop, instead of dying, and return the first one's name once it came.

    Within another such block it answers what that one notes.
    """
    outer = signal.getsignal(STOP_SIGNALS[0])
    if isinstance(outer, _Note):
        yield lambda: outer.name
        return
    note = _Note()
    try:
        before = {number: signal.signal(number, note) for number in STOP_SIGNALS}
    except ValueError:  # not the main thread: whoever started it decides
        yield lambda: ""
        return
    try:
        yield lambda: note.name
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
