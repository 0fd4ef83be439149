"""Where a rebuild has to begin: groups of commits, and how many live entries began in each."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

RECORDS_PER_GENERATION = 4096


class Generation(msgspec.Struct, gc=False, array_like=True):
    """Consecutive commits of one partition.

    Parameters
    ----------
    number : int
        Grows by one; entries carry it.
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
    A generation takes `RECORDS_PER_GENERATION` records and its last commit whole, so that their number stays small
    however small commits are. What is dropped from a rebuild's point of view is dropped here at once.
    """

    def __init__(self, kept: list[Generation] | None = None) -> None:
        self._kept: dict[int, Generation] = {generation.number: generation for generation in kept or []}

    def current(self) -> int:
        """Number of the generation that the next commit belongs to; changes nothing."""
        newest = self._newest()
        if newest is None:
            return 0
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
            Changes of live entries by generation.
        """
        self._kept.setdefault(began.number, began).records += records
        for changed, count in live.items():
            self._kept[changed].live += count
        if not any(kept.live for kept in self._kept.values()):
            self._kept.clear()
            return
        while True:
            oldest = next(iter(self._kept.values()))
            if oldest.live:
                return
            del self._kept[oldest.number]

    def oldest_after(self, began: Generation, live: Mapping[int, int]) -> Generation | None:
        """The generation a rebuild begins with once `commit` was called so; None where nothing lives then."""
        for generation in self._kept.values():
            if generation.live + live.get(generation.number, 0) > 0:
                return generation
        return began if live.get(began.number, 0) > 0 else None

    def _newest(self) -> Generation | None:
        return next(reversed(self._kept.values()), None)

    def kept(self) -> list[Generation]:
        """All of them, oldest first."""
        return list(self._kept.values())
