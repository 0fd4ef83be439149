"""Runs in the database: one open run a model, leases that can be lost, and each news told once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from agents.config import load_settings
from agents.database.engine import Sessions, make_engine, session_factory
from agents.database.outbox import OutboxRow
from agents.database.schema import metadata
from agents.retraining import jobs
from agents.retraining.runner import LEASE_S, Runner
from agents.retraining.tables import RunRow
from schemas.codec import decode, utc
from schemas.errors import ConflictError
from schemas.events import AnyTrainingEvent, RetrainRequest

DAY = 86_400_000
NOW = 1_000_000.0


@pytest.fixture
def sessions(tmp_path: Path) -> Iterator[Sessions]:
    engine = make_engine(f"sqlite:///{tmp_path / 'registry.db'}")
    metadata().create_all(engine)
    yield session_factory(engine)
    engine.dispose()


def request(name: str, model: str = "toy", *, day: int = 10, trigger: str = "quality") -> RetrainRequest:
    return RetrainRequest(request_id=name, model=model, trigger=trigger, reason="it fell", as_of=utc(day * DAY))


def accept(sessions: Sessions, name: str, **more: Any) -> str:
    with sessions.begin() as session:
        return jobs.accept(session, request(name, **more))


def take(sessions: Sessions, run_id: str, owner: str, now: float = NOW) -> bool:
    with sessions.begin() as session:
        return jobs.lease(session, run_id, owner, now=now, seconds=30)


def told(sessions: Sessions) -> list[str]:
    with sessions() as session:
        rows = session.scalars(select(OutboxRow).order_by(OutboxRow.id)).all()
        return [type(decode(row.payload, AnyTrainingEvent)).__name__ for row in rows]  # type: ignore[arg-type]


def status(sessions: Sessions, run_id: str) -> str:
    with sessions() as session:
        return session.get_one(RunRow, run_id).status


def test_one_open_run_a_model(sessions: Sessions) -> None:
    first = accept(sessions, "a")
    accept(sessions, "other model", model="second")
    with pytest.raises(IntegrityError):
        accept(sessions, "b")
    take(sessions, first, "w")
    with sessions.begin() as session:
        assert jobs.open_run(session, "toy") == first
        jobs.fail(session, first, "w", "broken")
    accept(sessions, "b")


def test_of_two_workers_one_gets_the_run(sessions: Sessions) -> None:
    run_id = accept(sessions, "a")
    assert take(sessions, run_id, "one")
    assert not take(sessions, run_id, "two")
    assert take(sessions, run_id, "two", NOW + 31)
    with sessions.begin() as session:
        assert not jobs.renew(session, run_id, "one", now=NOW + 32, seconds=30)
        with pytest.raises(ConflictError):
            jobs.submitted(session, run_id, "one", version=2, rows=1, reason="", report={})
        jobs.submitted(session, run_id, "two", version=2, rows=1, reason="better", report={"a": 1})
    assert status(sessions, run_id) == "submitted"


def test_a_run_is_tried_three_times(sessions: Sessions) -> None:
    run_id = accept(sessions, "a")
    now = NOW
    for attempt in range(jobs.MAX_ATTEMPTS):
        with sessions() as session:
            assert jobs.waiting(session, now) == run_id
        assert take(sessions, run_id, "w", now)
        with sessions.begin() as session:
            again = jobs.give_back(session, run_id, "w", "code -9", now=now)
        assert again is (attempt < jobs.MAX_ATTEMPTS - 1)
        with sessions() as session:
            assert jobs.waiting(session, now + 1) is None  # the back-off
        now += 60
    assert status(sessions, run_id) == "failed"
    assert told(sessions) == ["RunFailed"]


def test_the_registrys_decision_ends_a_run_once(sessions: Sessions) -> None:
    run_id = accept(sessions, "a")
    take(sessions, run_id, "w")
    with sessions.begin() as session:
        jobs.started(session, run_id, "w")
        jobs.submitted(session, run_id, "w", version=2, rows=10, reason="better", report={"x": 1})
        assert jobs.decided(session, "toy", 2, "awaiting-approval")
        assert not jobs.decided(session, "toy", 2, "awaiting-approval")
        assert not jobs.decided(session, "toy", 9, "promoted")
        assert not jobs.decided(session, "other", 2, "promoted")
    assert told(sessions) == ["RunStarted", "RunFinished"]
    with sessions.begin() as session:
        assert not jobs.decided(session, "toy", 2, "promoted")
    with sessions() as session:
        (run,) = jobs.list_runs(session, "toy")
    assert (run.status, run.decision, run.version, run.rows) == ("finished", "promoted", 2, 10)
    assert told(sessions) == ["RunStarted", "RunFinished"]


def test_a_registry_that_does_not_answer_fails_the_run(sessions: Sessions) -> None:
    run_id = accept(sessions, "a")
    take(sessions, run_id, "w")
    with sessions.begin() as session:
        jobs.submitted(session, run_id, "w", version=2, rows=10, reason="better", report={})
    now = datetime.now(UTC)
    with sessions.begin() as session:
        assert jobs.undecided(session, now - timedelta(seconds=60)) == []
        assert jobs.undecided(session, now + timedelta(seconds=60)) == [run_id]
        jobs.give_up(session, run_id, "no answer")
    assert status(sessions, run_id) == "failed"


def test_the_cool_down_counts_automatic_runs_only(sessions: Sessions) -> None:
    for name, day, trigger in (("a", 10, "quality"), ("b", 20, "manual")):
        run_id = accept(sessions, name, day=day, trigger=trigger)
        take(sessions, run_id, "w")
        with sessions.begin() as session:
            jobs.fail(session, run_id, "w", "")
    with sessions.begin() as session:
        jobs.accept(session, request("c", day=30), skipped="too early")
    with sessions() as session:
        assert jobs.last_automatic_ms(session, "toy") == 10 * DAY
        assert [run.as_of for run in jobs.list_runs(session, "toy")] == [utc(d * DAY) for d in (30, 20, 10)]


class FakeWorker:
    """Ends when told to."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.code: int | None = None
        self.killed = 0

    def start(self, run_id: str, owner: str) -> None:
        self.started.append(run_id)
        self.code = None

    def poll(self) -> int | None:
        return self.code

    def kill(self) -> None:
        self.killed += 1

    def close(self) -> None:
        self.killed += 1


class Followed:
    """A runner on a fake worker, archive and clock."""

    def __init__(self, sessions: Sessions, home: Path) -> None:
        self.now, self.covered, self.worker = NOW, True, FakeWorker()
        self.runner = Runner(
            load_settings(home=home, training_timeout_ms=60_000),
            sessions,
            lambda: {("predictions", 0): 5},
            lambda _session, offsets: self.covered and offsets == {("predictions", 0): 5},
            worker=self.worker,
            clock=lambda: self.now,
        )

    def tick(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.runner.tick()


@pytest.fixture
def followed(sessions: Sessions, tmp_path: Path) -> Followed:
    return Followed(sessions, tmp_path)


def test_a_run_waits_for_the_archive(sessions: Sessions, followed: Followed) -> None:
    run_id = accept(sessions, "a")
    followed.covered = False
    followed.tick()
    followed.tick(5)
    assert followed.worker.started == []
    followed.covered = True
    followed.tick()
    assert followed.worker.started == [run_id]


def test_an_archive_that_stands_still_gives_the_run_back(sessions: Sessions, followed: Followed) -> None:
    run_id = accept(sessions, "a")
    followed.covered = False
    followed.tick()
    followed.tick(91)
    assert status(sessions, run_id) == "queued"
    assert followed.worker.started == []


def test_leases_are_renewed_while_it_trains(sessions: Sessions, followed: Followed) -> None:
    run_id = accept(sessions, "a")
    for _ in range(20):
        followed.tick(LEASE_S / 10)
        assert not take(sessions, run_id, "thief", followed.now)


def test_a_worker_that_dies_is_tried_again(sessions: Sessions, followed: Followed) -> None:
    run_id = accept(sessions, "a")
    followed.tick()
    followed.worker.code = -9
    followed.tick()
    assert status(sessions, run_id) == "queued"
    followed.tick(5)
    assert followed.worker.started == [run_id, run_id]


def test_a_training_that_hangs_is_killed(sessions: Sessions, followed: Followed) -> None:
    run_id = accept(sessions, "a")
    followed.tick()
    for _ in range(40):
        followed.tick(5)
        if followed.worker.killed:
            break
    assert followed.worker.killed == 1
    assert status(sessions, run_id) == "queued"


def test_a_stopped_agent_gives_its_run_back(sessions: Sessions, followed: Followed) -> None:
    run_id = accept(sessions, "a")
    followed.tick()
    followed.runner.close()
    assert status(sessions, run_id) == "queued"
    assert followed.worker.killed == 1


def test_who_lost_the_lease_kills_its_training(sessions: Sessions, followed: Followed) -> None:
    run_id = accept(sessions, "a")
    followed.tick()
    followed.now += LEASE_S + 1
    assert take(sessions, run_id, "thief", followed.now)
    followed.tick()
    assert followed.worker.killed == 1
    followed.tick()
    with sessions() as session:
        assert session.get_one(RunRow, run_id).lease_owner == "thief"


def test_a_run_that_ended_before_its_worker_said_so_makes_room(sessions: Sessions, followed: Followed) -> None:
    first = accept(sessions, "a")
    followed.tick()
    with sessions.begin() as session:
        session.get_one(RunRow, first).status = "finished"
    followed.tick(LEASE_S / 2)  # the lease cannot be renewed, and the worker has not spoken yet
    second = accept(sessions, "b")
    followed.tick()
    assert followed.worker.started == [first, second]
