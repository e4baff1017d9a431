"""Work in one process or several: the same results, in order, and an end that is noticed."""

import signal
import sys
import threading

import pytest

from simulation.parallel import check_stopped, run_parallel, stop_noticed


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_items(workers):
    assert list(run_parallel(str, [3, 1, 2], workers, "test")) == ["3", "1", "2"]
    assert sorted(run_parallel(str, [3, 1, 2], workers, "test", in_order=False)) == ["1", "2", "3"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_asks_to_stop_is_told_by_name(number):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(number)
    with stop_noticed() as seen:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        assert seen == [number]
        with pytest.raises(KeyboardInterrupt):
            list(run_parallel(str, [1, 2], 1, "test"))
    check_stopped()
    assert signal.getsignal(number) == before


def test_an_interrupt_is_noticed_even_where_it_was_dropped(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(unraisable.exc_type))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    before, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook

    class Interrupted:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    class Broken:
        def __del__(self):
            raise ValueError

    with stop_noticed():
        check_stopped()
        Broken()
        Interrupted()
        with pytest.raises(KeyboardInterrupt):
            check_stopped()
    assert told == [ValueError]
    assert (signal.getsignal(signal.SIGINT), sys.unraisablehook) == (before, hook)


def test_other_threads_leave_ctrl_c_alone():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with stop_noticed():
            check_stopped()
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert seen == [before]
