"""The aggregation as a batch handler: joined deltas in, series and observations out.

State lives in memory. What recovers it is the log alone: the newest snapshot in `monitoring-journal` and the deltas
after it. An aborted batch is undone model by model.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from agents.monitoring.aggregate_snapshots import Snapshot, SnapshotSource, pack_held, pack_snapshot
from agents.monitoring.outputs import event_output
from schemas.errors import DecodeError, StateError
from schemas.topics import JOINED_DELTAS
from streams.aggregate import AggregatePartition, PlanOf
from streams.kafka.positions import Positions, TopicPartition
from streams.kafka.records import Output, Record

SOURCE: Final = "/driftline/monitoring"
SMALL_SNAPSHOT_BYTES: Final = 1_000_000
PROVISIONAL_SHARE: Final = 0.1
"""Share of time that provisional metrics may take: with many models each has its turn later rather than all at once."""

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
    closing_s : float
        Longest a batch goes on closing windows: thousands of models may be due at once, and what one transaction
        carries is bounded. The rest is closed with the batches that follow.
    """

    partitions: int
    provisional_interval_ms: int = 500
    snapshot_interval_ms: int = 30_000
    closing_s: float = 2.0


@dataclass
class _Slot:
    """State of one partition: the live one, and how to get it back."""

    live: AggregatePartition
    snapshot_at: int
    saved_bytes: int = 0
    unsaved_bytes: int = 0
    """Deltas merged since the last snapshot: what a restore would read."""
    batch_bytes: int = 0
    taken_bytes: int | None = None
    provisional_sent: bool = False
    held_told: bool = False
    """Whether the last commit said that models wait to be closed."""
    held_tells: bool = False


class AggregateHandler:
    """Implements `streams.kafka.processor.BatchHandler` for `joined-deltas`.

    Parameters
    ----------
    snapshots : SnapshotSource
    plan_of : callable
        (model, version) → plan; it is expected to look again in the registry before it says None.
    options : AggregateOptions
    partition_class : type of AggregatePartition

    Notes
    -----
    Delivery: outputs, offsets and snapshots share one transaction. Closed and revised windows and observations are a
    function of the input log; provisional windows follow the wall clock.
    """

    def __init__(
        self,
        snapshots: SnapshotSource,
        plan_of: PlanOf,
        options: AggregateOptions,
        partition_class: type[AggregatePartition] = AggregatePartition,
    ) -> None:
        self._class = partition_class
        self._snapshots = snapshots
        self._plan_of = plan_of
        self._options = options
        self._slots: dict[int, _Slot] = {}
        self._provisional_at = 0
        self._turn = 0

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
            kept = self._snapshots.newest(number)
            snapshot = kept.snapshot
            if until is not None and snapshot is not None and snapshot.offset > until:
                _log.warning("partition %d: offsets were set back, the newer snapshot is not used", number)
                snapshot = None
            live = self._load(number, snapshot)
            if until is None and snapshot is not None:
                # The group's offsets expired: what follows the snapshot is sent again, under the same event ids.
                starts[where] = snapshot.offset
            elif until is not None:
                # What was not closed by then is closed from here on; everything else was, and is told already.
                live.begin_restore(kept.held if kept.held_offset == until else {})
                for value in self._snapshots.replay(number, snapshot.offset if snapshot else 0, until):
                    self._take(live, value)
                live.end_restore()
            self._slots[number] = _Slot(live, 0, held_told=bool(kept.held))
        return starts or None

    def _load(self, number: int, snapshot: Snapshot | None) -> AggregatePartition:
        if snapshot is None:
            return self._class(self._options.partitions, self._plan_of, deferred=True)
        live = self._class.from_snapshot(snapshot.data, self._plan_of, deferred=True)
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
        for slot in self._slots.values():
            slot.live.begin()
        for record in records:
            if record.value is None:
                continue
            slot = self._slots[record.partition]
            slot.batch_bytes += len(record.value)
            self._take(slot.live, record.value)
        outputs += self._close()
        if now_ms - self._provisional_at >= self._options.provisional_interval_ms:
            provisional = self._provisional()
            if provisional:
                self._provisional_at = now_ms
                outputs += provisional
        for number, slot in self._slots.items():
            if self._due(number, slot, now_ms):
                slot.snapshot_at = now_ms
                taken = slot.live.snapshot()
                slot.taken_bytes = len(taken)
                outputs += pack_snapshot(number, Snapshot(positions.next[JOINED_DELTAS, number], taken))
            held = slot.live.held()
            slot.held_tells = bool(held)
            if held or slot.held_told:
                outputs += pack_held(number, positions.next[JOINED_DELTAS, number], held)
        return outputs

    def _close(self) -> list[Output]:
        """Close what is due, partition by partition in turn, for as long as a batch may take."""
        deadline = time.monotonic() + self._options.closing_s
        outputs: list[Output] = []
        turn = list(self._slots.values())
        while turn:
            for slot in tuple(turn):
                events = slot.live.close_next()
                if events is None:
                    turn.remove(slot)
                    continue
                outputs += [event_output(event) for event in events]
                if time.monotonic() >= deadline:
                    return outputs
        return outputs

    def _provisional(self) -> list[Output]:
        """Newest windows of versions with news, partition by partition in turn, for as long as they may take."""
        budget_s = self._options.provisional_interval_ms / 1000 * PROVISIONAL_SHARE
        deadline = time.monotonic() + budget_s
        outputs: list[Output] = []
        turn = list(self._slots)
        if turn:
            first = self._turn % len(turn)
            turn = turn[first:] + turn[:first]
        while turn:
            for number in tuple(turn):
                slot = self._slots[number]
                metrics = slot.live.next_provisional()
                if metrics is None:
                    turn.remove(number)
                    continue
                slot.provisional_sent = True
                outputs += [event_output(metric) for metric in metrics]
                if time.monotonic() >= deadline:
                    self._turn = list(self._slots).index(number) + 1
                    return outputs
        return outputs

    def _due(self, number: int, slot: _Slot, now_ms: int) -> bool:
        """Whether to save a partition: not all at once, and a large state only after as much has come in.

        What is written for snapshots stays below what is read, and what a restore reads below twice the state.
        """
        interval = self._options.snapshot_interval_ms
        if not slot.snapshot_at:
            slot.snapshot_at = now_ms - interval * (number % len(self._slots)) // (2 * len(self._slots))
        unsaved = slot.unsaved_bytes + slot.batch_bytes
        if not unsaved or now_ms - slot.snapshot_at < interval:
            return False
        return slot.saved_bytes <= SMALL_SNAPSHOT_BYTES or unsaved >= slot.saved_bytes

    @staticmethod
    def _take(live: AggregatePartition, value: bytes) -> None:
        try:
            live.take(value)
        except DecodeError as error:
            # Only a foreign program can have written it: it must not stop the metrics of every model for ever.
            _log.error("a record of %s is not a delta and was skipped: %s", JOINED_DELTAS, error)

    def wants_commit(self) -> bool:
        """Never: what matters makes outputs or moves positions."""
        return False

    def committed(self, offsets: Mapping[TopicPartition, int]) -> None:
        """The batch counts."""
        for slot in self._slots.values():
            slot.live.commit()
            slot.provisional_sent = False
            slot.held_told = slot.held_tells
            slot.unsaved_bytes += slot.batch_bytes
            slot.batch_bytes = 0
            if slot.taken_bytes is not None:
                slot.saved_bytes, slot.taken_bytes = slot.taken_bytes, None
                slot.unsaved_bytes = 0

    def aborted(self) -> None:
        """The batch does not count: undo it."""
        for slot in self._slots.values():
            slot.live.abort()
            slot.batch_bytes = 0
            if slot.taken_bytes is not None:
                slot.taken_bytes = None
                slot.snapshot_at = 1
            if slot.provisional_sent:
                slot.live.touch()
            slot.provisional_sent = False
