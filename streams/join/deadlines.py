"""Who has to be looked at when the watermark moves, without looking at everybody."""

from __future__ import annotations

import heapq

BUCKET_MS = 60_000


class Deadlines:
    """Keys by due time: coarse buckets, and a heap of the bucket that the watermark is in.

    Notes
    -----
    Adding costs a list append, taking what is due a heap operation each. A key may be in it more than once, and may no
    longer be due for anything: whoever takes it looks. What a batch took is put back by `abort`, what it added is
    dropped.
    """

    def __init__(self) -> None:
        self._buckets: dict[int, list[tuple[int, str]]] = {}
        self._order: list[int] = []
        self._active: list[tuple[int, str]] = []
        self._active_until = -(1 << 62)
        self._added: list[tuple[int, str]] = []
        self._taken: list[tuple[int, str]] = []

    def add(self, due_ms: int, key: str) -> None:
        """Remember `key` until the watermark reaches `due_ms`."""
        self._added.append((due_ms, key))

    def take(self, watermark_ms: int) -> list[str]:
        """Keys due at `watermark_ms`, in order of (due time, key)."""
        due: list[tuple[int, str]] = []
        bucket = watermark_ms // BUCKET_MS
        while self._order and self._order[0] <= bucket:
            ready = self._buckets.pop(heapq.heappop(self._order))
            if self._active:
                for item in ready:
                    heapq.heappush(self._active, item)
            else:
                heapq.heapify(ready)
                self._active = ready
        self._active_until = max(self._active_until, bucket)
        active = self._active
        while active and active[0][0] <= watermark_ms:
            due.append(heapq.heappop(active))
        late = [item for item in self._added if item[0] <= watermark_ms]
        if late:
            # Rare: added and due within one batch.
            self._added = [item for item in self._added if item[0] > watermark_ms]
            self._taken += due
            return [key for _, key in sorted(due + late)]
        self._taken += due
        return [key for _, key in due]

    def commit(self) -> None:
        """The batch counts."""
        self._taken.clear()
        for item in self._added:
            self._put(item)
        self._added.clear()

    def abort(self) -> None:
        """The batch does not count."""
        self._added.clear()
        for item in self._taken:
            self._put(item)
        self._taken.clear()

    def _put(self, item: tuple[int, str]) -> None:
        bucket = item[0] // BUCKET_MS
        if bucket <= self._active_until:
            heapq.heappush(self._active, item)
            return
        found = self._buckets.get(bucket)
        if found is None:
            self._buckets[bucket] = [item]
            heapq.heappush(self._order, bucket)
        else:
            found.append(item)

    def __len__(self) -> int:
        return len(self._active) + len(self._added) + sum(map(len, self._buckets.values()))
