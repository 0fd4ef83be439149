"""Effects that wait in one series until their pane is complete: packed counters by effect's pane, segment and pane."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from streams.packed import merge_packed

EffectKey = tuple[int, str, int]
"""(effect's pane, segment, pane)."""
Waiting = list[tuple[EffectKey, bytes]]

MOST_PARTS: Final = 32
"""Contributions to one pane that wait unmerged: merging costs by the call, waiting by the byte."""


class Pending:
    """What waits in one series; the definition of `native/src/shelf.rs`, where tens of thousands are kept.

    Notes
    -----
    What is added up is a function of what was added, not of how it was batched.
    """

    __slots__ = ("_frontier", "_parts")

    def __init__(self) -> None:
        self._parts: dict[EffectKey, tuple[bytes, ...]] = {}
        self._frontier: int | None = None

    def load(self, frontier: int | None, waiting: Iterable[tuple[EffectKey, bytes]]) -> None:
        """Take over what a snapshot held."""
        self._frontier = frontier
        self._parts = {key: (counters,) for key, counters in waiting}

    def copy(self) -> Pending:
        """What to go back to if the batch is aborted."""
        kept = Pending()
        kept._frontier, kept._parts = self._frontier, dict(self._parts)
        return kept

    def add(self, effect: int, segment: str, pane: int, counters: bytes) -> None:
        """Put a contribution aside."""
        if self._frontier is not None and effect < self._frontier:
            effect = self._frontier
        key = (effect, segment, pane)
        parts = (*self._parts.get(key, ()), counters)
        self._parts[key] = (merge_packed(parts),) if len(parts) >= MOST_PARTS else parts

    def drop(self) -> None:
        """The series is over."""

    def asked(self) -> None:
        """The news of the series were asked for."""

    def __bool__(self) -> bool:
        return bool(self._parts)

    def first(self) -> int | None:
        """Effect's pane of what waits first."""
        return min(self._parts)[0] if self._parts else None

    def waiting(self) -> Waiting:
        """All that waits, added up, in order."""
        return [(key, merge_packed(parts)) for key, parts in sorted(self._parts.items())]

    def settle(self, boundary: int) -> Waiting:
        """Give what has an effect before `boundary`; whatever comes for such an effect from now on counts at it."""
        keys = sorted(key for key in self._parts if key[0] < boundary)
        self._frontier = boundary
        return [(key, merge_packed(self._parts.pop(key))) for key in keys]
