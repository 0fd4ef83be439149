"""The inbox: which events an agent has handled, written in the transaction of their effect."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import String
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Mapped, Session, mapped_column

from agents.database.base import Base, UtcDateTime


class InboxRow(Base):
    """An event that `agent` has handled."""

    __tablename__ = "inbox"

    agent: Mapped[str] = mapped_column(String(64), primary_key=True)
    event_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    handled_at: Mapped[datetime] = mapped_column(UtcDateTime)


def seen_before(session: Session, agent: str, event_id: str) -> bool:
    """Whether `agent` handled the event already; if not, it counts as handled once `session` commits.

    Notes
    -----
    Two workers with the same event at the same time: on PostgreSQL the second waits for the first's commit, on SQLite
    writers take turns; one of them sees True.
    """
    dialect = session.get_bind().dialect.name
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    result = session.execute(
        insert(InboxRow)
        .values(agent=agent, event_id=event_id, handled_at=datetime.now(UTC))
        .on_conflict_do_nothing(index_elements=["agent", "event_id"])
        .returning(InboxRow.event_id)
    )
    return result.first() is None
