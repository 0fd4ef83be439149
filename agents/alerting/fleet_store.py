"""The fleet's book in the database: read whole once, written record by record.

Notes
-----
One worker decides (the topic has one partition), another may take over: the record ``revision`` tells whether what is
in memory is still what was written.
"""

from __future__ import annotations

import msgspec
from sqlalchemy import delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from agents.alerting.fleet import FleetBook, FleetIncident
from agents.alerting.standing import Standing
from agents.alerting.tables import AlertBookRow, FleetRow

REVISION = "revision"


class FleetStore:
    """Keeps one `FleetBook` in memory and in the database."""

    def __init__(self) -> None:
        self._book: FleetBook | None = None
        self._revision = -1

    def load(self, session: Session) -> FleetBook:
        """The book as it is written; from memory where nobody else wrote meanwhile."""
        row = session.get(FleetRow, REVISION, populate_existing=True, with_for_update=True)
        revision = int(row.value) if row is not None else 0
        if self._book is None or revision != self._revision:
            self._book, self._revision = self._read(session), revision
        return self._book

    def save(self, session: Session) -> None:
        """Write what changed, in the caller's transaction. If that fails, `forget`."""
        book = self._book
        if book is None or not (book.changed or book.gone):
            return
        if book.gone:
            session.execute(delete(FleetRow).where(FleetRow.key.in_(sorted(book.gone))))
        rows = [{"key": key, "value": self._value(book, key)} for key in sorted(book.changed)]
        self._revision += 1
        rows.append({"key": REVISION, "value": str(self._revision).encode()})
        insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
        for start in range(0, len(rows), 400):
            statement = insert(FleetRow).values(rows[start : start + 400])
            session.execute(
                statement.on_conflict_do_update(index_elements=["key"], set_={"value": statement.excluded.value})
            )
        book.changed.clear()
        book.gone.clear()

    def forget(self) -> None:
        """What is in memory may not be what is written: read it again next time."""
        self._book, self._revision = None, -1

    @staticmethod
    def _value(book: FleetBook, key: str) -> bytes:
        what, _, name = key.partition(":")
        if what == "standing":
            return msgspec.json.encode(book.standings[name])
        if what == "fleet":
            return msgspec.json.encode(book.incidents[name])
        return str(book.ordinals[name] if what == "ordinal" else book.clock_ms).encode()

    @staticmethod
    def _read(session: Session) -> FleetBook:
        book = FleetBook(models=session.scalar(select(func.count()).select_from(AlertBookRow)) or 0)
        standings, incidents, ordinals, clock_ms = [], [], {}, 0
        for key, value in session.execute(select(FleetRow.key, FleetRow.value)):
            what, _, name = key.partition(":")
            if what == "standing":
                standings.append(msgspec.json.decode(value, type=Standing))
            elif what == "fleet":
                incidents.append(msgspec.json.decode(value, type=FleetIncident))
            elif what == "ordinal":
                ordinals[name] = int(value)
            elif what == "clock":
                clock_ms = int(value)
        book.restore(standings, incidents, ordinals, clock_ms)
        return book
