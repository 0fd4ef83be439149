"""What the registry's tables say, held against the audit: a version that was edited behind its back is found.

The chain proves the audit. What is asked every day is answered from the tables, and whoever may write one may write the
other: the event that registered a version carries a hash of its record, and stages and aliases follow from the events.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Any

import msgspec
from sqlalchemy import and_, exists, select
from sqlalchemy.orm import Session

from agents.registry.audit import PAGE, AuditVerdict
from agents.registry.logic import Span, spans, standing
from agents.registry.search import told_of
from agents.registry.standing import spans_of
from agents.registry.tables import AuditRow, LedgerRow, ModelRow, VersionRow
from schemas.codec import iso

FIXED = (
    *("model", "version", "artifact", "reference", "specification", "code", "dataset", "environment", "parameters"),
    *("seed", "parent", "run_id", "report", "actor", "at", "registered_at", "registered_epoch", "external"),
    "allowed_types",
)
"""Columns of a version that never change."""
MODELS_AT_ONCE = 200


def record_hash(row: VersionRow) -> str:
    """SHA-256 over all of a version that never changes: a JSON object, keys sorted, NaN and infinities as null."""
    found = {name: getattr(row, name) for name in FIXED}
    found |= {"at": iso(row.at), "registered_at": iso(row.registered_at)}
    # Twice: as it was given and as the database returns it have to be the same text.
    plain = msgspec.json.decode(msgspec.json.encode(found, order="sorted"))
    return hashlib.sha256(msgspec.json.encode(plain, order="sorted")).hexdigest()


def compare_tables(session: Session, verdict: AuditVerdict) -> AuditVerdict:
    """Compare versions and aliases with the audit.

    Parameters
    ----------
    verdict : AuditVerdict
        Of `verify_audit`; returned as it is where it names a problem.

    Notes
    -----
    Versions of releases before the hash are compared by artifact and parent. What changes while this reads is left to
    the next time.
    """
    if verdict.problem is not None:
        return verdict
    problem = next(_records(session), None) or next(_unheard(session), None) or next(_states(session, verdict), None)
    return msgspec.structs.replace(verdict, problem=problem)


def _records(session: Session) -> Iterator[str]:
    """Versions whose record is not the one that was registered."""
    mine = and_(VersionRow.model == AuditRow.model, VersionRow.version == AuditRow.version)
    statement = (
        select(AuditRow.epoch, AuditRow.model, AuditRow.version, AuditRow.event, VersionRow)
        .outerjoin(VersionRow, mine)
        .where(AuditRow.action.in_(["VersionRegistered", "VersionObserved"]))
        .order_by(AuditRow.epoch)
    )
    rows: Iterable[Any] = session.execute(statement, execution_options={"yield_per": PAGE})
    for epoch, model, version, event, row in rows:
        told: dict[str, Any] = msgspec.json.decode(event)
        where = f"version {version} of {model}"
        if row is None:
            yield f"{where} is missing: row {epoch} registered it"
        elif "record" in told:
            if told["record"] != record_hash(row):
                yield f"{where} was edited: row {epoch} registered another record"
        elif (told.get("artifact", ""), told["parent"]) != (row.artifact, row.parent):
            yield f"{where} was edited: row {epoch} registered another artifact or parent"


def _unheard(session: Session) -> Iterator[str]:
    """Versions that nobody registered."""
    heard = exists().where(
        AuditRow.model == VersionRow.model,
        AuditRow.version == VersionRow.version,
        AuditRow.action.in_(["VersionRegistered", "VersionObserved"]),
    )
    for model, version in session.execute(select(VersionRow.model, VersionRow.version).where(~heard).limit(1)):
        yield f"version {version} of {model} is in no row of the audit"


def _states(session: Session, verdict: AuditVerdict) -> Iterator[str]:
    """Models whose aliases or stages, now or at any time, are not what their events add up to."""
    names = list(session.scalars(select(ModelRow.name).order_by(ModelRow.name)))
    for start in range(0, len(names), MODELS_AT_ONCE):
        chunk = names[start : start + MODELS_AT_ONCE]
        # One statement: what it returns belongs together, also where others write meanwhile.
        rows = session.execute(
            select(ModelRow.name, ModelRow.epoch, ModelRow.champion, ModelRow.challenger)
            .add_columns(VersionRow.version, VersionRow.stage)
            .outerjoin(VersionRow, VersionRow.model == ModelRow.name)
            .where(ModelRow.name.in_(chunk))
        ).all()
        told: dict[str, list[Span]] = {name: [] for name in chunk}
        told |= {name: spans(events) for name, events in told_of(session, chunk, verdict.rows)}
        kept = spans_of(session, chunk, verdict.rows)
        latest = session.scalar(select(LedgerRow.epoch).where(LedgerRow.id == 1)) or 0
        stages: dict[str, dict[int, str]] = {name: {} for name in chunk}
        for row in rows:
            if row.version is not None:
                stages[row.name][row.version] = row.stage
        for name in chunk:
            if kept[name] != told[name]:
                one = min(set(kept[name]) ^ set(told[name]), key=lambda span: span.since)
                yield f"{name}: search says another history than the audit, of version {one.version} ({one.standing})"
        for name, epoch, champion, challenger in sorted({tuple(row[:4]) for row in rows}, key=itemgetter(0)):
            if verdict.rows < epoch <= latest:
                continue  # decided on since the chain was walked
            history = standing((span.standing, span.version) for span in told[name] if span.until is None)
            if (champion, challenger) != (history.champion, history.challenger):
                yield (
                    f"{name}: champion {champion} and challenger {challenger} in the registry, "
                    f"{history.champion} and {history.challenger} by the audit"
                )
            differ = sorted(v for v, stage in stages[name].items() if history.stages.get(v) != stage)
            if differ:
                said = history.stages.get(differ[0])
                yield f"version {differ[0]} of {name} is {stages[name][differ[0]]} in the registry, {said} by the audit"
