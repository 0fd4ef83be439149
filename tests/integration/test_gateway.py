"""The gateway agent on a real broker and a real registry: what agents publish is shown, what people decide is kept."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka import Producer
from sqlalchemy import select

from agents.artifacts import ArtifactStore
from agents.config import Settings, load_settings
from agents.database.engine import make_engine, session_factory
from agents.database.outbox import OutboxRow
from agents.gateway import agent
from agents.gateway.address import bind, page_address
from agents.registry.service import Registry
from agents.runtime import is_ready
from schemas import codec, topics
from schemas.errors import ConfigurationError, ConflictError
from schemas.events import Alert, JournalRecord, SubmitCandidate, Wire
from streams.kafka.admin import ensure_topics
from streams.kafka.config import KafkaConfig
from streams.kafka.producer import EventProducer
from tests.support.databases import prepare
from tests.support.gateway import MODEL, SPECIFICATION, quality
from tests.support.wait import eventually

AT = datetime(2026, 1, 1, tzinfo=UTC)
MANUAL = SPECIFICATION + '[approval]\nmode = "manual"\n'


@dataclass
class Running:
    """A gateway that runs, and what it rests on."""

    http: httpx.Client
    kafka: KafkaConfig
    registry: Registry
    settings: Settings

    def get(self, path: str) -> Any:
        answer = self.http.get(path)
        answer.raise_for_status()
        return answer.json()

    def send(self, topic: str, *events: Wire, key: str = MODEL) -> None:
        with EventProducer(self.kafka) as producer:
            for event in events:
                producer.send(topic, codec.encode(event), key.encode())

    def candidate(self) -> int:
        """A version that waits for approval."""
        with self.registry.sessions.begin() as session:
            artifacts = self.registry.artifacts
            version = self.registry.register_version(
                session, MODEL, artifact=artifacts.put(b"model", "model"), reference=artifacts.put(b"ref", "reference"),
                specification_text=MANUAL, code={}, dataset={}, environment={}, parameters={}, seed=1, parent=None,
                run_id=None, report={"rows": 9}, actor="test", at=AT,
            )  # fmt: skip
            command = SubmitCandidate(
                command_id=f"c{version}", model=MODEL, actor="test", version=version, run_id="r", passed=True,
                reason="better", at=AT,
            )  # fmt: skip
            self.registry.submit(session, command)
        return version


@contextmanager
def running(kafka: KafkaConfig, home: Path) -> Iterator[Running]:
    """The agent in a thread, on a free port."""
    settings = load_settings(
        home=home, port=0, prefix=kafka.prefix, database_url="", artifacts_url="", host="127.0.0.1"
    )
    ensure_topics(kafka, 2)
    engine = make_engine(settings.database)
    prepare(engine)
    registry = Registry(session_factory(engine), ArtifactStore.of(settings))
    with registry.sessions.begin() as session:
        registry.register_model(session, MANUAL, "test")
    stop, failed = threading.Event(), []

    def work() -> None:
        try:
            agent.run(settings, kafka, stop)
        except BaseException as error:
            failed.append(error)
            raise

    thread = threading.Thread(target=work)
    thread.start()
    try:
        eventually(lambda: is_ready(settings, "gateway") or failed, timeout=20)
        assert not failed
        with httpx.Client(base_url=page_address(settings), timeout=5) as http:
            yield Running(http, kafka, registry, settings)
    finally:
        stop.set()
        thread.join(15)
    assert not thread.is_alive()


@pytest.fixture
def gateway(kafka: KafkaConfig, tmp_path: Path) -> Iterator[Running]:
    with running(kafka, tmp_path) as found:
        yield found


def journal(partition: int, predictions: int) -> JournalRecord:
    return JournalRecord(
        partition=partition, slices={}, watermark_ms=1, topic_watermarks_ms={}, idle={}, now_ms=1, registry_epoch=1,
        low_water={}, journal_low_water=0, totals={"predictions": predictions, "pending": predictions}, partitions=2,
    )  # fmt: skip


def send_journal(kafka: KafkaConfig, *records: JournalRecord, snapshot: bool = False) -> None:
    with EventProducer(kafka) as producer:
        for record in records:
            p = record.partition
            producer.send(topics.MONITORING_JOURNAL, codec.encode(record), f"join-{p}".encode(), None, p)
            if snapshot:
                producer.send(topics.MONITORING_JOURNAL, b"\x00\x01 no JSON", f"aggregate-{p}".encode(), None, p)


def test_what_is_published_is_shown_and_followed(kafka: KafkaConfig, tmp_path: Path) -> None:
    ensure_topics(kafka, 2)
    with EventProducer(kafka) as producer:  # before the gateway starts
        producer.send(topics.QUALITY_METRICS, codec.encode(quality(1, 1, 0.71)), MODEL.encode())
        producer.send(topics.QUALITY_METRICS, b"{broken", MODEL.encode())
    send_journal(kafka, journal(0, 5), journal(0, 7), journal(1, 10), snapshot=True)
    with running(kafka, tmp_path) as gateway:
        eventually(lambda: gateway.http.get("/readyz").status_code == 200, timeout=20)
        path = f"/api/models/{MODEL}/series?metric=roc_auc&window=1d"
        assert gateway.get(path)["lines"][0]["y"] == [0.71]
        assert gateway.get("/api/accounting") == {"partitions": 2, "totals": {"predictions": 17, "pending": 17}}
        assert "driftline_gateway_undecodable_records_total 1.0" in gateway.http.get("/metrics").text
        gateway.send(topics.QUALITY_METRICS, quality(1, 1, 0.69, state="revised"), quality(2, 1, 0.7))
        send_journal(kafka, journal(1, 11))
        eventually(lambda: gateway.get(path)["lines"][0]["y"] == [0.69, 0.7], timeout=30)
        eventually(lambda: gateway.get("/api/accounting")["totals"]["predictions"] == 18, timeout=30)


def test_records_of_aborted_transactions_are_not_shown(gateway: Running) -> None:
    producer = Producer(gateway.kafka.producer("aborting"))
    producer.init_transactions(10)
    for day, commit in ((3, False), (4, True)):
        producer.begin_transaction()
        value = codec.encode(quality(day, 1, day / 10))
        producer.produce(gateway.kafka.topic(topics.QUALITY_METRICS), value, MODEL.encode())
        producer.flush(10)
        producer.commit_transaction(10) if commit else producer.abort_transaction(10)
    path = f"/api/models/{MODEL}/series?metric=roc_auc&window=1d"
    eventually(lambda: gateway.get(path)["lines"], timeout=30)
    assert gateway.get(path)["lines"][0]["y"] == [0.4]


def test_an_approval_is_kept_published_and_done_once(gateway: Running) -> None:
    version = gateway.candidate()
    listed = gateway.get(f"/api/models/{MODEL}/versions")
    assert [(v["version"], v["stage"]) for v in listed["versions"]] == [(version, "approval-requested")]
    answers = []

    def approve() -> None:
        body = {"actor": f"person-{threading.get_ident()}"}
        answers.append(gateway.http.post(f"/api/models/{MODEL}/versions/{version}/approve", json=body).status_code)

    threads = [threading.Thread(target=approve) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200] + [409] * 7
    assert gateway.get(f"/api/models/{MODEL}/versions")["champion"] == version
    with gateway.registry.sessions() as session:
        sent = session.scalars(select(OutboxRow.type).order_by(OutboxRow.id)).all()
    assert sent.count("VersionApproved") == sent.count("ModelPromoted") == 1


def test_an_approval_of_other_bytes_than_were_seen_is_refused(gateway: Running) -> None:
    version = gateway.candidate()
    answer = gateway.http.post(f"/api/models/{MODEL}/versions/{version}/approve", json={"artifact": "0" * 64})
    assert answer.status_code == 409
    assert gateway.get(f"/api/models/{MODEL}/versions")["versions"][0]["stage"] == "approval-requested"


def test_rejection_and_rollback_reach_the_registry(gateway: Running) -> None:
    first, second, third = gateway.candidate(), gateway.candidate(), gateway.candidate()
    for version in (first, second):
        gateway.http.post(f"/api/models/{MODEL}/versions/{version}/approve", json={}).raise_for_status()
    gateway.http.post(f"/api/models/{MODEL}/versions/{third}/reject", json={"reason": "no"}).raise_for_status()
    late = gateway.http.post(f"/api/models/{MODEL}/rollback", json={"expected": first, "reason": "x"})
    assert late.status_code == 409, "somebody replaced the champion in between"
    done = gateway.http.post(f"/api/models/{MODEL}/rollback", json={"reason": "worse", "expected": second})
    assert done.json()["version"] == first
    stages = {v["version"]: v["stage"] for v in gateway.get(f"/api/models/{MODEL}/versions")["versions"]}
    assert stages == {first: "promoted", second: "rolled-back", third: "rejected"}
    with pytest.raises(ConflictError), gateway.registry.sessions.begin() as session:
        gateway.registry.approve(session, MODEL, third, "ann")


def test_changes_are_streamed(gateway: Running) -> None:
    gateway.send(topics.QUALITY_METRICS, quality(1, 1, 0.7))
    eventually(lambda: gateway.get(f"/api/models/{MODEL}/options")["metrics"], timeout=30)
    alert = Alert(
        incident_id="i", model=MODEL, version=1, kind="quality", subject="roc_auc", segment=None, severity="warning",
        status="opened", opened_at=AT, closed_at=None, title="t", explanation="e",
    )  # fmt: skip
    with gateway.http.stream("GET", f"/api/models/{MODEL}/changes", timeout=15) as answer:
        events = (json.loads(line.partition(":")[2]) for line in answer.iter_lines() if line.startswith("data:"))
        assert next(events) == {"changed": [], "clock_ms": codec.to_ms(quality(1, 1, 0.7).window_end)}
        gateway.send(topics.ALERTS, alert)
        assert "incidents" in next(events)["changed"]
    assert gateway.get(f"/api/models/{MODEL}/incidents")["incidents"][0]["title"] == "t"


def test_a_taken_port_is_told_with_the_setting_to_change(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path, host="127.0.0.1", port=0)
    bound, address = bind(settings)
    with bound:
        bound.listen()
        taken = load_settings(home=tmp_path / "other", host="127.0.0.1", port=int(address.rpartition(":")[2]))
        with pytest.raises(ConfigurationError) as caught:
            bind(taken)
    assert "DRIFTLINE_PORT" in caught.value.where + caught.value.remedy
