"""The audit chain: any edited, removed or reordered row is found."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from agents.database.outbox import OutboxRelay
from agents.registry.audit import (
    AuditVerdict,
    Published,
    compare_published,
    exported,
    verify_audit,
    verify_export,
)
from agents.registry.ledger import row_hash
from agents.registry.tables import AuditRow, LedgerRow
from schemas.codec import Headers
from schemas.topics import REGISTRY_EVENTS
from tests.support.registries import START, RegistryWorld

EDITS: dict[str, object] = {
    "actor": "mallory",
    "action": "Edited",
    "model": "other",
    "version": 99,
    "event": "{}",
    "previous_hash": "f" * 64,
    "hash": "e" * 64,
}


@pytest.fixture
def filled(world: RegistryWorld) -> RegistryWorld:
    world.model()
    for passed in (True, False, True):
        world.candidate(passed=passed)
    return world


def problem(world: RegistryWorld) -> str | None:
    with world.readers() as session:
        return verify_audit(session, page=3).problem


def test_an_untouched_chain_holds(filled: RegistryWorld) -> None:
    with filled.readers() as session:
        verdict = verify_audit(session)
        head = session.scalars(select(LedgerRow.head)).one()
    assert verdict.problem is None
    assert verdict.rows == len(filled.events())
    assert verdict.head == head


def test_an_empty_registry_holds(world: RegistryWorld) -> None:
    with world.readers() as session:
        assert verify_audit(session).problem is None


@pytest.mark.parametrize("column", [*EDITS, "recorded_at"])
def test_an_edit_of_any_column_of_any_row_is_found(filled: RegistryWorld, column: str) -> None:
    for epoch in range(1, len(filled.events()) + 1):
        with filled.sessions.begin() as session:
            row = session.get_one(AuditRow, epoch)
            before = getattr(row, column)
            new = row.recorded_at + timedelta(microseconds=1) if column == "recorded_at" else EDITS[column]
            session.execute(update(AuditRow).where(AuditRow.epoch == epoch).values({column: new}))
        assert problem(filled) is not None, (column, epoch)
        with filled.sessions.begin() as session:
            session.execute(update(AuditRow).where(AuditRow.epoch == epoch).values({column: before}))
    assert problem(filled) is None


def test_a_row_that_was_edited_with_its_own_hash_is_found(filled: RegistryWorld) -> None:
    """Its hash is right then: the row after it, or the ledger, does not follow."""
    last = len(filled.events())
    for epoch in range(1, last + 1):
        with filled.sessions.begin() as session:
            row = session.get_one(AuditRow, epoch)
            before = (row.actor, row.hash)
            row.actor = "mallory"
            row.hash = row_hash(row)
        said = f"row {epoch + 1} does not follow row {epoch}" if epoch < last else "the newest rows are missing"
        assert said in (problem(filled) or "")
        if epoch < last:
            assert verify_export(lines(filled)).problem == said
        with filled.sessions.begin() as session:
            row = session.get_one(AuditRow, epoch)
            row.actor, row.hash = before
    assert problem(filled) is None


@pytest.mark.parametrize("epoch", [1, 5, -1])
def test_a_removed_row_is_found(filled: RegistryWorld, epoch: int) -> None:
    gone = epoch if epoch > 0 else len(filled.events())
    with filled.sessions.begin() as session:
        session.execute(delete(AuditRow).where(AuditRow.epoch == gone))
    assert "missing" in (problem(filled) or "")


def test_reordered_rows_are_found(filled: RegistryWorld) -> None:
    with filled.sessions.begin() as session:
        for old, new in ((3, 1003), (4, 3), (1003, 4)):
            session.execute(update(AuditRow).where(AuditRow.epoch == old).values(epoch=new))
    assert problem(filled) is not None


class Topic:
    """What a relay sent, as it would lie on the topic."""

    def __init__(self) -> None:
        self.events: list[Published] = []

    def send(self, topic: str, value: bytes | None, key: bytes | None = None, headers: Headers | None = None) -> None:
        if topic == REGISTRY_EVENTS:
            assert value is not None
            epoch = json.loads(value)["epoch"]
            self.events.append(Published(epoch, value, dict(headers or ())["ce_audithash"].decode()))

    def flush(self, timeout_s: float) -> None:
        pass


@pytest.fixture
def published(filled: RegistryWorld) -> list[Published]:
    topic = Topic()
    OutboxRelay(filled.sessions, topic, "registry").publish_pending()
    return topic.events


def compared(world: RegistryWorld, events: Iterable[Published]) -> AuditVerdict:
    with world.readers() as session:
        return compare_published(session, verify_audit(session), events)


def forge(world: RegistryWorld, epoch: int, **values: object) -> None:
    """Edit a row and chain all that follow anew, as somebody who may write the database can."""
    with world.sessions.begin() as session:
        previous = None
        for row in session.scalars(select(AuditRow).where(AuditRow.epoch >= epoch).order_by(AuditRow.epoch)):
            if row.epoch == epoch:
                for name, value in values.items():
                    setattr(row, name, value)
            else:
                row.previous_hash = previous or ""
            row.hash = previous = row_hash(row)
        session.execute(update(LedgerRow).values(head=previous))


def test_every_event_carries_the_hash_of_its_row(filled: RegistryWorld, published: list[Published]) -> None:
    with filled.readers() as session:
        rows = {row.epoch: row.hash for row in session.scalars(select(AuditRow))}
    assert {event.epoch: event.hash for event in published} == rows
    verdict = compared(filled, published)
    assert (verdict.problem, verdict.published) == (None, len(rows))


@pytest.mark.parametrize("values", [{"actor": "mallory"}, {"recorded_at": START + timedelta(days=1)}, {"event": "{}"}])
@pytest.mark.parametrize("epoch", [2, -1])
def test_a_forged_chain_is_found_by_what_was_published(
    filled: RegistryWorld, published: list[Published], values: dict[str, object], epoch: int
) -> None:
    at = epoch if epoch > 0 else len(published)
    forge(filled, at, **values)
    assert problem(filled) is None, "the chain alone cannot tell"
    assert compared(filled, published).problem == f"row {at} is not what was published"


def test_a_shortened_chain_is_found_by_what_was_published(filled: RegistryWorld, published: list[Published]) -> None:
    with filled.sessions.begin() as session:
        last = session.get_one(AuditRow, len(published))
        session.execute(update(LedgerRow).values(epoch=last.epoch - 1, head=last.previous_hash))
        session.delete(last)
    assert problem(filled) is None, "the chain alone cannot tell"
    assert "was published and is missing" in (compared(filled, published).problem or "")


# ------------------------------------------------------------------------------------------------------ exports


def lines(world: RegistryWorld, **cut: Any) -> list[bytes]:
    with world.readers() as session:
        return list(exported(session, **cut))


def test_an_export_holds_by_itself(filled: RegistryWorld) -> None:
    whole = lines(filled)
    with filled.readers() as session:
        expected = verify_audit(session)
    assert verify_export(whole) == expected
    assert [json.loads(line)["event"]["epoch"] for line in whole] == list(range(1, len(whole) + 1))


def test_an_edit_of_any_field_of_an_export_is_found(filled: RegistryWorld) -> None:
    whole = lines(filled)
    for number, line in enumerate(whole):
        for field, value in {**EDITS, "epoch": 77, "event": {}, "recorded_at": "2030-01-01T00:00:00Z"}.items():
            edited = json.dumps({**json.loads(line), field: value}).encode()
            assert verify_export([*whole[:number], edited, *whole[number + 1 :]]).problem is not None, (number, field)


def test_lines_that_are_out_of_place_are_found(filled: RegistryWorld) -> None:
    whole = lines(filled)
    assert "stands after" in (verify_export([whole[1], whole[0]]).problem or "")
    assert "cannot be read" in (verify_export([b"{}"]).problem or "")


def test_an_export_can_be_cut(filled: RegistryWorld) -> None:
    filled.model("other")
    whole = lines(filled)
    mine = lines(filled, model="other")
    assert [json.loads(line)["model"] for line in mine] == ["other"]
    times = [datetime.fromisoformat(json.loads(line)["recorded_at"]) for line in whole]
    later = times[len(times) // 2]
    newer, older = lines(filled, since=later), lines(filled, until=later)
    assert newer == [line for line, at in zip(whole, times, strict=True) if at >= later]
    assert older + newer == whole
    assert older
    for cut in (mine, newer, older):
        assert verify_export(cut).problem is None
