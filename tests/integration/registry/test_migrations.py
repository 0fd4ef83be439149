"""Migrations arrive at the schema that the code declares, on both databases, whoever runs them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from agents.database import migrate
from agents.database.engine import make_engine
from agents.database.migrate import HEAD, MIGRATIONS, revision, upgrade
from agents.database.schema import metadata
from schemas.errors import RegistryError


def test_the_program_knows_its_newest_revision() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_migrations_arrive_at_the_declared_schema(database_url: str) -> None:
    engine = make_engine(database_url)
    assert revision(engine) is None
    assert upgrade(engine)
    assert revision(engine) == HEAD
    assert not upgrade(engine), "the second time there is nothing to do"
    declared = metadata()

    def ours(_: object, name: str | None, kind: str, *_more: object) -> bool:
        return not (kind == "table" and (name or "").startswith("test_"))

    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "include_object": ours})
        assert compare_metadata(context, declared) == []
    tables = {name for name in declared.tables if not name.startswith("test_")}
    assert tables <= set(inspect(engine).get_table_names())
    engine.dispose()


def test_migrations_can_be_taken_back(database_url: str) -> None:
    from alembic import command

    engine = make_engine(database_url)
    upgrade(engine)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]
    assert upgrade(engine)
    engine.dispose()


def test_processes_that_start_together_migrate_once(database_url: str) -> None:
    outcomes: list[object] = []

    def start() -> None:
        engine = make_engine(database_url)
        try:
            outcomes.append(upgrade(engine))
        except Exception as error:
            outcomes.append(error)
        finally:
            engine.dispose()

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes, key=str) == [False] * 5 + [True]


def test_a_newer_database_is_refused(database_url: str) -> None:
    engine = make_engine(database_url)
    upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(RegistryError, match="schema 9999") as caught:
        upgrade(engine)
    assert caught.value.remedy
    engine.dispose()


def test_an_older_sqlite_database_is_copied_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'r.db'}")
    upgrade(engine)
    # The program of the next release: its head is further on, the scripts of this one stand in for its scripts.
    monkeypatch.setattr(migrate, "HEAD", "9998")
    upgrade(engine)
    copy = make_engine(f"sqlite:///{tmp_path / f'r.db.{HEAD}.backup'}")
    assert revision(copy) == HEAD
    engine.dispose()
    copy.dispose()


def test_a_broken_sqlite_database_is_not_migrated_and_keys_are_looked_after_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'r.db'}")
    upgrade(engine)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    broken = make_engine(f"sqlite:///{tmp_path / 'r.db'}")
    with broken.connect() as connection:
        cursor = connection.connection.cursor()
        cursor.execute("PRAGMA foreign_keys = OFF")
        cursor.execute("INSERT INTO registry_tags (model, version, key, value, since) VALUES ('gone', 0, 'a', 'b', 1)")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()
    monkeypatch.setattr(migrate, "HEAD", "9998")
    with pytest.raises(RegistryError, match="registry_tags refers to a row of registry_models"):
        upgrade(engine)
    engine.dispose()
    broken.dispose()


def test_a_failed_migration_leaves_nothing_behind(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from alembic import command

    upgrade_really = command.upgrade

    def breaks(config: Config, target: str) -> None:
        upgrade_really(config, target)
        raise RuntimeError("power cut")

    monkeypatch.setattr(command, "upgrade", breaks)
    engine = make_engine(database_url)
    with pytest.raises(RuntimeError):
        upgrade(engine)
    assert inspect(engine).get_table_names() == []
    engine.dispose()
