"""The audit: its chain verified, compared with what was published, exported, and an export verified by itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Row, select
from sqlalchemy.orm import Session

from agents.registry.ledger import row_hash
from agents.registry.logic import GENESIS, chained
from agents.registry.tables import AuditRow, LedgerRow
from schemas.codec import iso

PAGE = 1_000
_TABLE: Any = AuditRow.__table__
_COLUMNS = tuple(_TABLE.c)


class AuditVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a verification found: how many rows hold, and the first problem in words.

    `published`: events on the topic that were compared; None where none were.
    """

    rows: int
    head: str
    problem: str | None = None
    published: int | None = None


class Published(msgspec.Struct, frozen=True, gc=False):
    """An event as it lies on `registry-events`: its epoch, its bytes, and the hash that came with it (if any)."""

    epoch: int
    event: bytes
    hash: str | None


def verify_audit(session: Session, *, page: int = PAGE) -> AuditVerdict:
    """Walk the whole chain: any edited, removed, inserted or reordered row is found.

    Notes
    -----
    Whoever can write the database can also forge a new chain from some row on; what was published earlier
    (`compare_published`) is what such a forgery cannot match.
    """
    previous, epoch = GENESIS, 0
    for row in _audit_rows(session, page):
        if row.epoch != epoch + 1:
            return AuditVerdict(rows=epoch, head=previous, problem=f"row {epoch + 1} is missing")
        if row.previous_hash != previous:
            return AuditVerdict(rows=epoch, head=previous, problem=f"row {row.epoch} does not follow row {epoch}")
        if row_hash(row) != row.hash:
            return AuditVerdict(rows=epoch, head=previous, problem=f"row {row.epoch} was edited")
        previous, epoch = row.hash, row.epoch
    ledger = session.get(LedgerRow, 1)
    head, last = (ledger.head, ledger.epoch) if ledger is not None else (GENESIS, 0)
    if (epoch, previous) != (last, head):
        problem = f"the newest rows are missing: the chain ends at {epoch}, the ledger is at {last}"
        return AuditVerdict(rows=epoch, head=previous, problem=problem)
    return AuditVerdict(rows=epoch, head=previous)


def compare_published(session: Session, verdict: AuditVerdict, events: Iterable[Published]) -> AuditVerdict:
    """Compare the rows with the events of the topic `registry-events`, in any order, repeats included.

    Parameters
    ----------
    verdict : AuditVerdict
        Of `verify_audit`; returned as it is where it names a problem.
    events : iterable of Published

    Notes
    -----
    An event without a hash (sent by a release before hashes were) is compared by its bytes.
    """
    if verdict.problem is not None:
        return verdict
    count = 0
    for event in events:
        count += 1
        row = session.get(AuditRow, event.epoch)
        if row is None:
            problem = f"row {event.epoch} was published and is missing"
        elif row.event.encode() != event.event or (event.hash is not None and event.hash != row.hash):
            problem = f"row {event.epoch} is not what was published"
        else:
            session.expunge(row)
            continue
        return msgspec.structs.replace(verdict, rows=event.epoch - 1, problem=problem, published=count)
    return msgspec.structs.replace(verdict, published=count)


def _audit_rows(session: Session, page: int, *conditions: Any) -> Iterator[Row[Any]]:
    # Plain rows: objects of half a million would take twice as long.
    statement = select(*_COLUMNS).where(*conditions).order_by(AuditRow.epoch)
    yield from session.execute(statement, execution_options={"yield_per": page})


# ------------------------------------------------------------------------------------------------------ export


class AuditLine(msgspec.Struct, frozen=True, kw_only=True):
    """One row as a line of an export. `event`: the very bytes that are hashed and were published, which are JSON.

    ``hash`` is the SHA-256 of the JSON object with the other fields (``event`` as a text, ``previous_hash`` under the
    name ``previous``), keys sorted, no spaces, UTF-8.
    """

    epoch: int
    recorded_at: str
    actor: str
    action: str
    model: str
    version: int | None
    event: msgspec.Raw
    previous_hash: str
    hash: str


def exported(
    session: Session, *, model: str | None = None, since: datetime | None = None, until: datetime | None = None
) -> Iterator[bytes]:
    """Rows as JSON lines, in order, without line ends.

    Parameters
    ----------
    model : str, optional
        Only rows of this model. Gaps cannot be told from removed rows then.
    since, until : datetime, optional
        Only rows recorded from then on, and before then.
    """
    conditions = [
        *([] if model is None else [AuditRow.model == model]),
        *([] if since is None else [AuditRow.recorded_at >= since]),
        *([] if until is None else [AuditRow.recorded_at < until]),
    ]
    for row in _audit_rows(session, PAGE, *conditions):
        yield msgspec.json.encode(
            AuditLine(
                epoch=row.epoch,
                recorded_at=iso(row.recorded_at),
                actor=row.actor,
                action=row.action,
                model=row.model,
                version=row.version,
                event=msgspec.Raw(row.event.encode()),
                previous_hash=row.previous_hash,
                hash=row.hash,
            )
        )


def verify_export(lines: Iterable[bytes]) -> AuditVerdict:
    """Verify an export by itself, without a database. One that was cut by model or time holds as far as it is whole.

    Notes
    -----
    Edited rows are always found; removed ones where the rows around them are there. Compare ``head`` with what was
    published.
    """
    previous: str | None = None
    epoch = count = 0
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            line = msgspec.json.decode(text, type=AuditLine)
        except msgspec.DecodeError as error:
            return AuditVerdict(rows=count, head=previous or GENESIS, problem=f"line {number} cannot be read: {error}")
        fields = {
            "epoch": line.epoch,
            "recorded_at": line.recorded_at,
            "actor": line.actor,
            "action": line.action,
            "model": line.model,
            "version": line.version,
            "event": bytes(line.event).decode(),
        }
        problem = None
        if chained(line.previous_hash, fields) != line.hash:
            problem = f"row {line.epoch} was edited"
        elif line.epoch <= epoch:
            problem = f"row {line.epoch} stands after row {epoch}"
        elif line.epoch == epoch + 1 and line.previous_hash != (GENESIS if epoch == 0 else previous):
            problem = f"row {line.epoch} does not follow row {epoch}"
        if problem is not None:
            return AuditVerdict(rows=count, head=previous or GENESIS, problem=problem)
        previous, epoch, count = line.hash, line.epoch, count + 1
    return AuditVerdict(rows=count, head=previous or GENESIS)
