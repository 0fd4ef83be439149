"""The one transactional batch processor: read a batch, compute, write outputs and offsets in one Kafka transaction.

Order of a batch, everywhere the same: overlay in memory → produce → flush → offsets to the transaction → commit →
local checkpoint. The checkpoint is therefore never ahead of the committed offsets.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from schemas.errors import BrokerError
from streams.kafka.config import KafkaConfig
from streams.kafka.consumer import GroupConsumer, GroupMetadata
from streams.kafka.failpoints import failpoint
from streams.kafka.former import remove_former
from streams.kafka.positions import Positions, TopicPartition
from streams.kafka.records import Output, Record
from streams.kafka.transactions import Outcome, TransactionAbortedError, TransactionalWriter

log = logging.getLogger(__name__)

_POLL_S = 0.1
_MOST_FAILURES = 10
_FIRST_BATCH = 20_000
_LEAST_BATCH = 1_000
_BATCH_S = 0.5
_QUEUE = "queued.max.messages.kbytes"


class BatchHandler(Protocol):
    """What is computed; the processor decides when, and whether it counts."""

    def restore(
        self, partitions: Sequence[int], committed: Mapping[TopicPartition, int | None]
    ) -> Mapping[TopicPartition, int] | None:
        """Bring the state of newly assigned partitions to the committed offsets.

        Called outside the rebalance callback with nothing being fetched, in a thread of its own, so that it may take
        as long as it needs; nothing else is called meanwhile. `committed` is None where the group has
        committed nothing yet. May return offsets to start from instead of the committed ones.

        Raises
        ------
        StateError, RetentionPassedError
            End the process: a person has to decide.
        """

    def process(self, records: Sequence[Record], positions: Positions, now_ms: int) -> Sequence[Output]:
        """Compute one batch into an overlay and return what to write.

        `records` may span partitions; the order within a partition is the log's. It is empty when a partition became
        drained, when positions moved over transaction markers only, and every `idle_ms` while nothing arrives. Whatever
        is raised here ends the process and nothing of the batch is committed.
        """

    def wants_commit(self) -> bool:
        """Whether the batch must be committed although it has neither outputs nor moved positions."""

    def committed(self, offsets: Mapping[TopicPartition, int]) -> None:
        """The batch counts: apply the overlay to the state, then write the checkpoint with `offsets`.

        `offsets` holds the partitions whose position moved.
        """

    def aborted(self) -> None:
        """The batch does not count: drop the overlay. The records come again."""

    def released(self, partitions: Sequence[int]) -> None:
        """The partitions went to another worker: close their state. Called before the group goes on."""


@dataclass(frozen=True)
class ProcessorOptions:
    """How a processor batches and how long it waits.

    Parameters
    ----------
    batch_records : int
        Most records in one batch; it holds fewer where they cost much (see `Pace`).
    commit_interval_ms : int
        Longest a batch is collected. It is not waited for when everything assigned is drained.
    idle_ms : int
        Time between empty batches while nothing arrives.
    max_poll_interval_ms : int
        A worker that is away for longer (computing one batch, say) loses its partitions.
    session_timeout_ms : int
        A worker that is dead for so long loses its partitions to others (to a successor with its id at once).
    transaction_timeout_ms : int
        The broker aborts a hung transaction after it; readers of committed records wait for that.
    operation_timeout_ms : int
        Limit of each request to the broker (initialise, read committed offsets, commit).
    co_partitioned : bool
        Check that partition p of every topic is assigned to the same worker.
    leader : str, optional
        Topic that goes first in a catch-up (see `streams.kafka.alignment`).
    direct : bool
        Fetch without making Python objects where that can be done (see `streams.kafka.fetcher`).
    queue_kbytes : int
        Most that is fetched ahead of the batch being computed (one fetch may go beyond it). When it is full, fetching
        pauses and goes on where it stopped: lag costs no memory. ``KAFKA_QUEUED_MAX_MESSAGES_KBYTES`` overrides it.
    """

    batch_records: int = 100_000
    commit_interval_ms: int = 100
    idle_ms: int = 1_000
    max_poll_interval_ms: int = 300_000
    session_timeout_ms: int = 10_000
    transaction_timeout_ms: int = 10_000
    operation_timeout_ms: int = 30_000
    co_partitioned: bool = False
    leader: str | None = None
    direct: bool = False
    queue_kbytes: int = 65_536


class Pace:
    """How many records the next batch may hold, so that it takes about half a second whatever a record costs.

    Parameters
    ----------
    most : int
        Never more than that.

    Notes
    -----
    What a batch costs beside its records (the transaction, the contributions it sends) is spread over more of them
    when there is a backlog; how long an alert waits for its batch, and what a lost batch costs again, stays bounded.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.records = min(most, _FIRST_BATCH)

    def took(self, records: int, seconds: float) -> None:
        """A batch of so many records took so long."""
        if records < _LEAST_BATCH:
            # Too few to tell what a record costs.
            return
        fitting = int(_BATCH_S * records / max(seconds, 1e-6))
        # Half-way each time: one slow commit is no reason for small batches.
        self.records = max(min(_LEAST_BATCH, self._most), min(self._most, (self.records + fitting) // 2))


class BatchProcessor:
    """Runs a `BatchHandler` over topics, exactly once.

    Parameters
    ----------
    config : KafkaConfig
    group : str
        Consumer group, without prefix.
    topics : sequence of str
        Topics to read, without prefix.
    transactional_id : str
        Stable per worker slot, without prefix: a successor with the same id fences this worker and, should it be dead,
        takes it out of the group, so that its partitions move at once.
    handler : BatchHandler
    options : ProcessorOptions
    clock : callable
        Seconds since the epoch; comes to the handler as `now_ms`.

    Notes
    -----
    Delivery: outputs and offsets become visible together or not at all. A transaction is open only between two polls,
    so a rebalance, which happens in a poll, never meets an open one; it drops what was collected and not processed.
    One batch is in memory at a time: while it is computed nothing is fetched beyond the bounded queue. Not thread-safe.
    """

    def __init__(
        self,
        config: KafkaConfig,
        *,
        group: str,
        topics: Sequence[str],
        transactional_id: str,
        handler: BatchHandler,
        options: ProcessorOptions | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.options = options or ProcessorOptions()
        self._config = config
        self._group = group
        self._topics = tuple(topics)
        self._transactional_id = transactional_id
        self._handler = handler
        self._clock = clock
        self._consumer: GroupConsumer | None = None
        self._writer: TransactionalWriter | None = None
        self._worked_at = 0.0
        self._failures = 0
        self._pace = Pace(self.options.batch_records)

    def run(self, stop: threading.Event) -> None:
        """Process until `stop` is set, then leave the group.

        Raises
        ------
        FencedError, RetentionPassedError, StateError, BrokerError
            And whatever the handler raises: the process must end non-zero, its supervisor starts another.
        """
        try:
            wait_s = min(_POLL_S, self.options.idle_ms / 1000)
            while not stop.is_set():
                self.step(wait_s)
        finally:
            self.close()

    def step(self, timeout_s: float = _POLL_S) -> bool:
        """One iteration: wait for records at most `timeout_s`, process and commit them. True if it committed."""
        consumer, writer = self._open()
        options = self.options
        records = consumer.poll_batch(self._pace.records, timeout_s, options.commit_interval_ms / 1000)
        began = time.monotonic()
        eof_moved = consumer.take_eof_moved()
        if not consumer.assignment():
            return False
        idle = time.monotonic() - self._worked_at >= options.idle_ms / 1000
        if not (records or eof_moved or idle):
            return False
        member = consumer.group_metadata()
        positions = consumer.positions()
        outputs = self._process(records, positions)
        failpoint("after-process")
        self._worked_at = time.monotonic()
        offsets = positions.moved
        if not (outputs or offsets or self._handler.wants_commit()):
            self._handler.aborted()
            return False
        # Where nothing moved, one standing offset is committed again: its metadata tells what became of the commit.
        sent = offsets or dict(list(positions.next.items())[:1])
        if not self._commit(consumer, writer, outputs, sent, member):
            return False
        consumer.mark_committed(offsets)
        failpoint("after-commit")
        self._handler.committed(offsets)
        failpoint("after-checkpoint")
        self._pace.took(len(records), time.monotonic() - began)
        return True

    def assignment(self) -> list[TopicPartition]:
        """What this worker holds now."""
        return self._consumer.assignment() if self._consumer is not None else []

    @property
    def ready(self) -> bool:
        """Whether this worker is in the group and its share, perhaps of no partitions, is restored."""
        return self._consumer is not None and self._consumer.joined

    def close(self) -> None:
        """Leave the group (the handler's partitions are released); nothing uncommitted counts."""
        consumer, self._consumer = self._consumer, None
        writer, self._writer = self._writer, None
        try:
            if consumer is not None:
                consumer.close()
        finally:
            if writer is not None:
                writer.close()

    # ---------------------------------------------------------------------------------------- one batch

    def _process(self, records: Sequence[Record], positions: Positions) -> Sequence[Output]:
        try:
            return self._handler.process(records, positions, int(self._clock() * 1000))
        except BaseException:
            self._handler.aborted()
            raise

    def _commit(
        self,
        consumer: GroupConsumer,
        writer: TransactionalWriter,
        outputs: Sequence[Output],
        sent: Mapping[TopicPartition, int],
        member: GroupMetadata,
    ) -> bool:
        """Write outputs and offsets in one transaction; false when it was aborted and everything went back."""
        try:
            if not member.valid:
                raise TransactionAbortedError("not a member of the group")
            tag = writer.next_tag()
            writer.write(outputs)
            now = consumer.group_metadata()
            if not now.valid or (now.generation, now.member_id) != (member.generation, member.member_id):
                raise TransactionAbortedError("the membership of the group changed during the batch")
            writer.send_offsets(consumer.kafka_partitions(sent, tag), member.raw)
            failpoint("after-offsets")
            outcome = writer.commit()
            if outcome is Outcome.UNKNOWN:
                outcome = self._resolve(consumer, writer, sent, tag)
            if outcome is Outcome.ABORTED:
                raise TransactionAbortedError("the commit did not go through")
        except TransactionAbortedError as aborted:
            self._handler.aborted()
            writer.abort()
            consumer.rewind()
            self._failures += 1
            log.warning("group %s: batch aborted (%d in a row): %s", self._group, self._failures, aborted)
            if self._failures >= _MOST_FAILURES:
                raise BrokerError(
                    f"{self._failures} transactions in a row were aborted, the last one because: {aborted}",
                    where=f"group {self._group}",
                    remedy="see the broker's log; `driftline doctor` checks it",
                ) from aborted
            time.sleep(min(0.05 * 2**self._failures, 2.0))
            return False
        except BaseException:
            self._handler.aborted()
            writer.close()
            raise
        self._failures = 0
        return True

    def _resolve(
        self, consumer: GroupConsumer, writer: TransactionalWriter, sent: Mapping[TopicPartition, int], tag: str
    ) -> Outcome:
        """Find out whether a commit whose answer never came went through.

        A new producer with the same transactional id makes the coordinator finish (or abort) what was open; after that
        the committed offsets carry either this batch's tag or an older one.
        """
        log.warning("group %s: outcome of a commit is unknown, asking the broker", self._group)
        writer.renew()
        found = consumer.committed(list(sent), self.options.operation_timeout_ms / 1000)
        ours = all(found.get(tp) == (offset, tag) for tp, offset in sent.items())
        log.warning("group %s: the commit %s", self._group, "went through" if ours else "did not go through")
        return Outcome.COMMITTED if ours else Outcome.ABORTED

    # -------------------------------------------------------------------------------------- assignment

    def _open(self) -> tuple[GroupConsumer, TransactionalWriter]:
        if self._consumer is None or self._writer is None:
            options = self.options
            # Before joining the group: whoever held this id is fenced, and its open transaction aborted.
            self._writer = TransactionalWriter(
                self._config,
                self._transactional_id,
                transaction_timeout_ms=options.transaction_timeout_ms,
                operation_timeout_ms=options.operation_timeout_ms,
            )
            # It cannot commit any more. If it was killed, the group would wait for its session to end.
            member = f"{self._config.common()['client.id']}-{self._config.transactional_id(self._transactional_id)}"
            remove_former(self._config, self._group, member)
            self._consumer = GroupConsumer(
                self._config,
                self._group,
                self._topics,
                properties={
                    "max.poll.interval.ms": max(options.max_poll_interval_ms, options.session_timeout_ms),
                    "session.timeout.ms": options.session_timeout_ms,
                    # A batch is committed as soon as everything is drained: latency of every stage rests on this.
                    "fetch.wait.max.ms": 20,
                    # Members learn of a rebalance from their heartbeats: so long a group waits for the last of them.
                    "heartbeat.interval.ms": max(200, options.session_timeout_ms // 10),
                    _QUEUE: self._config.properties.get(_QUEUE, options.queue_kbytes),
                },
                co_partitioned=options.co_partitioned,
                leader=options.leader,
                direct=options.direct,
                member=member,
            )
            self._consumer.on_assign = self._restore
            self._consumer.on_revoke = self._release
        return self._consumer, self._writer

    def _restore(
        self, partitions: Sequence[TopicPartition], committed: Mapping[TopicPartition, int | None]
    ) -> Mapping[TopicPartition, int] | None:
        numbers = sorted({partition for _, partition in partitions})
        starts = self._handler.restore(numbers, committed)
        # The first empty batch comes at once: a partition that holds nothing is known to be idle from the start.
        self._worked_at = 0.0
        return starts

    def _release(self, partitions: Sequence[TopicPartition], lost: bool) -> None:
        log.info("group %s: partitions %s %s", self._group, partitions, "lost" if lost else "revoked")
        self._handler.released(sorted({partition for _, partition in partitions}))
