"""What the Python peers count, per partition and window: as the Kafka Streams program does. Standard library only."""

from __future__ import annotations

import json

BINS = 64
WINDOW_MS = 600_000
_NAMES = ("tn", "fp", "fn", "tp")


class WindowedCounts:
    """Confusion at 0.5 and score histograms of one model in its tumbling windows, held in memory."""

    def __init__(self) -> None:
        self._windows: dict[tuple[int, int], list[int]] = {}
        self._changed: set[tuple[int, int]] = set()

    def add(self, partition: int, time_ms: int, score: float, label: int) -> None:
        """Count one pair in the window of its prediction."""
        key = (partition, time_ms - time_ms % WINDOW_MS)
        counts = self._windows.get(key)
        if counts is None:
            counts = self._windows[key] = [0] * (4 + 2 * BINS)
        counts[2 * label + (score >= 0.5)] += 1
        counts[4 + BINS * (1 - label) + min(BINS - 1, int(score * BINS))] += 1
        self._changed.add(key)

    def take_changed(self) -> list[bytes]:
        """One JSON document for every window that changed since the last call."""
        changed, self._changed = self._changed, set()
        documents = []
        for partition, start in sorted(changed):
            counts = self._windows[partition, start]
            document = {"partition": partition, "window_start_ms": start, **dict(zip(_NAMES, counts, strict=False))}
            document |= {"positives": counts[4 : 4 + BINS], "negatives": counts[4 + BINS :]}
            documents.append(json.dumps(document).encode())
        return documents
