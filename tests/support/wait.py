"""Poll with a deadline instead of sleeping for luck."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
MOST_S = 0.5


def eventually(
    fn: Callable[[], T], *, timeout: float = 30.0, interval: float = 0.05, message: str | Callable[[], str] = ""
) -> T:
    """Call `fn` until it returns something true; fail with its last value (or assertion) at the deadline.

    An `AssertionError` inside `fn` counts as "not yet", so a block of asserts can be polled as it stands. One that
    works for long (reads a topic from its beginning) is asked less often: it would take the processor from what it
    waits for.
    """
    deadline = time.monotonic() + timeout
    while True:
        failure: AssertionError | None = None
        value: T | None = None
        began = time.thread_time()
        try:
            value = fn()
        except AssertionError as error:
            failure = error
        if failure is None and value:
            return value
        if time.monotonic() >= deadline:
            said = message() if callable(message) else message
            raise AssertionError(f"not within {timeout} s: {said or repr(value)}") from failure
        time.sleep(max(interval, min(2 * (time.thread_time() - began), MOST_S)))
