"""Roll-backs that one person made: in an emergency nobody waits for a second, afterwards somebody looks at it."""

from __future__ import annotations

from datetime import datetime

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from agents.registry.change import Change
from agents.registry.logic import is_policy
from agents.registry.tables import ReviewRow
from schemas.errors import ConflictError, NotFoundError
from schemas.events import RollbackReviewed


class ReviewInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A roll-back from `previous` to `version`, and who looked at it. `id`: the epoch of its event."""

    id: int
    model: str
    version: int
    previous: int
    actor: str
    reason: str
    at: datetime
    reviewed_by: str | None
    reviewed_at: datetime | None
    comment: str | None


def flag_for_review(change: Change, version: int, previous: int, actor: str, reason: str, *, four_eyes: bool) -> None:
    """Note a roll-back that is about to be told, where a person makes it; what policies do is in their reports."""
    if is_policy(actor):
        return
    change.session.add(
        ReviewRow(
            epoch=change.ledger.next_epoch,
            model=change.row.name,
            version=version,
            previous=previous,
            actor=actor,
            reason=reason,
            at=change.ledger.now,
            four_eyes=four_eyes,
        )
    )


def reviews(session: Session, *, done: bool = False) -> list[ReviewInfo]:
    """Roll-backs that nobody has looked at yet, the oldest first; with `done`, all of them."""
    statement = select(ReviewRow).order_by(ReviewRow.epoch)
    if not done:
        statement = statement.where(ReviewRow.reviewed_at.is_(None))
    return [_info(row) for row in session.scalars(statement)]


def review(session: Session, number: int, actor: str, comment: str, *, now: datetime) -> ReviewInfo:
    """Somebody has looked at a roll-back.

    Raises
    ------
    NotFoundError
    ConflictError
        It was reviewed already, or (four eyes) by whoever made it.
    """
    found = session.get(ReviewRow, number)
    if found is None:
        raise NotFoundError(
            f"no roll-back {number} to review", where="registry", remedy="`driftline reviews` lists them"
        )
    change = Change.of(session, found.model, now)
    row = session.scalars(
        select(ReviewRow).where(ReviewRow.epoch == number).execution_options(populate_existing=True)
    ).one()
    where = f"roll-back {number} of {row.model}"
    if row.reviewed_by is not None:
        raise ConflictError(f"was reviewed by {row.reviewed_by} already", where=where)
    if row.four_eyes and row.actor == actor:
        raise ConflictError(
            f"{actor} made it: [approval] four_eyes wants another person", where=where, remedy="let another review it"
        )
    row.reviewed_by, row.reviewed_at, row.comment = actor, change.ledger.now, comment
    change.emit(RollbackReviewed, actor, None, version=row.version, rollback_epoch=number, comment=comment)
    change.publish_state()
    return _info(row)


def _info(row: ReviewRow) -> ReviewInfo:
    return ReviewInfo(
        id=row.epoch,
        model=row.model,
        version=row.version,
        previous=row.previous,
        actor=row.actor,
        reason=row.reason,
        at=row.at,
        reviewed_by=row.reviewed_by,
        reviewed_at=row.reviewed_at,
        comment=row.comment,
    )
