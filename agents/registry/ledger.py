"""The ledger: numbers every event of the installation, chains it into the audit and queues it for publication.

Notes
-----
Its one row is locked by the first change of a transaction, so that changes of the registry happen one after the other,
on both databases, and epochs grow in the order of commits.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from agents.access.logic import Principal
from agents.database.outbox import enqueue
from agents.registry.logic import GENESIS, chained
from agents.registry.tables import AuditRow, LedgerRow
from schemas.codec import encode, iso
from schemas.events import FLEET, RegistryEvent
from schemas.topics import REGISTRY_EVENTS

# Written once: to write them takes longer than to execute them, and every change does.
_TABLE: Any = LedgerRow.__table__
_AUDIT: Any = AuditRow.__table__
_HELD = select(_TABLE.c.epoch, _TABLE.c.head, _TABLE.c.recorded_at).where(_TABLE.c.id == 1).with_for_update()
_AHEAD = (
    _TABLE.update()
    .where(_TABLE.c.id == 1)
    .values(epoch=bindparam("to"), head=bindparam("hash"), recorded_at=bindparam("now"))
)
_NEW = _AUDIT.insert().inline()

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
        self._connection = session.connection()
        row = self._connection.execute(_HELD).first()
        if row is None:
            insert = postgresql.insert if self._connection.dialect.name == "postgresql" else sqlite.insert
            first = insert(LedgerRow).values(id=1, epoch=0, head=GENESIS, recorded_at=now).on_conflict_do_nothing()
            self._connection.execute(first)
            row = self._connection.execute(_HELD).one()
        self._epoch: int = row.epoch
        self._head: str = row.head
        self.now: datetime = max(now, row.recorded_at)

    @property
    def epoch(self) -> int:
        """Epoch of the newest event."""
        return self._epoch

    @property
    def next_epoch(self) -> int:
        return self._epoch + 1

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
        fields = {
            "epoch": event.epoch,
            "actor": event.actor,
            "action": type(event).__name__,
            "model": event.model,
            "version": version,
            "event": encode(event).decode(),
        }
        before, self._head = self._head, chained(self._head, {**fields, "recorded_at": iso(self.now)})
        self._epoch = event.epoch
        row = {**fields, "recorded_at": self.now, "previous_hash": before, "hash": self._head}
        self._connection.execute(_NEW, row)
        self._connection.execute(_AHEAD, {"to": self._epoch, "hash": self._head, "now": self.now})
        # Every head leaves the database with its event: whoever rewrites the chain later cannot rewrite the topic.
        enqueue(
            *(self._session, AGENT, REGISTRY_EVENTS, event.model, event, event.event_id, event.at),
            audit_hash=self._head,
        )


def row_hash(row: AuditRow | Row[Any]) -> str:
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
