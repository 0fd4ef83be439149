"""The outbox: events written in the transaction of their effect, sent to Kafka afterwards.

Notes
-----
Delivery is at least once, in order per agent: a crash between the broker's acknowledgement and the mark in the
database sends the same event id again, and consumers drop what they have seen (`agents.database.inbox`).
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Protocol

from sqlalchemy import Index, LargeBinary, String, delete, insert, select, text, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from agents.database.base import Base, BigId, UtcDateTime
from agents.database.engine import Sessions
from schemas.codec import Headers, encode, iso
from schemas.events import Wire

BATCH = 500

log = logging.getLogger(__name__)


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
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    published_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)


class Sender(Protocol):
    """What the relay needs of `streams.kafka.producer.EventProducer`."""

    def send(
        self, topic: str, value: bytes | None, key: bytes | None = None, headers: Headers | None = None
    ) -> None: ...

    def flush(self, timeout_s: float) -> None: ...


def enqueue(  # noqa: PLR0917
    session: Session, agent: str, topic: str, key: str, event: Wire, event_id: str, at: datetime
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
    """
    session.execute(
        insert(OutboxRow).values(
            agent=agent,
            topic=topic,
            key=key,
            event_id=event_id,
            type=type(event).__name__,
            payload=encode(event),
            created_at=at,
        )
    )


class OutboxRelay:
    """Sends the pending rows of one agent.

    Parameters
    ----------
    sessions : Sessions
        Factory of writing sessions.
    producer : Sender
    agent : str
    readers : Sessions, optional
        Factory of reading sessions for the look whether anything is pending; default `sessions`.
    """

    def __init__(
        self,
        sessions: Sessions,
        producer: Sender,
        agent: str,
        *,
        readers: Sessions | None = None,
        timeout_s: float = 30,
    ) -> None:
        self._sessions = sessions
        self._readers = readers or sessions
        self._producer = producer
        self._agent = agent
        self._timeout_s = timeout_s

    def publish_pending(self) -> int:
        """Send everything pending, in the order it was written; returns how many events were acknowledged.

        Raises
        ------
        BrokerError
            Not all were delivered: none of that batch is marked, all are sent again with the same ids.
        DatabaseUnavailableError
        """
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
        if not rows:
            return 0
        for row in rows:
            self._producer.send(row.topic, row.payload, key=row.key.encode(), headers=_headers(row, self._agent))
        # No transaction is open while the broker is waited for: a slow broker must not block the registry.
        self._producer.flush(self._timeout_s)
        with self._sessions.begin() as session:
            session.execute(
                update(OutboxRow)
                .where(OutboxRow.id.in_([row.id for row in rows]), OutboxRow.published_at.is_(None))
                .values(published_at=datetime.now(UTC))
            )
        return len(rows)

    def prune(self, keep: timedelta = timedelta(days=7)) -> int:
        """Delete what was acknowledged longer than `keep` ago; returns how many rows."""
        with self._sessions.begin() as session:
            result = session.execute(
                delete(OutboxRow).where(
                    OutboxRow.agent == self._agent, OutboxRow.published_at < datetime.now(UTC) - keep
                )
            )
            return int(getattr(result, "rowcount", 0))


def _headers(row: OutboxRow, agent: str) -> Headers:
    return [
        ("content-type", b"application/json"),
        ("ce_specversion", b"1.0"),
        ("ce_type", row.type.encode()),
        ("ce_id", row.event_id.encode()),
        ("ce_source", f"/driftline/{agent}".encode()),
        ("ce_time", iso(row.created_at).encode()),
    ]
