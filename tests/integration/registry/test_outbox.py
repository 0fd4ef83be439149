"""Outbox and inbox on both databases: nothing is lost, repeats carry the same id, one worker sends."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from sqlalchemy import select

from agents.database.inbox import seen_before
from agents.database.outbox import OutboxRelay, OutboxRow, enqueue
from schemas.codec import Headers, decode
from schemas.errors import BrokerError
from schemas.events import VersionRejected
from tests.support.registries import START, RegistryWorld


class FakeProducer:
    """Remembers what was sent; fails where it is told to."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes | None, bytes | None, dict[str, bytes]]] = []
        self.fails = False

    def send(self, topic: str, value: bytes | None, key: bytes | None = None, headers: Headers | None = None) -> None:
        self.sent.append((topic, value, key, dict(headers or [])))

    def flush(self, timeout_s: float) -> None:
        if self.fails:
            raise BrokerError("not delivered")

    @property
    def ids(self) -> list[str]:
        return [headers["ce_id"].decode() for *_, headers in self.sent]


def event(n: int) -> VersionRejected:
    return VersionRejected(event_id=f"e{n}", epoch=n, at=START, model="m", actor="bea", version=1, reason="no")


def add(world: RegistryWorld, *numbers: int, agent: str = "registry") -> None:
    with world.sessions.begin() as session:
        for n in numbers:
            enqueue(session, agent, "registry-events", "m", event(n), f"e{n}", START)


def relay(world: RegistryWorld, producer: FakeProducer, **options: object) -> OutboxRelay:
    return OutboxRelay(world.sessions, producer, "registry", readers=world.readers, **options)  # type: ignore[arg-type]


def test_events_are_sent_once_in_order_with_their_attributes(world: RegistryWorld) -> None:
    producer = FakeProducer()
    sender = relay(world, producer)
    add(world, 1, 2)
    add(world, 9, agent="alerting")
    assert sender.publish_pending() == 2
    assert sender.publish_pending() == 0
    assert producer.ids == ["e1", "e2"]
    topic, value, key, headers = producer.sent[0]
    assert (topic, key) == ("registry-events", b"m")
    assert decode(value or b"", VersionRejected) == event(1)
    assert headers["ce_type"] == b"VersionRejected"
    assert headers["ce_source"] == b"/driftline/registry"
    assert headers["ce_time"] == b"2026-01-01T00:00:00Z"


def test_what_is_rolled_back_is_never_sent(world: RegistryWorld) -> None:
    producer = FakeProducer()
    with world.sessions() as session:
        enqueue(session, "registry", "registry-events", "m", event(1), "e1", START)
        session.rollback()
    assert relay(world, producer).publish_pending() == 0


def test_without_acknowledgement_everything_is_sent_again_with_the_same_ids(world: RegistryWorld) -> None:
    producer = FakeProducer()
    sender = relay(world, producer)
    add(world, 1, 2)
    producer.fails = True
    with pytest.raises(BrokerError):
        sender.publish_pending()
    with world.readers() as session:
        assert set(session.scalars(select(OutboxRow.published_at))) == {None}
    producer.fails = False
    assert sender.publish_pending() == 2
    assert producer.ids == ["e1", "e2", "e1", "e2"]


def test_a_long_queue_is_sent_in_order(world: RegistryWorld) -> None:
    producer = FakeProducer()
    add(world, *range(1_201))
    assert relay(world, producer).publish_pending() == 1_201
    assert producer.ids == [f"e{n}" for n in range(1_201)]


def test_one_worker_sends_until_its_lease_has_run_out(world: RegistryWorld) -> None:
    now = START

    def clock() -> datetime:
        return now

    first, second = FakeProducer(), FakeProducer()
    one = relay(world, first, owner="one", clock=clock, timeout_s=10)
    two = relay(world, second, owner="two", clock=clock, timeout_s=10)
    add(world, 1)
    assert one.publish_pending() == 1
    add(world, 2)
    assert two.publish_pending() == 0
    now += timedelta(seconds=15)  # renewed by the one that holds it
    assert one.publish_pending() == 1
    add(world, 3)
    now += timedelta(seconds=15)
    assert two.publish_pending() == 0
    now += timedelta(seconds=6)
    assert two.publish_pending() == 1
    add(world, 4)
    assert one.publish_pending() == 0, "it was replaced"
    assert (first.ids, second.ids) == (["e1", "e2"], ["e3"])


def test_a_worker_that_starts_again_goes_on_at_once(world: RegistryWorld) -> None:
    producer = FakeProducer()
    add(world, 1)
    relay(world, producer, owner="one").publish_pending()
    add(world, 2)
    assert relay(world, producer, owner="one").publish_pending() == 1


def test_old_rows_are_pruned_pending_ones_never(world: RegistryWorld) -> None:
    now = START

    def clock() -> datetime:
        return now

    producer = FakeProducer()
    sender = relay(world, producer, clock=clock)
    add(world, 1)
    sender.publish_pending()
    add(world, 2)
    now += timedelta(days=8)
    assert sender.prune() == 1
    assert sender.publish_pending() == 1
    assert producer.ids == ["e1", "e2"]


def test_the_inbox_knows_what_an_agent_has_handled(world: RegistryWorld) -> None:
    with world.sessions.begin() as session:
        assert not seen_before(session, "alerting", "e1")
        assert seen_before(session, "alerting", "e1")
        assert not seen_before(session, "registry", "e1")
    with world.sessions() as session:
        assert not seen_before(session, "alerting", "e2")
        session.rollback()
    with world.sessions.begin() as session:
        assert seen_before(session, "alerting", "e1")
        assert not seen_before(session, "alerting", "e2"), "what was rolled back was not handled"
