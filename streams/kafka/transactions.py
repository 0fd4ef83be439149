"""The producer's side of a batch: one transaction with outputs and offsets, and what can become of its commit."""

from __future__ import annotations

import enum
import logging
import time
import uuid
from collections.abc import Callable, Sequence

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import TopicPartition as KafkaPartition

from schemas.errors import BrokerError, FencedError, TopicError
from streams.kafka.bounded import BoundedCalls, CallHungError
from streams.kafka.config import KafkaConfig
from streams.kafka.failpoints import failpoint
from streams.kafka.records import Output

log = logging.getLogger(__name__)

_GRACE_S = 3.0
"""How much longer than its own time-out a call of the library may take before it counts as hung."""
_FENCED = frozenset(
    {
        KafkaError._FENCED,
        KafkaError.PRODUCER_FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.TRANSACTION_COORDINATOR_FENCED,
    }
)


class Outcome(enum.Enum):
    """What became of a commit."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"


class TransactionAbortedError(Exception):
    """The transaction must be aborted and its batch taken again; never leaves the processor."""


class TransactionalWriter:
    """A transactional producer that can be made anew.

    Parameters
    ----------
    config : KafkaConfig
    transactional_id : str
        Without prefix. Making a writer fences the former holder of the id and aborts its open transaction.
    transaction_timeout_ms, operation_timeout_ms : int

    Raises
    ------
    BrokerError
        The broker does not answer.
    FencedError
        From every method: another worker holds the id; this process must end.
    """

    def __init__(
        self, config: KafkaConfig, transactional_id: str, *, transaction_timeout_ms: int, operation_timeout_ms: int
    ) -> None:
        self._config = config
        self._id = transactional_id
        self._transaction_timeout_ms = transaction_timeout_ms
        self._timeout_s = operation_timeout_ms / 1000
        # After the transaction's own time-out there is nothing left to wait for.
        self._transaction_s = transaction_timeout_ms / 1000
        self._worker = uuid.uuid4().hex[:12]
        self._sequence = 0
        self._is_open = False
        self._known_topics: set[str] = set()
        self._calls = BoundedCalls()
        self._producer = self._make()

    def next_tag(self) -> str:
        """A name for the next batch, written as the metadata of its offsets."""
        self._sequence += 1
        return f"{self._worker}:{self._sequence}"

    def write(self, outputs: Sequence[Output]) -> None:
        """Begin a transaction, write `outputs` and wait until the broker has them.

        Raises
        ------
        TransactionAbortedError, FencedError, TopicError, BrokerError
        """
        producer = self._producer
        try:
            self._check_topics(producer, {output.topic for output in outputs})
            producer.begin_transaction()
            self._is_open = True
            for output in outputs:
                self._produce(producer, output)
            failpoint("after-produce")
            left = producer.flush(self._transaction_s)
            failpoint("after-flush")
        except KafkaException as error:
            raise self._translated(error) from error
        if left:
            raise TransactionAbortedError(f"{left} outputs were not delivered in {self._transaction_s:.0f} s")

    def send_offsets(self, offsets: list[KafkaPartition], group_metadata: bytes) -> None:
        """Add the offsets of the batch to the transaction.

        Raises
        ------
        TransactionAbortedError, FencedError
        """
        deadline = time.monotonic() + self._transaction_s
        while True:
            try:
                self._bounded(self._producer.send_offsets_to_transaction, offsets, group_metadata, self._transaction_s)
                return
            except CallHungError as error:
                raise TransactionAbortedError(str(error)) from error
            except KafkaException as error:
                reason: KafkaError = error.args[0]
                if reason.retriable() and time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                raise self._translated(error) from error

    def commit(self) -> Outcome:
        """Commit; UNKNOWN when no answer came: `renew`, then look at the committed offsets.

        Raises
        ------
        FencedError
        """
        deadline = time.monotonic() + self._transaction_s
        while True:
            try:
                self._bounded(self._producer.commit_transaction, self._transaction_s)
                self._is_open = False
                return Outcome.COMMITTED
            except CallHungError as error:
                log.warning("%s: %s", self._id, error)
                return Outcome.UNKNOWN
            except KafkaException as error:
                reason: KafkaError = error.args[0]
                log.warning("%s: commit: %s", self._id, reason)
                if reason.code() in _FENCED:
                    raise self._fenced(reason) from error
                if reason.txn_requires_abort():
                    return Outcome.ABORTED
                if reason.retriable() and time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                return Outcome.UNKNOWN

    def abort(self) -> None:
        """Abort the open transaction; where that is refused, a new producer aborts it.

        Raises
        ------
        FencedError, BrokerError
        """
        if not self._is_open:
            return
        self._is_open = False
        if self._calls.hung:
            self.renew()
            return
        try:
            self._bounded(self._producer.abort_transaction, self._transaction_s)
        except CallHungError as error:
            log.warning("%s: %s", self._id, error)
            self.renew()
        except KafkaException as error:
            log.warning("%s: abort: %s", self._id, error.args[0])
            if error.args[0].code() in _FENCED:
                raise self._fenced(error.args[0]) from error
            self.renew()

    def renew(self) -> None:
        """Make a new producer with the same id: what was open is finished or aborted by the coordinator.

        Raises
        ------
        FencedError, BrokerError
        """
        self._is_open = False
        if self._calls.hung:
            # The call that never returns keeps its thread and its producer; both are left behind.
            self._calls = BoundedCalls()
        else:
            self._producer.purge(blocking=False)
        self._producer = self._make()

    def close(self) -> None:
        """Abort what is open; harmless when the broker is away (the transaction then times out)."""
        try:
            if self._is_open and not self._calls.hung:
                self._is_open = False
                self._bounded(self._producer.abort_transaction, self._transaction_s)
        except (KafkaException, CallHungError) as error:
            log.warning("%s: close: %s", self._id, error)
        self._calls.close()

    def _bounded(self, call: Callable[..., object], *args: object) -> None:
        self._calls.run(call, args, self._transaction_s + _GRACE_S)

    def _make(self) -> Producer:
        properties = self._config.producer(self._id)
        properties["transaction.timeout.ms"] = self._transaction_timeout_ms
        properties["delivery.timeout.ms"] = self._transaction_timeout_ms
        producer = Producer(properties, logger=log)
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                self._calls.run(producer.init_transactions, (self._timeout_s,), self._timeout_s + _GRACE_S)
                return producer
            except CallHungError as error:
                raise BrokerError(
                    f"the transactional id {self._id!r} could not be initialised: {error}",
                    where=self._config.bootstrap_servers,
                ) from error
            except KafkaException as error:
                reason: KafkaError = error.args[0]
                if reason.code() in _FENCED:
                    raise self._fenced(reason) from error
                if reason.retriable() and time.monotonic() < deadline:
                    continue
                raise BrokerError(
                    f"the transactional id {self._id!r} could not be initialised: {reason}",
                    where=self._config.bootstrap_servers,
                    remedy="check that the broker is up and that its transaction topic has enough replicas",
                ) from error

    def _check_topics(self, producer: Producer, topics: set[str]) -> None:
        """Name a missing topic at once: the library would wait for it and then speak of a time-out."""
        if topics <= self._known_topics:
            return
        existing = producer.list_topics(timeout=self._timeout_s).topics
        for topic in sorted(topics):
            if self._config.topic(topic) not in existing:
                raise TopicError(
                    f"the output topic {topic!r} does not exist",
                    where=self._config.bootstrap_servers,
                    remedy="`driftline topics` creates the catalogue",
                )
        self._known_topics |= topics

    def _produce(self, producer: Producer, output: Output) -> None:
        deadline = time.monotonic() + self._timeout_s
        topic = self._config.topic(output.topic)
        headers: list[tuple[str, str | bytes | None]] | None = list(output.headers) if output.headers else None
        while True:
            try:
                producer.produce(topic, output.value, output.key, output.partition, headers=headers)
                return
            except BufferError as error:
                # Back-pressure: the queue is bounded, the broker slower than we are.
                producer.poll(0.05)
                if time.monotonic() > deadline:
                    raise TransactionAbortedError("the producer's queue stayed full") from error

    def _translated(self, error: KafkaException) -> Exception:
        reason: KafkaError = error.args[0]
        code = reason.code()
        if code in _FENCED:
            return self._fenced(reason)
        if code == KafkaError.MSG_SIZE_TOO_LARGE:
            return BrokerError(
                f"an output is too large for a message: {reason.str()}",
                where=f"transactional id {self._id}",
                remedy="raise message.max.bytes, or make what is written smaller",
            )
        if code in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION):
            return TopicError(
                f"a topic to write to is missing: {reason.str()}",
                where=self._config.bootstrap_servers,
                remedy="`driftline topics` creates the catalogue",
            )
        if reason.fatal():
            return BrokerError(f"the producer cannot go on: {reason}", where=f"transactional id {self._id}")
        return TransactionAbortedError(str(reason))

    def _fenced(self, reason: KafkaError) -> FencedError:
        return FencedError(
            f"another worker took over ({reason.name()})",
            where=f"transactional id {self._id}",
            remedy="give every worker a slot of its own (DRIFTLINE_SLOT)",
        )
