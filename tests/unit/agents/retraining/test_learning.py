"""A reference that is learnt: from the archive, of stable days, once; and who else hears of a watched model."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
from sqlalchemy import select
from standardwebhooks import Webhook

from agents.alerting.agent import AlertHandler
from agents.archiving.files import LocalFiles, open_files
from agents.archiving.writer import ArchiveWriter, FlushRules
from agents.artifacts import ArtifactStore
from agents.config import Settings, load_settings
from agents.database.engine import make_engine, session_factory
from agents.database.outbox import OutboxRow
from agents.notifying.addresses import parse_endpoint
from agents.notifying.agent import AlertNotifier, Sender
from agents.notifying.deliveries import Courier
from agents.notifying.logic import Target
from agents.registry import watched
from agents.registry.service import Registry
from agents.registry.views import VersionInfo
from agents.retraining import jobs
from agents.retraining.agent import Handler
from agents.retraining.learning import learn
from schemas.codec import decode, encode, to_ms, utc
from schemas.events import (
    Alert,
    GroundTruth,
    Observation,
    ObserveVersion,
    PaneClosed,
    Prediction,
    RetrainRequest,
    VersionObserved,
)
from schemas.reference import ReferenceStatistics
from schemas.topics import ALERTS, GROUND_TRUTH, OBSERVATIONS, PREDICTIONS, REGISTRY_EVENTS, RETRAIN_REQUESTS
from streams.kafka.records import Record
from tests.support.databases import prepare
from tests.support.receiver import receiving
from tests.support.registries import EVENT_TIME, spec_text

DAY = timedelta(days=1)
A_DAY = 80


class World:
    """A watched model ``m`` that learns for three days, its archive, and the handlers of the agents."""

    def __init__(self, home: Path) -> None:
        self.settings: Settings = load_settings(home=home)
        self.engine = make_engine(self.settings.database)
        prepare(self.engine)
        self.sessions = session_factory(self.engine)
        self.readers = session_factory(self.engine, read_only=True)
        self.registry = Registry(self.sessions, ArtifactStore.of(self.settings))
        self.handler = Handler(self.registry)
        with self.sessions.begin() as session:
            watched.register(self.registry, session, spec_text(), "ann", window="3d")
        self.see("rc1", 0)

    def see(self, external: str, day: int) -> int:
        command = ObserveVersion(
            command_id=external, model="m", actor="monitoring", external=external, at=EVENT_TIME + day * DAY
        )
        with self.sessions.begin() as session:
            return watched.observe(self.registry, session, command)

    def archive(self, counts: dict[int, int]) -> None:
        """Traffic as the archive keeps it: so many predictions by day, with labels two hours later."""
        rng = np.random.default_rng(5)
        records: list[Record] = []
        at = dict.fromkeys((PREDICTIONS, GROUND_TRUTH), 0)

        def add(topic: str, event: Prediction | GroundTruth) -> None:
            records.append(
                Record(topic, 0, at[topic], event.prediction_id.encode(), encode(event), None, 1_700_000_000_000)
            )
            at[topic] += 1

        for day, count in counts.items():
            for row in range(count):
                moment = to_ms(EVENT_TIME + day * DAY) + row * 80_000_000 // count
                x = float(rng.normal())
                key = f"{day}-{row}"
                add(PREDICTIONS, Prediction(
                    prediction_id=key, model="m", version="rc1", event_time_ms=moment, features={"x": x},
                    prediction=int(x > 0), probability=1 / (1 + float(np.exp(-x))),
                ))  # fmt: skip
                add(GROUND_TRUTH, GroundTruth(
                    prediction_id=key, event_time_ms=moment + 7_200_000, label=int(x + rng.normal() > 0)
                ))  # fmt: skip
        files = open_files(self.settings.archive)
        assert isinstance(files, LocalFiles)
        writer = ArchiveWriter(files, self.sessions, "w", FlushRules())
        writer.claim([(PREDICTIONS, 0), (GROUND_TRUTH, 0)])
        writer.add(records, 0)
        writer.flush({(topic, 0): end for topic, end in at.items()})

    def close_panes(self, until: int, since: int = 0) -> None:
        for day in range(since, until):
            start = EVENT_TIME + day * DAY
            pane = PaneClosed(
                model="m", pane_start=start, pane_end=start + DAY, observed_at=start + 2 * DAY, labelled=9
            )
            self.hear(OBSERVATIONS, encode(pane))

    def hear(self, topic: str, value: bytes) -> None:
        with self.sessions.begin() as session:
            self.handler(session, Record(topic, 0, 0, b"m", value, None, 0))

    def run(self) -> bool:
        """Execute the run that waits, as the worker does; whether one waited."""
        with self.sessions.begin() as session:
            run_id = jobs.waiting(session, 1e12)
            if run_id is None:
                return False
            assert jobs.lease(session, run_id, "me", now=1.0, seconds=1e12)
        learn(self.settings, self.sessions, run_id, "me")
        return True

    def runs(self) -> list[tuple[str, str]]:
        with self.readers() as session:
            return [(run.status, run.outcome) for run in reversed(jobs.list_runs(session, "m"))]

    def versions(self) -> list[VersionInfo]:
        with self.readers() as session:
            return self.registry.versions(session, "m")

    def sent(self, topic: str) -> list[bytes]:
        with self.readers() as session:
            rows = session.scalars(select(OutboxRow).where(OutboxRow.topic == topic).order_by(OutboxRow.id))
            return [row.payload for row in rows]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.engine.dispose()


def test_stable_days_become_the_reference(world: World) -> None:
    world.archive(dict.fromkeys(range(6), A_DAY))
    world.close_panes(5)
    assert world.run()
    assert not world.run()
    assert world.runs()[0][0] == "finished", world.runs()
    first, second = world.versions()
    assert (first.external, second.external, second.champion) == ("rc1", "rc1", True)
    assert second.reason == "reference learnt from 240 predictions of the 3d from 2013-02-02"
    found = decode(world.registry.artifacts.get(second.reference), ReferenceStatistics)
    assert (found.rows, utc(found.start_ms).date(), utc(found.end_ms).date()) == (
        240, (EVENT_TIME + DAY).date(), (EVENT_TIME + 3 * DAY).date()
    )  # fmt: skip
    assert 0.5 < found.metrics["roc_auc"].value < 1.0
    assert found.importances["x"] > 0.5
    # The next panes lead to nothing more.
    world.close_panes(9, since=5)
    assert not world.run()
    assert [status for status, _ in world.runs()] == ["finished"]


def test_days_that_are_not_alike_move_the_window_on(world: World) -> None:
    world.archive({0: 10, 1: 10, 2: A_DAY, 3: A_DAY, 4: A_DAY, 5: A_DAY})
    world.close_panes(5)
    assert world.run()
    status, outcome = world.runs()[0]
    assert status == "skipped"
    assert "traffic: 10 predictions on 2013-02-02" in outcome
    assert len(world.versions()) == 1
    world.close_panes(6, since=5)
    assert world.run()
    assert [status for status, _ in world.runs()] == ["skipped", "finished"]
    assert "of the 3d from 2013-02-03" in world.versions()[-1].reason


def test_in_the_end_the_days_are_taken_as_they_are(world: World) -> None:
    world.archive({day: A_DAY * 8 ** (day % 2) for day in range(12)})
    for day in range(12):
        world.close_panes(day + 1, since=day)
        world.run()
    assert [status for status, _ in world.runs()] == ["skipped"] * 3 + ["finished"]
    assert "they are not stable (traffic:" in world.versions()[-1].reason


def test_whoever_trains_it_is_told_and_alerts_name_its_version(world: World) -> None:
    """The notifying and the alerting agent's handlers, with a receiver that listens."""
    request = RetrainRequest(
        request_id="r1", model="m", trigger="quality", reason="it fell", as_of=EVENT_TIME + 9 * DAY
    )
    now_ms = time.time_ns() // 1_000_000
    with receiving() as hook:
        target = Target(f"http://127.0.0.1:{hook.port}/", "webhook")
        secret = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
        send = Sender(secret, {target: parse_endpoint(target.url, ["127.0.0.1"])})
        courier = Courier(target, send, world.sessions, world.readers)
        notifier = AlertNotifier([target])
        for model in ("m", "trained-here"):
            with world.sessions.begin() as session:
                value = encode(msgspec.structs.replace(request, model=model))
                notifier(session, Record(RETRAIN_REQUESTS, 0, 0, b"m", value, [("ce_id", model.encode())], now_ms))
        assert courier.work() == 1
        headers, body = hook.requests[0]
    Webhook(secret).verify(body, headers)
    told = json.loads(body)
    assert told["type"] == "retrain.requested"
    assert (told["data"]["model"], told["data"]["version"], told["data"]["version_number"]) == ("m", "rc1", 1)

    alerting = AlertHandler("")
    at = EVENT_TIME + 5 * DAY
    observation = Observation(
        observation_id="o", model="m", version=1, kind="quality", subject="roc_auc", segment=None, status="opened",
        severity="critical", window="1d", window_start=at - DAY, window_end=at, value=0.5, reference=0.8, threshold=0.7,
        n=500, observed_at=at,
    )  # fmt: skip
    with world.sessions.begin() as session:
        alerting(session, Record(OBSERVATIONS, 0, 0, b"m", encode(observation), None, 0))
    opened = decode(world.sent(ALERTS)[-1], Alert)
    assert (opened.status, opened.evidence["external_version"]) == ("opened", "rc1")
    assert "Version 1 is called rc1 where it is served." in opened.explanation
    # What was open of a version ends when the next one appears.
    world.see("rc2", 6)
    event = decode(world.sent(REGISTRY_EVENTS)[-1], VersionObserved)
    with world.sessions.begin() as session:
        alerting(session, Record(REGISTRY_EVENTS, 0, 1, b"m", encode(event), None, 0))
    closed = decode(world.sent(ALERTS)[-1], Alert)
    assert (closed.status, closed.incident_id) == ("closed", opened.incident_id)
    assert "Version rc2 appeared" in closed.explanation
