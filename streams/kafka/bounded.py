"""Calls with a bound of our own, for a library whose time-outs do not always hold.

Measured with librdkafka 2.16: when the broker is killed while offsets are being added to a transaction,
``send_offsets_to_transaction`` may never return (2 of 5 runs), whatever its time-out says.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

_Task = tuple[Callable[..., object], Sequence[object], Future[object]]


class CallHungError(Exception):
    """A call did not return in time; its thread is lost."""


class BoundedCalls:
    """Runs calls one at a time in a thread that may be left behind.

    Attributes
    ----------
    hung : bool
        A call did not return: nothing can be run any more, make another.

    Notes
    -----
    The thread is a daemon, so that a call that never returns does not keep the process from ending. Handing a call over
    costs some 50 µs.
    """

    def __init__(self) -> None:
        self.hung = False
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def run(self, call: Callable[..., object], args: Sequence[object], timeout_s: float) -> object:
        """Call and wait at most `timeout_s`; raises what the call raises.

        Raises
        ------
        CallHungError
        """
        if self.hung:
            raise CallHungError("an earlier call did not return")
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="bounded-calls", daemon=True)
            self._thread.start()
        future: Future[object] = Future()
        self._tasks.put((call, args, future))
        try:
            return future.result(timeout_s)
        except TimeoutError:
            if future.done():
                raise
            self.hung = True
            name = getattr(call, "__name__", str(call))
            raise CallHungError(f"{name} did not return within {timeout_s:.0f} s") from None

    def close(self) -> None:
        """Let the thread end after what it is doing."""
        self._tasks.put(None)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            call, args, future = task
            try:
                future.set_result(call(*args))
            except BaseException as error:  # noqa: BLE001  handed to the caller, whatever it is
                future.set_exception(error)
