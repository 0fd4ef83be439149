"""The join as a batch handler: predictions and labels in, deltas, watermarks, dead letters and the journal out."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from agents.monitoring.duplicates import DuplicateCheck
from agents.monitoring.join_state import JoinStates, Kept
from agents.monitoring.journal import journal_output
from agents.monitoring.key_check import KeyCheck
from agents.monitoring.lanes import Lanes
from agents.monitoring.registry_view import BatchView, RegistryView
from agents.subjects.opening import Opened
from schemas.errors import DatabaseUnavailableError
from schemas.events import PartitionWatermark, WatermarkUpdate
from schemas.topics import JOINED_DELTAS, PREDICTIONS
from streams.join.batch import JoinOutcome, Slice, VersionsMovedError
from streams.join.partition import TOPICS
from streams.kafka.batches import by_partition
from streams.kafka.positions import Positions, TopicPartition
from streams.kafka.records import Output, Record, dead_letter
from streams.packed import CONTENT_TYPE, encode_delta

GROUP: Final = "monitoring-join"
_log = logging.getLogger("driftline.monitoring")
_PACKED: Final = ("content-type", CONTENT_TYPE)
_WORTH_A_LANE: Final = 2_000
"""Records of a batch below which handing partitions to other threads takes longer than joining them."""
_LONG_S: Final = 0.2
_REST: Final = 20
"""Where forgetting people takes long, it takes one part in so many of the time."""


class _Work(NamedTuple):
    """One partition's part of a batch."""

    partition: int
    kept: Kept
    batch: Slice
    view: BatchView


class JoinHandler:
    """Implements `streams.kafka.processor.BatchHandler` for `predictions` and `ground-truth`.

    Parameters
    ----------
    states : JoinStates
    registry : RegistryView
    partitions : int
        Of the traffic topics.
    threads : int
        Partitions that are joined, restored and checkpointed at the same time; they share nothing.

    Notes
    -----
    Delivery: deltas, watermarks, dead letters, journal and offsets share one transaction; everything a batch adds up to
    is sent with it, so nothing unsent is part of the state. Deltas come before the watermark that closes their panes.
    """

    def __init__(self, states: JoinStates, registry: RegistryView, partitions: int, threads: int = 1) -> None:
        self._lanes = Lanes(threads)
        self._states = states
        self._registry = registry
        self._partitions = partitions
        self._keys = KeyCheck(partitions)
        self._duplicates = DuplicateCheck()
        self._kept: dict[int, Kept] = {}
        self._touched: dict[int, dict[str, int]] = {}
        self._opened: dict[int, list[Opened]] = {}
        self._erasures = -1
        self._rest_until = float("-inf")

    # ------------------------------------------------------------------------------------------ assignment

    def restore(
        self, partitions: Sequence[int], committed: Mapping[TopicPartition, int | None]
    ) -> Mapping[TopicPartition, int] | None:
        """Bring partitions to the committed offsets; see `BatchHandler`.

        Raises
        ------
        StateError, RetentionPassedError
        """
        self._registry.refresh()
        newest = self._states.newest({at: offset for at, offset in committed.items() if at[1] in partitions})
        starts: dict[TopicPartition, int] = {}
        for partition in partitions:
            self._close(partition)
        share = self._share(len(self._kept) + len(partitions))
        opening = [partial(self._states.open, partition, newest.get(partition), share) for partition in partitions]
        for partition, kept in zip(partitions, self._lanes.run(opening, undo=_let_go), strict=True):
            self._kept[partition] = kept
            last = newest.get(partition)
            if last is not None:
                # The group's offsets may have expired: the journal knows them as well.
                starts |= {(topic, partition): end for topic, (_, end) in last[1].slices.items() if end}
        return starts or None

    def released(self, partitions: Sequence[int]) -> None:
        """Close partitions that went to another worker; their folders stay."""
        for partition in partitions:
            self._close(partition)
        self._share(len(self._kept))

    def _share(self, partitions: int) -> int:
        """Divide the memory among so many; returns the share."""
        share = self._states.share(partitions)
        for kept in self._kept.values():
            kept.join.limit_memory(share)
        return share

    def _close(self, partition: int) -> None:
        self._touched.pop(partition, None)
        kept = self._kept.pop(partition, None)
        if kept is not None:
            kept.store.close()

    # --------------------------------------------------------------------------------------------- batches

    def process(self, records: Sequence[Record], positions: Positions, now_ms: int) -> Sequence[Output]:
        """Join a batch; see `BatchHandler`."""
        if self._registry.private:
            self._redact()
        found: dict[int, dict[str, Sequence[Record]]] = {}
        for (topic, number), of_partition in by_partition(records).items():
            found.setdefault(number, {})[topic] = of_partition
        originals: dict[int, dict[int, Record]] = {}
        told: dict[int, list[Opened]] = {}
        opened = self._registry.private
        if opened:
            self._open(found, originals, told)
        while True:
            try:
                work, outcomes = self._join(found, positions, now_ms, alone=len(records) < _WORTH_A_LANE)
                if opened or not self._registry.private:
                    break
                # The first model that names a subject has come with this batch.
                opened = True
                self.aborted()
                self._open(found, originals, told)
            except VersionsMovedError:
                # A version has got a number meanwhile: the whole batch sees it, as a rebuild will.
                self.aborted()
        self._opened = told
        outputs: list[Output] = []
        journal: list[Output] = []
        watermarks: list[PartitionWatermark] = []
        for (partition, kept, batch, view), outcome in zip(work, outcomes, strict=True):
            if batch.starts == batch.ends and not outcome.watermark_moved:
                kept.join.abort()
                continue
            self._touched[partition] = dict(batch.ends)
            outputs += self._outputs(batch, outcome, originals.get(partition, {}))
            if outcome.watermark_moved:
                watermarks.append(PartitionWatermark(partition, outcome.watermark_ms, outcome.idle))
            record = kept.join.journal(batch, view.epoch, self._partitions)
            journal.append(journal_output(record))
            arrived = batch.records.get(PREDICTIONS, ())
            outputs += self._duplicates.observe(record, arrived, outcome.watermark_ms, view.number)
        if watermarks:
            value = encode_delta(WatermarkUpdate(watermarks))
            outputs += [Output(JOINED_DELTAS, value, None, [_PACKED], number) for number in range(self._partitions)]
        return outputs + journal

    def _join(
        self, found: Mapping[int, Mapping[str, Sequence[Record]]], positions: Positions, now_ms: int, *, alone: bool
    ) -> tuple[list[_Work], list[JoinOutcome]]:
        """Compute the overlays of all partitions that there is something to do in."""
        view_of = self._registry.for_batch()
        work = []
        for partition, kept in self._kept.items():
            batch = _slice(partition, found.get(partition, {}), positions, now_ms)
            if batch.starts != batch.ends or batch.idle != kept.join.idle:
                work.append(_Work(partition, kept, batch, view_of()))
        calls = [partial(kept.join.process, batch, view) for _, kept, batch, view in work]
        return work, self._lanes.run(calls, alone=alone)

    def _open(
        self,
        found: dict[int, dict[str, Sequence[Record]]],
        originals: dict[int, dict[int, Record]],
        told: dict[int, list[Opened]],
    ) -> None:
        """Open what is sealed in a batch's predictions.

        `originals`: by partition and offset, as they came; `told`: whose they are, by partition.
        """
        for partition, by_topic in found.items():
            if PREDICTIONS in by_topic:
                came, of_partition = originals.setdefault(partition, {}), told.setdefault(partition, [])
                by_topic[PREDICTIONS] = self._registry.opened(by_topic[PREDICTIONS], came, of_partition)

    def _redact(self) -> None:
        """Let state forget what it knows through the keys of people who were erased.

        Where there are many, looking for them takes long: then it is done less often.
        """
        began = time.monotonic()
        if began < self._rest_until:
            return
        try:
            erasures = self._registry.erasures()
            if erasures != self._erasures:
                self._states.forget(self._kept, erasures)
                self._erasures = erasures
            for partition, kept in self._kept.items():
                if kept.erasures != erasures:
                    told = kept.redact(erasures, self._registry.gone, self._registry.for_batch()())
                    if told:
                        _log.info("partition %d: %d predictions of people who were erased laid bare", partition, told)
        except DatabaseUnavailableError as error:
            _log.warning("whether people were erased is not known now: %s", error)
        spent_s = time.monotonic() - began
        if spent_s > _LONG_S:
            self._rest_until = began + _REST * spent_s

    def _outputs(self, batch: Slice, outcome: JoinOutcome, originals: Mapping[int, Record]) -> Iterator[Output]:
        for target, value in outcome.records:
            yield Output(JOINED_DELTAS, value, None, [_PACKED], target)
        for letter in outcome.dead_letters:
            refused = letter.record
            withheld = False
            if refused.topic == PREDICTIONS and self._registry.private:
                came = originals.get(refused.offset)
                refused, withheld = (came, False) if came is not None else self._registry.hidden(refused)
            yield dead_letter(refused, letter.reason, letter.message, GROUP, withheld=withheld)
        for arrived in batch.records.values():
            record = self._keys.misplaced(arrived)
            if record is not None:
                yield from self._keys.observe(record, self._concerned(outcome), outcome.watermark_ms)

    def _concerned(self, outcome: JoinOutcome) -> list[tuple[str, int]]:
        """Versions that a misplaced key may concern: those of the batch, or the newest of every model."""
        found = {delta.model: delta.version for delta in outcome.deltas}
        return sorted((found or self._registry.newest_versions()).items())

    def wants_commit(self) -> bool:
        """Whether a partition's overlay waits for a commit."""
        return bool(self._touched)

    def committed(self, offsets: Mapping[TopicPartition, int]) -> None:
        """The batch counts: apply it, then write each partition's checkpoint."""
        del offsets  # every partition's slice says the same, and also where nothing moved
        touched, self._touched = self._touched, {}
        opened, self._opened = self._opened, {}
        self._duplicates.committed()
        self._keys.committed()
        keep_ms = self._registry.needed_retention_ms if self._registry.private else None
        self._lanes.run(
            [
                partial(_keep, self._kept[at], ends, None if keep_ms is None else (opened.get(at, []), keep_ms))
                for at, ends in touched.items()
            ]
        )

    def aborted(self) -> None:
        """The batch does not count."""
        self._touched, self._opened = {}, {}
        self._duplicates.aborted()
        self._keys.aborted()
        for kept in self._kept.values():
            kept.join.abort()

    def close(self) -> None:
        """Close all folders."""
        for partition in list(self._kept):
            self._close(partition)
        self._lanes.close()


def _keep(kept: Kept, ends: Mapping[str, int], opened: tuple[Sequence[Opened], int] | None) -> None:
    changes = kept.join.changes()
    kept.join.commit()
    kept.checkpoint(changes, ends, opened)


def _let_go(kept: Kept) -> None:
    kept.store.close()


def _slice(partition: int, records: Mapping[str, Sequence[Record]], positions: Positions, now_ms: int) -> Slice:
    tps = [(topic, partition) for topic in TOPICS]
    return Slice(
        records,
        {topic: positions.start[topic, partition] for topic, _ in tps},
        {topic: positions.next[topic, partition] for topic, _ in tps},
        {topic: positions.drained.get((topic, partition), False) for topic, _ in tps},
        now_ms,
    )
