"""A plain (not transactional) producer: idempotent, with back-pressure, that knows what was not delivered."""

from __future__ import annotations

import time
from types import TracebackType

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas.errors import BrokerError
from schemas.topics import MAX_MESSAGE_BYTES
from streams.kafka.config import KafkaConfig, Property
from streams.kafka.records import RecordHeaders

_REMEMBERED_FAILURES = 5


class EventProducer:
    """Sends events and says what did not arrive.

    Parameters
    ----------
    config : KafkaConfig
    **over
        librdkafka properties, ``_`` for ``.``.

    Notes
    -----
    At least once from the caller's view: `flush` returns when all in-sync replicas acknowledged every record, and
    raises when one was not. Order per partition is kept, retries never duplicate (idempotent producer). `send` blocks
    when the queue (64 MB) is full.
    """

    def __init__(self, config: KafkaConfig, **over: Property) -> None:
        self._config = config
        self._producer = Producer(config.producer(None, **over))
        self._failures: list[str] = []
        self._failed = 0
        self._delivered = 0

    def __enter__(self) -> EventProducer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.flush()
        else:
            self._producer.flush(1.0)

    @property
    def delivered(self) -> int:
        """Records acknowledged so far."""
        return self._delivered

    def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        headers: RecordHeaders | None = None,
        partition: int | None = None,
        *,
        timeout_s: float = 60.0,
    ) -> None:
        """Queue one record.

        Parameters
        ----------
        topic : str
            Name without prefix.
        partition : int, optional
            Default: murmur2 of the key, any partition without one.
        timeout_s : float
            Longest to wait for room in the queue.

        Raises
        ------
        BrokerError
            The queue stayed full (nothing is being acknowledged), or the record is larger than the broker takes.
        """
        deadline = time.monotonic() + timeout_s
        name = self._config.topic(topic)
        while True:
            try:
                self._producer.produce(
                    name,
                    value,
                    key,
                    -1 if partition is None else partition,
                    on_delivery=self._on_delivery,
                    headers=list(headers) if headers else None,
                )
            except BufferError:
                if time.monotonic() > deadline:
                    raise BrokerError(
                        f"the queue stayed full for {timeout_s:.0f} s: nothing is being acknowledged",
                        where=f"topic {name} on {self._config.bootstrap_servers}",
                        remedy="check the broker with `driftline doctor`",
                    ) from None
                self._producer.poll(0.1)
            except KafkaException as error:
                raise BrokerError(
                    f"record with key {key!r} was refused: {error.args[0].str()}",
                    where=f"topic {name} on {self._config.bootstrap_servers}",
                    remedy=f"a record may hold {MAX_MESSAGE_BYTES} bytes" if _oversize(error) else "",
                ) from error
            else:
                self._producer.poll(0)
                return

    def flush(self, timeout_s: float = 30.0) -> None:
        """Wait until everything sent is acknowledged.

        Raises
        ------
        BrokerError
            Names topics, keys and reasons of what was not delivered (each is told once).
        """
        waiting = self._producer.flush(timeout_s)
        failed, shown = self._failed, self._failures
        self._failed, self._failures = 0, []
        if failed or waiting:
            more = f" and {failed - len(shown)} more" if failed > len(shown) else ""
            unacknowledged = [f"{waiting} records not acknowledged within {timeout_s:.0f} s"] if waiting else []
            raise BrokerError(
                "not delivered: " + "; ".join(shown + unacknowledged) + more,
                where=self._config.bootstrap_servers,
                remedy="check the broker with `driftline doctor`, then send again",
            )

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self._delivered += 1
            return
        self._failed += 1
        if len(self._failures) < _REMEMBERED_FAILURES:
            self._failures.append(f"{message.topic()} key {message.key()!r}: {error.str()}")


def _oversize(error: KafkaException) -> bool:
    return bool(error.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE)
