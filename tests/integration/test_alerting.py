"""The alerting agent on a real broker and database: alerts and requests go out once, over restarts too."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import Engine, select

from agents.alerting import agent
from agents.alerting.tables import IncidentRow
from agents.artifacts import ArtifactStore
from agents.config import Settings, load_settings
from agents.database.engine import make_engine, session_factory
from agents.registry.service import Registry
from schemas.codec import cloudevent_headers, decode, encode, utc
from schemas.events import (
    FLEET,
    Alert,
    ModelPromoted,
    ModelRefused,
    Observation,
    PaneClosed,
    RetrainRequest,
    RunSkipped,
    Wire,
)
from schemas.topics import (
    ALERTS,
    OBSERVATIONS,
    REGISTRY_EVENTS,
    RETRAIN_REQUESTS,
    SERVING_EVENTS,
    TRAINING_EVENTS,
    dead_letter_topic,
)
from streams.kafka.admin import ensure_topics
from streams.kafka.config import KafkaConfig
from streams.kafka.producer import EventProducer
from streams.kafka.reader import read_all
from tests.support.databases import prepare
from tests.support.wait import eventually

DAY = 86_400_000
SPEC = """
[model]
name = "m"
task = "binary"
[data]
id = "id"
event_time = "t"
label = "y"
max_label_delay = "3d"
[features]
a = "numeric"
[metrics]
primary = "roc_auc"
[retraining]
triggers = ["quality"]
cool_down = "7d"
"""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = make_engine(f"sqlite:///{tmp_path / 'registry.db'}")
    prepare(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def settings(kafka: KafkaConfig, tmp_path: Path, engine: Engine) -> Settings:
    ensure_topics(kafka, 2)
    settings = load_settings(home=tmp_path)
    sessions = session_factory(engine)
    with sessions.begin() as session:
        Registry(sessions, ArtifactStore.of(settings)).register_model(session, SPEC, "tester")
    return settings


@contextmanager
def running(settings: Settings, kafka: KafkaConfig) -> Iterator[None]:
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
        yield
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()
    if failures:
        raise failures[0]


def send(kafka: KafkaConfig, topic: str, event: Wire, event_id: str) -> None:
    with EventProducer(kafka) as producer:
        headers = cloudevent_headers(event, event_id=event_id, source="/driftline/test")
        producer.send(topic, encode(event), b"m", headers)


def observation(day: int, status: str = "opened") -> Observation:
    return Observation(
        observation_id=f"o{day}{status}",
        model="m",
        version=1,
        kind="quality",
        subject="roc_auc",
        segment=None,
        status=status,  # type: ignore[arg-type]
        severity="warning",
        window="1d",
        window_start=utc(day * DAY - DAY),
        window_end=utc(day * DAY),
        value=0.61,
        reference=0.7,
        threshold=0.66,
        n=900,
        observed_at=utc(day * DAY),
    )


def pane(day: int) -> PaneClosed:
    at = day * DAY
    return PaneClosed(model="m", pane_start=utc(at - DAY), pane_end=utc(at), observed_at=utc(at), labelled=900)


def alerts(kafka: KafkaConfig) -> list[Alert]:
    return [decode(record.value or b"", Alert) for record in read_all(kafka, ALERTS, timeout_s=10)]


def requests(kafka: KafkaConfig) -> list[RetrainRequest]:
    return [decode(record.value or b"", RetrainRequest) for record in read_all(kafka, RETRAIN_REQUESTS, timeout_s=10)]


def test_from_observation_to_alert_and_request_once(settings: Settings, kafka: KafkaConfig, engine: Engine) -> None:
    with running(settings, kafka):
        send(kafka, OBSERVATIONS, observation(10), "o10")
        send(kafka, OBSERVATIONS, pane(10), "p10")
        eventually(lambda: len(requests(kafka)) == 1, timeout=30)
    with running(settings, kafka):  # a restart, and the same events again
        send(kafka, OBSERVATIONS, observation(10), "o10")
        send(kafka, OBSERVATIONS, pane(10), "p10")
        with EventProducer(kafka) as producer:
            producer.send(OBSERVATIONS, b"{poison", b"m")
        send(kafka, OBSERVATIONS, observation(11, "closed"), "o11")
        send(kafka, OBSERVATIONS, pane(20), "p20")
        eventually(lambda: len(alerts(kafka)) == 2, timeout=30)
    opened, closed = alerts(kafka)
    assert (opened.status, closed.status) == ("opened", "closed")
    assert opened.incident_id == closed.incident_id
    assert "0.610" in opened.explanation
    (request,) = requests(kafka)
    assert (request.trigger, request.as_of, request.incident_id) == ("quality", utc(10 * DAY), opened.incident_id)
    with session_factory(engine)() as session:
        (row,) = session.scalars(select(IncidentRow)).all()
    assert (row.status, row.closed_at, row.opened_at) == ("closed", utc(20 * DAY), utc(10 * DAY))
    (poison,) = read_all(kafka, dead_letter_topic(OBSERVATIONS), timeout_s=10)
    assert poison.value == b"{poison"


def test_news_of_registry_runs_and_serving(settings: Settings, kafka: KafkaConfig) -> None:
    now = datetime.now(UTC)
    with running(settings, kafka):
        send(kafka, OBSERVATIONS, observation(10), "o10")
        send(kafka, OBSERVATIONS, pane(10), "p10")
        eventually(lambda: len(requests(kafka)) == 1, timeout=30)
        with EventProducer(kafka) as producer:
            producer.send(REGISTRY_EVENTS, b"{poison", b"m")
        skipped = RunSkipped(event_id="s", model="m", run_id="r", at=now, trigger="quality", reason="too few labels")
        send(kafka, TRAINING_EVENTS, skipped, "s")
        refused = ModelRefused(event_id="f", model="m", at=now, version=2, reason="artifact is gone", worker="0")
        send(kafka, SERVING_EVENTS, refused, "f")
        eventually(lambda: len(alerts(kafka)) == 2, timeout=30)
        send(kafka, OBSERVATIONS, pane(17), "p17")
        eventually(lambda: len(requests(kafka)) == 2, timeout=30)
        promoted = ModelPromoted(
            event_id="e", epoch=9, at=now, model="m", actor="a", version=2, previous=1, artifact="sha"
        )
        send(kafka, REGISTRY_EVENTS, promoted, "e")
        eventually(lambda: len(alerts(kafka)) == 3, timeout=30)
    kinds = [(alert.kind, alert.status) for alert in alerts(kafka)]
    assert kinds == [("quality", "opened"), ("data-quality", "opened"), ("quality", "closed")]
    assert alerts(kafka)[1].severity == "critical"


def test_many_models_with_one_trouble_are_one_incident_over_restarts(
    settings: Settings, kafka: KafkaConfig, engine: Engine
) -> None:
    def thin(model: str) -> Observation:
        return msgspec.structs.replace(
            observation(10), model=model, kind="coverage", subject="coverage", value=0.1, severity="critical"
        )

    with running(settings, kafka):
        for model in "abc":
            send(kafka, OBSERVATIONS, thin(model), f"thin-{model}")
        eventually(lambda: len(alerts(kafka)) == 5, timeout=30)
    with running(settings, kafka):
        for model in "cde":  # c once more
            send(kafka, OBSERVATIONS, thin(model), f"thin-{model}")
        for model in "abcde":
            send(kafka, OBSERVATIONS, msgspec.structs.replace(thin(model), status="closed"), f"well-{model}")
            send(kafka, OBSERVATIONS, msgspec.structs.replace(pane(20), model=model), f"pane-{model}")
        eventually(lambda: any(a.model == FLEET and a.status == "closed" for a in alerts(kafka)), timeout=30)
    told = alerts(kafka)
    assert [(a.model, a.status) for a in told[:5]] == [
        ("a", "opened"), ("b", "opened"), (FLEET, "opened"), ("a", "closed"), ("b", "closed"),
    ]  # fmt: skip
    assert {a.model for a in told[5:]} == {FLEET}
    assert told[-1].evidence["blast_radius"]["names"] == list("abcde")
    with session_factory(engine)() as session:
        row = session.get(IncidentRow, told[-1].incident_id)
        assert row is not None
        assert (row.model, row.status) == (FLEET, "closed")
