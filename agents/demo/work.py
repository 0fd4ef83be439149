"""What the database still has to do: open runs, events not yet published, versions that wait for a person."""

from __future__ import annotations

from sqlalchemy import func, select

from agents.database.engine import Sessions
from agents.database.outbox import OutboxRow
from agents.registry.tables import VersionRow
from agents.retraining.tables import OPEN_STATUSES, RunRow


def pending_work(sessions: Sessions) -> int:
    """Open runs and unpublished events."""
    with sessions() as session:
        runs = session.scalar(select(func.count()).select_from(RunRow).where(RunRow.status.in_(OPEN_STATUSES))) or 0
        rows = session.scalar(select(func.count()).select_from(OutboxRow).where(OutboxRow.published_at.is_(None))) or 0
        return int(runs) + int(rows)


def awaiting_approval(sessions: Sessions) -> int | None:
    """The newest version that waits for a person, if one does."""
    with sessions() as session:
        return session.scalar(select(func.max(VersionRow.version)).where(VersionRow.stage == "approval-requested"))
