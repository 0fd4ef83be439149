"""Versions found faulty: flagged with what descends from them, blocked from promotion, told where they are live.

A descendant is what `agents.registry.lineage` calls so: a successor, and its successors. A flag holds from one event to
another; whoever withdraws it says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import bindparam, or_, select
from sqlalchemy.orm import Session

from agents.database.outbox import enqueue
from agents.registry.ledger import AGENT
from agents.registry.logic import flag_incident
from agents.registry.tables import FlagRow, ModelRow, VersionRow
from schemas.codec import derived_id
from schemas.errors import ConflictError
from schemas.events import Alert, FlagWithdrawn, Status, VersionFlagged
from schemas.topics import ALERTS

if TYPE_CHECKING:
    from agents.registry.change import Change

CHUNK = 200
_TABLE: Any = FlagRow.__table__
_HELD = (
    select(_TABLE.c.source, _TABLE.c.actor, _TABLE.c.reason)
    .where(_TABLE.c.model == bindparam("model"), _TABLE.c.version == bindparam("version"), _TABLE.c.until.is_(None))
    .order_by(_TABLE.c.id)
)
"""Flags in force of a version."""


class Flag(msgspec.Struct, frozen=True, kw_only=True):
    """A flag in force. `source`: the version that was found faulty, which is `version` or an ancestor of it."""

    model: str
    version: int
    source: int
    reason: str
    actor: str
    at: datetime

    def __str__(self) -> str:
        told = (
            "is flagged faulty"
            if self.source == self.version
            else f"descends from version {self.source}, flagged faulty"
        )
        return f"{told}: {self.reason} ({self.actor})"


def flag(change: Change, version: int, actor: str, reason: str) -> list[Flag]:
    """Flag a version of the change's model and what descends from it; those that were not flagged for it before.

    Raises
    ------
    NotFoundError
    ConflictError
        It was found faulty before.
    """
    session, model = change.session, change.row.name
    change.version(version)
    known = {(one.version, one.source) for one in in_force(session, [model])}
    if (version, version) in known:
        raise ConflictError("is flagged already", where=f"{model} version {version}", remedy="withdraw it first")
    concerned = [
        number for number in [version, *_descendants(session, model, version)] if (number, version) not in known
    ]
    made = [_add(change, number, version, actor, reason) for number in concerned]
    change.publish_state()
    return made


def inherit(change: Change, version: VersionRow) -> None:
    """Flag a version that is new with what its parent is flagged with."""
    if version.parent is None:
        return
    held = change.session.connection().execute(_HELD, {"model": change.row.name, "version": version.parent})
    for one in held.all():
        _add(change, version.version, one.source, one.actor, one.reason)


def withdraw(change: Change, version: int, actor: str, reason: str) -> list[Flag]:
    """Withdraw the flag of a version, or (where it has none of its own) those that it inherited; all that went with it.

    Notes
    -----
    Where a version was found faulty, the flags of its descendants go too; a descendant that is cleared clears its own
    descendants of the same fault.

    Raises
    ------
    NotFoundError
    ConflictError
        It is not flagged.
    """
    session, model = change.session, change.row.name
    change.version(version)
    held = in_force(session, [model])
    mine = [one for one in held if one.version == version]
    if not mine:
        raise ConflictError("is not flagged", where=f"{model} version {version}")
    own = any(one.source == version for one in mine)
    sources = {version} if own else {one.source for one in mine}
    within = {version, *_descendants(session, model, version)}
    gone = [one for one in held if one.source in sources and one.version in within]
    for one in gone:
        for row in session.scalars(_open(model).where(FlagRow.version == one.version, FlagRow.source == one.source)):
            if row.incident is not None:
                _tell(change, row, "closed")
            row.until, row.withdrawn_by, row.withdrawn_reason = change.ledger.next_epoch, actor, reason
        change.emit(FlagWithdrawn, actor, None, version=one.version, source=one.source, reason=reason)
    change.publish_state()
    return gone


def refuse_flagged(change: Change, version: int) -> None:
    """Refuse to let a flagged version answer. Raises `ConflictError`."""
    for one in in_force(change.session, [change.row.name]):
        if one.version == version:
            raise ConflictError(
                str(one),
                where=f"{one.model} version {version}",
                remedy=f"clear it with `driftline flag {one.model} {version} --withdraw --reason …`, or choose another",
            )


def is_flagged(session: Session, model: str, version: int) -> bool:
    """Whether a version may not be promoted."""
    return session.scalars(_open(model).where(FlagRow.version == version)).first() is not None


def sound_before(session: Session, model: str, champion: VersionRow) -> int | None:
    """The champion before `champion` that is not flagged; None where there is none."""
    flagged = {one.version for one in in_force(session, [model])}
    goal, seen = champion.previous, {champion.version}
    while goal is not None and (goal in flagged or goal in seen):
        if goal in seen:
            return None
        seen.add(goal)
        mine = (VersionRow.model == model, VersionRow.version == goal)
        goal = session.scalar(select(VersionRow.previous).where(*mine))
    return goal


def champion_changed(change: Change) -> None:
    """Close what was told of flagged champions that no longer are."""
    for row in change.session.scalars(_open(change.row.name).where(FlagRow.incident.is_not(None))):
        if row.version != change.row.champion:
            _tell(change, row, "closed")


def in_force(session: Session, models: Sequence[str] | None = None, epoch: int | None = None) -> list[Flag]:
    """Flags of some models, or of all, now or as of an epoch; by model and version."""
    if models is not None and len(models) > CHUNK:
        return [one for at in range(0, len(models), CHUNK) for one in in_force(session, models[at : at + CHUNK], epoch)]
    statement = select(FlagRow).order_by(FlagRow.model, FlagRow.version, FlagRow.id)
    if models is not None:
        statement = statement.where(FlagRow.model.in_(models))
    if epoch is None:
        statement = statement.where(FlagRow.until.is_(None))
    else:
        statement = statement.where(FlagRow.since <= epoch, or_(FlagRow.until.is_(None), FlagRow.until > epoch))
    return [_flag(row) for row in session.scalars(statement)]


def live(session: Session) -> list[Flag]:
    """Flags of versions that are champion now."""
    rows = session.scalars(
        select(FlagRow)
        .join(ModelRow, ModelRow.name == FlagRow.model)
        .where(FlagRow.until.is_(None), ModelRow.champion == FlagRow.version)
        .order_by(FlagRow.model, FlagRow.id)
    )
    return [_flag(row) for row in rows]


def by_version(flags: Iterable[Flag]) -> dict[tuple[str, int], list[Flag]]:
    """Flags by model and version."""
    found: dict[tuple[str, int], list[Flag]] = {}
    for one in flags:
        found.setdefault((one.model, one.version), []).append(one)
    return found


# ------------------------------------------------------------------------------------------------- inside


def _open(model: str):  # type: ignore[no-untyped-def]
    return select(FlagRow).where(FlagRow.model == model, FlagRow.until.is_(None)).order_by(FlagRow.id)


def _flag(row: FlagRow) -> Flag:
    return Flag(model=row.model, version=row.version, source=row.source, reason=row.reason, actor=row.actor, at=row.at)


def _descendants(session: Session, model: str, version: int) -> list[int]:
    """Successors of a version and theirs, the nearest first."""
    rows = session.execute(select(VersionRow.version, VersionRow.parent).where(VersionRow.model == model))
    children: dict[int | None, list[int]] = {}
    for row in rows:
        children.setdefault(row.parent, []).append(row.version)
    found: dict[int, None] = {}
    waiting = [version]
    while waiting:
        for child in sorted(children.get(waiting.pop(0), [])):
            if child not in found and child != version:
                found[child] = None
                waiting.append(child)
    return list(found)


def _add(change: Change, version: int, source: int, actor: str, reason: str) -> Flag:
    row = FlagRow(
        model=change.row.name,
        version=version,
        source=source,
        reason=reason,
        actor=actor,
        at=change.ledger.now,
        since=change.ledger.next_epoch,
    )
    change.session.add(row)
    change.session.flush()
    live_now = change.row.champion == version
    if live_now:
        row.incident = flag_incident(change.row.name, version, source, row.since)
        _tell(change, row, "opened")
    change.emit(VersionFlagged, actor, None, version=version, source=source, reason=reason, live=live_now)
    return _flag(row)


def _tell(change: Change, row: FlagRow, status: Status) -> None:
    """Open or close the incident of a flagged version that is live."""
    assert row.incident is not None
    now, flagged = change.ledger.now, _flag(row)
    alert = Alert(
        incident_id=row.incident,
        model=row.model,
        version=row.version,
        kind="faulty-version",
        subject=f"version {row.version}",
        segment=None,
        severity="critical",
        status=status,
        opened_at=row.at,
        closed_at=now if status == "closed" else None,
        title=f"Version {row.version} is live and flagged faulty",
        explanation=f"The champion {flagged}. It goes on answering until somebody rolls it back "
        f"(`driftline rollback {row.model}`) or withdraws the flag.",
        evidence={"source": row.source, "reason": row.reason, "actor": row.actor},
    )
    event_id = derived_id(row.incident, status)
    enqueue(change.session, AGENT, ALERTS, row.model, alert, event_id, now)
    if status == "closed":
        row.incident = None
