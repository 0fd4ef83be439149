"""The ledger: numbers every event of the installation, chains it into the audit and queues it for publication.

Notes
-----
Its one row is locked by the first change of a transaction, so that changes of the registry happen one after the other,
on both databases, and epochs grow in the order of commits.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import msgspec
from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from agents.database.outbox import enqueue
from agents.registry.logic import GENESIS, chained
from agents.registry.tables import AuditRow, LedgerRow
from schemas.codec import encode, iso
from schemas.events import RegistryEvent
from schemas.topics import REGISTRY_EVENTS

AGENT = "registry"


class Ledger:
    """The ledger as one transaction holds it.

    Parameters
    ----------
    session : Session
        Its transaction takes the lock here and keeps it until it ends.
    now : datetime
        The system's clock, aware. What is recorded never goes back, even if the clock does.
    """

    def __init__(self, session: Session, now: datetime) -> None:
        self._session = session
        row = _locked(session)
        if row is None:
            insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
            first = insert(LedgerRow).values(id=1, epoch=0, head=GENESIS, recorded_at=now).on_conflict_do_nothing()
            session.execute(first)
            row = _locked(session)
        assert row is not None
        self._row = row
        self.now = max(now, row.recorded_at)

    @property
    def epoch(self) -> int:
        """Epoch of the newest event."""
        return self._row.epoch

    @property
    def next_epoch(self) -> int:
        return self._row.epoch + 1

    def append(self, event: RegistryEvent, version: int | None) -> None:
        """Number, chain and queue `event`, whose epoch is `next_epoch`."""
        if event.epoch != self.next_epoch:
            raise ValueError(f"epoch {event.epoch} does not follow {self.epoch}")
        audit = AuditRow(
            epoch=event.epoch,
            recorded_at=self.now,
            actor=event.actor,
            action=type(event).__name__,
            model=event.model,
            version=version,
            event=encode(event).decode(),
            previous_hash=self._row.head,
            hash="",
        )
        audit.hash = row_hash(audit)
        self._session.add(audit)
        self._row.epoch, self._row.head, self._row.recorded_at = audit.epoch, audit.hash, self.now
        enqueue(self._session, AGENT, REGISTRY_EVENTS, event.model, event, event.event_id, event.at)


def _locked(session: Session) -> LedgerRow | None:
    statement = select(LedgerRow).where(LedgerRow.id == 1).with_for_update()
    return session.scalars(statement, execution_options={"populate_existing": True}).first()


def row_hash(row: AuditRow) -> str:
    """The hash that `row` must carry."""
    return chained(
        row.previous_hash,
        {
            "epoch": row.epoch,
            "recorded_at": iso(row.recorded_at),
            "actor": row.actor,
            "action": row.action,
            "model": row.model,
            "version": row.version,
            "event": row.event,
        },
    )


class AuditVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a verification found: how many rows hold, and the first problem in words."""

    rows: int
    head: str
    problem: str | None = None


def verify_audit(session: Session, *, page: int = 1_000) -> AuditVerdict:
    """Walk the whole chain: any edited, removed, inserted or reordered row is found.

    Notes
    -----
    Whoever can write the database can also forge a new chain from some row on; the head that was published earlier
    (epoch and hash) is what such a forgery cannot match.
    """
    previous, epoch = GENESIS, 0
    for row in _audit_rows(session, page):
        if row.epoch != epoch + 1:
            return AuditVerdict(rows=epoch, head=previous, problem=f"row {epoch + 1} is missing")
        if row.previous_hash != previous:
            return AuditVerdict(rows=epoch, head=previous, problem=f"row {row.epoch} does not follow row {epoch}")
        if row_hash(row) != row.hash:
            return AuditVerdict(rows=epoch, head=previous, problem=f"row {row.epoch} was edited")
        previous, epoch = row.hash, row.epoch
    ledger = session.get(LedgerRow, 1)
    head, last = (ledger.head, ledger.epoch) if ledger is not None else (GENESIS, 0)
    if (epoch, previous) != (last, head):
        problem = f"the newest rows are missing: the chain ends at {epoch}, the ledger is at {last}"
        return AuditVerdict(rows=epoch, head=previous, problem=problem)
    return AuditVerdict(rows=epoch, head=previous)


def _audit_rows(session: Session, page: int) -> Iterator[AuditRow]:
    statement = select(AuditRow).order_by(AuditRow.epoch)
    yield from session.scalars(statement, execution_options={"yield_per": page})
