"""Runs in the database: accepted, leased, executed, decided. Every change of status is compare-and-set.

Notes
-----
A worker holds a run by a lease that it renews. Who finds the lease expired may take the run over; the one that lost it
cannot commit any more, because what it commits is conditional on still holding it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import and_, func, or_, select, update
from sqlalchemy.orm import Session

from agents.database.outbox import enqueue
from agents.retraining.logic import BY_HAND
from agents.retraining.tables import OPEN_STATUSES, RunRow
from schemas.codec import derived_id, to_ms, utc
from schemas.errors import ConflictError
from schemas.events import Decision, RetrainRequest, RunFailed, RunFinished, RunSkipped, RunStarted, TrainingEvent
from schemas.topics import TRAINING_EVENTS

AGENT = "retraining"
MAX_ATTEMPTS = 3
RETRY_S = 2.0
ASKED = "asked"
"""Status of a run that somebody else makes: of a model that is only watched."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A run as it is shown. `reason`: why it was asked for; `outcome`: what became of it, in words."""

    run_id: str
    model: str
    trigger: str
    reason: str
    requested_by: str
    incident_id: str | None
    status: str
    decision: str | None
    outcome: str
    version: int | None
    rows: int | None
    attempts: int
    as_of: datetime
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    report: dict[str, Any] | None


def list_runs(session: Session, model: str, *, limit: int = 200) -> list[Run]:
    """Runs of a model, the newest first."""
    rows = session.scalars(
        select(RunRow)
        .where(RunRow.model == model)
        .order_by(RunRow.as_of_ms.desc(), RunRow.created_at.desc(), RunRow.run_id)
        .limit(limit)
    )
    names = [name for name in Run.__struct_fields__ if name != "as_of"]
    return [Run(as_of=utc(row.as_of_ms), **{name: getattr(row, name) for name in names}) for row in rows]


def run_id_of(request_id: str) -> str:
    """The run of a request; the same request makes no second one."""
    return derived_id("run", request_id)


# ---------------------------------------------------------------------------------------------- accepting


def known(session: Session, request_id: str) -> bool:
    """Whether the request was answered already."""
    return session.scalar(select(RunRow.run_id).where(RunRow.request_id == request_id)) is not None


def open_run(session: Session, model: str) -> str | None:
    """Id of the model's run that has not ended."""
    return session.scalar(select(RunRow.run_id).where(RunRow.model == model, RunRow.status.in_(OPEN_STATUSES)))


def last_automatic_ms(session: Session, model: str) -> int | None:
    """Event time of the model's last run that was no person's and was not skipped."""
    return session.scalar(
        select(func.max(RunRow.as_of_ms)).where(
            RunRow.model == model, RunRow.status != "skipped", RunRow.trigger.not_in(BY_HAND)
        )
    )


def asked_elsewhere(session: Session, model: str) -> str | None:
    """Id of the request to whoever trains the model elsewhere that no new version has answered yet."""
    return session.scalar(select(RunRow.run_id).where(RunRow.model == model, RunRow.status == ASKED))


def accept(session: Session, request: RetrainRequest, *, skipped: str | None = None, elsewhere: bool = False) -> str:
    """Write the run of a request: queued, or skipped with a reason; returns its id.

    `elsewhere`: nothing is queued, the run waits for a new version that somebody else trains.
    """
    now = datetime.now(UTC)
    row = RunRow(
        run_id=run_id_of(request.request_id),
        request_id=request.request_id,
        model=request.model,
        trigger=request.trigger,
        reason=request.reason,
        requested_by=request.requested_by,
        incident_id=request.incident_id,
        project=request.project,
        as_of_ms=to_ms(request.as_of),
        change_ms=None if request.changed_at is None else to_ms(request.changed_at),
        status="skipped" if skipped is not None else ASKED if elsewhere else "queued",
        attempts=0,
        outcome=skipped or ("asked for where the model is trained" if elsewhere else ""),
        created_at=now,
        finished_at=None if skipped is None else now,
    )
    session.add(row)
    session.flush()
    if skipped is not None:
        _tell_skipped(session, row, skipped)
    return row.run_id


# ------------------------------------------------------------------------------------------------ leasing


def waiting(session: Session, now: float) -> str | None:
    """The oldest run that may be taken: queued and due, or left by a worker whose lease expired."""
    due = or_(RunRow.lease_until.is_(None), RunRow.lease_until <= now)
    return session.scalar(
        select(RunRow.run_id)
        .where(RunRow.status.in_(("queued", "running")), due)
        .order_by(RunRow.created_at, RunRow.run_id)
        .limit(1)
    )


def lease(session: Session, run_id: str, owner: str, *, now: float, seconds: float) -> bool:
    """Take a run; whether this worker was first."""
    taken = session.execute(
        update(RunRow)
        .where(
            RunRow.run_id == run_id,
            RunRow.status.in_(("queued", "running")),
            or_(RunRow.lease_until.is_(None), RunRow.lease_until <= now),
        )
        .values(status="running", lease_owner=owner, lease_until=now + seconds, attempts=RunRow.attempts + 1)
    )
    return _changed(taken)


def renew(session: Session, run_id: str, owner: str, *, now: float, seconds: float) -> bool:
    """Hold on to a run; False when it is no longer this worker's."""
    return _changed(session.execute(update(RunRow).where(_held(run_id, owner)).values(lease_until=now + seconds)))


def held(session: Session, run_id: str, owner: str) -> RunRow:
    """The run, while this worker holds it.

    Raises
    ------
    ConflictError
        It is no longer this worker's.
    """
    row = session.scalar(select(RunRow).where(_held(run_id, owner)))
    if row is None:
        raise ConflictError("another worker took the run over", where=f"run {run_id}")
    return row


def give_back(session: Session, run_id: str, owner: str, why: str, *, now: float) -> bool:
    """After a failed attempt: queue the run again, or fail it after the last; whether it will be tried again."""
    row = session.scalar(select(RunRow).where(_held(run_id, owner)))
    if row is None:
        return False
    if row.attempts >= MAX_ATTEMPTS:
        _fail(session, row, f"{why} (attempt {row.attempts} of {MAX_ATTEMPTS})")
        return False
    row.status, row.lease_owner, row.lease_until = "queued", None, now + RETRY_S * row.attempts
    row.outcome = why
    return True


def _held(run_id: str, owner: str) -> Any:
    return and_(RunRow.run_id == run_id, RunRow.status == "running", RunRow.lease_owner == owner)


def _changed(result: Any) -> bool:
    return bool(result.rowcount)


# ------------------------------------------------------------------------------- what becomes of a run


def started(session: Session, run_id: str, owner: str) -> None:
    """Tell that the run trains. A second attempt tells the same event again. Raises `ConflictError`."""
    row = held(session, run_id, owner)
    if row.started_at is None:
        row.started_at = datetime.now(UTC)
    _tell(
        session,
        row,
        RunStarted(
            event_id=derived_id(run_id, "started"),
            model=row.model,
            run_id=run_id,
            at=utc(row.as_of_ms),
            trigger=row.trigger,
            reason=row.reason,
        ),
    )


def skip(session: Session, run_id: str, owner: str, why: str) -> None:
    """End a run before it trained. Raises `ConflictError`."""
    row = held(session, run_id, owner)
    _end(row, "skipped", why)
    _tell_skipped(session, row, why)


def fail(session: Session, run_id: str, owner: str, why: str) -> None:
    """End a run that cannot succeed. Raises `ConflictError`."""
    _fail(session, held(session, run_id, owner), why)


def submitted(
    session: Session, run_id: str, owner: str, *, version: int, rows: int, reason: str, report: dict[str, Any]
) -> None:
    """The version is registered; the registry has to decide. Raises `ConflictError`."""
    row = held(session, run_id, owner)
    row.status, row.lease_owner, row.lease_until = "submitted", None, None
    row.version, row.rows, row.outcome, row.report = version, rows, reason, report
    row.finished_at = datetime.now(UTC)


def decided(session: Session, model: str, version: int, decision: Decision) -> bool:
    """Take in the registry's decision; whether it ended a run.

    Decisions that come later (a person approves, a roll-back) are kept with the run; its end was told already.
    """
    row = session.scalar(select(RunRow).where(RunRow.model == model, RunRow.version == version))
    if row is None or row.status not in ("submitted", "finished") or row.decision == decision:
        return False
    if row.status == "finished":
        row.decision = decision if row.decision != "initial" or decision == "rolled-back" else row.decision
        return False
    row.decision = decision
    _end(row, "finished", row.outcome)
    _tell_finished(session, row, version, decision)
    return True


def answered(session: Session, model: str, version: int, why: str, *, at: datetime) -> bool:
    """A new version of a model that is trained elsewhere appeared: the run that waited for it ends; whether one did.

    `at`: event time of its first prediction. There is no order between topics: what was there before the request is
    no answer to it, whenever it is heard of.
    """
    row = session.scalar(select(RunRow).where(RunRow.model == model, RunRow.status == ASKED))
    if row is None or to_ms(at) <= row.as_of_ms:
        return False
    row.version, row.rows, row.decision = version, 0, "promoted"
    _end(row, "finished", why)
    _tell_finished(session, row, version, "promoted")
    return True


def learnt(session: Session, run_id: str, owner: str, *, version: int | None, rows: int, why: str) -> None:
    """A run that learnt a reference ends. Raises `ConflictError`."""
    row = held(session, run_id, owner)
    row.version, row.rows, row.decision = version, rows, "initial"
    _end(row, "finished", why)
    _tell_finished(session, row, version, "initial")


def undecided(session: Session, before: datetime) -> list[str]:
    """Runs whose version was submitted before `before` without a decision since."""
    return list(
        session.scalars(
            select(RunRow.run_id)
            .where(RunRow.status == "submitted", RunRow.finished_at < before)
            .order_by(RunRow.run_id)
        )
    )


def give_up(session: Session, run_id: str, why: str) -> None:
    """Fail a submitted run: the registry refused the command, or does not answer."""
    row = session.scalar(select(RunRow).where(RunRow.run_id == run_id, RunRow.status == "submitted"))
    if row is not None:
        _fail(session, row, why)


def _fail(session: Session, row: RunRow, why: str) -> None:
    row.decision = "failed"
    _end(row, "failed", why)
    event = RunFailed(
        event_id=derived_id(row.run_id, "failed"), model=row.model, run_id=row.run_id, at=utc(row.as_of_ms), reason=why
    )
    _tell(session, row, event)


def _end(row: RunRow, status: str, why: str) -> None:
    row.status, row.outcome = status, why
    row.lease_owner, row.lease_until, row.finished_at = None, None, datetime.now(UTC)


def _tell_finished(session: Session, row: RunRow, version: int | None, decision: Decision) -> None:
    event = RunFinished(
        event_id=derived_id(row.run_id, "finished"),
        model=row.model,
        run_id=row.run_id,
        at=utc(row.as_of_ms),
        version=version,
        rows=row.rows or 0,
        decision=decision,
        reason=row.outcome,
        report=row.report or {},
    )
    _tell(session, row, event)


def _tell_skipped(session: Session, row: RunRow, why: str) -> None:
    event = RunSkipped(
        event_id=derived_id(row.run_id, "skipped"),
        model=row.model,
        run_id=row.run_id,
        at=utc(row.as_of_ms),
        trigger=row.trigger,
        reason=why,
    )
    _tell(session, row, event)


def _tell(session: Session, row: RunRow, event: TrainingEvent) -> None:
    enqueue(session, AGENT, TRAINING_EVENTS, row.model, event, event.event_id, utc(row.as_of_ms))
