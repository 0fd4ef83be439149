"""What is edited behind the registry's back is found: the tables have to say what the audit says. On both databases."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Boolean, delete, select, update

from agents.database.base import Json
from agents.registry.agreement import compare_tables
from agents.registry.audit import verify_audit
from agents.registry.fixed import FIXED, record_hash
from agents.registry.tables import AuditRow, LedgerRow, ModelRow, VersionRow
from tests.integration.registry.test_audit import forge
from tests.support.registries import RegistryWorld

CHANGING = {"id", "stage", "decision", "reason", "promoted_at", "previous"}
"""Columns that decisions change; of these the stage follows from the audit."""


@pytest.fixture
def filled(world: RegistryWorld) -> RegistryWorld:
    world.model(mode="manual", allowed=("own_models.Own",))
    world.candidate(allowed=("own_models.Own",))
    with world.sessions.begin() as session:
        world.registry.approve(session, "m", 1, "bea", consented=["own_models.Own"])
    for passed in (True, False):
        world.candidate(passed=passed)
    world.candidate(mode="manual")
    world.model("n")
    return world


def problem(world: RegistryWorld) -> str | None:
    with world.readers() as session:
        return compare_tables(session, verify_audit(session)).problem


def other(column: Any, value: Any) -> Any:
    """Another value of a column."""
    if isinstance(column.type, Json):
        return {**value, "edited": 1} if isinstance(value, dict) else [*value, "os.system"]
    if isinstance(column.type, Boolean):
        return not value
    if isinstance(value, int):
        return value + 1
    if value is None:
        return 7 if column.type.python_type is int else "x"
    return value + timedelta(microseconds=1) if hasattr(value, "tzinfo") else f"{value[:-1]}~"


def test_untouched_tables_agree(filled: RegistryWorld) -> None:
    assert problem(filled) is None
    assert {column.name for column in VersionRow.__table__.columns} == set(FIXED) | CHANGING, "a column is in neither"


@pytest.mark.parametrize("name", [name for name in FIXED if name not in {"model", "specification"}])
def test_an_edit_of_any_fixed_column_of_a_version_is_found(filled: RegistryWorld, name: str) -> None:
    column = VersionRow.__table__.columns[name]
    for version in (1, 3):
        with filled.sessions.begin() as session:
            row = session.scalars(select(VersionRow).where(VersionRow.version == version)).one()
            before, key = getattr(row, name), row.id
            new = 99 if name == "version" else other(column, before)
            session.execute(update(VersionRow).where(VersionRow.id == key).values({name: new}))
        assert "version" in (problem(filled) or ""), (name, version)
        with filled.sessions.begin() as session:
            session.execute(update(VersionRow).where(VersionRow.id == key).values({name: before}))
    assert problem(filled) is None


@pytest.mark.parametrize(
    ("table", "values", "said"),
    [
        (ModelRow, {"champion": 1}, "m: champion 1 and challenger 4 in the registry, 2 and 4 by the audit"),
        (ModelRow, {"champion": 1, "epoch": 10_000}, "champion 1"),
        (ModelRow, {"challenger": None}, "challenger None"),
        (VersionRow, {"stage": "promoted"}, "version 1 of m is promoted in the registry, superseded by the audit"),
    ],
)
def test_an_edited_alias_or_stage_is_found(
    filled: RegistryWorld, table: type[Any], values: dict[str, object], said: str
) -> None:
    with filled.sessions.begin() as session:
        session.execute(update(table).where((table.name if table is ModelRow else table.model) == "m").values(values))
    assert said in (problem(filled) or "")


def test_a_version_that_was_put_in_or_taken_out_is_found(filled: RegistryWorld) -> None:
    with filled.sessions.begin() as session:
        row = session.scalars(select(VersionRow).where(VersionRow.version == 3)).one()
        kept = {
            column.name: getattr(row, column.name) for column in VersionRow.__table__.columns if column.name != "id"
        }
        session.execute(delete(VersionRow).where(VersionRow.id == row.id))
    assert "version 3 of m is missing" in (problem(filled) or "")
    with filled.sessions.begin() as session:
        session.add_all([VersionRow(**kept), VersionRow(**{**kept, "version": 9})])
    assert problem(filled) == "version 9 of m is in no row of the audit"


def test_versions_of_the_release_before_are_compared_as_far_as_they_can_be(filled: RegistryWorld) -> None:
    with filled.readers() as session:
        told = session.scalars(select(AuditRow).where(AuditRow.action == "VersionRegistered").order_by(AuditRow.epoch))
        row = told.first()
        assert row is not None
        epoch, event = row.epoch, row.event
        digest = record_hash(session.scalars(select(VersionRow).where(VersionRow.version == 1)).one())
    assert f',"record":"{digest}"' in event
    forge(filled, epoch, event=event.replace(f',"record":"{digest}"', ""))
    assert problem(filled) is None
    with filled.sessions.begin() as session:
        session.execute(update(VersionRow).where(VersionRow.version == 1).values(artifact="0" * 64))
    assert "registered another artifact or parent" in (problem(filled) or "")


def test_what_is_decided_while_it_is_compared_is_no_edit(filled: RegistryWorld) -> None:
    with filled.readers() as session:
        verdict = verify_audit(session)
    with filled.sessions.begin() as session:
        filled.registry.reject(session, "m", 4, "bea", "no")
    with filled.readers() as session:
        assert session.scalars(select(LedgerRow.epoch)).one() > verdict.rows
        assert compare_tables(session, verdict).problem is None
