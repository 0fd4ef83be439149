"""The archiving agent on a real broker: every record once, whatever step it crashed at."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from agents.archiving import agent, dataset, manifest
from agents.config import Settings, load_settings
from agents.database.engine import make_engine, session_factory
from schemas.codec import encode
from schemas.events import GroundTruth, Heartbeat, Prediction
from schemas.topics import CATALOGUE, GROUND_TRUTH, PREDICTIONS
from streams.kafka import failpoints
from streams.kafka.admin import end_offsets, ensure_topics
from streams.kafka.config import KafkaConfig
from streams.kafka.producer import EventProducer
from tests.support.databases import prepare
from tests.support.plans import specification
from tests.support.wait import eventually

TRAFFIC = (PREDICTIONS, GROUND_TRUTH)


@pytest.fixture
def settings(kafka: KafkaConfig, tmp_path: Path) -> Settings:
    ensure_topics(kafka, 3, {name: CATALOGUE[name] for name in agent.ARCHIVED})
    return load_settings(
        home=tmp_path / "home", bootstrap_servers=kafka.bootstrap_servers, prefix=kafka.prefix, archive_idle_ms=50
    )


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = make_engine(settings.database)
    prepare(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def sessions(engine: Engine) -> sessionmaker[Session]:
    return session_factory(engine, read_only=True)


@contextmanager
def running(settings: Settings, kafka: KafkaConfig) -> Iterator[threading.Thread]:
    stop = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            agent.run(settings, kafka, stop)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()
    if failures:
        raise failures[0]


def prediction(n: int) -> bytes:
    event = Prediction(
        prediction_id=f"p{n}",
        model="m",
        version=1,
        event_time_ms=n,
        features={"distance": n, "origin": "JFK"},
        prediction=1,
        probability=0.5,
    )
    return encode(event)


def truth(n: int) -> bytes:
    return encode(GroundTruth(prediction_id=f"p{n}", event_time_ms=n + 5, label=n % 2))


def send(kafka: KafkaConfig, numbers: range) -> None:
    with EventProducer(kafka) as producer:
        for n in numbers:
            producer.send(PREDICTIONS, prediction(n), f"p{n}".encode())
            producer.send(GROUND_TRUTH, truth(n), f"p{n}".encode())


def covered(sessions: sessionmaker[Session], kafka: KafkaConfig) -> bool:
    with sessions() as session:
        return dataset.covers(session, end_offsets(kafka, TRAFFIC))


def offsets(sessions: sessionmaker[Session], settings: Settings) -> dict[str, list[tuple[int, int]]]:
    """(partition, offset) of every archived row, as a reader sees them."""
    with sessions() as session, dataset.connect(session, settings.archive) as connection:
        return {
            topic: connection.execute(f'SELECT "partition", "offset" FROM {view} ORDER BY ALL').fetchall()
            for topic, view in [(PREDICTIONS, "predictions"), (GROUND_TRUTH, "ground_truth")]
        }


def test_everything_is_archived_once_and_joined(
    settings: Settings, kafka: KafkaConfig, sessions: sessionmaker[Session]
) -> None:
    with running(settings, kafka):
        send(kafka, range(100))
        with EventProducer(kafka) as producer:
            producer.send(PREDICTIONS, b"\xffnot json", b"poison")
            beat = Heartbeat(event_time_ms=10**6)
            producer.send(GROUND_TRUTH, encode(beat), None, [("ce_type", b"Heartbeat")], 1)
        eventually(lambda: covered(sessions, kafka), timeout=20)
        send(kafka, range(100, 200))
        eventually(lambda: covered(sessions, kafka), timeout=20)
    found = offsets(sessions, settings)
    assert len(found[PREDICTIONS]) == len(set(found[PREDICTIONS])) == 201
    assert len(found[GROUND_TRUTH]) == len(set(found[GROUND_TRUTH])) == 200
    spec = specification()
    with sessions() as session:
        table = dataset.joined(session, settings.archive, spec, event_time_from_ms=0, as_of_ms=10**6)
    assert table["id"].to_pylist() == [f"p{n}" for n in range(200)]
    assert table["y"].to_pylist() == [n % 2 for n in range(200)]
    assert table["distance"].to_pylist() == list(range(200))


def test_the_end_of_aborted_and_committed_transactions_is_covered(
    settings: Settings, kafka: KafkaConfig, sessions: sessionmaker[Session]
) -> None:
    from confluent_kafka import Producer

    producer = Producer(kafka.producer("archive-test"))
    producer.init_transactions(20)
    for n, keep in enumerate([True, False, True, False]):
        producer.begin_transaction()
        producer.produce(kafka.topic(PREDICTIONS), prediction(n), f"p{n}".encode(), partition=0)
        producer.flush(10)
        if keep:
            producer.commit_transaction(20)
        else:
            producer.abort_transaction(20)
    with running(settings, kafka):
        eventually(lambda: covered(sessions, kafka), timeout=20)
    assert len(offsets(sessions, settings)[PREDICTIONS]) == 2


class CrashError(BaseException):
    """Stands for the end of the process."""


def run_until_it_crashes(settings: Settings, kafka: KafkaConfig, sessions: sessionmaker[Session]) -> None:
    with running(settings, kafka) as thread:
        send(kafka, range(60))
        eventually(lambda: covered(sessions, kafka) or not thread.is_alive(), timeout=20)
        send(kafka, range(60, 120))
        eventually(lambda: not thread.is_alive(), timeout=20)


@pytest.mark.parametrize("step", ["archive-written", "archive-published", "archive-recorded", "archive-committed"])
def test_a_crash_at_each_step_neither_loses_nor_repeats(
    settings: Settings,
    kafka: KafkaConfig,
    sessions: sessionmaker[Session],
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    passages = 0

    def passed(name: str) -> None:
        nonlocal passages
        passages += name == step
        if name == step and passages == 2:
            raise CrashError

    monkeypatch.setattr("agents.archiving.writer.failpoint", passed)
    monkeypatch.setattr("agents.archiving.agent.failpoint", passed)
    with pytest.raises(CrashError):
        run_until_it_crashes(settings, kafka, sessions)
    with running(settings, kafka):
        send(kafka, range(120, 180))
        eventually(lambda: covered(sessions, kafka), timeout=20)
    found = offsets(sessions, settings)
    for topic in TRAFFIC:
        assert len(found[topic]) == len(set(found[topic])) == 180
    with sessions() as session:
        known = {path for topic in agent.ARCHIVED for path in manifest.paths(session, topic)}
    files = {str(p.relative_to(settings.archive)) for p in Path(settings.archive).rglob("*") if p.is_file()}
    assert files == known


def test_a_killed_process_is_followed_by_one_that_goes_on(
    settings: Settings, kafka: KafkaConfig, sessions: sessionmaker[Session]
) -> None:
    send(kafka, range(50))
    child = subprocess.run(
        [sys.executable, "-c", "from agents.bootstrap import run_agent; from agents.config import load_settings; "
         "run_agent('archiving', load_settings())"],
        env={
            **os.environ,
            "DRIFTLINE_HOME": str(settings.home),
            "DRIFTLINE_PREFIX": kafka.prefix,
            "DRIFTLINE_ARCHIVE_IDLE_MS": "50",
            "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
            failpoints.VARIABLE: "archive-published",
        },
        timeout=60,
        check=False,
    )  # fmt: skip
    assert child.returncode == failpoints.EXIT_CODE
    assert offsets(sessions, settings)[PREDICTIONS] == []
    with running(settings, kafka):
        eventually(lambda: covered(sessions, kafka), timeout=40)
    assert len(offsets(sessions, settings)[PREDICTIONS]) == 50


def test_what_is_old_goes_by_itself(
    settings: Settings, kafka: KafkaConfig, sessions: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    day = 86_400_000
    monkeypatch.setattr(agent, "_CLEAR_MS", 0)
    with running(settings.model_copy(update={"archive_retention": "1d", "archive_max_rows": 10}), kafka):
        send(kafka, range(30))
        eventually(lambda: covered(sessions, kafka), timeout=20)
        assert len(offsets(sessions, settings)[PREDICTIONS]) == 30
        send(kafka, range(2 * day, 2 * day + 30))
        eventually(lambda: covered(sessions, kafka), timeout=20)
        eventually(lambda: len(offsets(sessions, settings)[PREDICTIONS]) == 30, timeout=20)
    with sessions() as session, dataset.connect(session, settings.archive) as connection:
        (least,) = connection.execute("SELECT min(event_time_ms) FROM predictions").fetchall()
    assert least == (2 * day,)
