"""Tables of the notifying agent."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from agents.database.base import Base, BigId, UtcDateTime


class DeliveryRow(Base):
    """One message to one target. `status`: ``pending``, ``delivered``, ``abandoned``.

    `kind` says what `alert` holds: an alert (``alert``) or a request for a successor (``retrain``), as JSON.

    The target is kept as the hash of its URL and a label without its secrets; `lease_until` keeps a second worker from
    sending what the first one is sending.
    """

    __tablename__ = "deliveries"
    __table_args__ = (
        UniqueConstraint("event_id", "target"),
        Index("ix_deliveries_waiting", "target", "status", "id"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    event_id: Mapped[str] = mapped_column(String(128))
    incident_id: Mapped[str] = mapped_column(String(64))
    target: Mapped[str] = mapped_column(String(64))
    label: Mapped[str] = mapped_column(String(300))
    channel: Mapped[str] = mapped_column(String(20))
    alert: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(String(20), default="pending")
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    next_at: Mapped[datetime] = mapped_column(UtcDateTime)
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    delivered_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    error: Mapped[str] = mapped_column(Text, default="")
    kind: Mapped[str] = mapped_column(String(20), default="alert", server_default="alert")
