"""A database of every earlier revision, with rows in all its tables, arrives whole at the newest, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    DateTime,
    Engine,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    select,
)

from agents.database.base import Base
from agents.database.engine import make_engine, session_factory
from agents.database.migrate import HEAD, MIGRATIONS, revision, upgrade
from agents.database.schema import metadata
from agents.registry import approvals, watched
from agents.registry.agreement import compare_tables
from agents.registry.audit import verify_audit
from agents.registry.impact import named_so, package_uses, uses_of
from agents.registry.logic import GENESIS, chained
from agents.registry.search import Search, find_models
from agents.registry.tables import ApprovalRow, StandingRow, VersionRow
from schemas.codec import iso
from schemas.events import ObserveVersion
from tests.support.registries import RegistryWorld, spec_text

ROWS = (1, 2)
DATASET, LOCK = "ab" * 32, "cd" * 32


def revisions() -> list[str]:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return sorted(script.revision for script in ScriptDirectory.from_config(config).walk_revisions())


def moment(n: int) -> datetime:
    return datetime(2026, 1, n, 12, tzinfo=UTC)


def specification(n: int) -> str:
    allowed = ("own_models.B", "own_models.A") if n == 1 else ()
    text = spec_text(f"m{n}", allowed=allowed)
    return text.replace("[data]", f'owner = "ann{n}"\ntags = {{ city = "nyc" }}\n[data]', 1)


SAID: dict[tuple[str, str], Any] = {
    ("registry_specifications", "text"): specification,
    ("registry_models", "name"): lambda n: f"m{n}",
    ("registry_models", "task"): lambda n: "binary",
    ("registry_models", "champion"): lambda n: 1 if n == 1 else None,
    ("registry_versions", "version"): lambda n: 1,
    # One that was promoted with an approval, one that people are asked about.
    ("registry_versions", "stage"): lambda n: "promoted" if n == 1 else "approval-requested",
    ("registry_versions", "dataset"): lambda n: f'{{"registered":"{DATASET}","rows":3}}',
    ("registry_versions", "environment"): lambda n: '{"python":"3.11.7","scikit-learn":"1.9.1"}',
    ("registry_approvals", "model"): lambda n: f"m{n}",
    ("registry_approvals", "version"): lambda n: 1,
    ("registry_approval_requests", "model"): lambda n: f"m{n}",
    ("registry_approval_requests", "version"): lambda n: 1,
    ("access_grants", "role"): lambda n: "viewer",
}


def value(column: Column[Any], n: int) -> Any:
    """A value of a column that means something to whoever reads it: foreign keys are those of the same row number."""
    for key in column.foreign_keys:
        return value(key.column, n)
    table = column.table.name
    if (table, column.name) in SAID:
        return SAID[table, column.name](n)
    kind = column.type
    if isinstance(kind, Boolean):
        return False
    if isinstance(kind, Integer):
        return n
    if isinstance(kind, Float):
        return n / 2
    if isinstance(kind, DateTime):
        return moment(n) if kind.timezone else moment(n).replace(tzinfo=None)
    if isinstance(kind, LargeBinary):
        return f"{table} {n}".encode()
    if isinstance(kind, Text):
        return f'{{"n":{n}}}'
    return f"{column.name}-{n}"[: getattr(kind, "length", None) or 20]


def fill(connection: Connection) -> dict[str, list[dict[str, Any]]]:
    """Put rows into all tables; what was put where."""
    found = MetaData()
    found.reflect(connection)
    put: dict[str, list[dict[str, Any]]] = {}
    for table in found.sorted_tables:
        if table.name == "alembic_version":
            continue
        put[table.name] = audited(table) if table.name == "registry_audit" else []
        if table.name == "registry_ledger":
            last = audited(found.tables["registry_audit"])[-1]
            put[table.name] = [
                {"id": 1, "epoch": last["epoch"], "head": last["hash"], "recorded_at": last["recorded_at"]}
            ]
        put[table.name] = put[table.name] or [{c.name: value(c, n) for c in table.columns} for n in ROWS]
        connection.execute(table.insert(), put[table.name])
    return put


def audited(table: Table) -> list[dict[str, Any]]:
    """Rows of an audit that holds."""
    rows: list[dict[str, Any]] = []
    for n in ROWS:
        said = {"epoch": n, "actor": "ann", "action": "Said", "model": f"m{n}", "version": None, "event": '{"n":1}'}
        before = rows[-1]["hash"] if rows else GENESIS
        made = chained(before, {**said, "recorded_at": iso(moment(n))})
        rows.append({**said, "recorded_at": value(table.c.recorded_at, n), "previous_hash": before, "hash": made})
    return rows


def at_revision(engine: Engine, target: str) -> dict[str, list[dict[str, Any]]]:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, target)
        return fill(connection)


@pytest.mark.parametrize("start", revisions())
def test_every_revision_arrives_with_its_rows(start: str, database_url: str) -> None:
    engine = make_engine(database_url)
    put = at_revision(engine, start)
    assert all(put.values())
    upgrade(engine)
    assert revision(engine) == HEAD

    found = MetaData()
    with engine.connect() as connection:
        found.reflect(connection)
        for name, rows in put.items():
            table = found.tables[name]
            kept = [table.c[column] for column in rows[0] if column in table.c]
            assert len(kept) == len(rows[0]), f"{name} lost a column"
            after = [dict(row._mapping) for row in connection.execute(select(*kept))]
            assert [row for row in rows if row not in after] == [], f"{name} lost a row"
        context = MigrationContext.configure(
            connection,
            opts={"compare_type": True, "include_object": lambda _o, name, *_: not (name or "").startswith("test_")},
        )
        assert compare_metadata(context, metadata()) == []

    with session_factory(engine, read_only=True)() as session:
        assert verify_audit(session).problem is None
        for mapper in Base.registry.mappers:
            if not mapper.local_table.name.startswith("test_"):  # type: ignore[attr-defined]
                session.scalars(select(mapper.class_)).all()
        if start < "0013":
            said = {row.model: row.allowed_types for row in session.scalars(select(VersionRow))}
            assert said == {"m1": ["own_models.A", "own_models.B"], "m2": []}
        if start < "0009":  # from then on rows are the program's own
            says_what_it_said(session)
    engine.dispose()


def test_what_versions_were_is_read_from_the_audit(world: RegistryWorld) -> None:
    """Rows that the program wrote with every event, and those that the migration makes of the events, are the same."""
    world.model("auto")
    for passed in (True, False, True, True):
        world.candidate("auto", passed=passed)
    world.model("asks", mode="manual", approvers=2)
    for _ in range(3):
        world.candidate("asks", mode="manual", approvers=2, expires="1h")
    with world.sessions.begin() as session:
        world.registry.rollback(session, "auto", actor="bea", reason="worse")
        for person in ("bea", "cyd"):
            world.registry.approve(session, "asks", 3, person)
        world.registry.reject(session, "asks", 2, "bea", "no")
        world.registry.approve(session, "asks", 1, "bea")
        watched.register(world.registry, session, spec_text("seen"), "ann")
        seen = {"command_id": "rc2", "model": "seen", "actor": "monitoring", "external": "rc2", "at": world.now}
        watched.observe(world.registry, session, ObserveVersion(**seen))  # type: ignore[arg-type]
        world.now += timedelta(hours=2)
        assert approvals.lapse_due(world.registry, session) == [("asks", 1)]
        approvals.archive(world.registry, session, "asks", 1, actor="bea", reason="old")

    def rows() -> list[Any]:
        with world.engine.connect() as connection:
            return sorted(connection.execute(select(StandingRow.__table__)).all(), key=lambda row: row[:4])

    written = rows()
    assert {row.standing for row in written} >= {
        "champion",
        "challenger",
        "approved",
        "observed",
        "expired",
        "archived",
    }
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with world.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0014")
    upgrade(world.engine)
    assert rows() == written
    with world.sessions.begin() as session:
        assert compare_tables(session, verify_audit(session)).problem is None
        gone = session.scalars(select(StandingRow).where(StandingRow.standing == "challenger")).first()
        session.delete(gone)
        session.flush()
        assert "asks: search says another history" in str(compare_tables(session, verify_audit(session)).problem)


def says_what_it_said(session: Any) -> None:
    """What is looked for by index was put there by the migration."""
    (found,), _ = find_models(session, Search(owner="ann1", tags={"city": "nyc"}))
    assert (found.model, found.champion) == ("m1", 1)
    made_from = named_so(session, "dataset", DATASET)
    assert [(use.model, use.live) for use in uses_of(session, made_from, only_live=False)] == [
        ("m1", True),
        ("m2", False),
    ]
    assert [use.through for use in package_uses(session, "scikit_learn>=1.9", {}.__getitem__, only_live=True)] == [
        "scikit-learn 1.9.1"
    ]
    for row in session.scalars(select(ApprovalRow)):
        assert (row.model, row.version, row.four_eyes) in {("m1", 1, False), ("m2", 1, False)}
