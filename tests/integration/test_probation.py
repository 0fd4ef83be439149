"""A probation on the real broker: from a promotion in the wrong moment to the version before, request by request."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import select

from agents.artifacts import ArtifactStore
from agents.config import Settings, load_settings
from agents.database.engine import make_engine, session_factory
from agents.database.outbox import OutboxRow
from agents.monitoring import agent as monitoring
from agents.registry import agent as registry_agent
from agents.registry.service import Registry
from agents.registry.tables import AuditRow
from agents.retraining import agent as retraining
from agents.retraining.register import register_project
from agents.retraining.tables import ProbationRow, ReadingPositionRow
from agents.serving import agent as serving
from agents.serving import model as serving_model
from schemas.codec import decode, encode, is_shadow, utc
from schemas.events import (
    AnyRegistryEvent,
    AnyServingEvent,
    GroundTruth,
    Heartbeat,
    InferenceRequest,
    ModelSwapped,
    Prediction,
)
from schemas.topics import (
    GROUND_TRUTH,
    INFERENCE_REQUESTS,
    PREDICTIONS,
    REGISTRY_EVENTS,
    SERVING_EVENTS,
    dead_letter_topic,
)
from streams.kafka.admin import ensure_topics
from streams.kafka.config import KafkaConfig
from streams.kafka.producer import EventProducer
from streams.kafka.reader import read_all
from tests.support.agents import running
from tests.support.wait import eventually
from tests.unit.agents.retraining.projects import SPEC, write_project
from tests.unit.agents.retraining.tables import DAY_MS, START_MS, toy_table

PARTITIONS = 2
SPECIFICATION = SPEC + 'probation = "2d"\n'


class System:
    """Everything between a request and the registry, in threads of this process."""

    def __init__(self, settings: Settings, kafka: KafkaConfig) -> None:
        self.settings, self.kafka = settings, kafka
        self.sessions = session_factory(make_engine(settings.database), read_only=True)
        self.registry = Registry(self.sessions, ArtifactStore.of(settings))
        self.failures: list[BaseException] = []
        self.sent = 0

    def running(self, *runs: Any) -> AbstractContextManager[None]:
        return running(self.settings, self.kafka, self.failures, *runs)

    def until(self, done: Any, message: str) -> None:
        def checked() -> Any:
            if self.failures:
                raise RuntimeError("an agent ended") from self.failures[0]
            return done()

        eventually(checked, timeout=60, message=message)

    def register(self, folder: Path, table: pd.DataFrame) -> None:
        file = folder / "table.parquet"
        table.to_parquet(file, index=False)
        project = write_project(folder / "project", spec=SPECIFICATION)
        found = register_project(self.settings, None, project, file, actor="tester")
        assert found["decision"] in ("initial", "promoted"), found

    def serves(self, version: int) -> bool:
        return [swap.to_version for swap in self.swaps()][-1:] == [version]

    def swaps(self) -> list[ModelSwapped]:
        found = [decode(r.value or b"", AnyServingEvent) for r in read_all(self.kafka, SERVING_EVENTS)]  # type: ignore[arg-type]
        return [event for event in found if isinstance(event, ModelSwapped)]

    def predictions(self) -> list[tuple[Prediction, bool]]:
        records = [r for r in read_all(self.kafka, PREDICTIONS, timeout_s=20) if r.key is not None]
        return [(decode(r.value or b"", Prediction), is_shadow(r.headers)) for r in records]

    def day(self, day: int, slope: float) -> None:
        """A day's requests, their answers, their labels, and the word that it is over."""
        table = toy_table(1, first_day=day, slope=slope)
        with EventProducer(self.kafka) as producer:
            for row in table.to_dict("records"):
                features = {name: row[name] for name in ("x", "noise", "region")}
                at_ms = round(row["at"].timestamp() * 1000)
                request = InferenceRequest(request_id=row["id"], model="toy", event_time_ms=at_ms, features=features)
                producer.send(INFERENCE_REQUESTS, encode(request), row["id"].encode())
            producer.flush(30)
            self.sent += len(table)
            answered = lambda: sum(not shadow for _, shadow in self.predictions()) == self.sent  # noqa: E731
            self.until(answered, f"the answers of day {day}")
            for row in table.to_dict("records"):
                at_ms = round(row["known_at"].timestamp() * 1000)
                label = GroundTruth(prediction_id=row["id"], event_time_ms=at_ms, label=row["y"])
                producer.send(GROUND_TRUTH, encode(label), row["id"].encode())
            over = encode(Heartbeat(event_time_ms=START_MS + (day + 1) * DAY_MS))
            for topic in (PREDICTIONS, GROUND_TRUTH):
                for partition in range(PARTITIONS):
                    producer.send(topic, over, None, headers=[("ce_type", b"Heartbeat")], partition=partition)

    def told(self) -> list[tuple[str, int]]:
        """What the registry's audit holds of ends of probations, and what its topic tells of them."""
        with self.sessions() as session:
            rows = session.execute(select(AuditRow.action, AuditRow.version).order_by(AuditRow.epoch))
            audited = [(action, version) for action, version in rows if action in ("ProbationEnded", "ModelRolledBack")]
        events = [decode(r.value or b"", AnyRegistryEvent) for r in read_all(self.kafka, REGISTRY_EVENTS)]  # type: ignore[arg-type]
        published = [(type(e).__name__, e.version) for e in events if type(e).__name__ in dict(audited)]  # type: ignore[union-attr]
        return audited if audited == published else []


@pytest.fixture
def system(kafka: KafkaConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    monkeypatch.setattr(serving_model, "check_in_child", lambda *_, **__: None)
    ensure_topics(kafka, PARTITIONS)
    settings = load_settings(home=tmp_path / "home", partitions=PARTITIONS, commit_interval_ms=20)
    (tmp_path / "first").mkdir()
    made = System(settings, kafka)
    made.register(tmp_path / "first", toy_table(20, slope=2.0))
    return made


def killed_while_it_watches(system: System) -> None:
    """A retraining agent in a process of its own, until it has begun to read; then SIGKILL."""
    environment = {**system.settings.environment(), "KAFKA_BOOTSTRAP_SERVERS": system.kafka.bootstrap_servers}
    environment["DRIFTLINE_PREFIX"] = system.kafka.prefix
    process = subprocess.Popen([sys.executable, "-m", "agents.cli", "agent", "retraining"], env=environment)

    def reading() -> bool:
        with system.sessions() as session:
            return session.scalar(select(ReadingPositionRow.next_offset)) is not None

    try:
        system.until(reading, "the agent to read")
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)


def test_a_good_version_stays_and_a_harmful_one_goes_back(system: System, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    (tmp_path / "third").mkdir()
    with system.running(registry_agent.run, serving.run, monitoring.run):
        system.until(lambda: system.serves(1), "version 1")
        # The world has turned round, version 2 has learnt it, and it stays so: version 2 is better, day by day.
        system.register(tmp_path / "second", toy_table(20, first_day=20, slope=-2.0))
        system.until(lambda: system.serves(2), "version 2")
        with system.running(retraining.run):
            for day in range(40, 44):
                system.day(day, -2.0)
            system.until(lambda: system.told() == [("ProbationEnded", 2)], "the end of the probation")
        end = system.sent
        # Version 3 learns of days that turned once more, passes the gate on them, and the world turns back at once.
        system.register(tmp_path / "third", toy_table(20, first_day=44, slope=2.0))
        system.until(lambda: system.serves(3), "version 3")
        killed_while_it_watches(system)
        for day in range(64, 66):
            system.day(day, -2.0)
        with system.running(retraining.run):
            system.until(lambda: system.told()[1:] == [("ModelRolledBack", 2)], "the way back")
            system.until(lambda: system.serves(2), "version 2 again")
            system.day(66, -2.0)

    made = system.predictions()
    live = {p.prediction_id: p.version for p, shadow in made if not shadow}
    in_shadow = {p.prediction_id: p.version for p, shadow in made if shadow}
    assert len(made) == len(live) + len(in_shadow)
    assert len(live) == system.sent
    requests = read_all(system.kafka, INFERENCE_REQUESTS)
    swaps = system.swaps()
    assert [(swap.from_version, swap.to_version) for swap in swaps] == [(None, 1), (1, 2), (2, 3), (3, 2)]
    for record in requests:  # the swaps' offsets say which version answered, to the request
        due = [s.to_version for s in swaps if record.offset >= s.offsets[INFERENCE_REQUESTS][str(record.partition)]]
        assert live[(record.key or b"").decode()] == due[-1]
    ids = [(record.key or b"").decode() for record in sorted(requests, key=lambda r: r.timestamp_ms)]
    of_day = {day: [i for i in ids if i.startswith(f"d{day}-")] for day in (40, 41, 64, 65, 66)}
    assert [in_shadow.get(i) for i in of_day[40]] == [1] * 150
    assert {in_shadow.get(i) for i in (*of_day[64], *of_day[65])} == {2}
    assert {in_shadow.get(i) for i in of_day[66]} == {None}
    assert end < system.sent
    assert read_all(system.kafka, dead_letter_topic("registry-commands")) == []

    with system.sessions() as session:
        version = system.registry.version(session, "toy", 3)
        row = session.get_one(ProbationRow, "toy")
        unsent = session.scalars(select(OutboxRow.id).where(OutboxRow.published_at.is_(None))).all()
    assert (version.stage, version.decision, row.status, list(unsent)) == (
        "rolled-back",
        "rolled-back",
        "rolled-back",
        [],
    )
    assert "roc_auc 0." in version.reason
    assert "of version 2 on the same 150 labelled predictions in 1 window of 1d: worse by 0." in version.reason
    assert row.report is not None
    assert row.report["until"] == utc(START_MS + 65 * DAY_MS).isoformat().replace("+00:00", "Z")
