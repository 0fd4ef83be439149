"""Load a topic while workers wait before it, and let them see all of it at one moment.

Everything is produced inside one open transaction. Workers read committed records only, so a running worker meets a
full log the moment the transaction commits: phases of one process are measured without a producer beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Final
from uuid import uuid4

import numpy as np
from confluent_kafka import KafkaException, Producer

from benchmarks.bulk import Bulk, Ids, Records
from benchmarks.progress import Ends
from streams.kafka.config import KafkaConfig
from streams.kafka.offsets import OffsetClient

CHUNK: Final = 50_000
_OPEN_S: Final = 900
"""The broker's own limit of a transaction: at 200 k records a second, 180 M."""


class Gate:
    """One open transaction.

    Parameters
    ----------
    kafka : KafkaConfig

    Notes
    -----
    Left without `open`, nothing of it is ever seen. For one thread.
    """

    def __init__(self, kafka: KafkaConfig) -> None:
        self._kafka = kafka
        self._offsets = OffsetClient(kafka)
        self._counts: dict[str, int] = {}
        self._opened = False
        self._producer = Producer(
            kafka.producer(
                f"bench-gate-{uuid4().hex}",
                transaction_timeout_ms=_OPEN_S * 1_000,
                delivery_timeout_ms=_OPEN_S * 1_000,
                linger_ms=50,
            )
        )

    def __enter__(self) -> Gate:
        self._producer.init_transactions(60)
        self._producer.begin_transaction()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._opened:
            try:
                self._producer.purge()
                self._producer.abort_transaction(30)
            except KafkaException:
                if error is None:
                    raise

    def send(self, topic: str, records: Iterable[Records]) -> int:
        """Produce chunks of keys and values; returns how many records they were."""
        name, produce, poll = self._kafka.topic(topic), self._producer.produce, self._producer.poll
        sent = 0
        for keys, values in records:
            for key, value in zip(keys, values, strict=True):
                while True:
                    try:
                        produce(name, value, key)
                        break
                    except BufferError:
                        poll(0.02)
            sent += len(keys)
        self._counts[topic] = self._counts.get(topic, 0) + sent
        return sent

    def filled(self) -> Ends:
        """Wait until the broker has everything; the offset behind the last record of every partition of its topics."""
        if left := self._producer.flush(_OPEN_S):
            raise TimeoutError(f"{left} records were not acknowledged within {_OPEN_S} s")
        partitions = [
            (self._kafka.without_prefix(name), number)
            for name, found in self._producer.list_topics(timeout=30).topics.items()
            if self._kafka.without_prefix(name) in self._counts and name.startswith(self._kafka.prefix)
            for number in found.partitions
        ]
        return self._offsets.ends(partitions, 30.0, undecided=True)

    def open(self) -> None:
        """Commit: workers see everything now."""
        self._producer.commit_transaction(60)
        self._opened = True


def prediction_chunks(bulk: Bulk, start: int = 0, stop: int | None = None) -> Iterator[Records]:
    """Predictions `start` to `stop` - 1 (default: all) in event time."""
    stop = bulk.count if stop is None else stop
    for at in range(start, stop, CHUNK):
        yield bulk.predictions(at, min(at + CHUNK, stop))


def label_chunks(bulk: Bulk, ids: Ids) -> Iterator[Records]:
    """Labels in the order of `ids`."""
    for at in range(0, len(ids), CHUNK):
        yield bulk.labels(ids[at : at + CHUNK])


def id_range(start: int, stop: int, step: int = 1) -> Ids:
    """Ids in event time."""
    return np.arange(start, stop, step, dtype=np.uint64)
