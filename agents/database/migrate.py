"""Bring a database to the newest schema: Alembic, by itself, one process at a time.

Notes
-----
A migration is one transaction on both databases: it happens whole or not at all. On SQLite the transaction itself is
the lock, on PostgreSQL an advisory lock. An SQLite file that holds an older schema is copied first.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from agents.database.engine import make_engine
from schemas.errors import RegistryError

HEAD = "0015"
"""Newest revision: what this program needs (a test holds it equal to the scripts)."""

MIGRATIONS = Path(__file__).parent / "migrations"
_ADVISORY_LOCK = 0x6472_6966_746C

log = logging.getLogger(__name__)


def migrated(url: str) -> Engine:
    """An engine for a database at this release's schema: made or migrated first where it is not.

    Raises
    ------
    DatabaseUnavailableError, RegistryError
        As `upgrade`.
    """
    engine = make_engine(url)
    upgrade(engine)
    return engine


def upgrade(engine: Engine) -> bool:
    """Migrate to the newest schema; returns whether anything was to do.

    Raises
    ------
    RegistryError
        The database was made by a newer version of Driftline.
    DatabaseUnavailableError
    """
    if revision(engine) == HEAD:
        return False
    with _transaction(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        # Another process may have migrated while this one waited for the lock.
        found = _revision(connection)
        if found == HEAD:
            return False
        _run(connection, found)
    log.info("database migrated from %s to %s", found or "empty", HEAD)
    return True


@contextmanager
def _transaction(engine: Engine) -> Iterator[Connection]:
    """A transaction for a migration.

    SQLite changes a column by making the table anew, and a table that others refer to cannot be dropped while foreign
    keys are looked after. They are checked as a whole at the end instead. The switch works outside of transactions.
    """
    with engine.connect() as connection:
        if engine.dialect.name != "sqlite":
            with connection.begin():
                yield connection
            return
        _look_after_foreign_keys(connection, "OFF")
        try:
            with connection.begin():
                yield connection
                broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
                if broken is not None:
                    raise RegistryError(
                        f"a row of {broken[0]} refers to a row of {broken[2]} that is not there",
                        where=str(engine.url.database),
                        remedy="nothing was changed; restore a backup",
                    )
        finally:
            _look_after_foreign_keys(connection, "ON")


def _look_after_foreign_keys(connection: Connection, switch: str) -> None:
    cursor = connection.connection.cursor()  # through the driver: nothing begins
    cursor.execute(f"PRAGMA foreign_keys = {switch}")
    cursor.close()


def revision(engine: Engine) -> str | None:
    """Revision of the schema; None where there is none yet."""
    with engine.execution_options(driftline_read_only=True).connect() as connection:
        return _revision(connection)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return found


def _run(connection: Connection, found: str | None) -> None:
    # Alembic is imported where there is something to migrate: agents start without it. It logs while it is imported.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise RegistryError(
            f"the database has schema {found}, this program knows up to {HEAD}",
            where=connection.engine.url.render_as_string(hide_password=True),
            remedy="start the newer version of Driftline that made it, or restore a backup",
        )
    if found is not None:
        _back_up(connection, found)
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _back_up(connection: Connection, found: str) -> None:
    """Copy an SQLite file beside itself. The write lock is held: nothing changes meanwhile."""
    database = connection.engine.url.database
    if connection.dialect.name != "sqlite" or not database:
        return
    import sqlite3

    copy = Path(f"{database}.{found}.backup")
    with sqlite3.connect(database) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    source.close()
    target.close()
    log.info("the database as it was is kept in %s", copy)
