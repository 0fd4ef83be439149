"""A member of a consumer group that knows where it stands: batches, positions past transaction markers, drained or not.

Two users: the transactional processor, and at-least-once readers (archiving) that commit by themselves.
"""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
)
from confluent_kafka import TopicPartition as KafkaPartition

from schemas.errors import BrokerError, RetentionPassedError, StateError, TopicError
from streams.kafka.alignment import HOLD_MOST, Alignment
from streams.kafka.batches import Batch, runs
from streams.kafka.config import KafkaConfig, Property
from streams.kafka.fetcher import Fetcher, usable
from streams.kafka.offsets import OffsetClient
from streams.kafka.positions import Positions, TopicPartition

log = logging.getLogger(__name__)

_OPERATION_TIMEOUT_S = 30.0
_RESTORE_POLL_S = 0.5
_CREATION_S = 3.0
_MEMBERSHIP_POLL_S = 0.1
_error_of = Message.error
_REFUSED = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError._AUTHENTICATION,
        KafkaError.UNSUPPORTED_COMPRESSION_TYPE,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.INCONSISTENT_GROUP_PROTOCOL,
    }
)


@dataclass(frozen=True, slots=True)
class GroupMetadata:
    """Membership at one moment; `raw` is what a transaction hands to the group's coordinator."""

    generation: int
    member_id: str
    raw: bytes

    @property
    def valid(self) -> bool:
        """Whether offsets may be committed with it.

        The broker accepts a negative generation from anybody while the group has a live member, and moves the
        committed offsets back (measured), so nothing may be committed with one.
        """
        return self.generation >= 0 and bool(self.member_id)


def parse_group_metadata(raw: bytes) -> GroupMetadata:
    """Read librdkafka's serialised group metadata (``CGMDv2:``, generation, group, member …).

    Raises
    ------
    BrokerError
        The library changed the format: nothing may be committed unchecked.
    """
    if not raw.startswith(b"CGMDv2:") or len(raw) < 12:
        raise BrokerError("the client library's group metadata has an unknown format", remedy="use the locked version")
    (generation,) = struct.unpack_from("<i", raw, 7)
    member = raw[11:].split(b"\0")[1]
    return GroupMetadata(generation, member.decode(), raw)


class AssignHook(Protocol):
    """Called with new partitions before anything is fetched from them; may return offsets to start from."""

    def __call__(
        self, partitions: Sequence[TopicPartition], committed: Mapping[TopicPartition, int | None]
    ) -> Mapping[TopicPartition, int] | None: ...


RevokeHook = Callable[[Sequence[TopicPartition], bool], None]
"""Called with partitions that go, and whether they are lost already, before the group goes on."""


class GroupConsumer:
    """One member of a consumer group.

    Parameters
    ----------
    config : KafkaConfig
    group : str
        Without prefix.
    topics : sequence of str
        Without prefix; all of them must exist.
    properties : mapping, optional
        librdkafka properties on top (``max.poll.interval.ms`` …).
    co_partitioned : bool
        Check that partition p of every topic comes to this member together.
    leader : str, optional
        In a catch-up, hold other topics' records back until this topic's are as far in time (see `alignment`).
    direct : bool
        Fetch without making Python objects where that can be done here (see `fetcher`).
    member : str, optional
        What this member is called among the group's (its client id): the name a successor finds it by. The range
        strategy deals in the order of these names, so a worker that comes back gets the partitions it had.

    Attributes
    ----------
    on_assign, on_revoke : hooks
        `on_assign` runs outside the rebalance callback and in a thread of its own, so it may take its time: the member
        goes on polling, with nothing fetched. `on_revoke` runs inside the callback, never while `on_assign` does.

    Notes
    -----
    Delivery: at least once. Partitions start at the committed offset, or at the beginning of the log when the group has
    committed nothing. Records that were handed out in a batch that was still being collected when partitions went away
    are dropped: they belong to the next owner. Not thread-safe.
    """

    def __init__(
        self,
        config: KafkaConfig,
        group: str,
        topics: Sequence[str],
        *,
        properties: Mapping[str, Property] | None = None,
        co_partitioned: bool = False,
        leader: str | None = None,
        direct: bool = False,
        member: str | None = None,
    ) -> None:
        self.group = group
        self.topics = tuple(topics)
        self.on_assign: AssignHook | None = None
        self.on_revoke: RevokeHook | None = None
        self._config = config
        self._co_partitioned = co_partitioned
        self._names = {config.topic(name): name for name in topics}
        self._start: dict[TopicPartition, int] = {}
        self._next: dict[TopicPartition, int] = {}
        self._drained: dict[TopicPartition, bool] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._alignment = Alignment(leader, self._lag) if leader is not None else None
        self._fetcher: Fetcher | None = None
        self._paused: set[TopicPartition] = set()
        self._eof_moved = False
        self._pending: list[TopicPartition] | None = None
        self._epoch = 0
        self._ever_assigned = False
        self._offsets = OffsetClient(config)
        self._restoring: Future[Mapping[TopicPartition, int] | None] | None = None
        over: dict[str, Property] = {
            # The positions below are explicit; an offset that is gone must be an error, not a silent jump.
            "auto.offset.reset": "error",
            # "Drained" is known one empty fetch after the last record. Each empty fetch costs the broker about a
            # millisecond of processor time.
            "fetch.wait.max.ms": 50,
            "fetch.error.backoff.ms": 100,
            "topic.metadata.refresh.interval.ms": 60_000,
            **(properties or {}),
        }
        if direct and usable():
            self._fetcher, self._alignment = Fetcher(config, over, leader), None
        if member is not None:
            over["client.id"] = member
        self._consumer = Consumer({**config.consumer(group), **over}, logger=log)
        self._consumer.subscribe(
            [config.topic(name) for name in topics],
            on_assign=self._assigned,
            on_revoke=partial(self._revoked, False),
            on_lost=partial(self._revoked, True),
        )

    # ------------------------------------------------------------------------------------------ reading

    def poll_batch(self, n: int, timeout_s: float, linger_s: float = 0.0) -> Batch:
        """Collect at most `n` records.

        Waits at most `timeout_s` for the first one, then at most `linger_s` for more; returns early when everything
        assigned is drained, so that a quiet topic costs no waiting.

        Raises
        ------
        RetentionPassedError
            Records at a position were deleted.
        TopicError, BrokerError
        """
        batch = Batch()
        deadline = time.monotonic() + timeout_s
        while True:
            while self._pending is not None:
                self._begin(self._pending)
            epoch, count = self._epoch, len(batch)
            if self._fetcher is not None:
                self._fetch(self._fetcher, n, deadline, batch)
            else:
                self._consume(n, deadline, batch)
            if epoch != self._epoch:
                # Partitions came or went: whatever was collected is read again from the committed offsets.
                batch.clear()
                continue
            if not count and len(batch):
                deadline = time.monotonic() + linger_s
            if len(batch) >= n or time.monotonic() >= deadline:
                return batch
            if (len(batch) or self._eof_moved) and self.drained():
                return batch

    def _consume(self, n: int, deadline: float, batch: Batch) -> None:
        """Wait for what the client library brings; take it unless partitions came or went meanwhile."""
        epoch = self._epoch
        first = self._consumer.poll(max(0.0, deadline - time.monotonic()))
        messages = [first] if first is not None else []
        if first is not None and n - len(batch) > 1:
            messages += self._consumer.consume(n - len(batch) - 1, 0)
        if messages and epoch == self._epoch:
            self._accept(messages, batch)
            self._free(batch)

    def _fetch(self, fetcher: Fetcher, n: int, deadline: float, batch: Batch) -> None:
        """As `_consume`; the group's member only tells who has which partitions."""
        epoch = self._epoch
        self._poll_membership()
        if epoch != self._epoch:
            return
        anything = False
        for tp, told, failed in fetcher.read(n - len(batch), batch.partitions):
            anything = True
            if told.count:
                self._next[tp] = told.offset + 1
                self._drained[tp] = False
            if told.end >= 0:
                self._end(tp, told.end)
            if failed is not None:
                self._failed(tp[0], tp[1], failed)
        if not anything:
            # A rebalance has to be seen in time, too.
            fetcher.wait(max(0.0, min(deadline - time.monotonic(), _MEMBERSHIP_POLL_S)))

    def _poll_membership(self) -> None:
        """Let rebalances happen while nothing is assigned to the client library, so that no records come."""
        message = self._consumer.poll(0)
        error = message.error() if message is not None else None
        if message is not None and error is not None:
            self._event(message, error)

    def positions(self) -> Positions:
        """Positions of everything assigned, as of now."""
        return Positions(dict(self._start), dict(self._next), dict(self._drained))

    def take_eof_moved(self) -> bool:
        """Whether a partition reached its end, or moved over markers, since the last call."""
        moved, self._eof_moved = self._eof_moved, False
        return moved

    def drained(self) -> bool:
        """Everything assigned was read to its last stable offset; false when nothing is assigned."""
        return bool(self._drained) and all(self._drained.values())

    def assignment(self) -> list[TopicPartition]:
        """What is assigned and started."""
        return sorted(self._next)

    @property
    def joined(self) -> bool:
        """Whether the group dealt this member a share, perhaps of no partitions, and it was restored and started."""
        return self._ever_assigned

    # --------------------------------------------------------------------------------------- committing

    def group_metadata(self) -> GroupMetadata:
        """Membership as of now; check `valid` before committing with it."""
        return parse_group_metadata(self._consumer.consumer_group_metadata())

    def commit(self, offsets: Mapping[TopicPartition, int] | None = None) -> None:
        """Commit next offsets (all positions by default), synchronously.

        Raises
        ------
        BrokerError
            Not committed: not a member any more, or the broker does not answer.
        """
        wanted = self._next if offsets is None else offsets
        if not wanted:
            return
        if not self.group_metadata().valid:
            raise BrokerError(f"not a member of group {self.group!r} any more", remedy="poll again to rejoin")
        try:
            results = self._consumer.commit(offsets=self.kafka_partitions(wanted), asynchronous=False)
        except KafkaException as error:
            raise BrokerError(f"offsets of group {self.group!r} were not committed: {error.args[0]}") from error
        for result in results or ():
            if result.error is not None:
                raise BrokerError(
                    f"offset of group {self.group!r} was not committed: {result.error}",
                    where=f"{self._names.get(result.topic, result.topic)}-{result.partition}",
                )
        self.mark_committed(wanted)

    def mark_committed(self, offsets: Mapping[TopicPartition, int]) -> None:
        """The group's offsets moved to `offsets` (by `commit` or in a transaction)."""
        for tp, offset in offsets.items():
            if tp in self._start:
                self._start[tp] = offset

    def committed(
        self, partitions: Sequence[TopicPartition], timeout_s: float = _OPERATION_TIMEOUT_S
    ) -> dict[TopicPartition, tuple[int | None, str | None]]:
        """What the group has committed: offset and metadata. Waits for open transactions to end.

        Raises
        ------
        BrokerError
        """
        wanted = self.kafka_partitions(dict.fromkeys(partitions, OFFSET_INVALID))
        deadline = time.monotonic() + timeout_s
        told = False
        while True:
            try:
                found = self._consumer.committed(wanted, timeout=max(1.0, deadline - time.monotonic()))
                failed = next((tp.error for tp in found if tp.error is not None), None)
            except KafkaException as error:
                failed = error.args[0]
            if failed is None:
                break
            if not told:
                told = True
                log.warning("group %s: committed offsets cannot be read yet: %s", self.group, failed)
            if time.monotonic() >= deadline:
                raise BrokerError(
                    f"the committed offsets of group {self.group!r} could not be read: {failed}",
                    remedy="check the broker; `kafka-transactions.sh find-hanging` names a transaction that holds them",
                )
            time.sleep(0.05)
        return {
            (self._names.get(tp.topic, tp.topic), tp.partition): (tp.offset if tp.offset >= 0 else None, tp.metadata)
            for tp in found
        }

    def rewind(self) -> None:
        """Go back to the committed positions; everything since comes again."""
        self._next = dict(self._start)
        self._drained = dict.fromkeys(self._start, False)
        self._forget_held()
        if self._fetcher is not None:
            self._fetcher.start(self._start, self._ends)
            return
        try:
            for tp, offset in self._start.items():
                self._consumer.seek(*self.kafka_partitions({tp: offset}))
        except KafkaException as error:
            # A partition that is only just starting cannot seek: start all of them again instead. Should they be lost
            # already, the rebalance that follows starts them at the committed offsets.
            log.info("group %s: seek refused (%s), assigning again", self.group, error.args[0])
            self._consumer.assign(self.kafka_partitions(self._start))

    def kafka_partitions(self, offsets: Mapping[TopicPartition, int], metadata: str = "") -> list[KafkaPartition]:
        """Offsets as the client library wants them."""
        return [
            KafkaPartition(self._config.topic(topic), partition, offset, metadata) if metadata
            else KafkaPartition(self._config.topic(topic), partition, offset)
            for (topic, partition), offset in offsets.items()
        ]  # fmt: skip

    def close(self) -> None:
        """Leave the group; commits nothing."""
        try:
            self._consumer.close()
        finally:
            if self._fetcher is not None:
                self._fetcher.close()

    # ------------------------------------------------------------------------------------- rebalancing

    def _assigned(self, consumer: Consumer, partitions: list[KafkaPartition]) -> None:
        # Nothing is fetched yet: `_begin` restores and starts the partitions outside this callback. (Assigning and
        # pausing them here would cost a second: the library looks at resumed partitions once a second.)
        self._epoch += 1
        consumer.assign([])
        self._pending = [(self._names[tp.topic], tp.partition) for tp in partitions]

    def _revoked(self, lost: bool, consumer: Consumer, partitions: list[KafkaPartition]) -> None:
        self._epoch += 1
        gone = [(self._names[tp.topic], tp.partition) for tp in partitions]
        started = [tp for tp in gone if tp in self._next]
        if self._restoring is not None:
            # The hook cannot be stopped half-way. Should it take longer than the group waits, the partitions are lost,
            # and what it restored is found in place when they come back.
            wait([self._restoring])
            started = gone if self._restoring.exception() is None else []
        self._pending = None
        self._start, self._next, self._drained = {}, {}, {}
        self._eof_moved = False
        self._forget_held()
        if self._fetcher is not None:
            self._fetcher.stop()
        try:
            if started and self.on_revoke is not None:
                self.on_revoke(started, lost)
        finally:
            consumer.unassign()

    def _forget_held(self) -> None:
        """What is held back is not handed out: it is read again."""
        if self._alignment is not None:
            self._alignment.clear()
            self._resume(set(self._paused))

    def _begin(self, partitions: list[TopicPartition]) -> None:
        """Restore and start what was assigned."""
        self._pending = None
        if self._co_partitioned:
            self._check_co_partitioned(partitions)
        found = self.committed(partitions)
        committed = {tp: offset for tp, (offset, _) in found.items()}
        start = self._check_ranges(committed)
        if partitions and self.on_assign is not None:
            epoch = self._epoch
            start.update(self._restored(self.on_assign, partitions, committed))
            if epoch != self._epoch:
                # They went away while they were being restored, and were released already.
                return
        self._start, self._next = dict(start), dict(start)
        self._drained = dict.fromkeys(start, False)
        self._ever_assigned = True
        if self._fetcher is not None:
            self._fetcher.start(start, self._ends)
        else:
            self._consumer.assign(self.kafka_partitions(start))

    def _restored(
        self, hook: AssignHook, partitions: list[TopicPartition], committed: dict[TopicPartition, int | None]
    ) -> Mapping[TopicPartition, int]:
        """Run the hook in a thread and poll meanwhile: a member that does not poll is thrown out of its group.

        Nothing is assigned to the client library yet, so a poll brings no records, but perhaps a rebalance.
        """
        with ThreadPoolExecutor(1, "restore") as pool:
            self._restoring = pool.submit(hook, partitions, committed)
            try:
                while True:
                    wait([self._restoring], _RESTORE_POLL_S)
                    if self._restoring.done():
                        return self._restoring.result() or {}
                    self._poll_membership()
            finally:
                self._restoring = None

    def _check_ranges(self, committed: Mapping[TopicPartition, int | None]) -> dict[TopicPartition, int]:
        """Where to start; refuses offsets that the log does not hold.

        Raises
        ------
        RetentionPassedError, StateError, BrokerError
        """
        lows = self._offsets.earliest(committed, _OPERATION_TIMEOUT_S)
        # Everything written counts, open transactions too: this is about logs that are shorter than they were.
        highs = self._offsets.ends(committed, _OPERATION_TIMEOUT_S, undecided=True)
        self._ends = dict(highs)
        return {tp: self._check_range(tp, offset, lows[tp], highs[tp]) for tp, offset in committed.items()}

    def _check_range(self, tp: TopicPartition, committed: int | None, low: int, high: int) -> int:
        where = f"{tp[0]}-{tp[1]}"
        if committed is None:
            return low
        if committed < low:
            raise RetentionPassedError(
                f"group {self.group!r} stands at offset {committed}, but the log begins at {low}: "
                f"{low - committed} offsets were deleted before they were read",
                where=where,
                remedy="raise the topic's retention; to go on without them, reset the group's offsets on purpose",
            )
        if committed > high:
            raise StateError(
                f"group {self.group!r} stands at offset {committed}, but the log ends at {high}: another topic",
                where=where,
                remedy="the topic was made anew; reset the group's offsets and delete the local state",
            )
        return committed

    def _check_co_partitioned(self, partitions: list[TopicPartition]) -> None:
        by_topic = {topic: {p for t, p in partitions if t == topic} for topic in self.topics}
        if len({frozenset(numbers) for numbers in by_topic.values()}) > 1:
            said = "; ".join(f"{topic}: {sorted(numbers)}" for topic, numbers in by_topic.items())
            raise TopicError(
                f"the topics' partitions came apart in group {self.group!r} ({said})",
                remedy="give them the same partition count, and let only workers of one kind use the group",
            )

    # ------------------------------------------------------------------------------------------ messages

    def _accept(self, messages: list[Message], batch: Batch) -> None:
        """Take messages into the batch; errors and ends of partitions are taken out, positions follow."""
        if not any(map(_error_of, messages)):
            self._records(messages, batch)
            return
        run: list[Message] = []
        for message in messages:
            error = message.error()
            if error is None:
                run.append(message)
                continue
            # Positions first, so that "drained" refers to what came before it in the same partition.
            self._records(run, batch)
            run = []
            self._event(message, error)
        self._records(run, batch)

    def _records(self, messages: list[Message], batch: Batch) -> None:
        alignment = self._alignment
        for name, partition, run in runs(messages):
            tp = (self._names[name], partition)
            if alignment is not None:
                if tp[0] == alignment.leader:
                    alignment.lead(partition, run[-1])
                else:
                    alignment.hold(tp, run)
                    continue
            self._take(tp, run, batch)

    def _take(self, tp: TopicPartition, run: list[Message], batch: Batch) -> None:
        batch.add(tp, run)
        self._next[tp] = (run[-1].offset() or 0) + 1
        self._drained[tp] = False

    def _free(self, batch: Batch) -> None:
        """Let go on what was held back long enough, and fetch no more of what is held back in number."""
        alignment = self._alignment
        if alignment is None:
            return
        for tp, run, end in alignment.free():
            if run:
                self._take(tp, run, batch)
            if end is not None:
                self._end(tp, end.offset())
        full = {tp for tp in self._next if alignment.held(tp) > HOLD_MOST}
        empty = {tp for tp in self._paused if alignment.held(tp) <= HOLD_MOST // 2}
        if new := full - self._paused:
            self._consumer.pause(self.kafka_partitions(dict.fromkeys(new, OFFSET_INVALID)))
        self._paused |= new
        self._resume(empty)

    def _resume(self, paused: set[TopicPartition]) -> None:
        if paused:
            self._consumer.resume(self.kafka_partitions(dict.fromkeys(paused, OFFSET_INVALID)))
            self._paused -= paused

    def _lag(self, tp: TopicPartition) -> int:
        """Offsets between what was handed out and the end, as far as fetches have told it."""
        [native] = self.kafka_partitions({tp: OFFSET_INVALID})
        found = self._consumer.get_watermark_offsets(native, cached=True)
        return max(found[1] if found else 0, self._ends.get(tp, 0)) - self._next.get(tp, 0)

    def _event(self, message: Message, error: KafkaError) -> None:
        code, topic, end = error.code(), message.topic() or "", message.offset()
        if code == KafkaError._PARTITION_EOF:
            tp = (self._names.get(topic, topic), message.partition() or 0)
            if self._alignment is not None and self._alignment.holds(tp):
                self._alignment.hold_end(tp, message)
            else:
                self._end(tp, end)
            return
        self._failed(self._names.get(topic, topic), message.partition(), error)

    def _failed(self, name: str, partition: int | None, error: KafkaError) -> None:
        """Raise what does not heal by itself."""
        code = error.code()
        where = f"{name}-{partition}" if name else f"group {self.group}"
        if code in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            raise RetentionPassedError(
                f"records at the position were deleted before they were read ({error.str()})",
                where=where,
                remedy="raise the topic's retention; to go on without them, reset the group's offsets on purpose",
            )
        if code in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC) and not self._ever_assigned:
            self._check_exists(self._config.topic(name))
        if error.fatal() or code in _REFUSED:
            raise BrokerError(f"the consumer was refused: {error}", where=where)
        # Everything else heals by itself: the library reconnects, and a lost membership is joined again.
        log.warning("%s: %s", where, error)

    def _end(self, tp: TopicPartition, end: int | None) -> None:
        """Everything up to `end` was handed out, and it is the end as of now."""
        if tp not in self._next or end is None:
            return
        self._eof_moved = self._eof_moved or not self._drained[tp] or self._next[tp] != end
        self._next[tp] = end
        self._drained[tp] = True
        if self._alignment is not None and tp[0] == self._alignment.leader:
            self._alignment.drained(tp[1])

    def _check_exists(self, topic: str) -> None:
        """Believe that a topic is missing only when the broker says so for a while: it may just have been created."""
        deadline = time.monotonic() + _CREATION_S
        while True:
            try:
                if topic in self._consumer.list_topics(timeout=_OPERATION_TIMEOUT_S).topics:
                    return
            except KafkaException as error:
                raise BrokerError(
                    f"the topics could not be listed: {error.args[0]}", where=self._config.bootstrap_servers
                ) from error
            if time.monotonic() >= deadline:
                raise TopicError(
                    "the topic does not exist",
                    where=f"{self._names.get(topic, topic)} at {self._config.bootstrap_servers}",
                    remedy="`driftline topics` creates the catalogue",
                )
            time.sleep(0.1)
