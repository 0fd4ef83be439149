"""Tables of the alerting agent."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Integer, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from agents.database.base import Base, Json, UtcDateTime


class AlertBookRow(Base):
    """What alerting knows of one model (`agents.alerting.logic.AlertBook` as JSON)."""

    __tablename__ = "alert_books"

    model: Mapped[str] = mapped_column(String(200), primary_key=True)
    book: Mapped[bytes] = mapped_column(LargeBinary)


class FleetRow(Base):
    """One record of `agents.alerting.fleet.FleetBook` as JSON; the one called ``revision`` counts the writes."""

    __tablename__ = "fleet_book"

    key: Mapped[str] = mapped_column(String(400), primary_key=True)
    value: Mapped[bytes] = mapped_column(LargeBinary)


class IncidentRow(Base):
    """The newest alert of each incident, for look-ups; the topic `alerts` is the truth."""

    __tablename__ = "incidents"

    incident_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    model: Mapped[str] = mapped_column(String(200), index=True)
    version: Mapped[int] = mapped_column(Integer)
    kind: Mapped[str] = mapped_column(String(40))
    subject: Mapped[str] = mapped_column(String(300))
    segment: Mapped[str] = mapped_column(String(300), default="")
    severity: Mapped[str] = mapped_column(String(20))
    status: Mapped[str] = mapped_column(String(20), index=True)
    opened_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    closed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    title: Mapped[str] = mapped_column(Text)
    explanation: Mapped[str] = mapped_column(Text)
    evidence: Mapped[dict[str, Any]] = mapped_column(Json)
