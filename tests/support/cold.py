"""The native join with room for next to nothing: whatever it needs, it reads back from the store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from streams.join.batch import ChunkStore, JoinLimits
from streams.native.chunks import Shape
from streams.native.partition import NativeJoinPartition

ROOM_BYTES = 8 * 1024 + 2 * 1024
"""For the smallest index and a few entries with their notes."""


class Folder(dict[bytes, bytes]):
    """A store in memory."""

    reads = 0

    def many(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """Values of keys, in their order."""
        self.reads += len(keys)
        return [self.get(key) for key in keys]

    def apply(self, changes: tuple[dict[bytes, bytes], list[bytes]]) -> None:
        """Delete and put."""
        puts, deletes = changes
        for key in deletes:
            self.pop(key, None)
        self |= puts


class ColdJoinPartition(NativeJoinPartition):
    """Keeps the log in a folder of its own, so that it works wherever the others do without one.

    Notes
    -----
    Chunks and segments are tiny, so that few records fill many; between batches few entries are in memory.
    """

    SHAPE = Shape(chunk_bits=1, segment_bits=2, slack=4)

    def __init__(self, partition: int, limits: JoinLimits) -> None:
        super().__init__(partition, limits)
        self.folder = Folder()
        self.attach(self.folder)
        self.limit_memory(ROOM_BYTES)

    def _take_entries(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        self.folder |= dict(entries)
        super()._take_entries(sorted(self.folder.items()))

    def attach(self, store: ChunkStore) -> None:
        """Its own folder is enough."""
        super().attach(self.folder)

    def _take(self, sequence: int | None) -> tuple[dict[bytes, bytes], list[bytes]]:
        changes = super()._take(sequence)
        self.folder.apply(changes)
        return changes

    def commit(self) -> None:
        """As if `changes` had been asked for and written."""
        if not self._collected:
            self.changes()
        super().commit()
