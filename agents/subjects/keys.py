"""Subjects' keys: made at first use, kept in the database wrapped, held in memory while they are at work."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from sqlalchemy import Engine, event, exists, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from agents.config import Settings
from agents.database.engine import Sessions, make_engine, session_factory
from agents.database.migrate import upgrade
from agents.subjects import master
from agents.subjects.master import Master
from agents.subjects.sealing import ID_BYTES, KEY_BYTES, SubjectKey
from agents.subjects.tables import SubjectErasureRow, SubjectKeyRow, SubjectMasterRow
from schemas.errors import ConfigurationError, DatabaseUnavailableError

MOST_HELD = 100_000
LOOK_S = 1.0
_CHUNK = 500


class SubjectKeys:
    """The keys of one installation; opens the database at its first use.

    Parameters
    ----------
    sessions : callable
        Brings writing and read-only sessions.
    secret : callable
        Brings the master key.
    most : int
        Keys that are held in memory.
    look_s : float
        How often it is asked whether somebody was erased: for so long a key may still be used elsewhere.
    seconds : callable
        A clock for that.

    Notes
    -----
    Safe to share between threads. While the database does not answer nobody can be erased either, so keys that are held
    go on working; making or finding others raises `DatabaseUnavailableError`.
    """

    def __init__(
        self,
        sessions: Callable[[], tuple[Sessions, Sessions]],
        secret: Callable[[], Master],
        *,
        most: int = MOST_HELD,
        look_s: float = LOOK_S,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect = sessions
        self._load = secret
        self._most = most
        self._look_s = look_s
        self._seconds = seconds
        self._lock = threading.RLock()
        self._database: tuple[Sessions, Sessions] | None = None
        self._places: tuple[Sessions, Sessions, Master] | None = None
        self._by_subject: OrderedDict[str, SubjectKey] = OrderedDict()
        self._by_id: OrderedDict[bytes, SubjectKey | None] = OrderedDict()
        self._erasures = -1
        self._looked = float("-inf")

    @classmethod
    def of(cls, settings: Settings) -> SubjectKeys:
        """Those of an installation."""

        def sessions() -> tuple[Sessions, Sessions]:
            engine = make_engine(settings.database)
            forgetful(engine)
            upgrade(engine)
            return session_factory(engine), session_factory(engine, read_only=True)

        return cls(sessions, lambda: master.load(settings))

    # ------------------------------------------------------------------------------------------- asking

    @property
    def master(self) -> Master:
        """The master key. Raises `ConfigurationError` where it is not the one of the database."""
        return self._opened()[2]

    def any(self) -> bool:
        """Whether a key or an erasure is known: without either nothing was ever sealed here."""
        with self._connected()[1]() as session:
            known = select(exists().where(SubjectMasterRow.id == 1))
            return bool(session.scalar(known))

    def of_subjects(self, subjects: Iterable[str], *, make: bool = True) -> dict[str, SubjectKey]:
        """The keys of subjects, by name; those that have none get one, or without `make` are left out.

        Raises
        ------
        ConfigurationError
            The master key is not the one that the database's keys are wrapped by.
        DatabaseUnavailableError
        """
        wanted = dict.fromkeys(subjects)
        with self._lock:
            self._look()
            found = {name: key for name in wanted if (key := self._by_subject.get(name)) is not None}
            missing = [name for name in wanted if name not in found]
            if missing:
                found |= self._fetch(missing, make=make)
                self._trim(self._by_subject)
            return found

    def of_ids(self, ids: Iterable[bytes]) -> dict[bytes, SubjectKey | None]:
        """The keys with the given ids; None of those that are gone."""
        wanted = dict.fromkeys(ids)
        with self._lock:
            self._look()
            found = {id: self._by_id[id] for id in wanted if id in self._by_id}
            missing = [id for id in wanted if id not in found]
            if missing:
                secret = self.master
                known: dict[bytes, SubjectKey | None] = dict.fromkeys(missing)
                with self._connected()[1]() as session:
                    for part in _chunks(missing):
                        rows = select(SubjectKeyRow).where(SubjectKeyRow.id.in_([id.hex() for id in part]))
                        known |= {key.id: key for key in (_key(secret, row) for row in session.scalars(rows))}
                self._by_id.update(known)
                self._trim(self._by_id)
                found |= known
            return found

    def erasures(self) -> int:
        """A number that another one follows where somebody was erased; as it was up to a second ago.

        Raises
        ------
        DatabaseUnavailableError
        """
        with self._lock:
            self._look()
            return self._erasures

    # ------------------------------------------------------------------------------------------- inside

    def _opened(self) -> tuple[Sessions, Sessions, Master]:
        with self._lock:
            if self._places is None:
                sessions, readers = self._connected()
                secret = self._load()
                _check(sessions, readers, secret)
                self._places = (sessions, readers, secret)
            return self._places

    def _connected(self) -> tuple[Sessions, Sessions]:
        """Without the master key, which `any` is not to make."""
        with self._lock:
            if self._database is None:
                self._database = self._connect()
            return self._database

    def _look(self) -> None:
        """Let go of everything where somebody was erased since."""
        now = self._seconds()
        if now - self._looked < self._look_s:
            return
        try:
            with self._opened()[1]() as session:
                newest = session.scalar(select(func.max(SubjectErasureRow.id))) or 0
        except DatabaseUnavailableError:
            if self._erasures < 0:
                raise
            return
        self._looked = now
        if newest != self._erasures:
            self._erasures = newest
            self._by_subject.clear()
            self._by_id.clear()

    def _fetch(self, subjects: Sequence[str], *, make: bool) -> dict[str, SubjectKey]:
        sessions, readers, secret = self._opened()
        names = {secret.pseudonym(name): name for name in subjects}
        with readers() as session:
            rows = list(_rows(session, names))
        missing = names.keys() - {row.subject for row in rows}
        if missing and make:
            with sessions.begin() as session:
                _make(session, secret, sorted(missing))
                # Another worker may have been first with some of them: what the database holds counts.
                rows += list(_rows(session, missing))
        found = {names[row.subject]: _key(secret, row) for row in rows}
        self._by_subject.update(found)
        return found

    def _trim(self, held: OrderedDict[Any, Any]) -> None:
        while len(held) > self._most:
            held.popitem(last=False)


def forgetful(engine: Engine) -> None:
    """Have SQLite overwrite what it moves or deletes: a key that is gone must not lie in a page's free space."""
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _overwrite)


def _overwrite(connection: sqlite3.Connection, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA secure_delete = ON")
    cursor.close()


def _check(sessions: Sessions, readers: Sessions, secret: Master) -> None:
    """Refuse a master key that is not the one of the keys in the database."""
    with readers() as session:
        row = session.get(SubjectMasterRow, 1)
    if row is None:
        with sessions.begin() as session:
            insert = _insert(session)(SubjectMasterRow).values(id=1, fingerprint=secret.fingerprint)
            session.execute(insert.on_conflict_do_nothing())
            row = session.get_one(SubjectMasterRow, 1)
    if row.fingerprint != secret.fingerprint:
        raise ConfigurationError(
            "the master key is not the one that this database's keys of subjects are wrapped by",
            where="keys/subjects.key",
            remedy="copy that file from the machine that made the first key, or give it as DRIFTLINE_SUBJECT_KEY",
        )


def _rows(session: Session, pseudonyms: Iterable[str]) -> Iterator[SubjectKeyRow]:
    for part in _chunks(list(pseudonyms)):
        yield from session.scalars(select(SubjectKeyRow).where(SubjectKeyRow.subject.in_(part)))


def _make(session: Session, secret: Master, pseudonyms: Sequence[str]) -> None:
    now = datetime.now(UTC)
    made: list[Mapping[str, Any]] = []
    for pseudonym in pseudonyms:
        id = os.urandom(ID_BYTES)
        wrapped = secret.wrap(os.urandom(KEY_BYTES), id)
        made.append({"id": id.hex(), "subject": pseudonym, "wrapped": wrapped, "created_at": now})
    statement = _insert(session)(SubjectKeyRow).on_conflict_do_nothing(index_elements=["subject"])
    for part in _chunks(made):
        session.execute(statement, list(part))


def _key(secret: Master, row: SubjectKeyRow) -> SubjectKey:
    id = bytes.fromhex(row.id)
    return SubjectKey(id, secret.unwrap(row.wrapped, id))


def _insert(session: Session) -> Any:
    return postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert


def _chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    source = iter(values)
    while part := list(islice(source, _CHUNK)):
        yield part
