"""Bring a database to the newest schema: Alembic, by itself, one process at a time.

Notes
-----
A migration is one transaction on both databases: it happens whole or not at all. On SQLite the transaction itself is
the lock, on PostgreSQL an advisory lock. An SQLite file that holds an older schema is copied first.
"""

from __future__ import annotations

import logging
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from schemas.errors import RegistryError

HEAD = "0008"
"""Newest revision: what this program needs (a test holds it equal to the scripts)."""

MIGRATIONS = Path(__file__).parent / "migrations"
_ADVISORY_LOCK = 0x6472_6966_746C

log = logging.getLogger(__name__)


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
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        # Another process may have migrated while this one waited for the lock.
        found = _revision(connection)
        if found == HEAD:
            return False
        _run(connection, found)
    log.info("database migrated from %s to %s", found or "empty", HEAD)
    return True


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
