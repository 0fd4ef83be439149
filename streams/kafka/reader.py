"""Readers without a group: follow whole topics, or read them to their end. Nothing is committed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import cast

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from schemas.errors import BrokerError
from streams.kafka import admin
from streams.kafka.config import KafkaConfig
from streams.kafka.offsets import OffsetClient
from streams.kafka.records import Record, RecordHeaders

_BATCH = 10_000
_QUEUE_KBYTES = 16_384
FETCH_WAIT_MS = 100
_GROUP = "driftline-reader"  # librdkafka wants a name; with assign() and no commits it never reaches the broker
_TRANSIENT = (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT, KafkaError._RESOLVE)
_FIRST_PROBE = 64
_PROBE_GROWTH = 8


class Tail:
    """Follows all partitions of some topics, committed records only.

    Parameters
    ----------
    config : KafkaConfig
    topics : iterable of str
        Names without prefix.
    from_beginning : bool
        Else from the end as of construction: whatever is committed after it is seen.
    offsets : mapping of (topic, partition) to int, optional
        Where to start instead, for the partitions named. Without topics: follow these partitions only.
    fetch_wait_ms : int
        How long an empty fetch waits: the end behind a transaction marker is known that much later.

    Raises
    ------
    TopicError
        A topic does not exist.
    BrokerUnreachableError

    Notes
    -----
    Order is kept per partition. A broker that goes away is waited for: `poll` then returns nothing. For one thread.
    """

    def __init__(
        self,
        config: KafkaConfig,
        topics: Iterable[str],
        from_beginning: bool,
        *,
        offsets: Mapping[tuple[str, int], int] | None = None,
        timeout_s: float = admin.TIMEOUT_S,
        fetch_wait_ms: int = FETCH_WAIT_MS,
    ) -> None:
        self._config = config
        self._consumer = Consumer(
            config.consumer(
                _GROUP,
                queued_max_messages_kbytes=_QUEUE_KBYTES,
                queued_min_messages=100_000,
                fetch_wait_max_ms=fetch_wait_ms,
            )
        )
        self._offsets = OffsetClient(config)
        self._positions: dict[tuple[str, int], int] = {}
        self._drained: dict[tuple[str, int], bool] = {}
        try:
            named = list(topics)
            every = admin.partitions_of(self._consumer, config, named, timeout_s) if named else list(offsets or ())
            lows, highs = self._offsets.earliest(every, timeout_s), self._offsets.ends(every, timeout_s)
            for partition in every:
                low, high = lows[partition], highs[partition]
                start = (offsets or {}).get(partition, low if from_beginning else high)
                self._positions[partition] = max(start, low)
                self._drained[partition] = self._positions[partition] >= high
            self._consumer.assign([self._native(p, offset) for p, offset in self._positions.items()])
        except BaseException:
            self._consumer.close()
            raise

    def __enter__(self) -> Tail:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def positions(self) -> Mapping[tuple[str, int], int]:
        """Next offset of every partition; past transaction markers once a partition is drained."""
        return self._positions

    def poll(self, timeout_s: float) -> list[Record]:
        """What has arrived; waits up to `timeout_s` for the first record, and not at all for the second.

        Raises
        ------
        BrokerError
            The broker refuses (authorisation, topic deleted).
        """
        deadline = time.monotonic() + timeout_s
        while True:
            records, any_news = self._step(max(0.0, deadline - time.monotonic()))
            if records or not any_news:
                return records

    def caught_up(self) -> bool:
        """Whether the end of every partition was reached and nothing came after it (as far as polled)."""
        return all(self._drained.values())

    def read_to_end(self, timeout_s: float) -> list[Record]:
        """A barrier: everything that was committed before this call and not read yet.

        Transactions that are open at the call are waited for: a commit returns to its producer before it can be seen.

        Raises
        ------
        BrokerError
            The end was not reached in time; what was read until then is lost to this caller.
        """
        deadline = time.monotonic() + timeout_s
        targets = self._offsets.ends(self._positions, timeout_s, undecided=True)
        records: list[Record] = []
        while behind := [partition for partition, end in targets.items() if self._positions[partition] < end]:
            left = deadline - time.monotonic()
            if left <= 0:
                topic, number = behind[0]
                raise BrokerError(
                    f"end not reached within {timeout_s:.0f} s: {self._positions[behind[0]]} of {targets[behind[0]]}",
                    where=f"topic {self._config.topic(topic)}[{number}] on {self._config.bootstrap_servers}",
                )
            # One step, not `poll`: a partition's end is told by an event that carries no record.
            records += self._step(min(left, 0.2))[0]
        return records

    def _step(self, timeout_s: float) -> tuple[list[Record], bool]:
        """What one wait brought: records, and whether anything at all, ends of partitions included."""
        messages = self._consumer.consume(1, timeout_s)
        if messages:
            messages += self._consumer.consume(_BATCH - 1, 0)
        return [record for message in messages if (record := self._take(message)) is not None], bool(messages)

    def close(self) -> None:
        """Let go of the connection."""
        self._consumer.close()

    def _native(self, partition: tuple[str, int], offset: int = -1) -> TopicPartition:
        topic, number = partition
        return TopicPartition(self._config.topic(topic), number, offset)

    def _take(self, message: Message) -> Record | None:
        error = message.error()
        if error is None:
            record = to_record(self._config, message)
            self._positions[record.topic, record.partition] = record.offset + 1
            self._drained[record.topic, record.partition] = False
            return record
        if error.code() == KafkaError._PARTITION_EOF:
            partition = (self._config.without_prefix(message.topic() or ""), message.partition() or 0)
            self._positions[partition] = max(self._positions[partition], message.offset() or 0)
            self._drained[partition] = True
            return None
        if error.code() in _TRANSIENT:
            return None
        where = self._config.bootstrap_servers if message.topic() is None else f"topic {message.topic()}"
        raise BrokerError(error.str(), where=where)


def to_record(config: KafkaConfig, message: Message) -> Record:
    """A message of librdkafka as our `Record`."""
    return Record(
        config.without_prefix(message.topic() or ""),
        message.partition() or 0,
        message.offset() or 0,
        message.key(),
        message.value(),
        cast(RecordHeaders | None, message.headers()),  # librdkafka gives bytes; its hints allow for more
        message.timestamp()[1],
    )


def read_all(config: KafkaConfig, topic: str, *, timeout_s: float = 30.0) -> list[Record]:
    """Every committed record of a topic, from its beginning to its end as of now.

    Raises
    ------
    TopicError
        The topic does not exist.
    BrokerError
        The end was not reached in time.
    """
    with Tail(config, [topic], from_beginning=True, timeout_s=timeout_s) as tail:
        return tail.read_to_end(timeout_s)


def _any_record(_: Record) -> bool:
    return True


def newest(
    config: KafkaConfig, topic: str, *, wanted: Callable[[Record], bool] = _any_record, timeout_s: float = 10.0
) -> dict[int, Record]:
    """The newest wanted record of every partition that has one.

    Notes
    -----
    Reads backwards in growing steps, because the last offsets may be transaction markers or records of another kind. It
    costs what the newest wanted records cost to reach, not what the topic holds.

    Raises
    ------
    TopicError, BrokerError
    """
    deadline = time.monotonic() + timeout_s
    pending = {p: end for p, end in admin.end_offsets(config, [topic], timeout_s=timeout_s).items() if end > 0}
    found: dict[int, Record] = {}
    span = _FIRST_PROBE
    while pending:
        starts = {partition: max(0, end - span) for partition, end in pending.items()}
        with Tail(config, [topic], from_beginning=False, offsets=starts) as tail:
            for record in tail.read_to_end(max(0.1, deadline - time.monotonic())):
                if wanted(record):
                    found[record.partition] = record
        pending = {p: end for p, end in pending.items() if p[1] not in found and starts[p] > 0}
        span *= _PROBE_GROWTH
    return found
