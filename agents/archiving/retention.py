"""How long the archive keeps what: which files are old enough to go, and which a version still needs.

Deciding is separate from doing: `plan` reads, `expire` removes from the manifest, leaves a tombstone for every file and
one row in the audit; the bytes go later, as those of merged files do.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, func, or_, select
from sqlalchemy.orm import Session

from agents.access.logic import Principal
from agents.archiving.manifest import TopicPartition
from agents.archiving.tables import ArchiveExpiredRow, ArchiveFileRow, ArchiveRetiredRow
from agents.config import Retention
from agents.registry.ledger import Ledger
from agents.registry.tables import ModelRow, SpecificationRow, VersionRow
from schemas.codec import derived_id, to_ms, utc
from schemas.errors import ConflictError
from schemas.events import ArchiveExpired
from schemas.specification import parse
from schemas.topics import GROUND_TRUTH, PREDICTIONS

SHOWN = 5
_OVER = ("rejected", "archived")
_ON_THE_WAY = ("registered", "validated", "approval-requested", "approved")


@dataclass(frozen=True)
class Need:
    """Event times of the archive (inclusive) that a version was made from; labels may be `horizon_ms` older."""

    model: str
    version: int
    from_ms: int
    to_ms: int
    horizon_ms: int

    def __str__(self) -> str:
        return f"{self.model} {self.version}"


@dataclass(frozen=True)
class Plan:
    """What may go, what would but is needed (and by which versions), and the moment it was counted from."""

    now_ms: int
    due: list[ArchiveFileRow] = field(default_factory=list)
    held: list[ArchiveFileRow] = field(default_factory=list)
    by: list[str] = field(default_factory=list)


def reached_ms(session: Session, clock_ms: int) -> int:
    """How far event time has come in the archive; never beyond the clock.

    Notes
    -----
    Replayed history is older than the clock says: counted back from the clock it would go as it comes. The least event
    time of the newest file counts, so that single records from the future move nothing.
    """
    newest = session.scalar(
        select(func.max(ArchiveFileRow.min_event_time_ms)).where(ArchiveFileRow.topic == PREDICTIONS)
    )
    return clock_ms if newest is None else min(clock_ms, newest)


def needs(session: Session, hold: str) -> list[Need]:
    """Parts of the archive that versions were made from.

    Parameters
    ----------
    hold : {"versions", "live", "none"}
        All that are neither rejected nor archived; champions, challengers and what is on the way to it; or none.
    """
    if hold == "none":
        return []
    columns = (VersionRow.model, VersionRow.version, VersionRow.dataset, VersionRow.specification)
    statement = select(*columns).join(ModelRow, ModelRow.name == VersionRow.model)
    if hold == "versions":
        statement = statement.where(VersionRow.stage.not_in(_OVER))
    else:
        alias = or_(*(VersionRow.version == name for name in (ModelRow.champion, ModelRow.challenger, ModelRow.shadow)))
        statement = statement.where(or_(alias, VersionRow.stage.in_(_ON_THE_WAY)))
    horizons: dict[str, int] = {}
    found = []
    for model, version, dataset, sha in session.execute(statement):
        if sha not in horizons:
            text = session.scalar(select(SpecificationRow.text).where(SpecificationRow.sha == sha))
            horizons[sha] = parse(text).revision_horizon_ms if text else 0
        need = need_of(model, version, dataset, horizons[sha])
        if need is not None:
            found.append(need)
    return found


def need_of(model: str, version: int, dataset: Mapping[str, Any], horizon_ms: int) -> Need | None:
    """What a version needs of the archive; None: it was made from a table alone, or keeps its rows itself."""
    archive = dataset.get("archive")
    if not archive or dataset.get("table") is not None:
        return None
    # The window may begin long before the first row that was there, or chosen.
    start = max(_ms(archive["from"]), _ms(dataset["first_event"]))
    return Need(model, version, start, _ms(archive["as_of"]), horizon_ms)


def plan(
    session: Session,
    retention: Retention,
    clock_ms: int,
    *,
    partitions: Collection[TopicPartition] | None = None,
    force: bool = False,
) -> Plan:
    """Files whose newest row is older than their kind is kept for.

    Parameters
    ----------
    partitions : collection, optional
        Look at these only.
    force : bool
        Let go what versions need, too.
    """
    now_ms = reached_ms(session, clock_ms)
    old = []
    for topic, keep_ms in retention.keep_ms.items():
        row = ArchiveFileRow
        statement = select(row).where(row.topic == topic).order_by(row.partition, row.first_offset)
        for file in session.scalars(statement):
            if partitions is None or (file.topic, file.partition) in partitions:
                old += [file] if newest_ms(file) < now_ms - keep_ms else []
    if not old:
        return Plan(now_ms)
    spans = {} if force else _spans(needs(session, retention.hold))
    due: list[ArchiveFileRow] = []
    held: list[ArchiveFileRow] = []
    by: dict[str, None] = {}
    for file in old:
        who = _needed(spans.get(file.topic, []), file)
        (held if who else due).append(file)
        by.update(dict.fromkeys(who))
    return Plan(now_ms, due, held, list(by))


def newest_ms(file: ArchiveFileRow) -> int:
    """When the newest row of a file happened.

    Notes
    -----
    A row from the future is as new as its arrival. Withdrawals carry no time, and undo labels of any age.
    """
    arrived = to_ms(file.created_at)
    return arrived if file.max_event_time_ms is None or file.timeless else min(file.max_event_time_ms, arrived)


def expire(session: Session, files: Sequence[ArchiveFileRow], by: Principal, *, reason: str) -> int:
    """Take files out of the manifest, with tombstones and an audit row; returns how many rows they held.

    Notes
    -----
    Part of the caller's transaction. The bytes are removed once readers who saw the files are gone.

    Raises
    ------
    ConflictError
        One of the files was merged or expired meanwhile: plan again.
    """
    if not files:
        return 0
    ledger = Ledger(session, datetime.now(UTC))
    gone = session.execute(
        delete(ArchiveFileRow)
        .where(ArchiveFileRow.id.in_([file.id for file in files]))
        .execution_options(synchronize_session=False)
    )
    if getattr(gone, "rowcount", 0) != len(files):
        raise ConflictError("the archive changed meanwhile", where="archive", remedy="try again")
    rows = sum(file.rows for file in files)
    topics: dict[str, int] = {}
    for file in files:
        topics[file.topic] = topics.get(file.topic, 0) + file.rows
        session.add(
            ArchiveExpiredRow(
                path=file.path,
                topic=file.topic,
                partition=file.partition,
                first_offset=file.first_offset,
                last_offset=file.last_offset,
                rows=file.rows,
                timeless=file.timeless,
                min_event_time_ms=file.min_event_time_ms,
                max_event_time_ms=file.max_event_time_ms,
                sha256=file.sha256,
                expired_at=ledger.now,
                epoch=ledger.next_epoch,
            )
        )
        session.add(
            ArchiveRetiredRow(path=file.path, topic=file.topic, partition=file.partition, retired_at=ledger.now)
        )
    listed = "\n".join(sorted(f"{file.sha256} {file.path}" for file in files))
    ledger.append(
        ArchiveExpired(
            event_id=derived_id("archive-expired", ledger.next_epoch),
            **ledger.of_all(by),
            files=len(files),
            rows=topics,
            sha256=hashlib.sha256(listed.encode()).hexdigest(),
            reason=reason,
        ),
        None,
    )
    session.flush()
    return rows


def lost(session: Session, need: Need | None) -> tuple[int, datetime] | None:
    """Rows of expired files that a version may have been made from, and when the last of them went; None: none did."""
    if need is None:
        return None
    row = ArchiveExpiredRow
    found = [
        file
        for file in session.scalars(select(row).where(row.topic.in_([PREDICTIONS, GROUND_TRUTH])))
        if _needed(_spans([need])[file.topic], file)
    ]
    return (sum(file.rows for file in found), max(file.expired_at for file in found)) if found else None


def _spans(wanted: Iterable[Need]) -> dict[str, list[tuple[int, int, list[str]]]]:
    """Disjoint spans of event time by topic, in order, and who needs them (the first few)."""
    wanted = list(wanted)
    found: dict[str, list[tuple[int, int, list[str]]]] = {}
    for topic, labels in ((PREDICTIONS, False), (GROUND_TRUTH, True)):
        spans: list[tuple[int, int, list[str]]] = []
        for start, end, who in sorted((n.from_ms - n.horizon_ms * labels, n.to_ms, str(n)) for n in wanted):
            if spans and start <= spans[-1][1]:
                first, last, names = spans[-1]
                spans[-1] = (first, max(last, end), names if len(names) >= SHOWN else [*names, who])
            else:
                spans.append((start, end, [who]))
        found[topic] = spans
    return found


def _needed(spans: Sequence[tuple[int, int, list[str]]], file: ArchiveFileRow | ArchiveExpiredRow) -> list[str]:
    """Who needs a file."""
    if not spans:
        return []
    if file.timeless or file.min_event_time_ms is None or file.max_event_time_ms is None:
        return spans[-1][2]
    at = bisect_right([start for start, _, _ in spans], file.max_event_time_ms) - 1
    return spans[at][2] if at >= 0 and spans[at][1] >= file.min_event_time_ms else []


def _ms(text: str) -> int:
    return to_ms(datetime.fromisoformat(text))


def told(found: Plan) -> dict[str, Any]:
    """A plan as JSON has it."""

    def summed(files: Sequence[ArchiveFileRow]) -> dict[str, Any]:
        topics: dict[str, dict[str, int]] = {}
        for file in files:
            one = topics.setdefault(file.topic, {"files": 0, "rows": 0, "bytes": 0})
            one["files"] += 1
            one["rows"] += file.rows
            one["bytes"] += file.size_bytes
        return topics

    return {
        "counted_from": utc(found.now_ms),
        "expired": summed(found.due),
        "held": summed(found.held),
        "held_for": found.by,
    }
