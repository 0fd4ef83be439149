"""The board between the thread that folds events and the threads that answer requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from agents.gateway.logic import Board


class SharedBoard:
    """A board behind a lock, with what is known of its freshness.

    Attributes
    ----------
    caught_up : bool
        History has been read: what the page shows is complete.
    rejected : int
        Records that could not be decoded; the page passes over them.
    """

    def __init__(self) -> None:
        self._board = Board()
        self._lock = Lock()
        self.caught_up = False
        self.rejected = 0

    @contextmanager
    def use(self) -> Iterator[Board]:
        """The board, for as long as the block lasts: no input or output inside."""
        with self._lock:
            yield self._board

    def changes(self, model: str | None) -> dict[str, int]:
        """Counters of changes: of one model, or of the whole board where `model` is None."""
        with self._lock:
            counters = dict(self._board.models[model].changes) if model in self._board.models else {}
            counters["totals"] = sum(map(sum, (totals.values() for totals in self._board.totals.values())))
            if model is None:
                counters["models"] = self._board.changes
            return counters
