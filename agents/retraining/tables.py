"""Tables of the retraining agent: runs, from the request to the registry's decision, and probations."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Float, Index, Integer, LargeBinary, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from agents.database.base import Base, Json, UtcDateTime

OPEN_STATUSES = ("queued", "running", "submitted")
"""A run in one of these keeps others of its model from starting."""
_OPEN = text("status IN ('queued', 'running', 'submitted')")


class RunRow(Base):
    """A run and the lease of the worker that executes it.

    `status`: ``queued`` → ``running`` → ``submitted`` (the registry has to decide) → ``finished``; or ``failed``,
    ``skipped``. `as_of_ms` and `change_ms` are event time; `created_at`, `started_at`, `finished_at` and `lease_until`
    are the clock's.
    """

    __tablename__ = "training_runs"
    __table_args__ = (
        # One run a model at a time, however many agents there are.
        Index("uq_training_runs_open", "model", unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN),
    )

    run_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    request_id: Mapped[str] = mapped_column(String(128), unique=True)
    model: Mapped[str] = mapped_column(String(200), index=True)
    trigger: Mapped[str] = mapped_column(String(40))
    reason: Mapped[str] = mapped_column(Text)
    requested_by: Mapped[str] = mapped_column(String(200))
    incident_id: Mapped[str | None] = mapped_column(String(64), default=None)
    project: Mapped[str | None] = mapped_column(String(64), default=None)
    as_of_ms: Mapped[int] = mapped_column(BigInteger)
    change_ms: Mapped[int | None] = mapped_column(BigInteger, default=None)
    status: Mapped[str] = mapped_column(String(20), index=True)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    lease_owner: Mapped[str | None] = mapped_column(String(200), default=None)
    lease_until: Mapped[float | None] = mapped_column(Float, default=None)
    version: Mapped[int | None] = mapped_column(Integer, default=None)
    rows: Mapped[int | None] = mapped_column(Integer, default=None)
    decision: Mapped[str | None] = mapped_column(String(40), default=None)
    outcome: Mapped[str] = mapped_column(Text, default="")
    report: Mapped[dict[str, Any] | None] = mapped_column(Json, default=None)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)


class ProbationRow(Base):
    """The present or latest probation of a model; `promoted_at` tells one promotion of a version from another.

    `status`: ``running``, then ``passed`` or ``rolled-back``. `state`: `agents.retraining.probation` as it was stored
    with the position up to which metrics had been read.
    """

    __tablename__ = "probations"

    model: Mapped[str] = mapped_column(String(256), primary_key=True)
    version: Mapped[int] = mapped_column(Integer)
    previous: Mapped[int] = mapped_column(Integer)
    promoted_at: Mapped[datetime] = mapped_column(UtcDateTime)
    status: Mapped[str] = mapped_column(String(20))
    state: Mapped[bytes] = mapped_column(LargeBinary)
    reason: Mapped[str] = mapped_column(Text, default="")
    report: Mapped[dict[str, Any] | None] = mapped_column(Json, default=None)


class ReadingPositionRow(Base):
    """How far an agent has read a topic that it follows without a consumer group."""

    __tablename__ = "reading_positions"

    agent: Mapped[str] = mapped_column(String(64), primary_key=True)
    topic: Mapped[str] = mapped_column(String(249), primary_key=True)
    partition: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    next_offset: Mapped[int] = mapped_column(BigInteger)
