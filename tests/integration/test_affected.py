"""Every prediction of a version, across swaps and roll-backs: the archive, the log and the swaps agree."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agents.archiving import affected
from agents.archiving import agent as archiving
from agents.artifacts import ArtifactStore
from agents.cli import app
from agents.config import Settings, load_settings
from agents.database.engine import make_engine, session_factory
from agents.database.migrate import upgrade
from agents.registry.service import Registry
from agents.runtime import is_ready
from agents.serving import agent as serving_agent
from agents.serving import model
from schemas.codec import decode, encode
from schemas.events import AnyServingEvent, InferenceRequest, ModelSwapped, Prediction
from schemas.topics import (
    CATALOGUE,
    INFERENCE_REQUESTS,
    PREDICTIONS,
    REGISTRY_EVENTS,
    REGISTRY_STATE,
    SERVING_EVENTS,
    dead_letter_topic,
)
from streams.kafka.admin import ensure_topics
from streams.kafka.config import KafkaConfig
from streams.kafka.producer import EventProducer
from streams.kafka.reader import read_all
from tests.support.models import SPECIFICATION, coin, put_version, say_state
from tests.support.wait import eventually

PARTITIONS = 3
TOPICS = {
    *archiving.ARCHIVED,
    *(INFERENCE_REQUESTS, REGISTRY_STATE, REGISTRY_EVENTS, SERVING_EVENTS, dead_letter_topic(INFERENCE_REQUESTS)),
}


@pytest.fixture
def settings(tmp_path: Path, kafka: KafkaConfig, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(model, "check_in_child", lambda *_, **__: None)
    monkeypatch.setenv("DRIFTLINE_HOME", str(tmp_path))
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap_servers)
    monkeypatch.setenv("DRIFTLINE_PREFIX", kafka.prefix)
    monkeypatch.setenv("DRIFTLINE_ARCHIVE_IDLE_MS", "50")
    ensure_topics(kafka, PARTITIONS, {name: CATALOGUE[name] for name in TOPICS})
    return load_settings()


@contextmanager
def running(work: Callable[[Settings, KafkaConfig, threading.Event], None], *given: object) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(*given, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)


def test_every_prediction_of_a_version(settings: Settings, kafka: KafkaConfig, tmp_path: Path) -> None:
    store = ArtifactStore.of(settings)
    versions = [put_version(store, 1, coin(0.1), "promoted"), put_version(store, 2, coin(0.9), "validated")]
    register(settings, store)
    sent = 0

    def swaps() -> list[ModelSwapped]:
        found = [decode(r.value or b"", AnyServingEvent) for r in read_all(kafka, SERVING_EVENTS)]  # type: ignore[arg-type]
        return [event for event in found if isinstance(event, ModelSwapped)]

    with running(serving_agent.run, settings, kafka), running(archiving.run, settings, kafka):
        eventually(lambda: is_ready(settings, "serving"), timeout=30)
        with EventProducer(kafka) as producer:
            for epoch, champion in enumerate((1, 2, 1, 2, 1), 1):
                say_state(kafka, epoch, champion, versions)
                eventually(lambda n=epoch: len(swaps()) == n, timeout=30)  # type: ignore[misc]
                for _ in range(40):
                    features = {"x": 1.0, "origin": "JFK"}
                    named = 2 if sent % 10 == 0 else None  # some ask for it by name, whoever is champion
                    asked = InferenceRequest(
                        request_id=f"r{sent}",
                        model="coin",
                        event_time_ms=1_000 + sent,
                        features=features,
                        version=named,
                    )
                    producer.send(INFERENCE_REQUESTS, encode(asked), f"r{sent}".encode())
                    sent += 1
                producer.flush()
                eventually(lambda n=sent: len(read_all(kafka, PREDICTIONS)) == n, timeout=30)  # type: ignore[misc]
        readers = session_factory(make_engine(settings.database), read_only=True)

        def archived() -> int:
            with readers() as session:
                return sum(affected.affected(session, settings.archive, "coin", v).predictions for v in (1, 2))

        eventually(lambda: archived() == sent, timeout=30)

    log = [(r, decode(r.value or b"", Prediction)) for r in read_all(kafka, PREDICTIONS)]
    with readers() as session:
        for version in (1, 2):
            found = affected.affected(session, settings.archive, "coin", version)
            made = affected.rows(session, settings.archive, "coin", version).to_pylist()
            wanted = {(r.partition, r.offset, p.prediction_id) for r, p in log if p.version == version}
            assert {(row["partition"], row["offset"], row["prediction_id"]) for row in made} == wanted
            assert found.predictions == found.ids == len(wanted) == sum(p["count"] for p in found.partitions.values())
            # As the swaps say it: between the first offset it answered and the first of its successor, or by name.
            assert {row["prediction_id"] for row in made} == answered(kafka, swaps(), version)

    out = tmp_path / "made.jsonl"
    told = CliRunner().invoke(app, ["predictions", "coin", "--version", "2", "--out", str(out), "--json"])
    assert told.exit_code == 0, told.stderr
    document = json.loads(told.stdout)
    assert document["not_archived"] == 0
    assert document["predictions"] == len(out.read_text().splitlines()) == sum(p.version == 2 for _, p in log)
    assert CliRunner().invoke(app, ["predictions", "coin", "--version", "7"]).exit_code == 1


def answered(kafka: KafkaConfig, swaps: list[ModelSwapped], version: int) -> set[str]:
    """Ids of the requests that the offsets of the swaps give to a version."""
    ids = set()
    for record in read_all(kafka, INFERENCE_REQUESTS):
        asked = decode(record.value or b"", InferenceRequest)
        due = [
            swap.to_version
            for swap in swaps
            if record.offset >= swap.offsets[INFERENCE_REQUESTS].get(str(record.partition), 0)
        ][-1]
        if (asked.version or due) == version:
            ids.add(asked.request_id)
    return ids


def register(settings: Settings, store: ArtifactStore) -> None:
    """The versions that serving answers with, in the registry."""
    engine = make_engine(settings.database)
    upgrade(engine)
    sessions = session_factory(engine)
    registry = Registry(sessions, store)
    with sessions.begin() as session:
        registry.register_model(session, SPECIFICATION, "ann")
        for number in (1, 2):
            registry.register_version(
                session,
                "coin",
                artifact=store.put(coin(0.1), "model"),
                reference=store.put(b"{}", "reference"),
                specification_text=SPECIFICATION,
                code={},
                dataset={},
                environment={},
                parameters={},
                seed=number,
                parent=None,
                run_id=None,
                report={},
                actor="ann",
                at=registry.now(),
            )
    engine.dispose()
