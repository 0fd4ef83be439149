"""What the registry's tables say, held against the audit: a version that was edited behind its back is found.

The chain proves the audit. What is asked every day is answered from the tables, and whoever may write one may write the
other: the event that registered a version carries a hash of its record, and everything that was decided (stages,
aliases, questions and approvals, reviews, tags, flags, erasures) follows from the events.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import msgspec
from sqlalchemy import and_, exists, select
from sqlalchemy.orm import Session

from agents.registry.audit import PAGE, AuditVerdict
from agents.registry.comparing import Comparison
from agents.registry.expected import Heard
from agents.registry.fixed import record_hash
from agents.registry.logic import spans, standing
from agents.registry.search import event_of
from agents.registry.standing import spans_of
from agents.registry.tables import (
    ApprovalRequestRow,
    ApprovalRow,
    AuditRow,
    FlagRow,
    LedgerRow,
    ModelRow,
    ReviewRow,
    SpecificationRow,
    TagRow,
    VersionRow,
)
from agents.subjects.tables import SubjectErasureRow
from schemas.events import ModelRegistered, SubjectErased, VersionObserved, VersionRegistered

MODELS_AT_ONCE = 200
_NEW_VERSION = (VersionRegistered.__name__, VersionObserved.__name__)


def compare_tables(session: Session, verdict: AuditVerdict) -> AuditVerdict:
    """Compare versions and what was decided about them with the audit.

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
    checks = (
        *(_specifications(session), _records(session), _unheard(session), _strangers(session)),
        *(_erasures(session, verdict), _states(session, verdict)),
    )
    problem = next(chain.from_iterable(checks), None)
    return msgspec.structs.replace(verdict, problem=problem)


def _records(session: Session) -> Iterator[str]:
    """Versions whose record is not the one that was registered."""
    mine = and_(VersionRow.model == AuditRow.model, VersionRow.version == AuditRow.version)
    statement = (
        select(AuditRow.epoch, AuditRow.model, AuditRow.version, AuditRow.event, VersionRow)
        .outerjoin(VersionRow, mine)
        .where(AuditRow.action.in_(_NEW_VERSION))
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
        AuditRow.action.in_(_NEW_VERSION),
    )
    for model, version in session.execute(select(VersionRow.model, VersionRow.version).where(~heard).limit(1)):
        yield f"version {version} of {model} is in no row of the audit"


def _specifications(session: Session) -> Iterator[str]:
    """Specifications whose text is not the one that versions name by its hash."""
    rows = session.execute(select(SpecificationRow.sha, SpecificationRow.text), execution_options={"yield_per": PAGE})
    for sha, text in rows:
        if hashlib.sha256(text.encode()).hexdigest() != sha:
            yield f"specification {sha} was edited: its text has another hash"


def _strangers(session: Session) -> Iterator[str]:
    """Rows about models that there are not."""
    for kind, what in ((ApprovalRequestRow, "a question"), (ApprovalRow, "an approval"), (ReviewRow, "a review"),
                       (TagRow, "a tag"), (FlagRow, "a flag")):  # fmt: skip
        known = exists().where(ModelRow.name == kind.model)
        for model in session.scalars(select(kind.model).where(~known).limit(1)):
            yield f"{what} of {model} is in no row of the audit"


def _erasures(session: Session, verdict: AuditVerdict) -> Iterator[str]:
    """People who were erased, and the rows that say so."""
    told = select(AuditRow.epoch, AuditRow.recorded_at, AuditRow.event).where(
        AuditRow.action == SubjectErased.__name__, AuditRow.epoch <= verdict.rows
    )
    expected = Counter((msgspec.json.decode(row.event)["subject"], *row[:2]) for row in session.execute(told))
    kept = select(SubjectErasureRow.subject, SubjectErasureRow.epoch, SubjectErasureRow.at)
    found = Counter((row.subject, row.epoch, row.at) for row in session.execute(kept) if row.epoch <= verdict.rows)
    for _, epoch, _ in sorted(((expected - found) + (found - expected)), key=itemgetter(1)):
        yield f"the erasure of row {epoch} was edited, or one side does not know it"


def _recorded_since(session: Session) -> int | None:
    """Epoch of the first event that carries the hash of a record."""
    rows = session.execute(
        select(AuditRow.epoch, AuditRow.event).where(AuditRow.action.in_(_NEW_VERSION)).order_by(AuditRow.epoch),
        execution_options={"yield_per": PAGE},
    )
    return next((epoch for epoch, event in rows if "record" in msgspec.json.decode(event)), None)


def _states(session: Session, verdict: AuditVerdict) -> Iterator[str]:
    """Models of whom anything, now or at any time, is not what their events add up to."""
    told_of_models = select(AuditRow.model).where(
        AuditRow.action == ModelRegistered.__name__, AuditRow.epoch <= verdict.rows
    )
    names = sorted({*session.scalars(select(ModelRow.name)), *session.scalars(told_of_models)})
    recorded_since = _recorded_since(session)
    for start in range(0, len(names), MODELS_AT_ONCE):
        chunk = names[start : start + MODELS_AT_ONCE]
        # One statement: what it returns belongs together, also where others write meanwhile.
        rows = session.execute(
            select(ModelRow.name, ModelRow.epoch, ModelRow.champion, ModelRow.challenger)
            .add_columns(VersionRow.version, VersionRow.stage)
            .outerjoin(VersionRow, VersionRow.model == ModelRow.name)
            .where(ModelRow.name.in_(chunk))
        ).all()
        heard = _heard(session, chunk, verdict.rows)
        told = {name: spans(one.event for one in events) for name, events in heard.items()}
        compared = Comparison(session, chunk, heard, recorded_since)
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
        moving = {row.name for row in rows if verdict.rows < row.epoch <= latest}
        for name in chunk:
            if name not in moving:
                yield from compared.problems(name)


def _heard(session: Session, models: Sequence[str], epoch: int) -> dict[str, list[Heard]]:
    """Events of some models and when they were recorded, in order."""
    found: dict[str, list[Heard]] = {name: [] for name in models}
    statement = (
        select(AuditRow.model, AuditRow.recorded_at, AuditRow.event)
        .where(AuditRow.model.in_(models), AuditRow.epoch <= epoch)
        .order_by(AuditRow.epoch)
    )
    for model, at, event in session.execute(statement):
        found[model].append(Heard(at, event_of(event)))
    return found
