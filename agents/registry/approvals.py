"""Questions to people: asked, answered, lapsed. The policy is that of the version's specification."""

from __future__ import annotations

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from agents.database.engine import Sessions
from agents.registry.change import Change, refuse_watched
from agents.registry.logic import LAPSED
from agents.registry.service import Registry
from agents.registry.tables import ApprovalRequestRow
from agents.registry.views import VersionInfo, version_info
from schemas.errors import ConflictError
from schemas.events import ApprovalLapsed, VersionArchived
from schemas.specification import parse

AT_ONCE = 100
LAPSE = "policy:expiry"


def ask_again(registry: Registry, session: Session, model: str, version: int, actor: str) -> VersionInfo:
    """Ask people for approval of a version whose question lapsed (or was never asked).

    Raises
    ------
    NotFoundError, TransitionError, ConflictError
    """
    change = Change.of(session, model, registry.now())
    refuse_watched(change.row, "approved")
    found = change.version(version)
    spec = parse(registry.specification_text(session, found.specification))
    change.request_approval(found, actor, None, spec.approval)
    change.publish_state()
    return version_info(found, champion=False)


def due(registry: Registry, readers: Sessions) -> bool:
    """Whether the time of a question is over: a look that locks nothing."""
    with readers() as session:
        return session.scalars(_due(registry).limit(1)).first() is not None


def _due(registry: Registry) -> Select[str, int]:
    return (
        select(ApprovalRequestRow.model, ApprovalRequestRow.version)
        .where(ApprovalRequestRow.closed_at.is_(None), ApprovalRequestRow.expires_at <= registry.now())
        .order_by(ApprovalRequestRow.id)
    )


def lapse_due(registry: Registry, session: Session, limit: int = AT_ONCE) -> list[tuple[str, int]]:
    """Close the questions whose time is over; returns their models and versions.

    Notes
    -----
    Nobody has to wait for it: an approval after the time is refused by itself.
    """
    found_due = [(row.model, row.version) for row in session.execute(_due(registry).limit(limit))]
    done = []
    for model, version in found_due:
        change = Change.of(session, model, registry.now())
        found = change.version(version)
        request = change.open_request(version)
        if request is None or found.stage != "approval-requested":
            continue  # somebody decided meanwhile
        change.step(found, "expired", reason=LAPSED)
        change.close_request(request)
        change.forget_approvals(version)
        if change.row.challenger == version:
            change.row.challenger = None
        change.emit(ApprovalLapsed, LAPSE, None, version=version)
        change.publish_state()
        done.append((model, version))
    return done


def archive(registry: Registry, session: Session, model: str, version: int, *, actor: str, reason: str) -> VersionInfo:
    """Take a version out of use for good; what it predicted and decided stays.

    Raises
    ------
    NotFoundError
    TransitionError
        It is in use, or waits for a decision.
    ConflictError
        It is archived already, or answers in shadow for a probation.
    """
    change = Change.of(session, model, registry.now())
    refuse_watched(change.row, "archived")
    found = change.version(version)
    if change.row.shadow == version:
        raise ConflictError(
            "answers in shadow for a probation",
            where=f"{model} version {version}",
            remedy="archive it when the probation is over",
        )
    change.step(found, "archived", reason=reason)
    change.emit(VersionArchived, actor, None, version=version, reason=reason)
    change.publish_state()
    return version_info(found, champion=False)
