"""Contributions of one commit, summed per version, segment, pane and effect, and packed for the aggregation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby

from schemas.events import DeltaBatch, JoinedDelta, PaneDelta
from streams.join.partitioning import partition_of
from streams.packed import encode_delta, pack_many

MAX_COUNTERS = 30_000
"""Counters in one pane's contribution at most: 450 kB where every one takes the most bytes."""
MAX_BYTES = 400_000
"""Packed counters in one record, if one pane holds no more: well under the message limit."""
_PANE_BYTES = 40
"""What a pane costs besides its counters and its segment's name."""

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

    def of_versions(self) -> Iterator[tuple[tuple[str, int, str], dict[PaneKey, dict[int, int]]]]:
        """(model, version, layout) with the sums of its panes."""
        yield from self._versions.items()

    def records(self, partition: int, targets: int) -> list[tuple[int, bytes]]:
        """Records of `joined-deltas` with the partition each goes to: that of its models' names."""
        out: list[tuple[int, bytes]] = []
        open_: dict[int, list[JoinedDelta]] = {}
        filled: dict[int, int] = {}
        for delta in self.pack(partition):
            target = partition_of(delta.model.encode(), targets)
            size = sum(len(pane.counters) + len(pane.segment.encode()) + _PANE_BYTES for pane in delta.panes)
            if open_.get(target) and filled[target] + size > MAX_BYTES:
                out.append((target, encode_delta(DeltaBatch(open_.pop(target)))))
                filled[target] = 0
            open_.setdefault(target, []).append(delta)
            filled[target] = filled.get(target, 0) + size
        return out + [(target, encode_delta(DeltaBatch(deltas))) for target, deltas in sorted(open_.items())]

    def pack(self, partition: int) -> Iterator[JoinedDelta]:
        """Deltas in a stable order; contributions that cancelled out are left out."""
        parts = [
            (of_version, key, counters)
            for of_version in sorted(self._versions)
            for key, sums in sorted(self._versions[of_version].items())
            for counters in _split(sums)
        ]
        packed = zip(parts, pack_many([counters for _, _, counters in parts]), strict=True)
        for (model, version, layout), group in groupby(packed, key=lambda item: item[0][0]):
            panes: list[PaneDelta] = []
            filled = 0
            for (_, (segment, pane, effect), _), counters in group:
                if not counters:
                    continue
                size = len(counters) + len(segment.encode()) + _PANE_BYTES
                if panes and filled + size > MAX_BYTES:
                    yield JoinedDelta(model, version, layout, partition, panes)
                    panes, filled = [], 0
                panes.append(PaneDelta(segment, pane, effect, counters))
                filled += size
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
    if len(counters) <= MAX_COUNTERS:
        yield counters
        return
    items = sorted(counters.items())
    for start in range(0, len(items), MAX_COUNTERS):
        yield dict(items[start : start + MAX_COUNTERS])
