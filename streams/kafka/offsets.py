"""Ends and beginnings of partitions, asked over a connection of their own."""

from __future__ import annotations

import time
from collections.abc import Iterable

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from streams.kafka.config import KafkaConfig
from streams.kafka.errors import broker_error

Partition = tuple[str, int]

_LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
_EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
# Right after a topic was created or a broker came back, its leader is not known everywhere yet.
_PASSING = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError._UNKNOWN_PARTITION,
        # A broker that is just going, or not there yet.
        KafkaError._TRANSPORT,
        KafkaError._TIMED_OUT,
    }
)


class OffsetClient:
    """Asks for offsets of many partitions in one request.

    Notes
    -----
    A consumer answers the same question, but behind its own long-polling fetch: measured 0.1 s for each partition
    (``fetch.wait.max.ms``), against 2 ms here for all of them.
    """

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._admin = AdminClient(config.common())

    def ends(
        self, partitions: Iterable[Partition], timeout_s: float, *, undecided: bool = False
    ) -> dict[Partition, int]:
        """Last stable offset of each partition.

        Parameters
        ----------
        undecided : bool
            The end of what was written instead, transactions that are still open included. A producer's commit returns
            before its markers stand in every partition: who has to see what was committed a moment ago must wait
            for this end, not for the stable one.

        Raises
        ------
        BrokerError
        """
        level = IsolationLevel.READ_UNCOMMITTED if undecided else IsolationLevel.READ_COMMITTED
        return self._ask(list(partitions), _LATEST, timeout_s, level)

    def earliest(self, partitions: Iterable[Partition], timeout_s: float) -> dict[Partition, int]:
        """Oldest offset of each partition.

        Raises
        ------
        BrokerError
        """
        return self._ask(list(partitions), _EARLIEST, timeout_s, IsolationLevel.READ_COMMITTED)

    def _ask(
        self, partitions: list[Partition], spec: OffsetSpec, timeout_s: float, level: IsolationLevel
    ) -> dict[Partition, int]:
        if not partitions:
            return {}
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return self._ask_once(partitions, spec, timeout_s, level)
            except KafkaException as error:
                if error.args[0].code() not in _PASSING or time.monotonic() >= deadline:
                    raise broker_error(self._config, error) from error
                time.sleep(0.05)

    def _ask_once(
        self, partitions: list[Partition], spec: OffsetSpec, timeout_s: float, level: IsolationLevel
    ) -> dict[Partition, int]:
        wanted = {TopicPartition(self._config.topic(topic), number): spec for topic, number in partitions}
        futures = self._admin.list_offsets(wanted, isolation_level=level, request_timeout=timeout_s)
        return {
            (self._config.without_prefix(native.topic), native.partition): future.result(timeout_s).offset
            for native, future in futures.items()
        }
