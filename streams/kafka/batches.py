"""What one poll brought: the client library's messages by partition, made into records only where somebody asks.

A record costs a microsecond to make, a column of a hundred thousand values three hundredths of one a record: the hot
path reads columns and makes records of the few that are odd.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby, pairwise
from typing import overload

import numpy as np
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message

from streams.kafka.positions import TopicPartition
from streams.kafka.records import Columns, Offsets, Record

# Called unbound over whole lists: a third of what a call on each message costs.
_topic, _partition, _offset = Message.topic, Message.partition, Message.offset
_key, _value, _headers, _timestamp = Message.key, Message.value, Message.headers, Message.timestamp


class PartitionRecords(Sequence[Record]):
    """Records of one partition in the log's order, made when they are asked for.

    Parameters
    ----------
    topic : str
        Without prefix.
    partition : int
    messages : list of Message
        Without errors.
    """

    def __init__(self, topic: str, partition: int, messages: list[Message]) -> None:
        self.topic = topic
        self.partition = partition
        self._messages = messages

    def __len__(self) -> int:
        return len(self._messages)

    @overload
    def __getitem__(self, at: int) -> Record: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Record]: ...
    def __getitem__(self, at: int | slice) -> Record | Sequence[Record]:
        if isinstance(at, slice):
            return PartitionRecords(self.topic, self.partition, self._messages[at])
        return self._record(self._messages[at])

    def __iter__(self) -> Iterator[Record]:
        return map(self._record, self._messages)

    def extend(self, messages: list[Message]) -> None:
        """What came next in the log."""
        self._messages += messages

    def columns(self) -> Columns:
        """Values, timestamps and headers, each as a whole."""
        messages = self._messages
        headers = list(map(_headers, messages))
        return Columns(list(map(_value, messages)), timestamps_ms(messages), headers if any(headers) else None)  # type: ignore[arg-type]

    def offsets(self) -> Offsets:
        """Offsets as a whole."""
        messages = self._messages
        first, last = _offset(messages[0]) or 0, _offset(messages[-1]) or 0
        if last - first == len(messages) - 1:
            return np.arange(first, last + 1, dtype=np.int64)
        return np.fromiter(map(_offset, messages), np.int64, len(messages))

    def keys(self) -> list[bytes | None]:
        """Keys as a whole."""
        return list(map(_key, self._messages))

    def _record(self, message: Message) -> Record:
        kind, at_ms = _timestamp(message)
        if kind == TIMESTAMP_NOT_AVAILABLE:
            at_ms = 0
        return Record(
            self.topic,
            self.partition,
            _offset(message) or 0,
            _key(message),
            _value(message),
            _headers(message),  # type: ignore[arg-type]  # bytes, as the library gives them; its hints allow for more
            int(at_ms),
        )


class Batch(Sequence[Record]):
    """Records of several partitions; within a partition in the log's order.

    Attributes
    ----------
    partitions : dict of (topic, partition) to sequence of Record
    """

    def __init__(self) -> None:
        self.partitions: dict[TopicPartition, Sequence[Record]] = {}

    def __len__(self) -> int:
        return sum(map(len, self.partitions.values()))

    def __iter__(self) -> Iterator[Record]:
        return chain.from_iterable(self.partitions.values())

    @overload
    def __getitem__(self, at: int) -> Record: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Record]: ...
    def __getitem__(self, at: int | slice) -> Record | Sequence[Record]:
        return list(self)[at]

    def add(self, tp: TopicPartition, messages: list[Message]) -> None:
        """Append what came next in a partition."""
        found = self.partitions.get(tp)
        if isinstance(found, PartitionRecords):
            found.extend(messages)
        else:
            self.partitions[tp] = PartitionRecords(*tp, messages)

    def clear(self) -> None:
        """Forget everything."""
        self.partitions = {}


def by_partition(records: Sequence[Record]) -> Mapping[TopicPartition, Sequence[Record]]:
    """Records by (topic, partition), in the log's order."""
    if isinstance(records, Batch):
        return records.partitions
    found: dict[TopicPartition, list[Record]] = {}
    for record in records:
        found.setdefault((record.topic, record.partition), []).append(record)
    return found


def runs(messages: list[Message]) -> Iterator[tuple[str, int, list[Message]]]:
    """Messages of one poll, cut where topic or partition changes: (full topic name, partition, messages).

    Notes
    -----
    The library hands out what one fetch brought of a partition in one piece, so there are few cuts. Only the numbers
    are compared one by one, the names are where a piece's are not all the same.
    """
    numbers = np.fromiter(map(_partition, messages), np.int64, len(messages))
    cuts = [0, *(np.flatnonzero(numbers[1:] != numbers[:-1]) + 1).tolist(), len(messages)]
    for start, end in pairwise(cuts):
        piece = messages[start:end]
        if not piece:
            continue
        names = list(map(_topic, piece))
        if names.count(names[0]) == len(names):
            yield names[0] or "", int(numbers[start]), piece
            continue
        for name, group in groupby(zip(names, piece, strict=True), key=lambda item: item[0]):
            yield name or "", int(numbers[start]), [message for _, message in group]


def timestamps_ms(messages: Iterable[Message]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Timestamps in milliseconds, 0 where a message has none."""
    stamps = list(map(_timestamp, messages))
    found = np.array([at for _, at in stamps], np.int64)
    kinds = {kind for kind, _ in stamps}
    if TIMESTAMP_NOT_AVAILABLE in kinds:
        found[[kind == TIMESTAMP_NOT_AVAILABLE for kind, _ in stamps]] = 0
    return found
