"""Where a rebuild has to begin: groups of commits, and how many live entries began in each."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping

import msgspec

RECORDS_PER_GENERATION = 256
MOST_GENERATIONS = 64
"""So a rebuild replays some 1/64 more than live state needs, and the bookkeeping stays small however much lives."""


class Generation(msgspec.Struct, gc=False, array_like=True):
    """Consecutive commits of one partition.

    Parameters
    ----------
    number : int
        Entries carry it; a generation holds the numbers from its own up to the next one's.
    starts : dict of str to int
        Offsets at which its first commit began.
    watermark_ms : int
        Watermark before its first commit.
    journal : int
        Journal offset at or before the record of its first commit.
    sequence : int
        Number of its first commit.
    records : int
        Records read in it so far.
    live : int
        Entries that began in it and still live.
    """

    number: int
    starts: dict[str, int]
    watermark_ms: int
    journal: int
    sequence: int
    records: int = 0
    live: int = 0


class Generations:
    """The generations that live state still needs, oldest first.

    Notes
    -----
    A generation takes `RECORDS_PER_GENERATION` records and its last commit whole. Where there are more than
    `MOST_GENERATIONS`, the two neighbours that hold the fewest records become one.
    """

    def __init__(self, kept: list[Generation] | None = None) -> None:
        self._kept: list[Generation] = list(kept or [])
        self._numbers: list[int] = [generation.number for generation in self._kept]

    def current(self) -> int:
        """Number of the generation that the next commit belongs to; changes nothing."""
        if not self._kept:
            return 0
        newest = self._kept[-1]
        return newest.number + 1 if newest.records >= RECORDS_PER_GENERATION else newest.number

    def commit(self, began: Generation, records: int, live: Mapping[int, int]) -> None:
        """Count one commit.

        Parameters
        ----------
        began : Generation
            The current one, as it begins if this is its first commit.
        records : int
            Records read in the commit.
        live : mapping of int to int
            Changes of live entries by number.
        """
        if not self._kept or self._kept[-1].number < began.number:
            self._kept.append(began)
            self._numbers.append(began.number)
        self._kept[-1].records += records
        for number, count in live.items():
            self._of(number).live += count
        while len(self._kept) > 1 and not self._kept[0].live:
            del self._kept[0], self._numbers[0]
        if not self._kept[0].live:
            self._kept, self._numbers = [], []
        elif len(self._kept) > MOST_GENERATIONS:
            self._merge()

    def oldest_after(self, began: Generation, live: Mapping[int, int]) -> Generation | None:
        """The generation a rebuild begins with once `commit` was called so; None where nothing lives then."""
        changes: dict[int, int] = {}
        for number, count in live.items():
            if self._kept and number < began.number:
                number = self._of(number).number  # noqa: PLW2901 - of a merged one
            changes[number] = changes.get(number, 0) + count
        for generation in self._kept:
            if generation.live + changes.get(generation.number, 0) > 0:
                return generation
        return began if changes.get(began.number, 0) > 0 else None

    def kept(self) -> list[Generation]:
        """All of them, oldest first."""
        return list(self._kept)

    def _of(self, number: int) -> Generation:
        return self._kept[bisect_right(self._numbers, number) - 1]

    def _merge(self) -> None:
        sizes = [generation.records for generation in self._kept[:-1]]
        at = min(range(len(sizes) - 1), key=lambda i: sizes[i] + sizes[i + 1])
        into, gone = self._kept[at], self._kept.pop(at + 1)
        del self._numbers[at + 1]
        into.records += gone.records
        into.live += gone.live
