"""Both stages of monitoring in memory: partitions of the join, and the aggregation that reads what they send."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from schemas.codec import segment_key, to_ms
from schemas.events import PartitionWatermark, QualityMetric, WatermarkUpdate
from schemas.topics import GROUND_TRUTH, PREDICTIONS
from streams.aggregate import AggregateEvent, AggregatePartition
from streams.join.batch import JoinLimits
from streams.join.partition import JoinPartition
from streams.native.choice import aggregate_class
from streams.packed import encode_delta
from streams.panes import PanePlan
from tests.support.joins import View, Worker

END_MS = 10_000


class Sent(NamedTuple):
    """One record to be: when it arrives, and what it is."""

    arrives_ms: int
    topic: str
    partition: int
    value: bytes | None
    key: bytes | None
    headers: Any = None


Batch = tuple[int, int, int, int]
"""Partition, records of each topic, attempts in vain."""


class Heard(NamedTuple):
    """Something the aggregation told, and its watermark before and after the record that made it."""

    event: AggregateEvent
    before_ms: int
    after_ms: int


class Stages:
    """Both stages over two partitions.

    Parameters
    ----------
    sent : sequence of Sent
        In the order of arrival.
    schedule : sequence of Batch
        Batches to begin with; all that is left is read in one batch of each partition.
    joins : type
        Implementation of the join; the aggregation is that which goes with it.
    restart_at : int, optional
        Batch before which the aggregation goes on with what its snapshot gives.
    """

    def __init__(
        self,
        plans: Mapping[tuple[str, int], PanePlan],
        limits: JoinLimits,
        sent: Sequence[Sent],
        schedule: Sequence[Batch],
        joins: type[Any],
        restart_at: int | None = None,
    ) -> None:
        self.plans = plans
        self.workers = [Worker(View(plans), limits, partition, joins) for partition in range(2)]
        self.aggregates = aggregate_class("reference" if joins is JoinPartition else "auto")
        self.aggregate: AggregatePartition = self.aggregates(2, self.plan)
        self.heard: list[Heard] = []
        for record in sent:
            self.workers[record.partition].send(record.topic, record.value, record.key, record.headers)
        for number, (partition, predictions, truths, aborts) in enumerate(schedule):
            if number == restart_at:
                self.aggregate = self.aggregates.from_snapshot(self.aggregate.snapshot(), self.plan)
            self.step(partition, {PREDICTIONS: predictions, GROUND_TRUTH: truths}, aborts)
        for partition in range(2):
            self.step(partition)

    def plan(self, model: str, version: int) -> PanePlan:
        return self.plans[model, version]

    def step(self, partition: int, take: dict[str, int] | None = None, aborts: int = 0) -> None:
        worker = self.workers[partition]
        worker.step(take, aborts=aborts)
        outcome = worker.outcomes[-1]
        told = [value for _, value in outcome.records]
        if outcome.watermark_moved:
            watermark = PartitionWatermark(partition, outcome.watermark_ms, outcome.idle)
            told.append(encode_delta(WatermarkUpdate([watermark])))
        for record in told:
            before = self.aggregate.watermark
            events = self.aggregate.take(record)
            self.heard += [Heard(event, before, self.aggregate.watermark) for event in events]

    def finish(self, end_ms: int = END_MS) -> None:
        """Let event time pass everything."""
        for partition, worker in enumerate(self.workers):
            worker.beat(end_ms)
            self.step(partition)

    @property
    def events(self) -> list[AggregateEvent]:
        return [heard.event for heard in self.heard]

    @property
    def totals(self) -> Counter[str]:
        return sum((Counter(worker.total) for worker in self.workers), Counter())

    @property
    def merged(self) -> list[dict[tuple[Any, ...], int]]:
        return [worker.merged for worker in self.workers]

    @property
    def windows(self) -> dict[tuple[Any, ...], QualityMetric]:
        """Every window as it was told last."""
        found: dict[tuple[Any, ...], QualityMetric] = {}
        for event in self.events:
            if isinstance(event, QualityMetric) and not event.estimated:
                key = (event.model, event.version, segment_key(event.segment), event.window)
                where = (*key, to_ms(event.window_start), to_ms(event.window_end))
                if event.window.endswith("n"):
                    where = (*key, None, to_ms(event.window_end))  # where it starts depends on what it holds
                assert where not in found or found[where].revision < event.revision
                found[where] = event
        return found
