"""Engines and sessions on SQLite (WAL) and PostgreSQL that behave alike.

Notes
-----
On SQLite a session opens with ``BEGIN IMMEDIATE``: it waits for the write lock at the start instead of failing in the
middle when it turns from reader to writer. Sessions that only read come from
``session_factory(engine, read_only=True)`` and never wait for writers.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, make_url
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from schemas.errors import DatabaseUnavailableError

BUSY_TIMEOUT_S = 15.0
_READ_ONLY = "driftline_read_only"

Sessions = sessionmaker[Session]


def make_engine(url: str) -> Engine:
    """An engine for ``sqlite:///path`` or ``postgresql://…`` (psycopg). Connects at first use.

    Parameters
    ----------
    url : str
        SQLAlchemy URL. The folder of an SQLite file is created.

    Raises
    ------
    DatabaseUnavailableError
        Later, from any statement, where the database does not answer; `where` names it without the password.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
        engine = create_engine(parsed, pool_pre_ping=True, connect_args={"connect_timeout": 5})
    else:
        if parsed.database and parsed.database != ":memory:":
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_S})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    event.listen(engine, "handle_error", _translate)
    return engine


def session_factory(engine: Engine, *, read_only: bool = False, acts_for: object | None = None) -> Sessions:
    """Sessions of `engine`. Use ``with sessions.begin() as session:`` for one unit of work.

    Parameters
    ----------
    engine : Engine
    read_only : bool
        Sessions that take no write lock and see one snapshot of what was committed.
    acts_for : Principal, optional
        Whom everything is done for: what is audited says so.
    """
    if read_only:
        options: dict[str, Any] = {_READ_ONLY: True}
        if engine.dialect.name == "postgresql":
            options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        engine = engine.execution_options(**options)
    info = {} if acts_for is None else {"acts_for": acts_for}
    return sessionmaker(engine, expire_on_commit=False, info=info)


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # The driver's own transaction handling is switched off: `_begin_sqlite` says how a transaction begins.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    read_only = connection.get_execution_options().get(_READ_ONLY, False)
    # Through the cursor: a pragma is no part of the transaction that is about to begin.
    cursor = connection.connection.cursor()
    cursor.execute(f"PRAGMA query_only = {'ON' if read_only else 'OFF'}")
    cursor.close()
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def _translate(context: ExceptionContext) -> None:
    error = context.sqlalchemy_exception
    if not isinstance(error, (OperationalError, InterfaceError)):
        return
    original = str(context.original_exception)
    locked = isinstance(context.original_exception, sqlite3.OperationalError) and (
        "locked" in original or "unable to open" in original or "disk I/O" in original
    )
    if not (context.is_disconnect or locked or context.connection is None):
        return
    where = context.engine.url.render_as_string(hide_password=True) if context.engine is not None else ""
    raise DatabaseUnavailableError(
        f"the database does not answer: {original.strip().splitlines()[0] if original.strip() else error}",
        where=where,
        remedy="start it, or point DRIFTLINE_DATABASE_URL at one that runs; nothing was changed",
    ) from context.original_exception
