"""Everything that is recorded of one version, put together from database and artifact store."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from agents.registry.card import card
from agents.registry.sbom import sbom
from agents.registry.service import Registry
from agents.registry.tables import ApprovalRow, AuditRow
from agents.registry.views import VersionInfo
from agents.retraining.lock import Lock, read
from schemas.errors import ArtifactError, NotFoundError
from schemas.reference import ReferenceStatistics

TOLD = ("principal", "authenticated", "comment", "reason", "allowed_types", "consented")
"""What an event says of who did it, why, and what the version's file may hold."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A version's record.

    `history`: its events as the audit has them, with what `TOLD` names of each. `lock`: the environment in full, None
    where none was recorded.
    """

    version: VersionInfo
    specification: str
    lock: Lock | None
    approvals: list[dict[str, Any]]
    history: list[dict[str, Any]]


def record(registry: Registry, session: Session, model: str, version: int) -> Record:
    """The record of a version. Raises `NotFoundError`, `ArtifactError`."""
    info = registry.version(session, model, version)
    mine = (ApprovalRow.model == model, ApprovalRow.version == version)
    approvals = session.scalars(select(ApprovalRow).where(*mine).order_by(ApprovalRow.at))
    events = session.scalars(
        select(AuditRow).where(AuditRow.model == model, AuditRow.version == version).order_by(AuditRow.epoch)
    )
    lock = info.environment.get("lock")
    return Record(
        version=info,
        specification=registry.specification_text(session, info.specification),
        lock=read(registry.artifacts, lock) if lock is not None else None,
        approvals=[{"actor": row.actor, "at": row.at, "comment": row.comment} for row in approvals],
        history=[
            {"epoch": row.epoch, "at": row.recorded_at, "actor": row.actor, "action": row.action, **_told(row.event)}
            for row in events
        ],
    )


def _told(event: str) -> dict[str, Any]:
    said = msgspec.json.decode(event)
    told = said if isinstance(said, dict) else {}
    return {name: told[name] for name in TOLD if told.get(name) not in (None, "")}


def files(registry: Registry, session: Session, model: str, version: int) -> dict[str, bytes]:
    """A version's papers by file name: record, model card with plots, bill of materials, specification, code, diff.

    Raises
    ------
    NotFoundError, ArtifactError
    """
    found = record(registry, session, model, version)
    info = found.version
    spec = registry.specification(session, model, version)
    papers = {name: text.encode() for name, text in card(info, spec, _reference(registry, info)).items()}
    papers["record.json"] = _pretty(found)
    papers["driftline.toml"] = found.specification.encode()
    if found.lock is not None:
        papers["sbom.cdx.json"] = _pretty(sbom(info, found.lock))
    for name, key in (("code.tar", "artifact"), ("dirty.diff", "diff")):
        if sha := info.code.get(key):
            papers[name] = registry.artifacts.get(str(sha))
    return papers


def bill(registry: Registry, session: Session, model: str, version: int) -> dict[str, Any]:
    """The bill of materials of a version.

    Raises
    ------
    NotFoundError
        No such version, or it records no lock.
    """
    found = record(registry, session, model, version)
    if found.lock is None:
        raise NotFoundError(
            "records no lock, so no packages are known",
            where=f"{model} version {version}",
            remedy="versions that are trained from now on do",
        )
    return sbom(found.version, found.lock)


def _reference(registry: Registry, info: VersionInfo) -> ReferenceStatistics | None:
    """Reference statistics, for the plots; None where they are of another release."""
    try:
        return msgspec.json.decode(registry.artifacts.get(info.reference), type=ReferenceStatistics)
    except (msgspec.MsgspecError, ArtifactError):
        return None


def _pretty(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2) + b"\n"
