"""The audit chain: any edited, removed or reordered row is found."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import delete, select, update

from agents.registry.ledger import verify_audit
from agents.registry.tables import AuditRow, LedgerRow
from tests.support.registries import RegistryWorld

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
