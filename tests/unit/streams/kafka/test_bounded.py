"""A call that never returns costs its time-out and its thread, not the worker."""

from __future__ import annotations

import threading

import pytest

from streams.kafka.bounded import BoundedCalls, CallHungError


def test_returns_and_raises_what_the_call_does() -> None:
    calls = BoundedCalls()
    assert calls.run(divmod, (7, 2), 5) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        calls.run(divmod, (7, 0), 5)

    def times_out() -> None:
        raise TimeoutError("the call's own")

    with pytest.raises(TimeoutError, match="the call's own"):
        calls.run(times_out, (), 5)
    assert not calls.hung
    calls.close()


def test_a_call_that_never_returns_is_given_up() -> None:
    calls = BoundedCalls()
    forever = threading.Event()
    with pytest.raises(CallHungError, match="wait did not return"):
        calls.run(forever.wait, (), 0.05)
    assert calls.hung
    with pytest.raises(CallHungError, match="earlier"):
        calls.run(divmod, (7, 2), 5)
    forever.set()
    calls.close()


def test_calls_run_in_one_thread_that_ends_when_closed() -> None:
    calls = BoundedCalls()
    first, second = calls.run(threading.current_thread, (), 5), calls.run(threading.current_thread, (), 5)
    assert first is second
    assert first is not threading.current_thread()
    calls.close()
    assert isinstance(first, threading.Thread)
    first.join(5)
    assert not first.is_alive()
