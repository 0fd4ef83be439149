"""An edit of any column of any table that is compared with the audit is found, and so is a row put in or taken out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, delete, insert, select, text, update

from agents.access.logic import local_principal
from agents.database.base import UtcDateTime
from agents.registry import approvals, flags, watched
from agents.registry.agreement import compare_tables
from agents.registry.audit import verify_audit
from agents.registry.change import Change
from agents.registry.comparing import COMPARED
from agents.registry.reviews import review
from agents.registry.tables import (
    ApprovalRequestRow,
    FlagRow,
    ModelRow,
    SpecificationRow,
    TagRow,
    VersionRow,
)
from agents.subjects.erasure import Eraser
from agents.subjects.tables import SubjectErasureRow
from schemas.events import ObserveVersion
from tests.integration.registry.test_agreement import other
from tests.integration.registry.test_subjects import keys_of
from tests.support.registries import START, RegistryWorld, spec_text

ASKS: dict[str, Any] = {"mode": "manual", "approvers": 2, "four_eyes": True, "expires": "1h"}
NOT_TOLD = {
    # Numbers of rows, which nothing refers to but what is compared itself.
    *((kind, "id") for kind in (ApprovalRequestRow, TagRow, FlagRow, SubjectErasureRow)),
    # What an event does not say: a model's specification of today, and what a watched model learns from.
    *((ModelRow, name) for name in ("specification", "reference", "reference_window", "learning_from_ms")),
}
"""Columns that no event speaks of."""
ELSEWHERE = {(ModelRow, "champion"), (ModelRow, "challenger")}
"""Found by comparing histories (`test_agreement`), as are a version's stage and its record."""
TABLES = (*COMPARED, SubjectErasureRow, SpecificationRow)


@pytest.fixture
def decided(world: RegistryWorld) -> RegistryWorld:
    """A registry in which everything that is compared has happened."""
    registry = world.registry
    world.model("asks", **ASKS)
    for _ in range(5):
        world.candidate("asks", **ASKS)
    world.model(probation="1d")
    for passed in (True, False, True):
        world.candidate(passed=passed, probation="1d")
    with world.sessions.begin() as session:
        for version in (1, 2):
            for person in ("bea", "cyd"):
                registry.approve(session, "asks", version, person, f"{person} looked")
        registry.reject(session, "asks", 3, "bea", "no")
        registry.approve(session, "asks", 5, "bea", "half")
        registry.rollback(session, "asks", actor="bea", reason="it burns")
        number = registry.now()  # a second passes
        registry.rollback(session, "asks", 2, actor="cyd", reason="it did not")
    first = min(event.epoch for event in world.events() if type(event).__name__ == "ModelRolledBack")
    with world.sessions.begin() as session:
        review(session, first, "dan", "was right", now=number)
    world.now += timedelta(minutes=90)
    with world.sessions.begin() as session:
        approvals.lapse_due(registry, session)
        approvals.ask_again(registry, session, "asks", 4, "dan")
        approvals.archive(registry, session, "asks", 3, actor="bea", reason="old")
        registry.tag(session, "asks", None, {"city": "nyc", "line": "1"}, [], "bea")
        registry.tag(session, "asks", None, {"city": "sfo"}, ["line"], "bea")
        registry.tag(session, "asks", 2, {"note": "good"}, [], "bea")
        for version in (1, 2, 4):
            flags.flag(Change.of(session, "asks", registry.now()), version, "bea", "labels leaked")
        flags.withdraw(Change.of(session, "asks", registry.now()), 4, "cyd", "they did not")
        watched.register(registry, session, spec_text("seen"), "ann")
        command = {"command_id": "rc2", "model": "seen", "actor": "monitoring", "external": "rc2", "at": world.now}
        watched.observe(registry, session, ObserveVersion(**command))
    keys_of(world).of_subjects(["Ann"])
    Eraser(world.sessions, keys_of(world), world.store)("Ann", local_principal("root"))
    assert problem(world) is None
    return world


def problem(world: RegistryWorld) -> str | None:
    with world.readers() as session:
        return compare_tables(session, verify_audit(session)).problem


@contextmanager
def behind(world: RegistryWorld) -> Iterator[Connection]:
    """As somebody who may do anything to the database."""
    with world.engine.connect() as connection:
        if world.engine.dialect.name == "sqlite":
            connection.connection.cursor().execute("PRAGMA foreign_keys = OFF")
        with connection.begin():
            if world.engine.dialect.name == "postgresql":
                connection.execute(text("SET LOCAL session_replication_role = replica"))
            yield connection
        if world.engine.dialect.name == "sqlite":
            connection.connection.cursor().execute("PRAGMA foreign_keys = ON")


def rows_of(world: RegistryWorld, kind: type[Any]) -> list[dict[str, Any]]:
    table = kind.__table__
    with world.engine.connect() as connection:
        return [dict(row._mapping) for row in connection.execute(select(table).order_by(*table.primary_key))]


def where(kind: type[Any], row: dict[str, Any]) -> list[Any]:
    return [column == row[column.name] for column in kind.__table__.primary_key]


def changed(column: Any, value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return value + 1_000  # of a key: one that no other row has
    return START if value is None and isinstance(column.type, UtcDateTime) else other(column, value)


def is_told(kind: type[Any], column: str, row: dict[str, Any]) -> bool:
    if kind is VersionRow:
        # What never changes and the stage are tried elsewhere (`test_agreement`). The gate's reason is in no event, and
        # stays where nothing else was said.
        unsaid = column == "reason" and row["stage"] in {"promoted", "superseded", "approval-requested"}
        return column in COMPARED[VersionRow] and not unsaid
    return (kind, column) not in NOT_TOLD | ELSEWHERE


def test_an_edit_of_any_column_is_found(decided: RegistryWorld) -> None:
    for kind in TABLES:
        rows = rows_of(decided, kind)
        assert rows
        for column in kind.__table__.columns:
            # A row with a value and one without; the first and the last of each.
            some = [row for row in rows if is_told(kind, column.name, row)]
            for row in {(row[column.name] is None, at == 0): row for at, row in enumerate(some)}.values():
                assert_found(decided, kind, column, row)
        tried = {c.name for c in kind.__table__.columns if any(is_told(kind, c.name, row) for row in rows)}
        assert tried >= set(COMPARED.get(kind, ())), kind
    assert problem(decided) is None


def assert_found(world: RegistryWorld, kind: type[Any], column: Any, row: dict[str, Any]) -> None:
    before = row[column.name]
    new = changed(column, before)
    with behind(world) as connection:
        connection.execute(update(kind).where(*where(kind, row)).values({column.name: new}))
    found = problem(world)
    assert found is not None, (kind.__name__, column.name, before, new)
    with behind(world) as connection:
        edited = where(kind, {**row, column.name: new})
        connection.execute(update(kind).where(*edited).values({column.name: before}))


def test_a_row_that_was_taken_out_or_put_in_is_found(decided: RegistryWorld) -> None:
    for kind in TABLES:
        rows = rows_of(decided, kind)
        for row in (rows[0], rows[-1]) if kind is not SpecificationRow else ():
            with behind(decided) as connection:
                connection.execute(delete(kind).where(*where(kind, row)))
            gone = problem(decided)
            with behind(decided) as connection:
                connection.execute(insert(kind).values(row))
            assert gone is not None, row
        new = dict(rows[-1])
        keys = [column for column in kind.__table__.primary_key if column.name not in {"model", "version", "since"}]
        new |= {column.name: other(column, new[column.name]) for column in keys}
        if kind is VersionRow:
            new["version"] = 99
        with behind(decided) as connection:
            connection.execute(insert(kind).values(new))
        added = problem(decided)
        with behind(decided) as connection:
            connection.execute(delete(kind).where(*where(kind, new)))
        assert added is not None, new
    assert problem(decided) is None
