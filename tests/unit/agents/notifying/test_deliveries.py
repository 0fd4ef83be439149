"""Delivery rows: attempts, pauses, leases, and targets that do not wait for each other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import select

from agents.database.base import Base
from agents.database.engine import Sessions, make_engine, session_factory
from agents.notifying import deliveries
from agents.notifying.deliveries import Courier
from agents.notifying.logic import GIVE_UP_AFTER, Target
from agents.notifying.tables import DeliveryRow
from agents.notifying.webhook import DeliveryError
from schemas.events import Alert
from tests.support.wait import eventually
from tests.unit.agents.notifying.test_logic import ALERT

START = datetime(2026, 1, 1, tzinfo=UTC)
GOOD, BAD = Target("https://good.example.com/", "webhook"), Target("https://bad.example.com/", "webhook")


@dataclass
class Bench:
    sessions: Sessions
    readers: Sessions
    now: datetime = START
    sent: list[tuple[str, str]] = field(default_factory=list)
    failure: Exception | None = None

    def send(self, target: Target, event_id: str, alert: Alert, at: datetime) -> None:
        if self.failure is not None:
            raise self.failure
        self.sent.append((target.label, event_id))

    def courier(self, target: Target = GOOD) -> Courier:
        return Courier(target, self.send, self.sessions, self.readers, clock=lambda: self.now)

    def plan(self, event_id: str, *targets: Target, incident: str = "i1") -> None:
        with self.sessions.begin() as session:
            alert = msgspec.structs.replace(ALERT, incident_id=incident)
            deliveries.plan(session, targets or (GOOD,), event_id, alert, self.now)

    def rows(self) -> list[DeliveryRow]:
        with self.readers() as session:
            return list(session.scalars(select(DeliveryRow).order_by(DeliveryRow.id)))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    engine = make_engine(f"sqlite:///{tmp_path / 'd.db'}")
    Base.metadata.create_all(engine, tables=[DeliveryRow.__table__])
    yield Bench(session_factory(engine), session_factory(engine, read_only=True))
    engine.dispose()


def test_delivered_once(bench: Bench) -> None:
    bench.plan("e1")
    courier = bench.courier()
    assert courier.work() == 1
    assert courier.work() == 0
    (row,) = bench.rows()
    assert (row.status, row.attempts, row.error, row.delivered_at) == ("delivered", 1, "", START)
    assert "good.example.com" in row.label


def test_failures_are_tried_again_with_pauses_and_in_order(bench: Bench) -> None:
    bench.plan("e1")
    bench.plan("e2")
    bench.plan("e3", incident="i2")
    courier = bench.courier()
    bench.failure = DeliveryError("answered 500")
    assert courier.work() == 2  # the oldest of each incident
    assert courier.work() == 0  # not due
    bench.failure = None
    bench.now += timedelta(seconds=10)
    assert courier.work() == 2
    assert courier.work() == 1
    assert [event for _, event in bench.sent] == ["e1", "e3", "e2"]
    assert [row.attempts for row in bench.rows()] == [2, 1, 2]


def test_given_up_after_a_day_or_when_nobody_wants_it(bench: Bench) -> None:
    bench.plan("e1")
    courier = bench.courier()
    bench.failure = RuntimeError("any failure of a channel")
    courier.work()
    assert bench.rows()[0].status == "pending"
    assert bench.rows()[0].error == "RuntimeError: any failure of a channel"
    bench.now += GIVE_UP_AFTER
    courier.work()
    bench.failure = DeliveryError("answered 410", final=True)
    bench.plan("e2")
    courier.work()
    assert [row.status for row in bench.rows()] == ["abandoned", "abandoned"]
    bench.now += deliveries.KEEP + timedelta(days=1)
    courier.prune()
    assert bench.rows() == []


def test_two_workers_do_not_send_the_same(bench: Bench) -> None:
    bench.plan("e1")
    inner: list[int] = []

    def send(target: Target, event_id: str, alert: Alert, at: datetime) -> None:
        bench.sent.append((target.label, event_id))
        inner.append(bench.courier().work())

    Courier(GOOD, send, bench.sessions, bench.readers, clock=lambda: bench.now).work()
    assert inner == [0]
    assert len(bench.sent) == 1


def test_a_worker_that_died_while_sending_is_followed_after_its_lease(bench: Bench) -> None:
    bench.plan("e1")

    class DiedError(BaseException):
        pass

    def die(target: Target, event_id: str, alert: Alert, at: datetime) -> None:
        raise DiedError

    with pytest.raises(DiedError):
        Courier(GOOD, die, bench.sessions, bench.readers, clock=lambda: bench.now).work()
    assert bench.courier().work() == 0
    bench.now += deliveries.LEASE
    assert bench.courier().work() == 1
    assert len(bench.sent) == 1


def test_a_target_that_hangs_delays_nobody(bench: Bench) -> None:
    release = threading.Event()

    def send(target: Target, event_id: str, alert: Alert, at: datetime) -> None:
        if target == BAD:
            release.wait(30)
            raise DeliveryError("hung")
        bench.sent.append((target.label, event_id))

    couriers = [Courier(target, send, bench.sessions, bench.readers) for target in (BAD, GOOD)]
    for courier in couriers:
        courier.start()
    try:
        for n in range(5):
            bench.plan(f"e{n}", BAD, GOOD)
        eventually(lambda: len(bench.sent) == 5, timeout=10)
        assert not release.is_set()
    finally:
        release.set()
        for courier in couriers:
            courier.stop(10)
