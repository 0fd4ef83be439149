"""What a group has committed, asked without being a member of it."""

from __future__ import annotations

import time
from collections.abc import Iterable

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from streams.kafka.config import KafkaConfig

Partition = tuple[str, int]

_RETRY_S = 0.1
_COORDINATOR_COMES = (
    KafkaError._WAIT_COORD,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
)


class GroupOffsets:
    """Committed offsets of one group, over one connection.

    Parameters
    ----------
    config : KafkaConfig
    group : str
        Without prefix.

    Notes
    -----
    The admin request that exists for this is not used: made while a young broker is still making the group's
    coordinator, it was seen to crash librdkafka 2.16 (in 4 of 9 starts of a benchmark). Transactions that are open are
    not waited for.
    """

    def __init__(self, config: KafkaConfig, group: str) -> None:
        self._config = config
        self._consumer = Consumer(config.consumer(group, isolation_level="read_uncommitted"))

    def committed(self, partitions: Iterable[Partition], timeout_s: float = 10.0) -> dict[Partition, int]:
        """Next offsets by (topic without prefix, partition); partitions without one are left out.

        Raises
        ------
        KafkaException
        """
        native = [TopicPartition(self._config.topic(topic), number) for topic, number in partitions]
        deadline = time.monotonic() + timeout_s
        while native:
            try:
                found = self._consumer.committed(native, timeout=max(0.1, deadline - time.monotonic()))
                failed = next((tp.error for tp in found if tp.error is not None), None)
                if failed is not None:
                    raise KafkaException(failed)
            except KafkaException as error:
                if error.args[0].code() not in _COORDINATOR_COMES or time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_S)
            else:
                return {
                    (self._config.without_prefix(tp.topic), tp.partition): tp.offset for tp in found if tp.offset >= 0
                }
        return {}

    def close(self) -> None:
        """Let go of the connection."""
        self._consumer.close()
