"""An account of one version: what it was made of, who let it, when it was live. From registry and audit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from agents.registry.service import Registry
from agents.registry.tables import ApprovalRequestRow, AuditRow
from agents.registry.views import VersionInfo
from agents.retraining.lock import read
from schemas.codec import decode
from schemas.errors import ArtifactError
from schemas.events import (
    FLEET,
    AnyRegistryEvent,
    ApprovalRequested,
    ModelPromoted,
    ModelRolledBack,
    RegistryEvent,
    SubjectErased,
    VersionApproved,
    VersionObserved,
    VersionRejected,
)
from schemas.specification import Specification, parse

CHANGES = ("ModelPromoted", "ModelRolledBack", "VersionObserved")
"""Events that make a version champion."""


class Deed(msgspec.Struct, frozen=True, kw_only=True):
    """Something that somebody did to a version.

    `at`: the system's clock. `actor`: the name that was given; `principal`: who gave it, `authenticated`: whether a
    secret proved it (None: a release recorded it that did not ask). `consented`: types that an approval agreed to.
    """

    epoch: int
    what: str
    at: datetime
    actor: str
    principal: str | None = None
    authenticated: bool | None = None
    credential: str | None = None
    text: str = ""
    consented: list[str] = []


class Reign(msgspec.Struct, frozen=True, kw_only=True):
    """A time for which a version was champion, by the system's clock. `until` None: it is.

    `began`, `ended`: the events; `event_time` and `event_time_until`: what event time these name, where they do.
    `successor`: who took over, and `how` ended it: ``promoted``, ``rolled-back`` or ``observed``.
    """

    version: int
    since: datetime
    until: datetime | None
    began: Deed
    event_time: datetime
    predecessor: int | None = None
    successor: int | None = None
    how: str | None = None
    ended: Deed | None = None
    event_time_until: datetime | None = None


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """What is recorded of one version, in the words of the registry.

    `policy`: ``mode``, ``approvers``, ``four_eyes``, ``expires`` of its specification. `gate`: ``passed``, ``reason``
    and, of the comparison with the champion, ``champion_version``, ``primary``, ``cost``, ``segments``,
    ``segments_not_judged``, ``remarks``. `rebuild`: the command that makes it again, or None and `why_not`.
    `erased`: people whose rows it learnt from and who were erased since.
    """

    model: str
    version: int
    external: str | None
    stage: str
    decision: str | None
    reason: str
    flags: list[str]
    live: list[Reign]
    registered: Deed
    requested: Deed | None
    approvals: list[Deed]
    rejected: Deed | None
    policy: dict[str, Any]
    gate: dict[str, Any]
    data: dict[str, Any]
    code: dict[str, Any]
    environment: dict[str, Any]
    artifact: str
    allowed_types: list[str]
    seed: int
    parent: int | None
    run: str | None
    origin: dict[str, Any] | None
    rebuild: str | None
    why_not: str
    erased: int = 0


def reigns(session: Session, model: str) -> list[Reign]:
    """Every time that a version of a model was champion, in order."""
    statement = select(AuditRow).where(AuditRow.model == model, AuditRow.action.in_(CHANGES)).order_by(AuditRow.epoch)
    found: list[Reign] = []
    for row in session.scalars(statement):
        event = _event(row)
        assert isinstance(event, ModelPromoted | ModelRolledBack | VersionObserved)
        deed = _deed(row, event)
        before = found[-1] if found else None
        if before is not None:
            found[-1] = msgspec.structs.replace(
                before,
                until=row.recorded_at,
                successor=event.version,
                ended=deed,
                event_time_until=event.at,
                how={"ModelPromoted": "promoted", "ModelRolledBack": "rolled-back"}.get(deed.what, "observed"),
            )
        found.append(
            Reign(
                version=event.version,
                since=row.recorded_at,
                until=None,
                began=deed,
                event_time=event.at,
                predecessor=None if before is None else before.version,
            )
        )
    return found


def account(
    registry: Registry, session: Session, model: str, version: int, ruled: Sequence[Reign] | None = None
) -> Account:
    """The account of a version.

    Parameters
    ----------
    ruled : sequence of Reign, optional
        `reigns` of the model, where they are at hand.

    Raises
    ------
    NotFoundError
    """
    info = registry.version(session, model, version)
    spec = parse(registry.specification_text(session, info.specification))
    deeds = _deeds(session, model, version)
    watched = info.external is not None
    registered = [deed for deed in deeds if deed.what in {"VersionRegistered", "VersionObserved"}]
    asked = _newest(deeds, ApprovalRequested)
    rebuild, why_not = _again(info)
    return Account(
        model=model,
        version=version,
        external=info.external,
        stage=info.stage,
        decision=info.decision,
        reason=info.reason,
        flags=[str(one) for one in info.flags],
        live=[one for one in (reigns(session, model) if ruled is None else ruled) if one.version == version],
        registered=registered[0]
        if registered
        else Deed(epoch=info.registered_epoch, what="VersionRegistered", at=info.registered_at, actor=info.actor),
        requested=asked,
        approvals=_counted(deeds),
        rejected=_newest(deeds, VersionRejected),
        policy={} if watched else _policy(session, spec, info),
        gate=gate_of(info),
        data=_data(info),
        code={name: info.code[name] for name in ("tree", "commit", "diff") if info.code.get(name)},
        environment=_environment(registry, info),
        artifact=info.artifact,
        allowed_types=info.allowed_types,
        seed=info.seed,
        parent=info.parent,
        run=info.run_id,
        origin=info.parameters.get("imported"),
        rebuild=rebuild,
        why_not=why_not,
        erased=_erased(session, model, version),
    )


def _event(row: AuditRow) -> RegistryEvent:
    found: RegistryEvent = decode(row.event.encode(), AnyRegistryEvent)  # type: ignore[arg-type]
    return found


def _deed(row: AuditRow, event: RegistryEvent) -> Deed:
    def said(name: str) -> Any:
        value = getattr(event, name, None)
        return None if value is msgspec.UNSET else value

    return Deed(
        epoch=row.epoch,
        what=row.action,
        at=row.recorded_at,
        actor=row.actor,
        principal=said("principal"),
        authenticated=said("authenticated"),
        credential=said("credential"),
        text=said("comment") or said("reason") or "",
        consented=said("consented") or [],
    )


def _deeds(session: Session, model: str, version: int) -> list[Deed]:
    mine = (AuditRow.model == model, AuditRow.version == version)
    rows = session.scalars(select(AuditRow).where(*mine).order_by(AuditRow.epoch))
    return [_deed(row, _event(row)) for row in rows]


def _newest(deeds: Iterable[Deed], kind: type[RegistryEvent]) -> Deed | None:
    return next((deed for deed in reversed(list(deeds)) if deed.what == kind.__name__), None)


def _counted(deeds: Iterable[Deed]) -> list[Deed]:
    """Approvals since the question that they answer: what a lapsed one was answered with counts no more."""
    found: list[Deed] = []
    for deed in deeds:
        if deed.what in {"ApprovalRequested", "ApprovalLapsed"}:
            found = []
        elif deed.what == VersionApproved.__name__:
            found.append(deed)
    return found


def _policy(session: Session, spec: Specification, info: VersionInfo) -> dict[str, Any]:
    """The approval policy of its specification; of a question that was asked, as it was asked."""
    said = {
        "mode": spec.approval.mode,
        "approvers": spec.approval.approvers,
        "four_eyes": spec.approval.four_eyes,
        "expires": spec.approval.expires,
    }
    mine = (ApprovalRequestRow.model == info.model, ApprovalRequestRow.version == info.version)
    row = session.scalars(select(ApprovalRequestRow).where(*mine).order_by(ApprovalRequestRow.id.desc())).first()
    return said if row is None else {**said, "mode": "manual", "approvers": row.approvers, "four_eyes": row.four_eyes}


def gate_of(info: VersionInfo) -> dict[str, Any]:
    """What the gate said of a version, with the numbers; empty where none judged it."""
    report = info.report
    if "passed" not in report:
        return {}
    told = ("champion_version", "compared_rows", "holdout", "primary", "cost", "segments", "segments_not_judged")
    found = {name: report[name] for name in (*told, "reasons", "remarks") if report.get(name)}
    return {"passed": bool(report["passed"]), "reason": info.reason, **found}


def _data(info: VersionInfo) -> dict[str, Any]:
    names = ("name", "rows", "labelled", "first_event", "last_event", "sha256", "registered", "seasons")
    found = {name: info.dataset[name] for name in names if info.dataset.get(name) is not None}
    if (trained := info.parameters.get("trained_rows")) is not None:
        found["trained_rows"] = trained
    if (held := info.parameters.get("heldout_rows")) is not None:
        found["heldout_rows"] = held
    if choice := info.report.get("choice"):
        found["choice"] = choice
    return found


def _environment(registry: Registry, info: VersionInfo) -> dict[str, Any]:
    found = {name: info.environment[name] for name in ("lock", "python") if info.environment.get(name)}
    if "lock" in found:
        try:
            found["packages"] = len(read(registry.artifacts, found["lock"]).packages)
        except ArtifactError as error:
            found["problem"] = error.what
    return found


def _again(info: VersionInfo) -> tuple[str | None, str]:
    if info.external is not None:
        return None, "it is trained and served elsewhere, and only watched here"
    if info.code.get("artifact") is None:
        return None, "it was trained elsewhere: there is no code here to make it again with"
    return f"driftline rebuild {info.model} {info.version}", ""


def _erased(session: Session, model: str, version: int) -> int:
    """How many people were erased since whose rows it learnt from, as far as their events name it."""
    statement = select(AuditRow).where(AuditRow.model == FLEET, AuditRow.action == SubjectErased.__name__)
    found = 0
    for row in session.scalars(statement):
        event = _event(row)
        if isinstance(event, SubjectErased) and version in event.trained.get(model, ()):
            found += 1
    return found
