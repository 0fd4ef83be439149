"""One change of one model: the rows it locks, the steps it takes, the events it leaves. Used by the service only."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
from sqlalchemy import bindparam, delete, select
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from agents.database.outbox import enqueue
from agents.registry import flags, standing
from agents.registry.consent import allowance
from agents.registry.fixed import record_hash
from agents.registry.impact import Packages, index_version
from agents.registry.ledger import AGENT, Ledger
from agents.registry.logic import beyond, check_step, trimmed
from agents.registry.tables import ApprovalRequestRow, ApprovalRow, FlagRow, ModelRow, VersionRow
from schemas.codec import derived_id
from schemas.durations import parse_duration
from schemas.errors import ConflictError, NotFoundError, TransitionError
from schemas.events import (
    ApprovalRequested,
    Decision,
    ModelPromoted,
    ModelRegistered,
    ModelState,
    RegistryEvent,
    VersionState,
)
from schemas.specification import ApprovalSection, Specification
from schemas.topics import REGISTRY_STATE

E = TypeVar("E", bound=RegistryEvent)


# Written once: to write them takes longer than to execute them, and every change does.
_TABLE: Any = VersionRow.__table__
_FLAGS: Any = FlagRow.__table__
# Read again even where the session knows the row: it may have been read before the lock was taken.
_MODEL = select(ModelRow).where(ModelRow.name == bindparam("model")).execution_options(populate_existing=True)
_VERSION = (
    select(VersionRow)
    .where(VersionRow.model == bindparam("model"), VersionRow.version == bindparam("version"))
    .execution_options(populate_existing=True)
)
_OF_STATE = ("version", "stage", "artifact", "reference", "specification", "registered_epoch", "parent", "external")
_STATE = (
    select(
        *(_TABLE.c[name] for name in (*_OF_STATE, "allowed_types")),
        _TABLE.c.promoted_at.is_(None).label("never_champion"),
    )
    .where(_TABLE.c.model == bindparam("model"))
    .order_by(_TABLE.c.version)
)
_FLAGGED = select(_FLAGS.c.version).where(_FLAGS.c.model == bindparam("model"), _FLAGS.c.until.is_(None))


@lru_cache
def _stepped(*columns: str) -> Any:
    """Compare-and-set of a version's stage, with other columns."""
    mine = (_TABLE.c.id == bindparam("key"), _TABLE.c.stage == bindparam("was"))
    return _TABLE.update().where(*mine).values({name: bindparam(f"to_{name}") for name in columns})


def find_model(session: Session, model: str) -> ModelRow:
    """The model's row. Raises `NotFoundError`."""
    row = session.scalars(_MODEL, {"model": model}).first()
    if row is None:
        raise NotFoundError(
            f"no model {model!r}",
            where="registry",
            remedy="`driftline models` lists them, `driftline register` adds one",
        )
    return row


def find_version(session: Session, model: str, version: int) -> VersionRow:
    """The version's row. Raises `NotFoundError`."""
    row = session.scalars(_VERSION, {"model": model, "version": version}).first()
    if row is None:
        raise NotFoundError(
            f"no version {version} of {model}", where="registry", remedy=f"`driftline versions {model}` lists them"
        )
    return row


def begin_model(session: Session, ledger: Ledger, row: ModelRow, at: datetime | None) -> None:
    """Store a model that is new, and tell it."""
    session.add(row)
    session.flush()
    change = Change(session, ledger, row)
    change.emit(ModelRegistered, row.actor, at, task=row.task, monitored=row.monitored)
    change.publish_state()


def refuse_other_task(row: ModelRow, spec: Specification) -> None:
    """Refuse a specification of another task than the model's. Raises `ConflictError`."""
    if row.task != spec.task:
        raise ConflictError(
            f"is registered as {row.task}, the specification says {spec.task}",
            where=f"model {spec.name}",
            remedy="choose another [model] name: all versions of a model have one task",
        )


def refuse_watched(row: ModelRow, what: str) -> None:
    """Refuse what makes no sense for a model that is trained and served elsewhere. Raises `TransitionError`."""
    if row.monitored:
        raise TransitionError(
            f"is only watched: it is trained and served elsewhere and cannot be {what} here",
            where=f"model {row.name}",
            remedy="do that where the model lives; a new version appears here with its first prediction",
        )


def refuse_answer(request: ApprovalRequestRow, actor: str, now: datetime) -> None:
    """Refuse an approval that comes too late, or from whoever asked for it. Raises `ConflictError`."""
    where = f"{request.model} version {request.version}"
    if request.expires_at is not None and request.expires_at <= now:
        raise ConflictError(
            f"the question lapsed at {request.expires_at.isoformat(timespec='seconds')}",
            where=where,
            remedy=f"ask again: `driftline request-approval {request.model} {request.version}`",
        )
    if request.four_eyes and actor == request.requester:
        raise ConflictError(
            f"{actor} asked for it: [approval] four_eyes wants another person",
            where=where,
            remedy="let another approve",
        )


class Change:
    """A change of one model in the caller's transaction.

    Parameters
    ----------
    session : Session
    ledger : Ledger
        Holds the installation's lock: what is read below it stays true until the transaction ends.
    row : ModelRow
    """

    def __init__(self, session: Session, ledger: Ledger, row: ModelRow) -> None:
        self.session = session
        self.ledger = ledger
        self.row = row

    @classmethod
    def of(cls, session: Session, model: str, now: datetime) -> Change:
        """Take the lock, then read the model. Raises `NotFoundError`."""
        ledger = Ledger(session, now)
        return cls(session, ledger, find_model(session, model))

    def version(self, version: int) -> VersionRow:
        """A version of the model. Raises `NotFoundError`."""
        return find_version(self.session, self.row.name, version)

    def add(self, version: VersionRow, packages: Packages) -> str:
        """Store a new version and index what it was made from; returns the hash of its record."""
        self.session.add(version)
        self.session.flush()
        index_version(self.session, version, packages)
        return record_hash(version)

    def step(self, version: VersionRow, to: str, **changes: object) -> None:
        """Compare-and-set of a version's stage, with the columns that change beside it.

        Raises
        ------
        TransitionError, ConflictError
        """
        check_step(version.model, version.version, version.stage, to)
        values = {"stage": to, **changes}
        said = {f"to_{name}": value for name, value in values.items()}
        result = self.session.connection().execute(_stepped(*values), {"key": version.id, "was": version.stage, **said})
        if result.rowcount != 1:
            raise ConflictError(
                f"is no longer {version.stage}",
                where=f"{version.model} version {version.version}",
                remedy=f"look at it again: `driftline versions {version.model}`",
            )
        for name, value in values.items():
            set_committed_value(version, name, value)

    def request_approval(self, version: VersionRow, actor: str, at: datetime | None, policy: ApprovalSection) -> None:
        """Ask people: the policy's number of them, until it lapses, about exactly these bytes."""
        now = self.ledger.now
        lasts_ms = None if policy.expires is None else parse_duration(policy.expires, where="approval.expires")
        self.step(version, "approval-requested", decision="awaiting-approval")
        self.session.add(
            ApprovalRequestRow(
                model=version.model,
                version=version.version,
                requester=actor,
                artifact=version.artifact,
                four_eyes=policy.four_eyes,
                approvers=policy.approvers,
                requested_at=now,
                expires_at=None if lasts_ms is None else now + timedelta(milliseconds=lasts_ms),
            )
        )
        self.row.challenger = version.version
        asked = {"approvers": policy.approvers, **allowance(version)}
        self.emit(ApprovalRequested, actor, at, version=version.version, **asked)

    def open_request(self, version: int) -> ApprovalRequestRow | None:
        """The question about a version that is still open."""
        statement = (
            select(ApprovalRequestRow)
            .where(ApprovalRequestRow.model == self.row.name, ApprovalRequestRow.version == version)
            .where(ApprovalRequestRow.closed_at.is_(None))
            .order_by(ApprovalRequestRow.id.desc())
            .execution_options(populate_existing=True)
        )
        return self.session.scalars(statement).first()

    def close_request(self, request: ApprovalRequestRow | None) -> None:
        if request is not None:
            request.closed_at = self.ledger.now

    def forget_approvals(self, version: int) -> None:
        """What was approved for a question that lapsed counts no more; the audit keeps it."""
        mine = (ApprovalRow.model == self.row.name, ApprovalRow.version == version)
        self.session.execute(delete(ApprovalRow).where(*mine))

    def promote(self, version: VersionRow, actor: str, at: datetime | None, *, probation: bool) -> Decision:
        """Make an approved version champion; the one before is superseded, and shadows it for a probation."""
        flags.refuse_flagged(self, version.version)
        previous = self.row.champion
        decision: Decision = "initial" if previous is None else "promoted"
        if previous is not None:
            self.step(self.version(previous), "superseded")
        self.step(version, "promoted", decision=decision, previous=previous, promoted_at=self.ledger.now)
        self.row.champion = version.version
        watched = probation and previous is not None
        self.row.shadow = previous if watched else None
        if self.row.challenger == version.version:
            self.row.challenger = None
        more = {"previous": previous, "artifact": version.artifact, "probation": watched, **allowance(version)}
        self.emit(ModelPromoted, actor, at, version=version.version, **more)
        flags.champion_changed(self)
        return decision

    def emit(self, kind: type[E], actor: str, at: datetime | None, **fields: object) -> None:
        """Number, audit and queue an event; `at` is event time where there is one, else the system's clock.

        Notes
        -----
        The rows of the model and of the versions that the event names stand already as it says.
        """
        epoch, version = self.ledger.next_epoch, fields.get("version")
        more: dict[str, Any] = {**self.ledger.who(), **fields}
        event = kind(
            event_id=derived_id(self.row.name, kind.__name__, version, epoch),
            epoch=epoch,
            at=at or self.ledger.now,
            model=self.row.name,
            actor=actor,
            **more,
        )
        self.ledger.append(event, version if isinstance(version, int) else None)
        self.row.epoch = epoch
        touched = {number for number in (version, fields.get("previous")) if isinstance(number, int)}
        self.session.flush()
        if touched:
            standing.follow(self.session, self.row, touched, epoch)

    def publish_state(self) -> None:
        """Queue the model's state as it stands now: the last thing a change does."""
        row, connection = self.row, self.session.connection()
        self.session.flush()
        marked = set(connection.scalars(_FLAGGED, {"model": row.name}))
        rows = connection.execute(_STATE, {"model": row.name}).all()
        agreed = {name for entry in rows if entry.version == row.champion for name in entry.allowed_types}
        state = ModelState(
            model=row.name,
            epoch=row.epoch,
            task=row.task,
            champion=row.champion,
            challenger=row.challenger,
            shadow=row.shadow,
            versions=[
                VersionState(
                    **dict(zip(_OF_STATE, entry, strict=False)),
                    flagged=True if entry.version in marked else msgspec.UNSET,
                    # Never champion, and its file may hold types that nobody has agreed to.
                    withheld=True if entry.never_champion and beyond(entry.allowed_types, agreed) else msgspec.UNSET,
                )
                for entry in rows
            ],
            monitored=row.monitored,
        )
        event_id = derived_id(row.name, "ModelState", row.epoch)
        enqueue(self.session, AGENT, REGISTRY_STATE, row.name, trimmed(state), event_id, self.ledger.now)
