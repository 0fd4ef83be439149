"""What the database still has to do: open runs, events not yet published, versions that wait for a person."""

from __future__ import annotations

from sqlalchemy import func, select

from agents.database.engine import Sessions
from agents.database.outbox import OutboxRow
from agents.registry.tables import ModelRow, VersionRow
from agents.retraining.tables import OPEN_STATUSES, ReadingPositionRow, RunRow
from schemas.topics import QUALITY_METRICS


def pending_work(sessions: Sessions) -> int:
    """Open runs and unpublished events."""
    with sessions() as session:
        runs = session.scalar(select(func.count()).select_from(RunRow).where(RunRow.status.in_(OPEN_STATUSES))) or 0
        rows = session.scalar(select(func.count()).select_from(OutboxRow).where(OutboxRow.published_at.is_(None))) or 0
        return int(runs) + int(rows)


def probation_lag(sessions: Sessions, end_offset: int) -> int:
    """Records of the series up to `end_offset` that the watch of a probation has not read; 0 where none runs."""
    with sessions() as session:
        if session.scalar(select(ModelRow.name).where(ModelRow.shadow.is_not(None)).limit(1)) is None:
            return 0
        query = select(ReadingPositionRow.next_offset).where(ReadingPositionRow.topic == QUALITY_METRICS)
        return max(end_offset - (session.scalar(query) or 0), 0)


def awaiting_approval(sessions: Sessions) -> int | None:
    """The newest version that waits for a person, if one does."""
    with sessions() as session:
        return session.scalar(select(func.max(VersionRow.version)).where(VersionRow.stage == "approval-requested"))
