"""Why a version came, what was decided about it with which numbers, and why it went."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from agents.alerting.tables import IncidentRow
from agents.provenance.account import Account, Deed, Reign, account, gate_of, reigns
from agents.provenance.traffic import Archive, Window
from agents.registry.service import Registry
from agents.retraining.tables import RunRow
from schemas.codec import utc

MOST_INCIDENTS = 20


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """An incident: title and explanation as they were when it was opened, where the archive has them; else the newest.

    Times are event times.
    """

    incident_id: str
    model: str
    version: int
    kind: str
    subject: str
    segment: str
    severity: str
    status: str
    opened_at: datetime
    closed_at: datetime | None
    title: str
    explanation: str


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """The run that made a version: what asked for it and why. `as_of`, `changed_at`: event time."""

    run_id: str
    trigger: str
    reason: str
    requested_by: str
    as_of: datetime
    changed_at: datetime | None
    created_at: datetime
    finished_at: datetime | None
    rows: int | None
    incident: Incident | None


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How a time as champion ended, or that it goes on (`how` None).

    `how`: ``promoted``, ``rolled-back`` or ``observed`` (another name appeared in a watched model's predictions).
    `gate`: of the successor; the comparison was with this version where `champion_version` says so. `run`: the
    successor's, with the incident that asked for it.
    """

    reign: Reign
    how: str | None
    by: Deed | None
    successor: int | None
    run: Run | None
    gate: dict[str, Any]


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """The answer: an account of the version, the run behind it, every ending, its incidents and its last windows.

    `quality`: the last closed windows of the longest length that it has any of, newest first, with every segment of
    each; `primary`: the metric that decides. `notes`: what could not be told.
    """

    model: str
    version: int
    primary: str
    watched: list[str]
    account: Account
    run: Run | None
    endings: list[Ending]
    incidents: list[Incident]
    quality: list[Window]
    notes: list[str]


def why(registry: Registry, session: Session, archive: Archive, model: str, version: int) -> Why:
    """Why a version came and why it went.

    Raises
    ------
    NotFoundError
        No such model or version.
    """
    ruled = reigns(session, model)
    told = account(registry, session, model, version, ruled)
    spec = registry.specification(session, model, version)
    rows = _incidents_of(session, model, version)
    successors = {one.successor for one in told.live if one.successor is not None and one.how == "promoted"}
    made = {number: _run(session, model, number) for number in {version, *successors}}
    asked = {row.incident_id for row in made.values() if row is not None and row.incident_id is not None}
    known = {row.incident_id: row for row in [*rows, *_incidents(session, asked)]}
    first = archive.first_told(sorted(known))
    incidents = {name: _incident(row, first.get(name)) for name, row in known.items()}
    runs = {number: _told(row, incidents) for number, row in made.items()}
    gates = {number: gate_of(registry.version(session, model, number)) for number in successors}
    notes = [archive.problem] if archive.problem else []
    quality = archive.measured(model, version)
    if not quality and not archive.problem:
        notes.append("no window of it is in the archive: how good it was is not known here")
    return Why(
        model=model,
        version=version,
        primary=spec.metrics.primary,
        watched=spec.watched,
        account=told,
        run=runs[version],
        endings=[_ending(one, gates, {n: runs[n] for n in successors}) for one in told.live],
        incidents=[incidents[row.incident_id] for row in rows],
        quality=quality,
        notes=notes,
    )


def _run(session: Session, model: str, version: int) -> RunRow | None:
    statement = select(RunRow).where(RunRow.model == model, RunRow.version == version)
    return session.scalars(statement.order_by(RunRow.created_at.desc())).first()


def _incidents_of(session: Session, model: str, version: int) -> Sequence[IncidentRow]:
    """The newest ones that are about a version, in the order they were opened."""
    mine = (IncidentRow.model == model, IncidentRow.version == version)
    statement = select(IncidentRow).where(*mine).order_by(IncidentRow.opened_at.desc(), IncidentRow.incident_id)
    return session.scalars(statement.limit(MOST_INCIDENTS)).all()[::-1]


def _incidents(session: Session, ids: Iterable[str]) -> list[IncidentRow]:
    return list(session.scalars(select(IncidentRow).where(IncidentRow.incident_id.in_(sorted(ids)))))


def _incident(row: IncidentRow, first: tuple[str, str] | None) -> Incident:
    title, explanation = first or (row.title, row.explanation)
    return Incident(
        incident_id=row.incident_id,
        model=row.model,
        version=row.version,
        kind=row.kind,
        subject=row.subject,
        segment=row.segment,
        severity=row.severity,
        status=row.status,
        opened_at=row.opened_at,
        closed_at=row.closed_at,
        title=title,
        explanation=explanation,
    )


def _told(row: RunRow | None, incidents: dict[str, Incident]) -> Run | None:
    if row is None:
        return None
    return Run(
        run_id=row.run_id,
        trigger=row.trigger,
        reason=row.reason,
        requested_by=row.requested_by,
        as_of=utc(row.as_of_ms),
        changed_at=None if row.change_ms is None else utc(row.change_ms),
        created_at=row.created_at,
        finished_at=row.finished_at,
        rows=row.rows,
        incident=incidents.get(row.incident_id or ""),
    )


def _ending(reign: Reign, gates: dict[int, dict[str, Any]], runs: dict[int, Run | None]) -> Ending:
    return Ending(
        reign=reign,
        how=reign.how,
        by=reign.ended,
        successor=reign.successor,
        run=runs.get(reign.successor or 0),
        gate=gates.get(reign.successor or 0, {}),
    )
