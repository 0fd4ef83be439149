"""Erasing a person: the key is destroyed, the audit keeps the proof, and copies of the key are cleared away.

Notes
-----
Key, erasure, audit row and events are one transaction: after a crash all of it has happened or nothing. What is cleared
away afterwards (SQLite's log, backups that migrations left) is done again whenever the subject is erased again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from sqlalchemy import Engine, delete, func, select, text
from sqlalchemy.orm import Session

from agents.access.logic import Principal
from agents.artifacts import ArtifactStore
from agents.config import Settings
from agents.database.engine import Sessions, session_factory
from agents.database.migrate import migrated
from agents.registry.ledger import Ledger
from agents.subjects.keys import SubjectKeys
from agents.subjects.master import Master
from agents.subjects.tables import SubjectErasureRow, SubjectKeyRow
from agents.subjects.usage import trained_on
from schemas.codec import derived_id
from schemas.errors import NotFoundError
from schemas.events import SubjectErased
from streams.kafka.failpoints import failpoint

MOST_TOLD = 20_000
"""Versions that one event names: it has to fit into a message."""


class Erased(msgspec.Struct, frozen=True, kw_only=True):
    """What erasing a subject comes to.

    `keys`: how many were destroyed (0: it was erased before); `epoch`: the audit row; `trained`: versions that learnt
    from its rows, by model, which keep what they learnt; `left`: places where a copy of the key could not be cleared
    away.
    """

    subject: str
    keys: int
    epoch: int | None
    at: datetime | None
    trained: dict[str, list[int]]
    left: list[str] = []
    dry_run: bool = False


def erase(
    sessions: Sessions,
    secret: Master,
    artifacts: ArtifactStore,
    subject: str,
    by: Principal,
    *,
    actor: str = "",
    dry_run: bool = False,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Erased:
    """Destroy the key of a subject.

    Parameters
    ----------
    subject : str
        As the column says that `[data] subject` names.
    actor : str
        Name to record; the principal's where not given.
    dry_run : bool
        Only say what would happen.

    Raises
    ------
    NotFoundError
        Nothing was ever kept of it here.
    DatabaseUnavailableError
    """
    pseudonym = secret.pseudonym(subject)
    with sessions.begin() as session:
        ledger = None if dry_run else Ledger(session, clock())
        row = session.scalars(select(SubjectKeyRow).where(SubjectKeyRow.subject == pseudonym)).first()
        before = _newest(session, pseudonym)
        if row is None and before is None:
            raise _unknown()
        found = Erased(
            subject=pseudonym,
            keys=0 if row is None else 1,
            epoch=None if before is None else before.epoch,
            at=None if before is None else before.at,
            trained={} if row is None else _trained(session, artifacts, bytes.fromhex(row.id)),
            dry_run=dry_run,
        )
        if row is not None and ledger is not None:
            found = _destroy(session, ledger, row, found, by, actor)
    failpoint("subject-erased")
    if dry_run:
        return found
    return msgspec.structs.replace(found, left=clear_copies(sessions.kw["bind"], pseudonym))


class Eraser:
    """Erases people of one installation, for the command line and for HTTP.

    Parameters
    ----------
    sessions : Sessions
    keys : SubjectKeys
    artifacts : ArtifactStore
    """

    def __init__(self, sessions: Sessions, keys: SubjectKeys, artifacts: ArtifactStore) -> None:
        self._sessions = sessions
        self._keys = keys
        self._artifacts = artifacts

    @classmethod
    def of(cls, settings: Settings) -> Eraser:
        """Wired to the database and the artifact store of `settings`. Raises `DatabaseUnavailableError`."""
        sessions = session_factory(migrated(settings.database))
        return cls(sessions, SubjectKeys.of(settings), ArtifactStore.of(settings))

    def __call__(self, subject: str, by: Principal, *, actor: str = "", dry_run: bool = False) -> Erased:
        """As `erase`; where nobody ever had a key, no master key is made either."""
        if not self._keys.any():
            raise _unknown()
        return erase(self._sessions, self._keys.master, self._artifacts, subject, by, actor=actor, dry_run=dry_run)


def _unknown() -> NotFoundError:
    return NotFoundError(
        "nothing of this subject is kept here under a key",
        where="driftline erase",
        remedy="write it as the column that [data] subject names has it; data that was never encrypted (of "
        "models without a subject, in topics of your own) is not reached",
    )


def _destroy(  # noqa: PLR0917 - all of one event
    session: Session, ledger: Ledger, row: SubjectKeyRow, found: Erased, by: Principal, actor: str
) -> Erased:
    if session.get_bind().dialect.name == "sqlite":
        session.execute(text("PRAGMA secure_delete = ON"))
    gone = session.execute(delete(SubjectKeyRow).where(SubjectKeyRow.id == row.id))
    assert getattr(gone, "rowcount", 0) == 1, "the ledger's lock is held"
    failpoint("subject-key-deleted")
    epoch, trained, more = ledger.next_epoch, *_shortened(found.trained)
    session.add(SubjectErasureRow(subject=found.subject, epoch=epoch, at=ledger.now))
    event = SubjectErased(
        event_id=derived_id("subject-erased", found.subject, epoch),
        **ledger.of_all(by, actor),
        subject=found.subject,
        keys=found.keys,
        trained=trained,
        more=more,
    )
    ledger.append(event, None)
    session.flush()
    return msgspec.structs.replace(found, epoch=epoch, at=ledger.now)


def _newest(session: Session, pseudonym: str) -> SubjectErasureRow | None:
    mine = select(func.max(SubjectErasureRow.id)).where(SubjectErasureRow.subject == pseudonym)
    number = session.scalar(mine)
    return None if number is None else session.get(SubjectErasureRow, number)


def _trained(session: Session, artifacts: ArtifactStore, id: bytes) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for model, version in trained_on(session, artifacts, id):
        found.setdefault(model, []).append(version)
    return found


def _shortened(trained: dict[str, list[int]]) -> tuple[dict[str, list[int]], int]:
    """As much as an event may name, and how many versions that leaves out."""
    kept: dict[str, list[int]] = {}
    room = MOST_TOLD
    for model, versions in trained.items():
        if room <= 0:
            break
        kept[model] = versions[:room]
        room -= len(kept[model])
    return kept, sum(map(len, trained.values())) - sum(map(len, kept.values()))


def clear_copies(engine: Engine, pseudonym: str) -> list[str]:
    """Remove what is left of a destroyed key: in SQLite's log and backups, in PostgreSQL's dead rows.

    Returns
    -------
    list of str
        Places that could not be cleared, with the reason: erase again when it is gone.
    """
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM subject_keys"))
        return []
    path = engine.url.database
    if not path or path == ":memory:":
        return []
    left = []
    with closing(sqlite3.connect(path, timeout=5.0)) as database:
        busy, _, _ = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            left.append(f"{path}-wal: somebody reads the database")
    for copy in sorted(Path(path).parent.glob(f"{Path(path).name}.*.backup")):
        try:
            _clear_backup(copy, pseudonym)
        except sqlite3.Error as error:
            left.append(f"{copy}: {error}")
    return left


def _clear_backup(path: Path, pseudonym: str) -> None:
    with closing(sqlite3.connect(path, timeout=5.0)) as database:
        known = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'subject_keys'").fetchone()
        if known is None:
            return
        database.execute("PRAGMA secure_delete = ON")
        with database:
            gone = database.execute("DELETE FROM subject_keys WHERE subject = ?", (pseudonym,)).rowcount
        if gone:
            database.execute("VACUUM")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
