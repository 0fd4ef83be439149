"""The outbox: events written in the transaction of their effect, sent to Kafka afterwards.

Notes
-----
Delivery is at least once, in order per agent: a crash between the broker's acknowledgement and the mark in the
database sends the same event id again, and consumers drop what they have seen (`agents.database.inbox`). Where an agent
runs more than once, one of them holds the lease and sends: two senders would mix up the order, and the compacted topic
`registry-state` would keep an older state for good.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from sqlalchemy import Index, LargeBinary, String, delete, select, text, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from agents.database.base import Base, BigId, UtcDateTime
from agents.database.engine import Sessions
from schemas.codec import Headers, encode, iso
from schemas.events import Wire

BATCH = 500
Sign = Callable[[bytes | None, bytes], Headers]
AUDIT_HASH = "ce_audithash"
"""Header (a CloudEvents extension attribute) with the hash of the audit row that an event of the registry is."""


def _now() -> datetime:
    return datetime.now(UTC)


class OutboxRow(Base):
    """One event on its way; `published_at` is null until the broker acknowledged it."""

    __tablename__ = "outbox"
    __table_args__ = (
        # Only what is still to be sent is looked for, every few milliseconds, in a table that keeps growing.
        Index(
            "ix_outbox_pending",
            "agent",
            "id",
            sqlite_where=text("published_at IS NULL"),
            postgresql_where=text("published_at IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    agent: Mapped[str] = mapped_column(String(64))
    topic: Mapped[str] = mapped_column(String(249))
    key: Mapped[str] = mapped_column(String(512))
    event_id: Mapped[str] = mapped_column(String(128))
    type: Mapped[str] = mapped_column(String(128))
    payload: Mapped[bytes] = mapped_column(LargeBinary)
    audit_hash: Mapped[str | None] = mapped_column(String(64), default=None)
    """Of an event of the registry: the hash of its audit row, sent as a header."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    published_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)


_TABLE: Any = OutboxRow.__table__
_NEW = _TABLE.insert().inline()  # written once, and its number is asked for by nobody


class OutboxLeaseRow(Base):
    """Which worker of an agent sends, and until when it may."""

    __tablename__ = "outbox_leases"

    agent: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner: Mapped[str] = mapped_column(String(128))
    until: Mapped[datetime] = mapped_column(UtcDateTime)


class Sender(Protocol):
    """What the relay needs of `streams.kafka.producer.EventProducer`."""

    def send(
        self, topic: str, value: bytes | None, key: bytes | None = None, headers: Headers | None = None
    ) -> None: ...

    def flush(self, timeout_s: float) -> None: ...


def enqueue(  # noqa: PLR0917
    session: Session,
    agent: str,
    topic: str,
    key: str,
    event: Wire,
    event_id: str,
    at: datetime,
    *,
    audit_hash: str | None = None,
) -> None:
    """Add an event to the unit of work of `session`; it exists if and only if that commits.

    Parameters
    ----------
    agent : str
        The agent whose relay sends it.
    topic : str
        Name without prefix.
    event_id : str
        Derived from what the event is about (`schemas.codec.derived_id`).
    at : datetime
        Aware; becomes the attribute ``ce_time``.
    audit_hash : str, optional
        Becomes the header `AUDIT_HASH`.
    """
    row = {
        "agent": agent,
        "topic": topic,
        "key": key,
        "event_id": event_id,
        "type": type(event).__name__,
        "payload": encode(event),
        "audit_hash": audit_hash,
        "created_at": at,
    }
    session.connection().execute(_NEW, row)


class OutboxRelay:
    """Sends the pending rows of one agent.

    Parameters
    ----------
    sessions : Sessions
        Factory of writing sessions.
    producer : Sender
    agent : str
    owner : str
        The worker's slot. A worker that starts again under the same name goes on at once; another one waits until the
        lease has run out.
    readers : Sessions, optional
        Factory of reading sessions for the look whether anything is pending; default `sessions`.
    timeout_s : float
        Longest to wait for the broker's acknowledgement; the lease lasts longer.
    clock : callable
        The system's clock, aware.
    sign : mapping of str to callable, optional
        By topic: more headers for a record, of its key and value.
    """

    def __init__(
        self,
        sessions: Sessions,
        producer: Sender,
        agent: str,
        *,
        owner: str = "0",
        readers: Sessions | None = None,
        timeout_s: float = 20.0,
        clock: Callable[[], datetime] = _now,
        sign: Mapping[str, Sign] | None = None,
    ) -> None:
        self._sessions = sessions
        self._sign = sign or {}
        self._readers = readers or sessions
        self._producer = producer
        self._agent = agent
        self._timeout_s = timeout_s
        self._pending = select(OutboxRow.id).where(OutboxRow.agent == agent, OutboxRow.published_at.is_(None)).limit(1)
        self._owner = owner
        self._clock = clock
        self._lease = timedelta(seconds=2 * timeout_s)
        self._until = datetime.min.replace(tzinfo=UTC)

    def publish_pending(self) -> int:
        """Send everything pending, in the order it was written; returns how many events were acknowledged.

        Raises
        ------
        BrokerError
            Not all were delivered: none of that batch is marked, all are sent again with the same ids.
        DatabaseUnavailableError
        """
        # The look is what happens twenty times a second: no session, no objects.
        with self._readers.kw["bind"].connect() as connection:
            if connection.execute(self._pending).first() is None:
                return 0
        total = 0
        while count := self._publish_batch():
            total += count
            if count < BATCH:
                break
        return total

    def _publish_batch(self) -> int:
        with self._readers() as session:
            rows = session.scalars(
                select(OutboxRow)
                .where(OutboxRow.agent == self._agent, OutboxRow.published_at.is_(None))
                .order_by(OutboxRow.id)
                .limit(BATCH)
            ).all()
        if not rows or not self._may_send():
            return 0
        for row in rows:
            key, headers = row.key.encode(), _headers(row, self._agent)
            if row.topic in self._sign:
                headers += self._sign[row.topic](key, row.payload)
            self._producer.send(row.topic, row.payload, key=key, headers=headers)
        # No transaction is open while the broker is waited for: a slow broker must not block the registry.
        self._producer.flush(self._timeout_s)
        with self._sessions.begin() as session:
            session.execute(
                update(OutboxRow)
                .where(OutboxRow.id.in_([row.id for row in rows]), OutboxRow.published_at.is_(None))
                .values(published_at=self._clock())
            )
        return len(rows)

    def _may_send(self) -> bool:
        """Whether the lease is ours for as long as sending may take; takes or renews it where it can."""
        now = self._clock()
        if self._until - now > self._lease / 2:
            return True
        with self._sessions.begin() as session:
            row = session.get(OutboxLeaseRow, self._agent, with_for_update=True)
            if row is None:
                row = OutboxLeaseRow(agent=self._agent, owner=self._owner, until=now + self._lease)
                session.add(row)
            elif row.owner != self._owner and row.until > now:
                return False
            row.owner, row.until = self._owner, now + self._lease
        self._until = now + self._lease
        return True

    def prune(self, keep: timedelta = timedelta(days=7)) -> int:
        """Delete what was acknowledged longer than `keep` ago; returns how many rows."""
        with self._sessions.begin() as session:
            result = session.execute(
                delete(OutboxRow).where(OutboxRow.agent == self._agent, OutboxRow.published_at < self._clock() - keep)
            )
            return int(getattr(result, "rowcount", 0))


def _headers(row: OutboxRow, agent: str) -> Headers:
    headers: Headers = [
        ("content-type", b"application/json"),
        ("ce_specversion", b"1.0"),
        ("ce_type", row.type.encode()),
        ("ce_id", row.event_id.encode()),
        ("ce_source", f"/driftline/{agent}".encode()),
        ("ce_time", iso(row.created_at).encode()),
    ]
    return headers if row.audit_hash is None else [*headers, (AUDIT_HASH, row.audit_hash.encode())]
