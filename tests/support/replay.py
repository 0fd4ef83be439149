"""Simulated traffic as the join would report it: deltas and watermarks for the aggregation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from schemas.events import DeltaRecord, JoinedDelta, PaneDelta, PartitionWatermark, Prediction, WatermarkUpdate
from streams.packed import pack_counters, pack_dense
from streams.panes import PanePlan

DAY = 86_400_000


class Event(NamedTuple):
    """One prediction and what became of it; `label` None: never labelled."""

    prediction: Prediction
    label: float | int | str | None = None
    delay_ms: int = 3_600_000


def deltas(plan: PanePlan, events: Iterable[Event], *, partition: int = 0, version: int = 1) -> JoinedDelta:
    """All contributions of some events in one record."""
    sums: dict[tuple[str, int, int], dict[int, int]] = {}

    def add(segment: str, pane: int, effect: int, contribution: dict[int, int]) -> None:
        total = sums.setdefault((segment, pane, effect), {})
        for position, count in contribution.items():
            total[position] = total.get(position, 0) + count

    for event in events:
        p = event.prediction
        pane = p.event_time_ms // plan.pane_ms * plan.pane_ms
        compact = plan.compact(p)
        for segment in compact.segments:
            add(segment, pane, pane, plan.traffic(p, segment, compact))
        if event.label is not None:
            at = p.event_time_ms + event.delay_ms
            contribution = plan.labelled(compact, event.label, event.delay_ms)
            for segment in compact.segments:
                add(segment, pane, at // plan.pane_ms * plan.pane_ms, contribution)
    panes = [
        PaneDelta(segment, pane, effect, pack_counters(total))
        for (segment, pane, effect), total in sorted(sums.items())
    ]
    return JoinedDelta("m", version, plan.layout, partition, panes)


def watermark(at_ms: int, *, partition: int = 0, idle: bool = False) -> WatermarkUpdate:
    """A watermark of one stage-1 partition."""
    return WatermarkUpdate([PartitionWatermark(partition, at_ms, idle)])


def pane_delta(plan: PanePlan, segment: str, pane: int, effect: int, counts: np.ndarray) -> PaneDelta:
    """A delta from an array of counters."""
    return PaneDelta(segment, pane, effect, pack_dense(counts))


def split(record: JoinedDelta, parts: int) -> Iterator[DeltaRecord]:
    """The panes of a record dealt out to several, as several partitions would send them."""
    for part in range(parts):
        yield JoinedDelta(record.model, record.version, record.layout, part, record.panes[part::parts])
