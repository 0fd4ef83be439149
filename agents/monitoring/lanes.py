"""Work of partitions side by side: the native core lets go of the interpreter lock while it joins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

Result = TypeVar("Result")


class Lanes:
    """Runs calls that share nothing in a few threads and gives their results in order.

    Parameters
    ----------
    threads : int
        1: everything runs in the caller's thread.

    Notes
    -----
    When `run` returns or raises, nothing is running any more: whoever goes back after an error finds everybody still.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None

    def run(
        self,
        calls: Sequence[Callable[[], Result]],
        *,
        alone: bool = False,
        undo: Callable[[Result], None] | None = None,
    ) -> list[Result]:
        """Results of all calls, or the first error among them in their order.

        Parameters
        ----------
        calls : sequence of callable
        alone : bool
            One after the other, in this thread.
        undo : callable
            Where one of the calls fails, called with what the others returned.
        """
        futures: list[Future[Result]] = []
        try:
            if alone or self._threads < 2 or len(calls) < 2:
                for call in calls:
                    futures.append(_called(call))
                    futures[-1].result()
            else:
                if self._pool is None:
                    self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="lane")
                futures += map(self._pool.submit, calls)
            return [future.result() for future in futures]
        except BaseException:
            wait(futures)
            for future in futures:
                if undo is not None and future.exception() is None:
                    undo(future.result())
            raise

    def close(self) -> None:
        """End the threads."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()


def _called(call: Callable[[], Result]) -> Future[Result]:
    future: Future[Result] = Future()
    try:
        future.set_result(call())
    except BaseException as error:  # noqa: BLE001 - whoever asks for the result raises it
        future.set_exception(error)
    return future
