"""Contributions of one commit, summed per version, segment, pane and effect, and packed for the aggregation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from schemas.events import JoinedDelta, PaneDelta

MAX_COUNTERS = 30_000
"""Counters in one record at most: some 500 kB of JSON, well under the message limit."""

PaneKey = tuple[str, int, int]
"""(segment, pane start, effect start)."""


class Deltas:
    """Sums integer contributions; their order does not matter."""

    def __init__(self) -> None:
        self._versions: dict[tuple[str, int, str], dict[PaneKey, dict[int, int]]] = {}

    def panes(self, model: str, version: int, layout: str) -> dict[PaneKey, dict[int, int]]:
        """The panes of one version, to be filled by `add`."""
        key = (model, version, layout)
        found = self._versions.get(key)
        if found is None:
            found = self._versions[key] = {}
        return found

    def pack(self, partition: int) -> Iterator[JoinedDelta]:
        """Records for `joined-deltas`, in a stable order; contributions that cancelled out are left out."""
        for model, version, layout in sorted(self._versions):
            panes: list[PaneDelta] = []
            size = 0
            for (segment, pane, effect), sums in sorted(self._versions[model, version, layout].items()):
                for counters in _split({position: n for position, n in sums.items() if n}):
                    if size and size + len(counters) > MAX_COUNTERS:
                        yield JoinedDelta(model, version, layout, partition, panes)
                        panes, size = [], 0
                    panes.append(PaneDelta(segment, pane, effect, counters))
                    size += len(counters) + 3
            if panes:
                yield JoinedDelta(model, version, layout, partition, panes)


def add(panes: dict[PaneKey, dict[int, int]], key: PaneKey, contribution: Mapping[int, int], sign: int = 1) -> None:
    """Add a contribution (or take one back with `sign` -1) to one pane."""
    sums = panes.get(key)
    if sums is None:
        sums = panes[key] = {}
    for position, count in contribution.items():
        sums[position] = sums.get(position, 0) + sign * count


def _split(counters: dict[int, int]) -> Iterator[dict[int, int]]:
    if not counters:
        return
    if len(counters) <= MAX_COUNTERS:
        yield counters
        return
    items = sorted(counters.items())
    for start in range(0, len(items), MAX_COUNTERS):
        yield dict(items[start : start + MAX_COUNTERS])
