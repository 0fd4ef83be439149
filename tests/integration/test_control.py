"""The base of control-plane agents on the real broker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from sqlalchemy import String, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from agents.config import Settings, load_settings
from agents.control import Background, run_control_agent
from agents.database.base import Base
from agents.database.engine import Sessions, make_engine, session_factory
from agents.database.outbox import OutboxRow, enqueue
from schemas.codec import decode, utc
from schemas.errors import BrokerError, DatabaseUnavailableError, TopicError
from schemas.events import RetrainRequest
from schemas.topics import ALERTS, OBSERVATIONS, REGISTRY_COMMANDS, RETRAIN_REQUESTS
from streams.kafka.admin import ensure_topics
from streams.kafka.config import KafkaConfig
from streams.kafka.producer import EventProducer
from streams.kafka.reader import read_all
from streams.kafka.records import Record
from tests.support.wait import eventually

TOPIC = RETRAIN_REQUESTS


class SeenRow(Base):
    """What the test's handler saw: the effect whose count must be one."""

    __tablename__ = "test_control_seen"
    n: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    value: Mapped[str] = mapped_column(String)


class Harness:
    """One agent in a thread, its settings, its database."""

    def __init__(self, kafka: KafkaConfig, home: Path) -> None:
        self.kafka = kafka
        self.settings: Settings = load_settings(home=home)
        self.engine = make_engine(self.settings.database)
        Base.metadata.create_all(self.engine)
        self.sessions: Sessions = session_factory(self.engine)
        self.failure: BaseException | None = None

    @contextmanager
    def running(
        self, handler: Callable[[Session, Record], None], topics: str | list[str] = TOPIC, **options: object
    ) -> Iterator[threading.Thread]:
        stop, ready = threading.Event(), threading.Event()
        self.failure = None

        def target() -> None:
            try:
                run_control_agent(
                    "tester",
                    topics,
                    handler,
                    self.settings,
                    self.kafka,
                    stop,
                    sessions=self.sessions,
                    on_ready=ready.set,
                    **options,  # type: ignore[arg-type]
                )
            except BaseException as error:
                self.failure = error

        thread = threading.Thread(target=target)
        thread.start()
        try:
            eventually(lambda: ready.is_set() or not thread.is_alive(), timeout=30)
            yield thread
        finally:
            stop.set()
            thread.join(30)
            assert not thread.is_alive()

    def seen(self) -> list[str]:
        with self.sessions() as session:
            return list(session.scalars(select(SeenRow.value).order_by(SeenRow.n)))


def record(session: Session, item: Record) -> None:
    request = decode(item.value or b"", RetrainRequest)
    session.add(SeenRow(value=request.request_id))


def request(n: int) -> bytes:
    return (
        b'{"request_id": "r%d", "model": "m", "trigger": "quality", "reason": "", "as_of": "2026-01-01T00:00:00Z"}' % n
    )


@pytest.fixture
def harness(kafka: KafkaConfig, tmp_path: Path) -> Iterator[Harness]:
    ensure_topics(kafka, 1)
    made = Harness(kafka, tmp_path)
    yield made
    made.engine.dispose()


def test_aborted_records_are_not_seen(harness: Harness) -> None:
    kafka = harness.kafka
    producer = Producer(kafka.producer("test-writer"))
    producer.init_transactions()
    for start, end, commit in ((0, 10, True), (10, 20, False), (20, 30, True)):
        producer.begin_transaction()
        for n in range(start, end):
            producer.produce(kafka.topic(TOPIC), request(n), b"m")
        producer.flush()
        producer.commit_transaction() if commit else producer.abort_transaction()
    wanted = [f"r{n}" for n in [*range(10), *range(20, 30)]]
    with harness.running(record):
        eventually(lambda: len(harness.seen()) >= 20, timeout=20)
    assert harness.failure is None
    assert harness.seen() == wanted


def test_a_failing_handler_ends_the_process_and_the_record_comes_again(harness: Harness) -> None:
    with EventProducer(harness.kafka) as producer:
        for n in range(5):
            producer.send(TOPIC, request(n), b"m")

    def fails_at_3(session: Session, item: Record) -> None:
        record(session, item)
        session.flush()
        if item.offset == 3:
            raise RuntimeError("third")

    with harness.running(fails_at_3) as thread:
        thread.join(20)
        assert not thread.is_alive()
    assert isinstance(harness.failure, RuntimeError)
    assert harness.seen() == ["r0", "r1", "r2"], "the failed record's effect was rolled back, nothing after it ran"
    with harness.running(record):
        eventually(lambda: len(harness.seen()) == 5, timeout=20)
    assert harness.seen() == ["r0", "r1", "r2", "r3", "r4"]


def test_poison_goes_to_the_dead_letter_topic_and_the_stream_goes_on(harness: Harness) -> None:
    poison = [b"\xff\xfe not json", b"", b'{"request_id": 7}']
    with EventProducer(harness.kafka) as producer:
        producer.send(TOPIC, request(0), b"m")
        for value in poison:
            producer.send(TOPIC, value, b"k\xff", [("trace", b"\x00\x01")])
        producer.send(TOPIC, None, b"tombstone")
        producer.send(TOPIC, request(1), b"m")
    with harness.running(record):
        eventually(lambda: len(harness.seen()) == 2, timeout=20)
    letters = read_all(harness.kafka, "dlq." + TOPIC, timeout_s=10)
    assert [letter.value for letter in letters] == [*poison, None]
    assert letters[0].key == b"k\xff"
    headers = dict(letters[0].headers or ())
    assert headers["trace"] == b"\x00\x01"
    assert headers["__dlq.errors.reason"] == b"malformed-json"
    assert headers["__dlq.errors.group"] == b"tester"


def test_redelivery_is_harmless(harness: Harness) -> None:
    headers = [("ce_id", b"one"), ("ce_source", b"/test")]
    with EventProducer(harness.kafka) as producer:
        for _ in range(3):
            producer.send(TOPIC, request(0), b"m", headers)
        producer.send(TOPIC, request(1), b"m")
    with harness.running(record):
        eventually(lambda: len(harness.seen()) == 2, timeout=20)
    # The offsets are lost: everything comes again.
    admin = AdminClient(harness.kafka.common())
    for future in admin.delete_consumer_groups([harness.kafka.group("tester")]).values():
        future.result(10)
    with EventProducer(harness.kafka) as producer:
        producer.send(TOPIC, request(2), b"m")
    with harness.running(record):
        eventually(lambda: "r2" in harness.seen(), timeout=20)
    assert harness.seen() == ["r0", "r1", "r2"]


def test_events_are_published_in_order_also_those_of_other_processes(harness: Harness) -> None:
    def answer(session: Session, item: Record) -> None:
        asked = decode(item.value or b"", RetrainRequest)
        enqueue(session, "tester", ALERTS, asked.model, asked, asked.request_id, utc(0))

    with harness.running(answer), EventProducer(harness.kafka) as producer:
        for n in range(20):
            producer.send(TOPIC, request(n), b"m")
            producer.flush()
        eventually(lambda: len(read_all(harness.kafka, ALERTS, timeout_s=10)) == 20, timeout=20)
        # A row of another process: only polling finds it.
        with harness.sessions.begin() as session:
            asked = decode(request(99), RetrainRequest)
            enqueue(session, "tester", ALERTS, "m", asked, "r99", utc(0))
        eventually(lambda: len(read_all(harness.kafka, ALERTS, timeout_s=10)) == 21, timeout=20)
    sent = read_all(harness.kafka, ALERTS, timeout_s=10)
    assert [dict(item.headers or ())["ce_id"].decode() for item in sent] == [f"r{n}" for n in [*range(20), 99]]
    with harness.sessions() as session:
        rows = session.scalars(select(OutboxRow)).all()
        assert all(row.published_at is not None for row in rows)


def test_several_topics_reach_one_handler(harness: Harness) -> None:
    topics: set[str] = set()

    def note(session: Session, item: Record) -> None:
        topics.add(item.topic)

    with EventProducer(harness.kafka) as producer:
        for topic in (OBSERVATIONS, REGISTRY_COMMANDS, TOPIC):
            producer.send(topic, b"{}", b"m")
    with harness.running(note, [OBSERVATIONS, REGISTRY_COMMANDS, TOPIC]):
        eventually(lambda: topics == {OBSERVATIONS, REGISTRY_COMMANDS, TOPIC}, timeout=20)


def test_a_missing_topic_is_named(kafka: KafkaConfig, tmp_path: Path) -> None:
    with pytest.raises(TopicError, match="does not exist") as caught:
        run_control_agent("tester", "retrain-requests", record, load_settings(home=tmp_path), kafka, threading.Event())
    assert kafka.topic("retrain-requests") in str(caught.value)
    assert kafka.bootstrap_servers in str(caught.value)


def test_a_failing_background_job_ends_the_process(harness: Harness) -> None:
    def job() -> None:
        raise DatabaseUnavailableError("gone")

    with harness.running(record, background=[Background(0.1, job)]) as thread:
        thread.join(20)
    assert isinstance(harness.failure, DatabaseUnavailableError)


def test_the_watchdog_ends_a_process_that_stands_still(harness: Harness) -> None:
    release = threading.Event()

    def hangs(session: Session, item: Record) -> None:
        release.wait(60)
        raise RuntimeError("released")

    with EventProducer(harness.kafka) as producer:
        producer.send(TOPIC, request(0), b"m")
    with harness.running(hangs, watchdog_s=1.0) as thread:
        # While the handler still hangs: the process must be able to end without it.
        thread.join(30)
        ended = not thread.is_alive()
        release.set()
    assert ended
    assert isinstance(harness.failure, BrokerError)
    assert "nothing moved" in str(harness.failure)


def test_the_watchdog_leaves_an_idle_agent_alone(harness: Harness) -> None:
    # Transaction markers take offsets: committed and end offset differ for ever although nothing waits.
    producer = Producer(harness.kafka.producer("test-writer"))
    producer.init_transactions()
    producer.begin_transaction()
    producer.produce(harness.kafka.topic(TOPIC), request(0), b"m")
    producer.commit_transaction()
    with harness.running(record, watchdog_s=0.4) as thread:
        eventually(lambda: len(harness.seen()) == 1, timeout=20)
        thread.join(3)
        assert thread.is_alive(), harness.failure
    assert harness.failure is None
