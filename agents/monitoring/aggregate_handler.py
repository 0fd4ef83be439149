"""The aggregation as a batch handler: joined deltas in, series and observations out.

State lives in memory. What recovers it is the log alone: the newest snapshot in `monitoring-journal` and the deltas
after it. An aborted batch goes back to the newest snapshot in memory and merges what was committed since.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from agents.monitoring.aggregate_snapshots import Snapshot, SnapshotSource, pack_snapshot
from schemas.codec import cloudevent_headers, derived_id, encode, segment_key, to_ms
from schemas.errors import DecodeError, StateError
from schemas.events import DriftMetric, Observation, PaneClosed, QualityMetric
from schemas.topics import DRIFT_METRICS, JOINED_DELTAS, OBSERVATIONS, QUALITY_METRICS
from streams.aggregate import AggregateEvent, AggregatePartition, PlanOf
from streams.kafka.positions import Positions, TopicPartition
from streams.kafka.records import Output, Record
from streams.packed import decode_delta

SOURCE: Final = "/driftline/monitoring"
MOST_KEPT_BYTES: Final = 16_000_000
"""Committed deltas kept in memory for an abort; more are folded into a snapshot in memory."""

_log = logging.getLogger("driftline.monitoring")


@dataclass(frozen=True)
class AggregateOptions:
    """How often what is not final is sent, and state saved.

    Parameters
    ----------
    partitions : int
        Partitions of the join (of `predictions`).
    provisional_interval_ms : int
    snapshot_interval_ms : int
    """

    partitions: int
    provisional_interval_ms: int = 1_000
    snapshot_interval_ms: int = 30_000


@dataclass
class _Slot:
    """State of one partition: the live one, and how to get it back."""

    live: AggregatePartition
    base: bytes
    since: list[bytes] = field(default_factory=list)
    since_bytes: int = 0
    batch: list[bytes] = field(default_factory=list)
    taken: bytes | None = None
    provisional_at: int = 0
    provisional_sent: bool = False
    snapshot_at: int = 0
    unsaved: bool = False


class AggregateHandler:
    """Implements `streams.kafka.processor.BatchHandler` for `joined-deltas`.

    Parameters
    ----------
    snapshots : SnapshotSource
    plan_of : callable
        (model, version) → plan; it is expected to look again in the registry before it says None.
    options : AggregateOptions

    Notes
    -----
    Delivery: outputs, offsets and snapshots share one transaction. Closed and revised windows and observations are a
    function of the input log; provisional windows follow the wall clock.
    """

    def __init__(self, snapshots: SnapshotSource, plan_of: PlanOf, options: AggregateOptions) -> None:
        self._snapshots = snapshots
        self._plan_of = plan_of
        self._options = options
        self._slots: dict[int, _Slot] = {}

    @property
    def partitions(self) -> Mapping[int, AggregatePartition]:
        """Live state by partition."""
        return {number: slot.live for number, slot in self._slots.items()}

    # -------------------------------------------------------------------------------------------- recovery

    def restore(
        self, partitions: Sequence[int], committed: Mapping[TopicPartition, int | None]
    ) -> Mapping[TopicPartition, int] | None:
        """Load the newest snapshot and merge the deltas up to the committed offset, output not repeated.

        Raises
        ------
        StateError, RetentionPassedError
        """
        starts: dict[TopicPartition, int] = {}
        for number in partitions:
            where = (JOINED_DELTAS, number)
            until = committed.get(where)
            snapshot = self._snapshots.newest(number)
            if until is not None and snapshot is not None and snapshot.offset > until:
                _log.warning("partition %d: offsets were set back, the newer snapshot is not used", number)
                snapshot = None
            live = self._load(number, snapshot)
            if until is None and snapshot is not None:
                # The group's offsets expired: what follows the snapshot is sent again, under the same event ids.
                starts[where] = snapshot.offset
            elif until is not None:
                for value in self._snapshots.replay(number, snapshot.offset if snapshot else 0, until):
                    self._merge(live, value)
            self._slots[number] = _Slot(live, live.snapshot())
        return starts or None

    def _load(self, number: int, snapshot: Snapshot | None) -> AggregatePartition:
        if snapshot is None:
            return AggregatePartition(self._options.partitions, self._plan_of)
        live = AggregatePartition.from_snapshot(snapshot.data, self._plan_of)
        if live.partitions != self._options.partitions:
            raise StateError(
                f"the snapshot is of {live.partitions} partitions, predictions has {self._options.partitions}",
                where=f"monitoring-journal[{number}]",
                remedy="drain the topics, then start with new ones: partitions of a running installation are fixed",
            )
        return live

    def released(self, partitions: Sequence[int]) -> None:
        """Forget partitions that went to another worker."""
        for number in partitions:
            self._slots.pop(number, None)

    # --------------------------------------------------------------------------------------------- batches

    def process(self, records: Sequence[Record], positions: Positions, now_ms: int) -> Sequence[Output]:
        """Merge a batch; see `streams.kafka.processor.BatchHandler`."""
        outputs: list[Output] = []
        for record in records:
            if record.value is None:
                continue
            slot = self._slots[record.partition]
            slot.batch.append(record.value)
            outputs += [_output(event) for event in self._merge(slot.live, record.value)]
        for number, slot in self._slots.items():
            if now_ms - slot.provisional_at >= self._options.provisional_interval_ms:
                provisional = slot.live.provisional()
                if provisional:
                    slot.provisional_at = now_ms
                    slot.provisional_sent = True
                    outputs += [_output(metric) for metric in provisional]
            slot.snapshot_at = slot.snapshot_at or now_ms
            due = now_ms - slot.snapshot_at >= self._options.snapshot_interval_ms
            if due and (slot.unsaved or slot.batch):
                slot.snapshot_at = now_ms
                slot.taken = slot.live.snapshot()
                outputs += pack_snapshot(number, Snapshot(positions.next[JOINED_DELTAS, number], slot.taken))
        return outputs

    @staticmethod
    def _merge(live: AggregatePartition, value: bytes) -> list[AggregateEvent]:
        try:
            delta = decode_delta(value)
        except DecodeError as error:
            # Only a foreign program can have written it: it must not stop the metrics of every model for ever.
            _log.error("a record of %s is not a delta and was skipped: %s", JOINED_DELTAS, error)
            return []
        return live.merge(delta)

    def wants_commit(self) -> bool:
        """Never: what matters makes outputs or moves positions."""
        return False

    def committed(self, offsets: Mapping[TopicPartition, int]) -> None:
        """The batch counts."""
        for slot in self._slots.values():
            slot.provisional_sent = False
            if slot.batch:
                slot.since += slot.batch
                slot.since_bytes += sum(map(len, slot.batch))
                slot.batch = []
                slot.unsaved = True
            if slot.taken is not None:
                slot.base, slot.taken = slot.taken, None
                slot.since, slot.since_bytes = [], 0
                slot.unsaved = False
            elif slot.since_bytes > MOST_KEPT_BYTES:
                slot.base = slot.live.snapshot()
                slot.since, slot.since_bytes = [], 0

    def aborted(self) -> None:
        """The batch does not count: go back to the newest snapshot in memory and merge what was committed since."""
        for slot in self._slots.values():
            if slot.taken is not None:
                slot.taken = None
                slot.snapshot_at = 1
            if slot.batch:
                slot.batch = []
                slot.live = AggregatePartition.from_snapshot(slot.base, self._plan_of)
                for value in slot.since:
                    self._merge(slot.live, value)
            elif slot.provisional_sent:
                slot.live.touch()
            slot.provisional_sent = False


def _output(event: AggregateEvent) -> Output:
    topic, event_id, at = _addressed(event)
    headers: list[tuple[str, bytes | None]] = [*cloudevent_headers(event, event_id=event_id, source=SOURCE, at=at)]
    return Output(topic, encode(event), event.model.encode(), headers)


def _addressed(event: AggregateEvent) -> tuple[str, str, Any]:
    """Topic, derived id and event time of an event."""
    if isinstance(event, Observation):
        return OBSERVATIONS, event.observation_id, event.observed_at
    if isinstance(event, PaneClosed):
        return OBSERVATIONS, derived_id("pane-closed", event.model, to_ms(event.pane_end)), event.observed_at
    subject = segment_key(event.segment)
    topic = QUALITY_METRICS
    if isinstance(event, DriftMetric):
        topic, subject = DRIFT_METRICS, event.subject
    end = to_ms(event.window_end)
    parts: list[object] = [topic, event.model, event.version, subject, event.window, end, event.state, event.revision]
    if event.state == "provisional" and isinstance(event, QualityMetric):
        parts += [event.n, msgspec.json.encode(event.metrics)]
    return topic, derived_id(*parts), event.window_end
