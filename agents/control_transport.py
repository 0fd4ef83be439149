"""The Kafka driver of our Faust agents: Faust's own, turned to what a control plane needs.

Faust's driver reads aborted records unless its ``exactly_once`` mode is on, which loses records when killed. This one
reads committed records only, and tells position and end of what it reads, so that `agents.control` can watch it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import aiokafka
from aiokafka import TopicPartition
from faust.auth import SASLCredentials, SSLCredentials
from faust.transport.drivers import aiokafka as driver

from streams.kafka.security import security


class _ConsumerThread(driver.AIOKafkaConsumerThread):
    def _create_worker_consumer(self, transport: driver.Transport) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # Read by the fetcher when the consumer starts, which it has not.
        consumer._isolation_level = "read_committed"
        return consumer

    def verify_event_path(self, now: float, tp: object) -> None:
        """Faust's own check takes transaction markers for records that wait; the watchdog replaces it."""

    async def progress(self) -> dict[tuple[str, int], tuple[int, int]]:
        """Position and last stable offset of every assigned partition."""
        result: dict[tuple[str, int], tuple[int, int]] = await self.call_thread(self._progress)
        return result

    async def _progress(self) -> dict[tuple[str, int], tuple[int, int]]:
        consumer = self._ensure_consumer()
        partitions: list[TopicPartition] = list(consumer.assignment())
        ends = await consumer.end_offsets(partitions)
        return {(tp.topic, tp.partition): (await consumer.position(tp), ends[tp]) for tp in partitions}


class _Consumer(driver.Consumer):
    _thread: _ConsumerThread

    def _new_consumer_thread(self) -> _ConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def progress(self) -> dict[tuple[str, int], tuple[int, int]]:
        """See `_ConsumerThread.progress`."""
        return await self._thread.progress()

    async def commit_offsets(self, offsets: Mapping[tuple[str, int], int]) -> bool:
        """Commit next offsets of partitions that are still assigned.

        Notes
        -----
        False where a rebalance took over in between (the records come again); any other failure crashes the app.
        """
        done: bool = await self._thread.commit(
            {self._new_topicpartition(topic, partition): offset for (topic, partition), offset in offsets.items()}
        )
        return done


class CommittedTransport(driver.Transport):
    """Faust's aiokafka transport with consumers that read committed records only."""

    Consumer = _Consumer


def credentials(properties: Mapping[str, str]) -> SASLCredentials | SSLCredentials | None:
    """librdkafka's security properties as Faust takes them; None for PLAINTEXT.

    Raises
    ------
    UnsafeSettingError
        A mechanism that Faust's driver does not speak, rather than silently connecting without it.
    """
    access = security(properties)
    if access.protocol == "PLAINTEXT":
        return None
    if access.protocol == "SSL":
        return SSLCredentials(access.context)
    return SASLCredentials(
        username=access.username, password=access.password, ssl_context=access.context, mechanism=access.mechanism
    )


def faust_settings(properties: Mapping[str, str]) -> dict[str, Any]:
    """Settings of a Faust app that follow from librdkafka's properties."""
    found = credentials(properties)
    return {} if found is None else {"broker_credentials": found}
