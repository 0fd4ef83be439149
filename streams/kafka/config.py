"""How to reach Kafka, and the client properties everything of ours shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from schemas.topics import MAX_MESSAGE_BYTES

Property = str | int | float | bool

TRANSACTION_TIMEOUT_MS = 10_000
_SECRET_WORDS = ("password", "secret", "key", "jaas", "token", "username", "oauthbearer.config")

# What correctness rests on: no pass-through property may change these.
_CONSUMER_INVARIANTS: dict[str, Property] = {
    "isolation.level": "read_committed",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    "allow.auto.create.topics": False,
    # range keeps partition p of co-partitioned topics on one worker.
    "partition.assignment.strategy": "range",
}
_PRODUCER_INVARIANTS: dict[str, Property] = {
    "acks": "all",
    "enable.idempotence": True,
    "partitioner": "murmur2_random",
}


@dataclass(frozen=True, repr=False)
class KafkaConfig:
    """Address, pass-through properties and the installation's prefix.

    Parameters
    ----------
    bootstrap_servers : str
        Comma-separated ``host:port``.
    properties : mapping of str to str
        librdkafka properties that apply to every client (security, timeouts).
    prefix : str
        Put in front of every topic, group and transactional id.

    Examples
    --------
    >>> config = KafkaConfig("127.0.0.1:9092", prefix="blue.")
    >>> config.topic("predictions"), config.group("serving")
    ('blue.predictions', 'blue.serving')
    >>> KafkaConfig("b:9092", {"sasl.password": "hunter2"})
    KafkaConfig('b:9092', {'sasl.password': '***'}, prefix='')
    """

    bootstrap_servers: str
    properties: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""

    def __repr__(self) -> str:
        shown = {k: "***" if any(word in k for word in _SECRET_WORDS) else v for k, v in self.properties.items()}
        return f"KafkaConfig({self.bootstrap_servers!r}, {shown!r}, prefix={self.prefix!r})"

    def with_prefix(self, prefix: str) -> KafkaConfig:
        """The same broker under another prefix."""
        return replace(self, prefix=prefix)

    def topic(self, name: str) -> str:
        """Name of a topic on the broker."""
        return self.prefix + name

    def without_prefix(self, topic: str) -> str:
        """Name of a topic as the catalogue knows it."""
        return topic.removeprefix(self.prefix)

    def group(self, name: str) -> str:
        """Name of a consumer group on the broker."""
        return self.prefix + name

    def transactional_id(self, name: str) -> str:
        """A transactional id on the broker."""
        return self.prefix + name

    def common(self, **over: Property) -> dict[str, Property]:
        """Properties of every client; keyword names use ``_`` for ``.``."""
        base: dict[str, Property] = {
            "bootstrap.servers": self.bootstrap_servers,
            "client.id": "driftline",
            "reconnect.backoff.ms": 50,
            # A broker that restarts should be found again soon, not after librdkafka's 10 s.
            "reconnect.backoff.max.ms": 1_000,
            "log.connection.close": False,
            # librdkafka writes to standard error by itself; what matters reaches us as an error we word ourselves.
            "log_level": 2,
            "socket.keepalive.enable": True,
        }
        return {**base, **self.properties, **_dotted(over)}

    def consumer(self, group: str, **over: Property) -> dict[str, Property]:
        """Properties of a consumer in `group` (without prefix).

        Notes
        -----
        Reads committed records only, commits nothing by itself, tells when a partition is drained, and bounds its
        queue to 64 MB, so that a process that lags does not grow.
        """
        base: dict[str, Property] = {
            "group.id": self.group(group),
            "auto.offset.reset": "earliest",
            # librdkafka's defaults fetch 160 k events/s; these 1.2 M. The queue's bound is what memory costs.
            "queued.min.messages": 1_000_000,
            "queued.max.messages.kbytes": 65_536,
            "fetch.max.bytes": 33_554_432,
            "max.partition.fetch.bytes": 8_388_608,
            # How long the library rests when its queue was full; its own default of a second halves a catch-up.
            "fetch.queue.backoff.ms": 10,
            # An empty fetch waits this long before "drained" is known.
            "fetch.wait.max.ms": 100,
        }
        return {**self.common(), **base, **self.properties, **_CONSUMER_INVARIANTS, **_dotted(over)}

    def producer(self, transactional_id: str | None = None, **over: Property) -> dict[str, Property]:
        """Properties of a producer; `transactional_id` (without prefix) makes it transactional.

        Notes
        -----
        ``murmur2_random`` is how Java's producers partition; librdkafka's own default (CRC32) would put a key's
        label on another partition than its prediction.
        """
        base: dict[str, Property] = {
            "compression.type": "lz4",
            "linger.ms": 5,
            "batch.size": 1_000_000,
            "message.max.bytes": MAX_MESSAGE_BYTES + 100_000,
            "queue.buffering.max.kbytes": 65_536,
            "queue.buffering.max.messages": 500_000,
            "delivery.timeout.ms": 30_000,
        }
        transaction: dict[str, Property] = {}
        if transactional_id is not None:
            transaction = {
                "transactional.id": self.transactional_id(transactional_id),
                "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
                "delivery.timeout.ms": TRANSACTION_TIMEOUT_MS,
            }
        return {**self.common(), **base, **self.properties, **_PRODUCER_INVARIANTS, **transaction, **_dotted(over)}


def _dotted(properties: Mapping[str, Property]) -> dict[str, Property]:
    return {name.replace("_", "."): value for name, value in properties.items()}
