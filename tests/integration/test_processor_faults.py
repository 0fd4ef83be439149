"""What the processor does when things go wrong: fencing, rebalances, commits without an answer, lost records."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaPartition

from schemas.errors import BrokerError, FencedError, RetentionPassedError, StateError, TopicError
from streams.kafka.admin import ensure_topics
from streams.kafka.bounded import BoundedCalls
from streams.kafka.config import KafkaConfig
from streams.kafka.consumer import GroupConsumer, GroupMetadata
from streams.kafka.lag import committed_offsets
from streams.kafka.processor import BatchProcessor, ProcessorOptions
from streams.kafka.reader import read_all
from streams.kafka.transactions import Outcome, TransactionalWriter
from tests.integration.test_processor import TOPICS, processor, produce
from tests.support.processing import Copier, scratch_topic
from tests.support.wait import eventually


def copies(kafka: KafkaConfig) -> list[bytes]:
    return sorted(record.value or b"" for record in read_all(kafka, "copies", timeout_s=20))


def numbered(n: int, start: int = 0) -> list[bytes]:
    return [b"v%05d" % i for i in range(start, start + n)]


def assigned(worker: BatchProcessor) -> bool:
    worker.step(0.05)
    return bool(worker.assignment())


# ------------------------------------------------------------------------------------------------- fencing


def test_a_successor_with_the_same_id_fences_the_former_worker(kafka: KafkaConfig) -> None:
    """Both live, which is a mistake: the former one, thrown out of the group, joins again and ends at its commit."""
    ensure_topics(kafka, 2, TOPICS)
    former_handler, successor_handler = Copier(), Copier()
    former, successor = processor(kafka, former_handler), processor(kafka, successor_handler)
    try:
        eventually(lambda: assigned(former), timeout=20)
        successor.step(0.0)  # takes the transactional id over
        eventually(lambda: assigned(successor) and assigned(former) and len(successor.assignment()) == 1, timeout=30)
        produce(kafka, numbered(10))
        with pytest.raises(FencedError, match="another worker"):
            eventually(lambda: successor.step(0.05) is former.step(0.05) is None, timeout=30)
        assert former_handler.values() == []
        former.close()
        eventually(lambda: successor.step(0.05) and len(successor_handler.values()) == 10, timeout=30)
    finally:
        former.close()
        successor.close()
    assert copies(kafka) == numbered(10)


def test_a_worker_that_slept_past_max_poll_commits_nothing(kafka: KafkaConfig) -> None:
    """The zombie: it has processed a batch, sleeps, another worker gets its partitions; then it wants to commit."""
    ensure_topics(kafka, 1, TOPICS)
    produce(kafka, numbered(20))
    healthy_handler = Copier()
    options = {"max_poll_interval_ms": 2_000, "session_timeout_ms": 2_000}
    healthy = processor(kafka, healthy_handler, slot="healthy", **options)

    class Sleeper(Copier):
        slept = False

        def process(self, records, positions, now_ms):  # type: ignore[no-untyped-def]
            outputs = super().process(records, positions, now_ms)
            if records and not self.slept:
                self.slept = True
                eventually(lambda: healthy.step(0.05) and len(healthy_handler.values()) == 20, timeout=60)
            return outputs

    zombie_handler = Sleeper()
    zombie = processor(kafka, zombie_handler, slot="zombie", **options)
    try:
        eventually(lambda: zombie.step(0.05) or zombie_handler.slept, timeout=60)
        assert zombie_handler.values() == []
        assert zombie_handler.aborts >= 1
        for _ in range(20):
            zombie.step(0.05)
            healthy.step(0.05)
    finally:
        zombie.close()
        healthy.close()
    assert zombie_handler.releases
    assert zombie_handler.values() == []
    assert copies(kafka) == numbered(20)


@pytest.mark.parametrize("fresh", [False, True], ids=["captured", "at the end"])
def test_refuses_to_commit_without_a_valid_membership(
    kafka: KafkaConfig, monkeypatch: pytest.MonkeyPatch, fresh: bool
) -> None:
    """With a negative generation the broker itself would accept the offsets (measured), so we must not send them."""
    ensure_topics(kafka, 1, TOPICS)
    handler = Copier()
    worker = processor(kafka, handler)
    genuine = GroupConsumer.group_metadata
    calls = itertools.count()
    broken = threading.Event()

    def metadata(self: GroupConsumer) -> GroupMetadata:
        found = genuine(self)
        if broken.is_set() and next(calls) >= (1 if fresh else 0):
            return GroupMetadata(-1, "", b"CGMDv2:\xff\xff\xff\xff" + found.raw[11:])
        return found

    monkeypatch.setattr(GroupConsumer, "group_metadata", metadata)
    try:
        eventually(lambda: assigned(worker), timeout=20)
        broken.set()
        produce(kafka, numbered(10))
        eventually(lambda: worker.step(0.05) or handler.aborts >= 2, timeout=20)
        assert handler.values() == []
        assert committed_offsets(kafka, "copying").get(("orders", 0)) is None
        broken.clear()
        eventually(lambda: worker.step(0.05) and len(handler.values()) == 10, timeout=20)
    finally:
        worker.close()
    assert copies(kafka) == numbered(10)


def test_group_consumer_refuses_to_commit_when_it_is_no_member(
    kafka: KafkaConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_topics(kafka, 1, TOPICS)
    produce(kafka, numbered(3))
    reader = GroupConsumer(kafka, "reading", ["orders"])
    try:
        eventually(lambda: reader.poll_batch(10, 0.1), timeout=20)
        monkeypatch.setattr(GroupConsumer, "group_metadata", lambda _: GroupMetadata(-1, "", b""))
        with pytest.raises(BrokerError, match="not a member"):
            reader.commit()
        monkeypatch.undo()
        reader.commit()
    finally:
        reader.close()
    assert committed_offsets(kafka, "reading")["orders", 0] == 3


# ------------------------------------------------------------------------------------------------- commits


@pytest.mark.parametrize("went_through", [True, False])
def test_a_commit_without_an_answer_is_resolved_by_what_the_group_has_committed(
    kafka: KafkaConfig, monkeypatch: pytest.MonkeyPatch, went_through: bool
) -> None:
    ensure_topics(kafka, 2, TOPICS)
    produce(kafka, numbered(50))
    handler = Copier()
    worker = processor(kafka, handler)
    genuine = TransactionalWriter.commit
    lost = itertools.count()

    def commit(self: TransactionalWriter) -> Outcome:
        if next(lost) == 0:
            if went_through:
                genuine(self)
            return Outcome.UNKNOWN
        return genuine(self)

    monkeypatch.setattr(TransactionalWriter, "commit", commit)
    try:
        eventually(lambda: worker.step(0.05) and len(handler.values()) >= 50, timeout=30)
        for _ in range(5):
            worker.step(0.05)
    finally:
        worker.close()
    assert next(lost) > (1 if went_through else 2) - 1
    assert sorted(handler.values()) == numbered(50)
    assert copies(kafka) == numbered(50)
    assert handler.aborts >= (0 if went_through else 1)


def test_an_unknown_commit_that_moved_no_offset_is_told_by_its_tag(
    kafka: KafkaConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offsets alone cannot tell: they are the same before and after."""
    ensure_topics(kafka, 1, TOPICS)
    produce(kafka, numbered(5))
    handler = Copier()
    worker = processor(kafka, handler, idle_ms=10)
    try:
        eventually(lambda: worker.step(0.05) and len(handler.values()) == 5, timeout=30)
        monkeypatch.setattr(TransactionalWriter, "commit", lambda _: Outcome.UNKNOWN)
        commits, aborts = len(handler.commits), handler.aborts
        handler.wanted = True
        eventually(lambda: worker.step(0.02) or not handler.wanted, timeout=20)
        assert (len(handler.commits), handler.aborts > aborts) == (commits, True)
    finally:
        monkeypatch.undo()
        worker.close()


def test_transactions_that_are_refused_for_ever_end_the_process(
    kafka: KafkaConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_topics(kafka, 1, TOPICS)
    produce(kafka, numbered(5))
    monkeypatch.setattr("streams.kafka.processor._MOST_FAILURES", 3)
    monkeypatch.setattr(TransactionalWriter, "commit", lambda _: Outcome.ABORTED)
    handler = Copier()
    with pytest.raises(BrokerError, match="3 transactions in a row"):
        processor(kafka, handler).run(threading.Event())
    assert handler.values() == []
    monkeypatch.undo()
    assert copies(kafka) == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KafkaError(KafkaError._FENCED, "fenced", True, False, False), FencedError),
        (KafkaError(KafkaError.INVALID_PRODUCER_EPOCH, "old", True, False, False), FencedError),
        (KafkaError(KafkaError.UNKNOWN_MEMBER_ID, "gone", False, False, True), Outcome.ABORTED),
        (KafkaError(KafkaError._STATE, "conflict", False, False, False), Outcome.UNKNOWN),
        (KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "order", True, False, False), Outcome.UNKNOWN),
    ],
    ids=lambda value: value.name() if isinstance(value, KafkaError) else str(value),
)
def test_answers_to_a_commit(error: KafkaError, expected: type[Exception] | Outcome) -> None:
    class Stub:
        def commit_transaction(self, timeout: float) -> None:
            raise KafkaException(error)

    writer = TransactionalWriter.__new__(TransactionalWriter)
    writer.__dict__.update(_producer=Stub(), _transaction_s=0.1, _id="x", _is_open=True, _calls=BoundedCalls())
    if isinstance(expected, Outcome):
        assert writer.commit() is expected
    else:
        with pytest.raises(expected):
            writer.commit()


def test_an_output_to_a_missing_topic_ends_the_process_by_name(kafka: KafkaConfig) -> None:
    ensure_topics(kafka, 1, {"orders": TOPICS["orders"]})
    produce(kafka, numbered(5))
    handler = Copier()
    with pytest.raises(TopicError, match="'copies' does not exist"):
        processor(kafka, handler).run(threading.Event())
    assert handler.values() == []


# --------------------------------------------------------------------------------------------- rebalancing


def test_two_workers_share_and_take_over_without_loss_or_doubles(kafka: KafkaConfig) -> None:
    ensure_topics(kafka, 4, TOPICS)
    handlers = [Copier(), Copier()]
    workers = [
        processor(kafka, handler, slot=str(i), batch_records=50, session_timeout_ms=6_000)
        for i, handler in enumerate(handlers)
    ]
    stops = [threading.Event(), threading.Event()]
    failures: list[BaseException] = []

    def work(i: int) -> Callable[[], None]:
        def run() -> None:
            try:
                workers[i].run(stops[i])
            except BaseException as error:
                failures.append(error)

        return run

    threads = [threading.Thread(target=work(i)) for i in range(2)]
    total = 0

    def counted() -> int:
        return sum(len(handler.values()) for handler in handlers)

    try:
        threads[0].start()
        produce(kafka, numbered(500))
        total = 500
        eventually(lambda: counted() == total, timeout=30)
        threads[1].start()
        # Both work on their share while the group is being rebalanced.
        for _ in range(20):
            produce(kafka, numbered(100, total))
            total += 100
            if handlers[1].restored and handlers[1].values():
                break
        eventually(lambda: counted() == total, timeout=30)
        assert {p for partitions, _ in handlers[1].restored for p in partitions}
        stops[0].set()
        threads[0].join(30)
        produce(kafka, numbered(300, total))
        total += 300
        eventually(lambda: counted() == total, timeout=30)
    finally:
        for stop, thread in zip(stops, threads, strict=True):
            stop.set()
            if thread.ident is not None:
                thread.join(30)
    assert not failures, failures
    assert sorted(handlers[0].values() + handlers[1].values()) == numbered(total)
    assert copies(kafka) == numbered(total)
    assert handlers[1].values()
    assert handlers[0].releases[0] == [0, 1, 2, 3]
    assert handlers[1].restored[-1][0] == [0, 1, 2, 3]
    # What a partition starts from is what was committed, for whoever gets it.
    for _, committed in handlers[1].restored:
        assert all(offset is not None for offset in committed.values())


def test_topics_whose_partitions_come_apart_are_refused(kafka: KafkaConfig) -> None:
    ensure_topics(kafka, 2, {"orders": TOPICS["orders"]})
    ensure_topics(kafka, 3, {"payments": scratch_topic("payments")})
    worker = BatchProcessor(
        kafka,
        group="pairing",
        topics=["orders", "payments"],
        transactional_id="pairing-0",
        handler=Copier(),
        options=ProcessorOptions(co_partitioned=True),
    )
    with pytest.raises(TopicError, match=r"orders: \[0, 1\]; payments: \[0, 1, 2\]"):
        worker.run(threading.Event())


def test_a_missing_topic_is_named(kafka: KafkaConfig) -> None:
    with pytest.raises(TopicError, match="does not exist") as caught:
        processor(kafka, Copier()).run(threading.Event())
    assert "orders" in caught.value.where
    assert kafka.bootstrap_servers in caught.value.where


# ------------------------------------------------------------------------------------------------ positions


def commit_offset(kafka: KafkaConfig, offset: int) -> None:
    reader = GroupConsumer(kafka, "copying", ["orders"])
    try:
        eventually(lambda: reader.poll_batch(1, 0.1), timeout=20)
        reader.commit({("orders", 0): offset})
    finally:
        reader.close()


def test_records_deleted_before_they_were_read_halt_the_worker(kafka: KafkaConfig) -> None:
    from confluent_kafka.admin import AdminClient

    ensure_topics(kafka, 1, TOPICS)
    produce(kafka, numbered(20))
    commit_offset(kafka, 5)
    admin = AdminClient(kafka.common())
    for future in admin.delete_records([KafkaPartition(kafka.topic("orders"), 0, 12)]).values():
        future.result(10)
    with pytest.raises(RetentionPassedError, match="stands at offset 5, but the log begins at 12"):
        processor(kafka, Copier()).run(threading.Event())


def test_a_topic_made_anew_is_noticed(kafka: KafkaConfig) -> None:
    ensure_topics(kafka, 1, TOPICS)
    produce(kafka, numbered(3))
    commit_offset(kafka, 100)
    with pytest.raises(StateError, match="the log ends at 3"):
        processor(kafka, Copier()).run(threading.Event())


def test_restore_may_start_elsewhere(kafka: KafkaConfig) -> None:
    ensure_topics(kafka, 1, TOPICS)
    produce(kafka, numbered(20))

    class Restorer(Copier):
        def restore(self, partitions, committed):  # type: ignore[no-untyped-def]
            super().restore(partitions, committed)
            return {("orders", 0): 15}

    handler = Restorer()
    worker = processor(kafka, handler)
    try:
        eventually(lambda: worker.step(0.05) and len(handler.values()) == 5, timeout=20)
    finally:
        worker.close()
    assert sorted(handler.values()) == numbered(5, 15)


def test_a_poisoned_batch_that_is_aborted_comes_again_in_order(
    kafka: KafkaConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_topics(kafka, 1, TOPICS)
    produce(kafka, numbered(100))
    handler = Copier()
    worker = processor(kafka, handler, batch_records=10)
    genuine = TransactionalWriter.commit
    turn = itertools.count()

    def commit(self: TransactionalWriter) -> Outcome:
        return Outcome.ABORTED if next(turn) % 3 == 1 else genuine(self)

    monkeypatch.setattr(TransactionalWriter, "commit", commit)
    try:
        eventually(lambda: worker.step(0.05) and len(handler.values()) == 100, timeout=40)
    finally:
        monkeypatch.undo()
        worker.close()
    assert handler.values() == numbered(100)
    assert handler.aborts >= 4
    assert [record.value for record in read_all(kafka, "copies", timeout_s=10)] == numbered(100)
