"""The ledger: numbers every event of the installation, chains it into the audit and queues it for publication.

Notes
-----
Its one row is locked by the first change of a transaction, so that changes of the registry happen one after the other,
on both databases, and epochs grow in the order of commits.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from agents.access.logic import Principal
from agents.database.outbox import enqueue
from agents.registry.logic import GENESIS, chained
from agents.registry.tables import AuditRow, LedgerRow
from schemas.codec import encode, iso
from schemas.events import FLEET, RegistryEvent
from schemas.topics import REGISTRY_EVENTS

AGENT = "registry"
ACTS_FOR = "acts_for"


def acting_for(session: Session, principal: Principal) -> Session:
    """Let everything that `session` audits say that it was done for `principal`."""
    session.info[ACTS_FOR] = principal
    return session


def _fields(principal: Principal) -> dict[str, Any]:
    known = {"principal": principal.id, "authenticated": principal.authenticated}
    return {**known, "credential": principal.credential} if principal.credential else known


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

    def who(self) -> dict[str, Any]:
        """Fields of an event that say for whom this transaction acts, where its session knows (`acting_for`)."""
        principal: Principal | None = self._session.info.get(ACTS_FOR)
        if principal is None:
            return {}
        return _fields(principal)

    def of_all(self, by: Principal, actor: str = "") -> dict[str, Any]:
        """Fields of the next event that is about no model but the whole installation, done by `by`.

        `actor`: name to record; the principal's where not given.
        """
        whole = {"epoch": self.next_epoch, "at": self.now, "model": FLEET, "actor": actor or by.name}
        return {**whole, **_fields(by)}

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
        # Every head leaves the database with its event: whoever rewrites the chain later cannot rewrite the topic.
        enqueue(
            *(self._session, AGENT, REGISTRY_EVENTS, event.model, event, event.event_id, event.at),
            audit_hash=audit.hash,
        )


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
