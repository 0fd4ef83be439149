"""What the registry's tables have to say, by the events of one model: questions, approvals, reviews, tags, flags. Pure.

Every table here is written with an event, so that its rows follow from the audit. What events do not carry follows from
the version's own record: its file's hash, and the policy of its specification.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from agents.registry.logic import LAPSED, flag_incident, is_policy
from schemas.durations import parse_duration
from schemas.events import (
    AnyRegistryEvent,
    ApprovalLapsed,
    ApprovalRequested,
    CommandRefused,
    FlagWithdrawn,
    ModelPromoted,
    ModelRegistered,
    ModelRolledBack,
    ProbationEnded,
    RollbackReviewed,
    TagsChanged,
    VersionApproved,
    VersionArchived,
    VersionFlagged,
    VersionObserved,
    VersionRegistered,
    VersionRejected,
    VersionValidated,
)
from schemas.specification import ApprovalSection

UNKNOWN: Any = object()
"""What neither events nor record say."""

Row = dict[str, Any]
Policy = Callable[[int], ApprovalSection | None]
"""From a version to what its specification says of approval; None where that cannot be read any more."""


class Heard(NamedTuple):
    """An event, and when it was recorded."""

    at: datetime
    event: AnyRegistryEvent


class Expected:
    """Rows of one model by table, each by what tells it from the others; of a row the columns that are known.

    Parameters
    ----------
    name : str
        Of the model.
    events : iterable of Heard
        All of the model, in order.
    artifacts : mapping of int to str
        Hash of each version's file.
    policy : callable
    tags : mapping of str to str
        Tags that the model had before the first event that says so: of releases without such events.

    Notes
    -----
    `before`: versions of releases whose events carry no hash of the record. Their questions were made up later, and
    roll-backs between them were not reviewed: what is not known of them is not asked for.
    """

    def __init__(
        self,
        name: str,
        events: Iterable[Heard],
        artifacts: Mapping[int, str],
        policy: Policy,
        tags: Mapping[str, str],
    ) -> None:
        self._name = name
        self.model: Row = {}
        self.versions: dict[int, Row] = {}
        self.questions: dict[tuple[int, int], Row] = {}
        self.approvals: dict[tuple[int, str], Row] = {}
        self.reviews: dict[int, Row] = {}
        self.tags: dict[tuple[int, str, int], Row] = {(0, k, 0): {"value": v, "until": None} for k, v in tags.items()}
        self.flags: dict[tuple[int, int, int], Row] = {}
        self.before: set[int] = set()
        self.unreviewed: set[int] = set()
        """Roll-backs that need not have a row."""
        self._artifacts, self._policy = artifacts, policy
        self._asked: dict[int, int] = {}
        self._given: dict[int, int] = {}
        self._tags: dict[tuple[int, str], Row] = {(0, key): row for (_, key, _), row in self.tags.items()}
        self._flags: dict[tuple[int, int], tuple[int, bool]] = {}
        self._champion: int | None = None
        for at, event in events:
            self._hear(at, event)
        self._incidents()

    # ------------------------------------------------------------------------------------------- inside

    def _hear(self, at: datetime, event: AnyRegistryEvent) -> None:
        if not isinstance(event, CommandRefused):
            self.model["epoch"] = event.epoch
        self._of_model(at, event)
        self._of_version(at, event)
        match event:
            case ApprovalRequested(version=version):
                self._ask(at, event)
            case VersionApproved(version=version):
                self._approve(at, event)
            case VersionRejected(version=version):
                self._close(version, at)
            case ApprovalLapsed(version=version):
                self._close(version, at)
                for key in [key for key in self.approvals if key[0] == version]:
                    del self.approvals[key]
                self._given.pop(version, None)
            case ModelRolledBack():
                self._roll_back(at, event)
            case RollbackReviewed(rollback_epoch=epoch):
                if epoch in self.reviews:
                    self.reviews[epoch] |= {"reviewed_by": event.actor, "reviewed_at": at, "comment": event.comment}
            case TagsChanged():
                self._tag(event)
            case VersionFlagged(version=version, source=source):
                told = {"reason": event.reason, "actor": event.actor, "at": at, "until": None}
                self.flags[version, source, event.epoch] = {
                    **told, "withdrawn_by": None, "withdrawn_reason": None, "incident": None,
                }  # fmt: skip
                self._flags[version, source] = (event.epoch, event.live)
            case FlagWithdrawn(version=version, source=source):
                since, _ = self._flags.pop((version, source), (0, False))
                told = {"until": event.epoch, "withdrawn_by": event.actor, "withdrawn_reason": event.reason}
                self.flags.setdefault((version, source, since), {}).update(told)

    def _of_model(self, at: datetime, event: AnyRegistryEvent) -> None:
        match event:
            case ModelRegistered():
                told = {"task": event.task, "monitored": event.monitored, "actor": event.actor, "registered_at": at}
                self.model |= {**told, "shadow": None}
            case ModelPromoted():
                self.model["shadow"] = event.previous if event.probation else None
                self._champion = event.version
            case ModelRolledBack():
                self.model["shadow"] = None
                self._champion = event.version
            case VersionObserved():
                self._champion = event.version
            case ProbationEnded():
                self.model["shadow"] = None

    def _of_version(self, at: datetime, event: AnyRegistryEvent) -> None:
        """Decision, reason, predecessor and time of promotion; the stage is in `agents.registry.logic.walk`."""
        match event:
            case VersionRegistered() | VersionObserved():
                new: Row = {"decision": None, "reason": "", "promoted_at": None, "previous": None}
                if isinstance(event, VersionObserved):
                    new |= {"reason": event.reason, "previous": event.parent}
                self.versions[event.version] = new
                if not isinstance(event.record, str):
                    self.before.add(event.version)
            case VersionValidated():
                self._now(event.version, reason=UNKNOWN)  # the gate's, which this event does not carry
            case ApprovalRequested():
                self._now(event.version, decision="awaiting-approval")
            case VersionRejected():
                self._now(event.version, decision="rejected", reason=event.reason)
            case ApprovalLapsed():
                self._now(event.version, reason=LAPSED)
            case VersionArchived():
                self._now(event.version, reason=event.reason)
            case ModelPromoted():
                decision = "initial" if event.previous is None else "promoted"
                self._now(event.version, decision=decision, previous=event.previous, promoted_at=at)
            case ModelRolledBack():
                self._now(event.version, promoted_at=at)
                self._now(event.previous, decision="rolled-back", reason=event.reason)

    def _now(self, version: int, **values: Any) -> None:
        self.versions.setdefault(version, {}).update(values)

    def _ask(self, at: datetime, event: ApprovalRequested) -> None:
        number = self._asked[event.version] = self._asked.get(event.version, 0) + 1
        policy = self._policy(event.version)
        lapses: Any = UNKNOWN
        if policy is not None:
            lasts = policy.expires
            lapses = None if lasts is None else at + timedelta(milliseconds=parse_duration(lasts, where="expires"))
        self.questions[event.version, number] = {
            "requester": event.actor,
            "artifact": self._artifacts.get(event.version),
            "four_eyes": UNKNOWN if policy is None else policy.four_eyes,
            "approvers": event.approvers,
            "requested_at": at,
            "expires_at": lapses,
            "closed_at": None,
        }

    def _open(self, version: int) -> Row | None:
        found = self.questions.get((version, self._asked.get(version, 0)))
        return found if found is not None and found["closed_at"] is None else None

    def _close(self, version: int, at: datetime) -> None:
        question = self._open(version)
        if question is not None:
            question["closed_at"] = at

    def _approve(self, at: datetime, event: VersionApproved) -> None:
        version = event.version
        question = self._open(version)
        if question is None:
            return  # a policy's
        self.approvals[version, event.actor] = {
            "artifact": question["artifact"],
            "comment": event.comment,
            "at": at,
            "request": self._asked[version],
            "requester": question["requester"],
            "four_eyes": question["four_eyes"],
        }
        self._given[version] = self._given.get(version, 0) + 1
        if self._given[version] >= question["approvers"]:
            question["closed_at"] = at

    def _roll_back(self, at: datetime, event: ModelRolledBack) -> None:
        if is_policy(event.actor):
            return
        policy = self._policy(event.previous)
        self.reviews[event.epoch] = {
            "version": event.version,
            "previous": event.previous,
            "actor": event.actor,
            "reason": event.reason,
            "at": at,
            "four_eyes": UNKNOWN if policy is None else policy.four_eyes,
            "reviewed_by": None,
            "reviewed_at": None,
            "comment": None,
        }
        if {event.version, event.previous} <= self.before:
            self.unreviewed.add(event.epoch)

    def _tag(self, event: TagsChanged) -> None:
        version = event.version or 0
        for key in {*event.tags, *event.removed}:
            if (row := self._tags.pop((version, key), None)) is not None:
                row["until"] = event.epoch
        for key, value in event.tags.items():
            row = self.tags[version, key, event.epoch] = {"value": value, "until": None}
            self._tags[version, key] = row

    def _incidents(self) -> None:
        """An incident is open of what was flagged while it was champion, and still is both."""
        for (version, source), (since, live) in self._flags.items():
            if live and version == self._champion:
                self.flags[version, source, since]["incident"] = flag_incident(self._name, version, source, since)
