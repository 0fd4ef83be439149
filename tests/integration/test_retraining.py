"""The retraining agent with the registry and the archive on a real broker: from a request to a decision."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from sqlalchemy import select

from agents.access.signatures import CommandSigner
from agents.archiving import agent as archiving
from agents.artifacts import ArtifactStore, load_model
from agents.config import Settings, load_settings
from agents.database.engine import make_engine, session_factory
from agents.registry import agent as registry_agent
from agents.registry.audit import verify_audit
from agents.registry.service import Registry
from agents.registry.tables import AuditRow
from agents.retraining import agent as retraining
from agents.retraining import jobs
from agents.retraining.packing import pack_project
from agents.retraining.project import load_project
from agents.retraining.register import register_project
from schemas.codec import encode, utc
from schemas.events import GroundTruth, PaneClosed, Prediction, RetrainRequest
from schemas.topics import (
    GROUND_TRUTH,
    OBSERVATIONS,
    PREDICTIONS,
    RETRAIN_REQUESTS,
    TRAINING_EVENTS,
    dead_letter_topic,
)
from streams.kafka.admin import ensure_topics
from streams.kafka.config import KafkaConfig
from streams.kafka.producer import EventProducer
from streams.kafka.reader import read_all
from tests.support.agents import running
from tests.support.wait import eventually
from tests.unit.agents.retraining.projects import PIPELINE, SPEC, write_project
from tests.unit.agents.retraining.tables import DAY_MS, START_MS, toy_table

SPOILED = PIPELINE.replace(
    'prepare["y"].astype(int)', 'prepare["y"].astype(int).sample(frac=1, random_state=1).to_numpy()'
)
BROKEN = "def train(data):\n    rows = data\n    return rows['no such column']\n"
SLOW = "import time\n" + PIPELINE.replace("    model = make_pipeline", "    time.sleep(60)\n    model = make_pipeline")


class System:
    """Registry, archive and retraining, in threads of this process."""

    def __init__(self, settings: Settings, kafka: KafkaConfig) -> None:
        self.settings, self.kafka = settings, kafka
        self.artifacts = ArtifactStore.of(settings)
        self.sessions = session_factory(make_engine(settings.database), read_only=True)
        self.registry = Registry(self.sessions, self.artifacts)
        self.failures: list[BaseException] = []

    def runs(self) -> list[jobs.Run]:
        with self.sessions() as session:
            return jobs.list_runs(session, "toy")

    def run_of(self, request_id: str) -> jobs.Run | None:
        return next((run for run in self.runs() if run.run_id == jobs.run_id_of(request_id)), None)

    def ask(self, request_id: str, day: int, *, trigger: str = "manual", project: str | None = None) -> None:
        request = RetrainRequest(
            request_id=request_id,
            model="toy",
            trigger=trigger,
            reason="a test wants it",
            as_of=utc(START_MS + day * DAY_MS),
            requested_by="tester",
            project=project,
        )
        value, signer = encode(request), CommandSigner.of(self.settings.home, self.kafka, RETRAIN_REQUESTS)
        with EventProducer(self.kafka) as producer:
            producer.send(RETRAIN_REQUESTS, value, b"toy", signer.headers(b"toy", value))

    def ended(self, request_id: str, timeout: float = 60) -> jobs.Run:
        def done() -> jobs.Run | None:
            if self.failures:
                raise RuntimeError("an agent ended") from self.failures[0]
            run = self.run_of(request_id)
            return run if run is not None and run.status not in ("queued", "running", "submitted") else None

        run = eventually(done, timeout=timeout, message=lambda: f"{request_id} to end; runs: {self.runs()}")
        assert isinstance(run, jobs.Run)
        return run

    def champion(self) -> int:
        with self.sessions() as session:
            champion = self.registry.champion(session, "toy")
            assert champion is not None
            return champion.version

    def told(self) -> list[dict[str, Any]]:
        import json

        return [json.loads(record.value or b"") for record in read_all(self.kafka, TRAINING_EVENTS, timeout_s=10)]


def send_traffic(kafka: KafkaConfig, table: pd.DataFrame, model: Any, version: int) -> None:
    """What serving and the systems of record would have sent."""
    scores = model.predict_proba(table[["x", "noise", "region"]])[:, 1]
    with EventProducer(kafka) as producer:
        for row, score in zip(table.to_dict("records"), scores, strict=True):
            at: datetime = row["at"]
            event_time_ms = round(at.timestamp() * 1000)
            prediction = Prediction(
                prediction_id=row["id"],
                model="toy",
                version=version,
                event_time_ms=event_time_ms,
                features={"x": row["x"], "noise": row["noise"], "region": row["region"]},
                prediction=int(score >= 0.5),
                probability=float(score),
                segment={"region": row["region"]},
            )
            label = GroundTruth(prediction_id=row["id"], event_time_ms=event_time_ms + 7_200_000, label=row["y"])
            producer.send(PREDICTIONS, encode(prediction), row["id"].encode())
            producer.send(GROUND_TRUTH, encode(label), row["id"].encode())


@pytest.fixture
def system(kafka: KafkaConfig, tmp_path: Path) -> Iterator[System]:
    ensure_topics(kafka, 2)
    settings = load_settings(home=tmp_path / "home", archive_idle_ms=100, projects=[str(tmp_path / "project")])
    toy_table(20).to_parquet(tmp_path / "table.parquet", index=False)
    project = write_project(tmp_path / "project", spec=SPEC + 'triggers = ["code"]\n')
    registered = register_project(settings, kafka, project, tmp_path / "table.parquet", actor="tester")
    assert registered["decision"] == "initial"
    system = System(settings, kafka)
    with running(settings, kafka, system.failures, archiving.run, registry_agent.run, retraining.run):
        yield system


def test_from_requests_to_decisions(system: System, tmp_path: Path) -> None:
    """A successor that is better is promoted; a spoiled one is refused; a broken one fails and says where."""
    with system.sessions() as session:
        champion = system.registry.champion(session, "toy")
    assert champion is not None
    turned = toy_table(20, first_day=20, slope=-2.0)
    send_traffic(system.kafka, turned, load_model(system.artifacts, champion.artifact), champion.version)

    # The world has turned round since day 20: what is learnt from it must beat what was learnt before.
    system.ask("better", 40)
    run = system.ended("better")
    assert (run.status, run.decision, run.version) == ("finished", "promoted", 2), run
    assert "better by" in run.outcome
    assert system.champion() == 2
    with system.sessions() as session:
        version = system.registry.version(session, "toy", 2)
    assert version.parent == 1
    assert version.dataset["rows"] == 25 * 150
    assert version.dataset["registered"] == champion.dataset["registered"]
    assert version.report["primary"]["gain"] > 0.1
    assert set(version.report["segments"]) == {"region=north", "region=south"}

    spoiled = pack_project(system.artifacts, write_project(tmp_path / "spoiled", SPOILED))
    system.ask("spoiled", 40, project=spoiled)
    run = system.ended("spoiled")
    assert (run.status, run.decision, run.version) == ("finished", "rejected", 3), run
    assert "worse by" in run.outcome
    assert system.champion() == 2

    broken = pack_project(system.artifacts, write_project(tmp_path / "broken", BROKEN))
    system.ask("broken", 40, project=broken)
    run = system.ended("broken")
    assert (run.status, run.decision, run.version) == ("failed", "failed", None)
    assert run.attempts == 1
    assert run.outcome.startswith("pipeline.py:3: step train raised")

    # Only what was known: at day 21 there are 20 days of table and one of traffic.
    system.ask("early", 21)
    run = system.ended("early")
    with system.sessions() as session:
        early = system.registry.version(session, "toy", run.version or 0)
    assert early.dataset["rows"] == 3000 + 150

    # Automatic triggers wait for the cool-down of two days; a person does not.
    system.ask("first", 30, trigger="drift")
    system.ended("first")
    system.ask("second", 31, trigger="drift")
    run = system.ended("second")
    assert run.status == "skipped"
    assert "cool-down" in run.outcome

    # The folder holds other code from now on: the next pane that closes asks, once.
    changed = tmp_path / "project"
    (changed / "pipeline.py").write_text(PIPELINE + "# otherwise\n", encoding="utf-8")
    with EventProducer(system.kafka) as producer:
        for day in (45, 46):
            at = utc(START_MS + day * DAY_MS)
            pane = PaneClosed(model="toy", pane_start=at, pane_end=at, observed_at=at, labelled=150)
            producer.send(OBSERVATIONS, encode(pane), b"toy")
    run = eventually(
        lambda: next((r for r in system.runs() if r.trigger == "code" and r.status == "finished"), None), timeout=60
    )
    assert isinstance(run, jobs.Run)
    assert (run.as_of, run.requested_by) == (utc(START_MS + 45 * DAY_MS), "policy:code")
    with system.sessions() as session:
        made = system.registry.version(session, "toy", run.version or 0)
    assert made.code["tree"] == load_project(changed).tree_hash
    assert [r.trigger for r in system.runs()].count("code") == 1

    events = system.told()
    kinds = {(event["type"], event.get("decision")) for event in events}
    assert {
        ("RunStarted", None),
        ("RunFinished", "initial"),
        ("RunFinished", "promoted"),
        ("RunFinished", "rejected"),
        ("RunFailed", None),
        ("RunSkipped", None),
    } <= kinds
    ids = [event["event_id"] for event in events]
    assert len(ids) == len(set(ids))


def test_a_killed_worker_is_replaced_and_the_run_goes_on(system: System, tmp_path: Path) -> None:
    slow = pack_project(system.artifacts, write_project(tmp_path / "slow", SLOW))
    system.ask("slow", 20, project=slow)

    def training() -> int | None:
        run = system.run_of("slow")
        if run is None or run.started_at is None:
            return None
        workers = [p for p in psutil.Process().children() if "agents.retraining.worker" in " ".join(p.cmdline())]
        children = [child.pid for worker in workers for child in worker.children()]
        return children[0] if children else None

    pid = eventually(training, timeout=60, message="the run to train")
    os.kill(pid, signal.SIGKILL)

    def second() -> bool:
        run = system.run_of("slow")
        return run is not None and run.attempts == 2 and run.status == "running"

    eventually(second, timeout=30, message="a second attempt")


def test_requests_that_cannot_be_used(system: System) -> None:
    with EventProducer(system.kafka) as producer:
        producer.send(RETRAIN_REQUESTS, b"{no json", b"toy")
        request = RetrainRequest(
            request_id="r", model="nobody", trigger="manual", reason="?", as_of=utc(START_MS), requested_by="tester"
        )
        value, signer = encode(request), CommandSigner.of(system.settings.home, system.kafka, RETRAIN_REQUESTS)
        producer.send(RETRAIN_REQUESTS, value, b"nobody", signer.headers(b"nobody", value))
        producer.send(RETRAIN_REQUESTS, value, b"nobody")
        producer.send(RETRAIN_REQUESTS, value.replace(b"nobody", b"toy"), b"toy", signer.headers(b"nobody", value))
    letters = dead_letter_topic(RETRAIN_REQUESTS)
    eventually(lambda: len(read_all(system.kafka, letters, timeout_s=5)) == 4, timeout=30, message="four dead letters")
    reasons = [dict(record.headers or ())["__dlq.errors.reason"] for record in read_all(system.kafka, letters)]
    assert sorted(reasons) == [b"malformed-json", b"signature", b"unknown-model", b"unsigned"]
    with system.sessions() as session:
        refused = session.scalars(select(AuditRow).where(AuditRow.action == "CommandRefused")).all()
        assert [(row.actor, row.model) for row in refused] == [("tester", "nobody"), ("tester", "toy")]
        assert verify_audit(session).problem is None
    # Too little to learn from is no failure.
    system.ask("few", 2)
    run = system.ended("few")
    assert run.status == "skipped"
    assert "500 are needed" in run.outcome
