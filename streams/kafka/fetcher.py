"""Reads partitions without a group and without Python objects: what the native join feeds on.

Membership, committed offsets and transactions stay with `GroupConsumer`; this is the part of it that fetches. It is a
client of its own with a queue for each partition, so that one can be left alone while another is read.
"""

from __future__ import annotations

import ctypes
import os
import select
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from ctypes import byref, c_char_p, c_int64, c_size_t, c_void_p, string_at
from dataclasses import dataclass
from typing import Final, overload
from weakref import WeakSet

from confluent_kafka import KafkaError

from schemas.errors import BrokerError
from streams.kafka import librdkafka
from streams.kafka.alignment import NEAR
from streams.kafka.config import KafkaConfig, Property
from streams.kafka.positions import TopicPartition
from streams.kafka.records import Record, RecordHeaders
from streams.native.library import Told, available, checked
from streams.native.library import library as core

_PIECE: Final = 8_192
# A message in the library's queue takes some 300 bytes more than its own, and what one fetch brought of a partition is
# held whole: with the ordinary way's 8 MB a fetch a worker that lags held 700 MB, with these it holds 100.
_FETCH_BYTES: Final = 1_048_576
_QUEUE_KBYTES: Final = 32_768
_QUEUE: Final = "queued.max.messages.kbytes"
_LEAST_QUEUE_KBYTES: Final = 256
_OF_GROUPS: Final = (
    *("group.id", "group.instance.id", "group.protocol", "partition.assignment.strategy"),
    *("session.timeout.ms", "heartbeat.interval.ms", "max.poll.interval.ms"),
)


def usable() -> bool:
    """Whether partitions can be read this way here: the native core and the client's library are there."""
    return available() and librdkafka.library() is not None


class FetchedRecords(Sequence[Record]):
    """Records of one partition in the client library's own buffers; made where somebody asks for one.

    Parameters
    ----------
    topic : str
        Without prefix.
    partition : int

    Notes
    -----
    What was made of them stays valid; they themselves end with the reader they came from.
    """

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self._client = (c_void_p * len(librdkafka.FOR_READING))(*librdkafka.addresses())
        self.handle: int | None = core().dl_batch_new(self._client)
        self._count = 0

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Give the messages back."""
        handle, self.handle, self._count = getattr(self, "handle", None), None, 0
        if handle is not None:
            core().dl_batch_free(handle)

    def read(self, queue: int, most: int) -> Told:
        """Append what a queue holds."""
        told = Told()
        checked(core().dl_batch_read(self.handle, queue, most, byref(told)), "reading a partition")
        self._count += told.count
        return told

    def split(self, offset: int) -> FetchedRecords:
        """Take the records from `offset` on into a sequence of their own (see `Fetcher.cut`)."""
        at = bisect_left(range(self._count), offset, key=self._offset)
        rest = FetchedRecords(self.topic, self.partition)
        if at < self._count:
            rest.close()
            rest.handle = core().dl_batch_split(self.handle, at)
            rest._count, self._count = self._count - at, at
        return rest

    def _offset(self, at: int) -> int:
        return int(librdkafka.RawMessage.from_address(core().dl_batch_message(self.handle, at)).offset)

    @property
    def error(self) -> str:
        """Text of the error that the last read met."""
        size = c_size_t()
        at = core().dl_batch_error(self.handle, byref(size))
        return string_at(at, size.value).decode(errors="replace")

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> Record: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Record]: ...
    def __getitem__(self, at: int | slice) -> Record | Sequence[Record]:
        if isinstance(at, slice):
            return [self._record(index) for index in range(*at.indices(len(self)))]
        count = len(self)
        if not -count <= at < count:
            raise IndexError(at)
        return self._record(at % count)

    def __iter__(self) -> Iterator[Record]:
        return map(self._record, range(len(self)))

    def _record(self, at: int) -> Record:
        address = core().dl_batch_message(self.handle, at)
        message = librdkafka.RawMessage.from_address(address)
        return Record(
            self.topic,
            self.partition,
            message.offset,
            string_at(message.key, message.key_len) if message.key else None,
            string_at(message.payload, message.len) if message.payload else None,
            _headers(address),
            int(core().dl_batch_timestamp(self.handle, at)),
        )


@dataclass
class _Partition:
    topic: bytes
    number: int
    queue: int
    next: int
    end: int
    reached_ms: int = -1
    end_told: bool = False


class Fetcher:
    """Reads partitions from explicit offsets.

    Parameters
    ----------
    config : KafkaConfig
    properties : mapping
        librdkafka properties on top. ``queued.max.messages.kbytes`` is for all partitions together; it and the size of
        a fetch are this class's own unless the configuration itself names them.
    leader : str, optional
        In a catch-up, leave other topics alone until this topic is as far in time.

    Notes
    -----
    Not thread-safe. Records that were handed out are gone after `stop`.
    """

    def __init__(self, config: KafkaConfig, properties: Mapping[str, Property], leader: str | None = None) -> None:
        self._config = config
        self._leader = leader
        ours: dict[str, Property] = {"max.partition.fetch.bytes": _FETCH_BYTES, _QUEUE: _QUEUE_KBYTES}
        named = {name: config.properties.get(name, value) for name, value in ours.items()}
        merged = {**config.consumer("none"), **properties, **named}
        self._properties = {name: value for name, value in merged.items() if name not in _OF_GROUPS}
        self._client: int | None = None
        self._topics: dict[str, int] = {}
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._out: WeakSet[FetchedRecords] = WeakSet()
        self._turn = 0
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)

    def start(self, offsets: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]) -> None:
        """Read these partitions from these offsets, and no others.

        Parameters
        ----------
        offsets : mapping of (topic, partition) to int
        ends : mapping of (topic, partition) to int
            Where their logs end as of now, as far as known.

        Raises
        ------
        BrokerError
        """
        self.stop()
        if not offsets:
            return
        native = _library()
        self._client = self._new(len(offsets))
        for (topic, number), offset in offsets.items():
            if topic not in self._topics:
                self._topics[topic] = native.rd_kafka_topic_new(self._client, self._config.topic(topic).encode(), None)
            queue = native.rd_kafka_queue_new(self._client)
            native.rd_kafka_queue_io_event_enable(queue, self._wake, b"!", 1)
            name = self._config.topic(topic).encode()
            self._partitions[topic, number] = _Partition(name, number, queue, offset, ends.get((topic, number), 0))
            if native.rd_kafka_consume_start_queue(self._topics[topic], number, offset, queue) != 0:
                said = native.rd_kafka_err2str(native.rd_kafka_last_error()).decode()
                raise BrokerError(f"the partition cannot be read: {said}", where=f"{topic}-{number}")

    def stop(self) -> None:
        """Read nothing any more; what was handed out is gone."""
        for records in list(self._out):
            records.close()
        if self._client is None:
            return
        native = _library()
        for (topic, number), partition in self._partitions.items():
            native.rd_kafka_consume_stop(self._topics[topic], number)
            native.rd_kafka_queue_destroy(partition.queue)
        for handle in self._topics.values():
            native.rd_kafka_topic_destroy(handle)
        native.rd_kafka_destroy(self._client)
        self._client, self._topics, self._partitions = None, {}, {}

    def close(self) -> None:
        """Stop, and let go of everything."""
        self.stop()
        for end in (self._woken, self._wake):
            os.close(end)

    def wait(self, timeout_s: float) -> None:
        """Until something may have arrived, at most `timeout_s`."""
        select.select([self._woken], [], [], timeout_s)
        try:
            while os.read(self._woken, 4_096):
                pass
        except BlockingIOError:
            pass

    def read(
        self, most: int, into: dict[TopicPartition, Sequence[Record]]
    ) -> Iterator[tuple[TopicPartition, Told, KafkaError | None]]:
        """Read what has arrived, partition by partition in turn; gives what each read brought.

        Parameters
        ----------
        most : int
            Most records in all.
        into : dict of (topic, partition) to sequence of Record
            Takes the records.
        """
        if self._client is None:
            return
        _library().rd_kafka_poll(self._client, 0)
        left, moved = most, True
        while left > 0 and moved:
            moved = False
            for tp, partition in self._in_turn():
                if left <= 0 or not self._may_go(tp, partition):
                    continue
                records = into.get(tp)
                if not isinstance(records, FetchedRecords):
                    records = self._new_records(tp)
                told = records.read(partition.queue, min(left, _PIECE))
                if told.count:
                    into[tp] = records
                    partition.reached_ms = max(partition.reached_ms, told.timestamp_ms)
                    partition.next, partition.end_told = told.offset + 1, False
                    left -= told.count
                    moved = True
                partition.end_told = partition.end_told or told.end >= 0
                error = KafkaError(int(told.error), records.error) if told.error else None
                if told.count or told.end >= 0 or error is not None:
                    yield tp, told, error

    def cut(self, records: FetchedRecords, offset: int) -> FetchedRecords:
        """Take the records from `offset` on into a sequence of their own."""
        rest = records.split(offset)
        self._out.add(rest)
        return rest

    def _in_turn(self) -> list[tuple[TopicPartition, _Partition]]:
        """The leader's partitions first, beginning with another one each time."""
        every = list(self._partitions.items())
        self._turn = (self._turn + 1) % max(1, len(every))
        turned = every[self._turn :] + every[: self._turn]
        return sorted(turned, key=lambda item: item[0][0] != self._leader)

    def _may_go(self, tp: TopicPartition, partition: _Partition) -> bool:
        if self._leader is None or tp[0] == self._leader:
            return True
        leading = self._partitions.get((self._leader, tp[1]))
        if leading is None or leading.end_told or partition.reached_ms <= leading.reached_ms:
            return True
        return self._lag(leading) <= NEAR

    def _lag(self, partition: _Partition) -> int:
        """Offsets between the last record that was read and the end, as far as fetches have told it."""
        low, high = c_int64(), c_int64()
        args = (self._client, partition.topic, partition.number, byref(low), byref(high))
        if _library().rd_kafka_get_watermark_offsets(*args) == 0:
            partition.end = max(partition.end, high.value)
        return partition.end - partition.next

    def _new_records(self, tp: TopicPartition) -> FetchedRecords:
        records = FetchedRecords(*tp)
        self._out.add(records)
        return records

    def _new(self, partitions: int) -> int:
        native = _library()
        properties = dict(self._properties)
        # The library's bound is one for each queue, ours is one for all of them.
        properties[_QUEUE] = max(_LEAST_QUEUE_KBYTES, int(properties[_QUEUE]) // partitions)
        conf = native.rd_kafka_conf_new()
        said = ctypes.create_string_buffer(512)
        for name, value in properties.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            if native.rd_kafka_conf_set(conf, name.encode(), text.encode(), said, len(said)) != 0:
                native.rd_kafka_conf_destroy(conf)
                raise BrokerError(f"the client library refuses a property: {said.value.decode()}", where=name)
        native.rd_kafka_conf_set_log_cb(conf, None)
        client = native.rd_kafka_new(librdkafka.CONSUMER, conf, said, len(said))
        if not client:
            native.rd_kafka_conf_destroy(conf)
            raise BrokerError(f"the client library cannot start: {said.value.decode()}")
        return int(client)


def _library() -> ctypes.CDLL:
    found = librdkafka.library()
    assert found is not None
    return found


def _headers(message: int) -> RecordHeaders | None:
    native = _library()
    headers = c_void_p()
    if native.rd_kafka_message_headers(message, byref(headers)) != 0:
        return None
    name, value, size = c_char_p(), c_void_p(), c_size_t()
    found: list[tuple[str, bytes | None]] = []
    while native.rd_kafka_header_get_all(headers, len(found), byref(name), byref(value), byref(size)) == 0:
        data = string_at(value.value, size.value) if value.value else None
        found.append(((name.value or b"").decode(), data))
    return found
