"""Reading back what the join committed: the newest journal records, and the log between two offsets."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Final

from schemas.codec import cloudevent_headers, decode, derived_id, encode
from schemas.errors import BrokerError, RetentionPassedError
from schemas.events import JournalRecord
from schemas.topics import MONITORING_JOURNAL
from streams.kafka import reader
from streams.kafka.config import KafkaConfig
from streams.kafka.fetcher import FetchedRecords, Fetcher
from streams.kafka.offsets import OffsetClient
from streams.kafka.positions import TopicPartition
from streams.kafka.reader import Tail
from streams.kafka.records import Output, Record

KEY_PREFIX: Final = b"join-"
"""Keys of the join's records in `monitoring-journal`; the aggregation's snapshots have others."""
SOURCE: Final = "/driftline/monitoring"


def journal_output(record: JournalRecord) -> Output:
    """The journal record as it is written, to the partition it is about."""
    event_id = derived_id("journal", record.partition, sorted(record.slices.items()))
    headers: list[tuple[str, bytes | None]] = [*cloudevent_headers(record, event_id=event_id, source=SOURCE)]
    key = KEY_PREFIX + str(record.partition).encode()
    return Output(MONITORING_JOURNAL, encode(record), key, headers, record.partition)


def is_join_record(record: Record) -> bool:
    """Whether a record of `monitoring-journal` is one of the join's."""
    return record.value is not None and (record.key or b"").startswith(KEY_PREFIX)


def to_journal(record: Record) -> JournalRecord:
    """Decode a record for which `is_join_record` holds."""
    return decode(record.value or b"", JournalRecord)


def newest(kafka: KafkaConfig, timeout_s: float = 30.0) -> dict[int, tuple[int, JournalRecord]]:
    """(offset, record) of the newest journal record of every partition that has one.

    Notes
    -----
    Reads backwards from the end in growing steps, never the whole topic.
    """
    found = reader.newest(kafka, MONITORING_JOURNAL, wanted=is_join_record, timeout_s=timeout_s)
    return {partition: (record.offset, to_journal(record)) for partition, record in found.items()}


class Span:
    """The records of one topic-partition from one offset to another, taken slice by slice.

    Parameters
    ----------
    kafka : KafkaConfig
    topic, partition : str, int
    start, end : int
        First offset, and the one after the last.
    exact : bool
        Whether `start` itself is needed; else it is a lower bound, and the reader tells what is missing.
    timeout_s : float
        Longest wait for the next record.

    Raises
    ------
    RetentionPassedError
        `start` is needed and gone.
    """

    def __init__(
        self,
        kafka: KafkaConfig,
        topic: str,
        partition: int,
        start: int,
        end: int,
        *,
        exact: bool = True,
        timeout_s: float = 30.0,
    ) -> None:
        self._where = f"topic {kafka.topic(topic)}[{partition}] on {kafka.bootstrap_servers}"
        self._at = (topic, partition)
        self._end = end
        self._timeout_s = timeout_s
        self._tail: Tail | None = None
        self._waiting: list[Record] = []
        if start < end:
            self._tail = Tail(kafka, [], from_beginning=False, offsets={self._at: start})
            first = self._tail.positions[self._at]
            if exact and first > start:
                self._tail.close()
                raise _gone(self._where, start, first)

    def until(self, offset: int) -> list[Record]:
        """The next records, up to but not including `offset`."""
        offset = min(offset, self._end)
        while self._tail is not None and self._tail.positions[self._at] < offset:
            self._waiting += self._poll()
        cut = next((i for i, record in enumerate(self._waiting) if record.offset >= offset), len(self._waiting))
        taken, self._waiting = self._waiting[:cut], self._waiting[cut:]
        return taken

    def __iter__(self) -> Iterator[Record]:
        """All of it, as it arrives."""
        while self._tail is not None and self._tail.positions[self._at] < self._end:
            yield from (record for record in self._poll() if record.offset < self._end)

    def _poll(self) -> list[Record]:
        """What arrives next: records, or at least a position that moved.

        Raises
        ------
        BrokerError
            Nothing did for long.
        """
        assert self._tail is not None
        deadline = time.monotonic() + self._timeout_s
        before = self._tail.positions[self._at]
        while True:
            arrived = self._tail.poll(0.2)
            if arrived or self._tail.positions[self._at] > before:
                return arrived
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"nothing after offset {before} arrived within {self._timeout_s:.0f} s, wanted is {self._end}",
                    where=self._where,
                )

    def close(self) -> None:
        """Let go of the connection."""
        if self._tail is not None:
            self._tail.close()
            self._tail = None


class FetchedSpan:
    """As an exact `Span`, over records that lie in the client library's buffers: for replaying at the join's own pace.

    Where `streams.kafka.fetcher.usable` holds.

    Parameters
    ----------
    kafka : KafkaConfig
    topic, partition : str, int
    start, end : int
        First offset, and the one after the last.
    timeout_s : float
        Longest wait for the next record.

    Raises
    ------
    RetentionPassedError
        `start` is gone.
    """

    def __init__(
        self, kafka: KafkaConfig, topic: str, partition: int, start: int, end: int, *, timeout_s: float = 30.0
    ) -> None:
        self._where = f"topic {kafka.topic(topic)}[{partition}] on {kafka.bootstrap_servers}"
        self._at = (topic, partition)
        self._next, self._end = start, end
        self._timeout_s = timeout_s
        self._fetcher: Fetcher | None = None
        self._waiting: FetchedRecords | None = None
        if start < end:
            first = OffsetClient(kafka).earliest([self._at], timeout_s)[self._at]
            if first > start:
                raise _gone(self._where, start, first)
            self._fetcher = Fetcher(kafka, {"fetch.wait.max.ms": 20})
            self._fetcher.start({self._at: start}, {self._at: end})

    def until(self, offset: int) -> Sequence[Record]:
        """The next records, up to but not including `offset`; valid until `close`.

        Raises
        ------
        BrokerError
            Nothing arrived for long.
        """
        if self._fetcher is None:
            return []
        offset = min(offset, self._end)
        found: dict[TopicPartition, Sequence[Record]] = {} if self._waiting is None else {self._at: self._waiting}
        deadline = time.monotonic() + self._timeout_s
        while self._next < offset:
            before = self._next
            for _, told, error in self._fetcher.read(offset - self._next, found):
                if error is not None:
                    raise BrokerError(f"the log cannot be read at {self._next}: {error.str()}", where=self._where)
                self._next = max(self._next, told.offset + 1, told.end)
            if self._next > before:
                deadline = time.monotonic() + self._timeout_s
            elif time.monotonic() > deadline:
                raise BrokerError(
                    f"nothing after offset {before} arrived within {self._timeout_s:.0f} s, wanted is {self._end}",
                    where=self._where,
                )
            else:
                self._fetcher.wait(0.2)
        records = found.get(self._at)
        if not isinstance(records, FetchedRecords):
            return []
        # Transactions' markers take offsets too, so reading as many records as there are offsets may go beyond.
        self._waiting = self._fetcher.cut(records, offset)
        return records

    def close(self) -> None:
        """Let go of the connection and of the records."""
        if self._fetcher is not None:
            self._fetcher.close()
            self._fetcher = None


def _gone(where: str, start: int, first: int) -> RetentionPassedError:
    return RetentionPassedError(
        f"records {start} to {first} are gone, and state that lives needs them",
        where=where,
        remedy="raise the topic's retention.ms above max_label_delay + revision_horizon; to go on without what was "
        "open, delete the topics joined-deltas and monitoring-journal and the consumer groups monitoring-join and "
        "monitoring-aggregate",
    )
