"""The backtest agrees with the online system: the same rows through a broker, serving's code and the agents."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from sqlalchemy import select

from agents.alerting import agent as alerting
from agents.artifacts import ArtifactStore, load_model
from agents.backtest.history import NEVER
from agents.backtest.run import Outcome, replay
from agents.config import Settings, load_settings
from agents.database.engine import make_engine, session_factory
from agents.database.outbox import OutboxRow
from agents.monitoring import agent as monitoring
from agents.monitoring import journal
from agents.registry.service import Registry
from agents.retraining.register import register_project
from agents.serving.logic import prediction
from agents.serving.model import ServedModel
from schemas.codec import decode, encode
from schemas.events import (
    Alert,
    AnyObservation,
    DriftMetric,
    GroundTruth,
    Heartbeat,
    InferenceRequest,
    Observation,
    PaneClosed,
    QualityMetric,
    RetrainRequest,
    Wire,
)
from schemas.topics import (
    ALERTS,
    DRIFT_METRICS,
    GROUND_TRUTH,
    MONITORING_JOURNAL,
    OBSERVATIONS,
    PREDICTIONS,
    QUALITY_METRICS,
    REGISTRY_EVENTS,
    REGISTRY_STATE,
    RETRAIN_REQUESTS,
)
from streams.kafka.admin import ensure_topics
from streams.kafka.config import KafkaConfig
from streams.kafka.producer import EventProducer
from streams.kafka.reader import read_all
from tests.support.wait import eventually
from tests.unit.agents.backtest.stories import TRAIN_DAYS, options, turned
from tests.unit.agents.retraining.projects import SPEC
from tests.unit.agents.retraining.tables import DAY_MS, START_MS

PARTITIONS = 3
HEARTBEAT = [("ce_type", b"Heartbeat")]


def eventful() -> pd.DataFrame:
    """Sixteen days: inputs move, a region appears, labels stay out or come late, then the world turns round."""
    table = turned(30, 22, per_day=200)
    rng = np.random.default_rng(11)
    day = np.arange(len(table)) // 200
    table["region"] = np.where((day >= 17) & (rng.random(len(table)) < 0.6), "west", table["region"])
    table.loc[day >= 19, "noise"] += 2.5
    table["y"] = table["y"].astype("Int64")
    table.loc[(day >= 14) & (rng.random(len(table)) < 0.05), "y"] = None
    late = (day >= 14) & (rng.random(len(table)) < 0.02)
    table.loc[late, "known_at"] = table.loc[late, "at"] + pd.Timedelta(hours=30)
    return table


def test_the_backtest_agrees_with_the_agents(kafka: KafkaConfig, tmp_path: Path) -> None:
    asked = options(tmp_path, eventful(), frozen=True, spec=SPEC + 'triggers = ["data"]\n')
    outcome = replay(asked)
    world = outcome.live.monitor
    assert {alert.kind for alert in world.alerts} >= {"quality"}
    assert {observation.kind for observation in world.observations} >= {"quality", "data-drift", "new-segment"}
    assert outcome.live.monitor.totals["labels.late"] > 0
    assert {request.trigger for request in outcome.live.requests} == {"data"}

    settings = _installed(kafka, tmp_path, outcome)
    _send(kafka, settings, outcome)
    with Running(monitoring.run, settings, kafka), Running(alerting.run, settings, kafka):
        last = world.panes[-1]
        eventually(lambda: last in _all(kafka, OBSERVATIONS, AnyObservation), timeout=60)
        wanted = [encode(msgspec.structs.replace(alert, links={})) for alert in world.alerts]
        eventually(lambda: len(_alerts(kafka)) >= len(wanted), timeout=30)

    told = _all(kafka, OBSERVATIONS, AnyObservation)
    assert [o for o in told if isinstance(o, Observation)] == world.observations
    assert [o for o in told if isinstance(o, PaneClosed)] == world.panes
    assert _alerts(kafka) == wanted
    # Nobody answers the request here, so there is one; its numbers are those of the registry.
    assert _all(kafka, RETRAIN_REQUESTS, RetrainRequest) == outcome.live.requests[:1]
    final = [m for m in _all(kafka, QUALITY_METRICS, QualityMetric) if m.state != "provisional"]
    assert Counter(map(encode, final)) == Counter(map(encode, [*world.quality, *world.estimates]))
    assert Counter(map(encode, _all(kafka, DRIFT_METRICS, DriftMetric))) == Counter(map(encode, world.drift))
    assert _totals(kafka) == {name: n for name, n in world.totals.items() if name != "heartbeats"}


def _installed(kafka: KafkaConfig, home: Path, outcome: Outcome) -> Settings:
    """An installation in which the project was registered with the rows that the backtest learnt from."""
    ensure_topics(kafka, PARTITIONS)
    settings = load_settings(
        home=home / "home",
        bootstrap_servers=kafka.bootstrap_servers,
        prefix=kafka.prefix,
        partitions=PARTITIONS,
        database_url="",
        artifacts_url="",
        archive_url="",
        commit_interval_ms=20,
    )
    settings.home.mkdir()
    rows = pd.read_parquet(outcome.options.data).head(outcome.first)
    rows["y"] = rows["y"].where(rows["known_at"].astype("datetime64[ms, UTC]").astype("int64") < _until(outcome))
    table = home / "registered.parquet"
    rows.to_parquet(table, index=False)
    registered = register_project(settings, None, outcome.options.project, table, actor="test")
    assert registered["decision"] == "initial"
    with session_factory(make_engine(settings.database))() as session, EventProducer(kafka) as producer:
        for row in session.scalars(select(OutboxRow).order_by(OutboxRow.id)):
            if row.topic in {REGISTRY_STATE, REGISTRY_EVENTS}:
                headers = [("ce_type", row.type.encode()), ("ce_id", row.event_id.encode())]
                producer.send(row.topic, row.payload, row.key.encode(), headers)
    return settings


def _until(outcome: Outcome) -> int:
    assert outcome.options.train_until_ms == START_MS + TRAIN_DAYS * DAY_MS
    return outcome.options.train_until_ms


def _send(kafka: KafkaConfig, settings: Settings, outcome: Outcome) -> None:
    """The replayed rows: answered by serving's code, sent as producers would, in event time."""
    history, spec = outcome.history, outcome.history.spec
    sessions = session_factory(make_engine(settings.database))
    store = ArtifactStore.of(settings)
    with sessions() as session:
        info = Registry(sessions, store).version(session, spec.name, 1)
    served = ServedModel(spec, load_model(store, info.artifact))
    rows = range(outcome.first, len(history))
    requests = [
        InferenceRequest(
            request_id=history.ids[row],
            model=spec.name,
            event_time_ms=int(history.times_ms[row]),
            features=msgspec.json.decode(history.features[row]),
        )
        for row in rows
    ]
    answers = served.predict([request.features for request in requests])
    events: list[tuple[int, str, str, Wire]] = []
    for row, request, answer in zip(rows, requests, answers, strict=True):
        assert answer is not None
        events.append((request.event_time_ms, PREDICTIONS, request.request_id, prediction(request, spec, 1, answer)))
        label = history.labels[row]
        if history.label_ms[row] != NEVER:
            at = int(history.label_ms[row])
            truth = GroundTruth(prediction_id=request.request_id, event_time_ms=at, label=label)
            events.append((at, GROUND_TRUTH, request.request_id, truth))
    with EventProducer(kafka) as producer:
        for _, topic, key, event in sorted(events, key=lambda item: item[0]):
            producer.send(topic, encode(event), key.encode())
        beat = encode(Heartbeat(event_time_ms=outcome.live.end_ms))
        for topic in (PREDICTIONS, GROUND_TRUTH):
            for partition in range(PARTITIONS):
                producer.send(topic, beat, None, headers=HEARTBEAT, partition=partition)
        producer.flush(30.0)


def _all(kafka: KafkaConfig, topic: str, kind: Any) -> list[Any]:
    return [decode(record.value or b"", kind) for record in read_all(kafka, topic)]


def _alerts(kafka: KafkaConfig) -> list[bytes]:
    """Alerts without their link to the page."""
    return [encode(msgspec.structs.replace(alert, links={})) for alert in _all(kafka, ALERTS, Alert)]


def _totals(kafka: KafkaConfig) -> dict[str, int]:
    """The join's accounting over all partitions."""
    total: Counter[str] = Counter()
    newest = {
        r.partition: journal.to_journal(r) for r in read_all(kafka, MONITORING_JOURNAL) if journal.is_join_record(r)
    }
    for record in newest.values():
        total.update(record.totals)
    return {name: n for name, n in total.items() if name != "heartbeats"}


class Running:
    """An agent in a thread, until the block ends."""

    def __init__(self, run: Callable[..., None], settings: Settings, kafka: KafkaConfig) -> None:
        self._stop = threading.Event()
        self._failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._work, args=(run, settings, kafka))

    def _work(self, run: Callable[..., None], settings: Settings, kafka: KafkaConfig) -> None:
        try:
            run(settings, kafka, self._stop)
        except BaseException as error:
            self._failures.append(error)

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()
        if self._failures:
            raise self._failures[0]
