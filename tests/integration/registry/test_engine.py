"""Sessions behave alike on both databases."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError

from agents.database.engine import make_engine, session_factory
from agents.database.inbox import InboxRow
from schemas.errors import DatabaseUnavailableError
from tests.support.databases import EmbeddedPostgres
from tests.support.registries import RegistryWorld


def row(at: datetime, event_id: str = "e") -> InboxRow:
    return InboxRow(agent="a", event_id=event_id, handled_at=at)


def test_times_come_back_aware_and_in_utc(world: RegistryWorld) -> None:
    at = datetime(2026, 7, 1, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=-4)))
    with world.sessions.begin() as session:
        session.add(row(at))
    with world.readers() as session:
        found = session.scalars(select(InboxRow.handled_at)).one()
    assert found == at
    assert found.tzinfo is UTC


def test_naive_times_are_refused(world: RegistryWorld) -> None:
    with world.sessions() as session:
        session.add(row(datetime(2026, 7, 1)))  # noqa: DTZ001
        with pytest.raises(StatementError, match="naive"):
            session.flush()


def test_readers_do_not_write_and_do_not_wait_for_writers(world: RegistryWorld) -> None:
    with world.sessions.begin() as writer:
        writer.add(row(datetime.now(UTC)))
        writer.flush()
        with world.readers() as reader:
            assert reader.scalars(select(InboxRow)).all() == []
    with world.readers() as reader, pytest.raises(DBAPIError):
        reader.execute(text("DELETE FROM inbox"))
    with world.readers() as reader:
        assert len(reader.scalars(select(InboxRow)).all()) == 1


def test_a_reader_sees_one_moment(world: RegistryWorld) -> None:
    with world.readers() as reader:
        assert reader.scalars(select(InboxRow)).all() == []
        with world.sessions.begin() as writer:
            writer.add(row(datetime.now(UTC)))
        assert reader.scalars(select(InboxRow)).all() == []


def test_writers_wait_for_each_other(world: RegistryWorld) -> None:
    # Each reads, then writes what it read plus one: lost updates would show.
    with world.sessions.begin() as session:
        session.add(row(datetime.now(UTC), "0"))

    def count() -> None:
        for _ in range(5):
            with world.sessions.begin() as session:
                found = session.scalars(select(InboxRow).with_for_update()).one()
                session.execute(text("UPDATE inbox SET event_id = :new"), {"new": str(int(found.event_id) + 1)})

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with world.readers() as session:
        assert session.scalars(select(InboxRow.event_id)).one() == "40"


def test_other_errors_stay_what_they_are(world: RegistryWorld) -> None:
    with world.sessions() as session:
        session.add(row(datetime.now(UTC)))
        session.commit()
    with world.sessions() as session:
        session.add(row(datetime.now(UTC)))
        with pytest.raises(IntegrityError):
            session.commit()


@pytest.mark.parametrize("url", ["postgresql://ann:hunter2@127.0.0.1:9/none", "sqlite:////proc/none/registry.db"])
def test_a_database_that_does_not_answer_is_named_without_its_password(url: str) -> None:
    if url.startswith("sqlite"):
        with pytest.raises((DatabaseUnavailableError, OSError)):
            session_factory(make_engine(url))().execute(text("SELECT 1"))
        return
    sessions = session_factory(make_engine(url))
    with sessions() as session, pytest.raises(DatabaseUnavailableError) as caught:
        session.execute(text("SELECT 1"))
    assert "127.0.0.1:9" in caught.value.where
    assert "hunter2" not in str(caught.value)
    assert caught.value.remedy


def test_a_locked_sqlite_file_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.database.engine.BUSY_TIMEOUT_S", 0.05)
    url = f"sqlite:///{tmp_path / 'r.db'}"
    first, second = make_engine(url), make_engine(url)
    with session_factory(first)() as holder:
        holder.execute(text("SELECT 1"))
        with session_factory(second)() as other, pytest.raises(DatabaseUnavailableError, match="locked"):
            other.execute(text("SELECT 1"))
    first.dispose()
    second.dispose()


def test_a_postgresql_that_stops_is_unavailable_and_nothing_changed(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "pg")
    world = RegistryWorld(server.fresh(), tmp_path)
    from agents.database.migrate import upgrade

    upgrade(world.engine)
    world.model(mode="manual")
    world.candidate(mode="manual")
    server.stop()
    with pytest.raises(DatabaseUnavailableError), world.sessions.begin() as session:
        world.registry.approve(session, "m", 1, "bea")
    world.close()
