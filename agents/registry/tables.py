"""The registry's tables."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    String,
    Text,
    UniqueConstraint,
    false,
)
from sqlalchemy.orm import Mapped, mapped_column

from agents.database.base import Base, BigId, Json, UtcDateTime

MODEL = String(256)
ACTOR = String(256)
SHA256 = String(64)
EXACT = String(600).with_variant(String(600, collation="C"), "postgresql")
"""A text that is looked for by its beginning: ordered by its bytes on both databases."""


class LedgerRow(Base):
    """One row: the epoch of the newest event and the head of the audit chain. Locked by every change."""

    __tablename__ = "registry_ledger"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    epoch: Mapped[int] = mapped_column(BigInteger)
    head: Mapped[str] = mapped_column(SHA256)
    recorded_at: Mapped[datetime] = mapped_column(UtcDateTime)


class SpecificationRow(Base):
    """A specification's text by its hash; versions share it while it does not change."""

    __tablename__ = "registry_specifications"

    sha: Mapped[str] = mapped_column(SHA256, primary_key=True)
    text: Mapped[str] = mapped_column(Text)


class ModelRow(Base):
    """A registered model and its aliases.

    `monitored`: trained and served elsewhere. Then `reference` is what new versions are compared with (None: it is to
    be learnt), `reference_window` how long it is learnt for, and `learning_from_ms` the event time from which on.
    """

    __tablename__ = "registry_models"

    name: Mapped[str] = mapped_column(MODEL, primary_key=True)
    task: Mapped[str] = mapped_column(String(32))
    specification: Mapped[str] = mapped_column(ForeignKey("registry_specifications.sha"))
    champion: Mapped[int | None]
    challenger: Mapped[int | None]
    shadow: Mapped[int | None]
    """The champion before this one, while it answers in shadow: the probation's."""
    epoch: Mapped[int] = mapped_column(BigInteger)
    actor: Mapped[str] = mapped_column(ACTOR)
    registered_at: Mapped[datetime] = mapped_column(UtcDateTime)
    monitored: Mapped[bool] = mapped_column(default=False, server_default=false())
    reference: Mapped[str | None] = mapped_column(SHA256, default=None)
    reference_window: Mapped[str | None] = mapped_column(String(16), default=None)
    learning_from_ms: Mapped[int | None] = mapped_column(BigInteger, default=None)


class VersionRow(Base):
    """A version: what it was made of never changes, its stage and decision do.

    `external` is the name of a version that is made and served elsewhere; its `artifact` is empty.
    """

    __tablename__ = "registry_versions"
    __table_args__ = (
        UniqueConstraint("model", "version"),
        Index("ix_registry_versions_external", "model", "external"),
        Index("ix_registry_versions_stage", "stage", "model", "version"),
        Index("ix_registry_versions_registered", "model", "registered_epoch"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    model: Mapped[str] = mapped_column(ForeignKey("registry_models.name"))
    version: Mapped[int]
    artifact: Mapped[str] = mapped_column(SHA256)
    reference: Mapped[str] = mapped_column(SHA256)
    specification: Mapped[str] = mapped_column(ForeignKey("registry_specifications.sha"))
    code: Mapped[dict[str, Any]] = mapped_column(Json)
    dataset: Mapped[dict[str, Any]] = mapped_column(Json)
    environment: Mapped[dict[str, Any]] = mapped_column(Json)
    parameters: Mapped[dict[str, Any]] = mapped_column(Json)
    seed: Mapped[int] = mapped_column(BigInteger)
    parent: Mapped[int | None]
    run_id: Mapped[str | None] = mapped_column(String(128))
    report: Mapped[dict[str, Any]] = mapped_column(Json)
    actor: Mapped[str] = mapped_column(ACTOR)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    registered_at: Mapped[datetime] = mapped_column(UtcDateTime)
    registered_epoch: Mapped[int] = mapped_column(BigInteger)
    stage: Mapped[str] = mapped_column(String(32))
    decision: Mapped[str | None] = mapped_column(String(32))
    reason: Mapped[str] = mapped_column(Text, default="")
    promoted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    previous: Mapped[int | None]
    """The champion that this version took over from."""
    external: Mapped[str | None] = mapped_column(String(128), default=None)
    allowed_types: Mapped[list[str]] = mapped_column(Json, default=list, server_default="[]")
    """What its file may hold beside the defaults, as its specification says."""


class TagRow(Base):
    """A tag of a model (`version` 0) or of a version, from one event to another; `until` None: it is in force.

    Owner and team of a model's specification stand here too, under `agents.registry.views.OWNER` and `TEAM`.
    """

    __tablename__ = "registry_tags"
    __table_args__ = (
        Index("ix_registry_tags_value", "key", "value", "model"),
        Index("ix_registry_tags_model", "model", "version"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    model: Mapped[str] = mapped_column(ForeignKey("registry_models.name"))
    version: Mapped[int]
    key: Mapped[str] = mapped_column(String(128))
    value: Mapped[str] = mapped_column(String(256))
    since: Mapped[int] = mapped_column(BigInteger)
    until: Mapped[int | None] = mapped_column(BigInteger, default=None)


class StandingRow(Base):
    """What a version was, from one event to another: a stage, ``champion`` or ``challenger``; `until` None: it is.

    What the audit's events add up to, to be found by index; `agents.registry.agreement` holds it against them.
    """

    __tablename__ = "registry_standings"
    __table_args__ = (Index("ix_registry_standings_model", "model", "since", "until"), {"sqlite_with_rowid": False})

    standing: Mapped[str] = mapped_column(String(32), primary_key=True)
    model: Mapped[str] = mapped_column(MODEL, primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    since: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    until: Mapped[int | None] = mapped_column(BigInteger, default=None)


class InputRow(Base):
    """A thing that went into a version: what `agents.registry.lineage` reads from its record, to be found by hash."""

    __tablename__ = "registry_inputs"
    __table_args__ = (Index("ix_registry_inputs_sha", "kind", "sha"),)

    model: Mapped[str] = mapped_column(MODEL, primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(32), primary_key=True)
    sha: Mapped[str] = mapped_column(EXACT, primary_key=True)
    relation: Mapped[str] = mapped_column(String(32), primary_key=True)


class EnvironmentRow(Base):
    """What versions record of their environment, once by its hash. `complete`: the packages of its lock are known."""

    __tablename__ = "registry_environments"
    __table_args__ = (Index("ix_registry_environments_complete", "complete"),)

    id: Mapped[str] = mapped_column(SHA256, primary_key=True)
    lock: Mapped[str | None] = mapped_column(SHA256)
    complete: Mapped[bool]


class PackageRow(Base):
    """A package of an environment."""

    __tablename__ = "registry_packages"
    __table_args__ = (Index("ix_registry_packages_name", "name", "version"),)

    environment: Mapped[str] = mapped_column(ForeignKey("registry_environments.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(256), primary_key=True)
    version: Mapped[str] = mapped_column(String(256))


class FlagRow(Base):
    """A version that was found faulty, or that descends from one (`source`), from one event to another.

    `incident`: of the alert that is open because the version is live.
    """

    __tablename__ = "registry_flags"
    __table_args__ = (Index("ix_registry_flags_model", "model", "version"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    model: Mapped[str] = mapped_column(MODEL)
    version: Mapped[int]
    source: Mapped[int]
    reason: Mapped[str] = mapped_column(Text)
    actor: Mapped[str] = mapped_column(ACTOR)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    since: Mapped[int] = mapped_column(BigInteger)
    until: Mapped[int | None] = mapped_column(BigInteger, default=None)
    withdrawn_by: Mapped[str | None] = mapped_column(ACTOR, default=None)
    withdrawn_reason: Mapped[str | None] = mapped_column(Text, default=None)
    incident: Mapped[str | None] = mapped_column(String(128), default=None)


class ApprovalRequestRow(Base):
    """A question to people: the version's bytes, who asks, how many have to say yes, until when."""

    __tablename__ = "registry_approval_requests"
    __table_args__ = (
        # What an approval has to agree with: see `ApprovalRow`.
        UniqueConstraint("id", "requester", "artifact", "four_eyes", name="uq_registry_approval_requests_bound"),
        Index("ix_registry_approval_requests_version", "model", "version"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    model: Mapped[str] = mapped_column(MODEL)
    version: Mapped[int]
    requester: Mapped[str] = mapped_column(ACTOR)
    artifact: Mapped[str] = mapped_column(SHA256)
    four_eyes: Mapped[bool]
    approvers: Mapped[int]
    requested_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)
    closed_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)


class ApprovalRow(Base):
    """One person's approval of one version, bound to the request and to the bytes that were approved.

    The database itself refuses an approval of other bytes than were asked about, and under four eyes one by the
    requester.
    """

    __tablename__ = "registry_approvals"
    __table_args__ = (
        ForeignKeyConstraint(
            ["request", "requester", "artifact", "four_eyes"],
            [
                "registry_approval_requests.id",
                "registry_approval_requests.requester",
                "registry_approval_requests.artifact",
                "registry_approval_requests.four_eyes",
            ],
            name="fk_registry_approvals_request",
        ),
        CheckConstraint("NOT four_eyes OR actor <> requester", name="four_eyes"),
    )

    model: Mapped[str] = mapped_column(MODEL, primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    actor: Mapped[str] = mapped_column(ACTOR, primary_key=True)
    artifact: Mapped[str] = mapped_column(SHA256)
    comment: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    request: Mapped[int] = mapped_column(BigInteger)
    requester: Mapped[str] = mapped_column(ACTOR)
    four_eyes: Mapped[bool]


class ReviewRow(Base):
    """A roll-back that one person made, to be looked at after the fact. `epoch`: of its event."""

    __tablename__ = "registry_reviews"
    __table_args__ = (
        CheckConstraint("reviewed_by IS NULL OR NOT four_eyes OR reviewed_by <> actor", name="four_eyes"),
    )

    epoch: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    model: Mapped[str] = mapped_column(MODEL)
    version: Mapped[int]
    previous: Mapped[int]
    actor: Mapped[str] = mapped_column(ACTOR)
    reason: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    four_eyes: Mapped[bool]
    reviewed_by: Mapped[str | None] = mapped_column(ACTOR, default=None)
    reviewed_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)
    comment: Mapped[str | None] = mapped_column(Text, default=None)


class AuditRow(Base):
    """One event of the registry, chained to the one before by its hash. Never changed, never deleted."""

    __tablename__ = "registry_audit"
    __table_args__ = (
        Index("ix_registry_audit_model", "model", "epoch"),
        # "As of then" is a moment of the clock; everything else counts in epochs.
        Index("ix_registry_audit_recorded_at", "recorded_at"),
    )

    epoch: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    recorded_at: Mapped[datetime] = mapped_column(UtcDateTime)
    actor: Mapped[str] = mapped_column(ACTOR)
    action: Mapped[str] = mapped_column(String(64))
    model: Mapped[str] = mapped_column(MODEL)
    version: Mapped[int | None]
    event: Mapped[str] = mapped_column(Text)
    """The event as it was published: JSON."""
    previous_hash: Mapped[str] = mapped_column(SHA256)
    hash: Mapped[str] = mapped_column(SHA256)
