"""The registry's rules: which step may follow which, what a history means, what the state topic carries. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import tee
from operator import itemgetter
from typing import Literal, NamedTuple

import msgspec

from schemas.codec import derived_id, encode
from schemas.errors import ConflictError, TransitionError
from schemas.events import (
    AccessChanged,
    AnyRegistryEvent,
    ApprovalLapsed,
    ApprovalRequested,
    ArchiveExpired,
    CommandRefused,
    FlagWithdrawn,
    ModelPromoted,
    ModelRegistered,
    ModelRolledBack,
    ModelState,
    ProbationEnded,
    RollbackReviewed,
    SubjectErased,
    TagsChanged,
    VersionApproved,
    VersionArchived,
    VersionFlagged,
    VersionObserved,
    VersionRegistered,
    VersionRejected,
    VersionState,
    VersionValidated,
)

Stage = Literal[
    "registered",
    "validated",
    "approval-requested",
    "approved",
    "rejected",
    "promoted",
    "superseded",
    "rolled-back",
    "observed",
    "expired",
    "archived",
]

LAPSED = "nobody decided in time"
"""Reason of a version whose question lapsed; its event carries none."""

NEXT: Mapping[str, frozenset[str]] = {
    "registered": frozenset({"validated", "rejected", "archived"}),
    "validated": frozenset({"approval-requested", "approved", "archived"}),
    "approval-requested": frozenset({"approved", "rejected", "expired"}),
    "expired": frozenset({"approval-requested", "archived"}),
    "approved": frozenset({"promoted"}),
    "rejected": frozenset({"archived"}),
    "promoted": frozenset({"superseded", "rolled-back"}),
    "superseded": frozenset({"promoted", "archived"}),
    "rolled-back": frozenset({"promoted", "archived"}),
    "observed": frozenset(),
    "archived": frozenset(),
}
"""The state machine: stage → stages that may follow."""

RANK: Mapping[str, int] = {
    "registered": 0,
    "validated": 1,
    "expired": 1,
    "approval-requested": 2,
    "approved": 3,
    "rejected": 3,
    "promoted": 4,
    "superseded": 5,
    "rolled-back": 5,
    "observed": 5,
    "archived": 6,
}
"""How far a version has come: whoever asks for a step at or before that was too late, not wrong."""

STATE_LIMIT_BYTES = 900_000
GENESIS = "0" * 64


def check_step(model: str, version: int, stage: str, to: str) -> None:
    """Refuse a step that the state machine does not have.

    Raises
    ------
    ConflictError
        The version is past the point where the step was possible: somebody else decided first.
    TransitionError
        The step is not possible from here.
    """
    if to in NEXT[stage]:
        return
    where = f"{model} version {version}"
    if RANK[stage] >= RANK[to]:
        raise ConflictError(
            f"is {stage} already", where=where, remedy=f"look at it again: `driftline versions {model}`"
        )
    allowed = ", ".join(sorted(NEXT[stage])) or "nothing"
    raise TransitionError(f"cannot become {to} while {stage}", where=where, remedy=f"from {stage}: {allowed}")


class History(NamedTuple):
    """What a model's events add up to."""

    champion: int | None
    challenger: int | None
    stages: dict[int, str]
    """Stage by version."""


class Span(NamedTuple):
    """What a version was (a stage, ``champion`` or ``challenger``) from one epoch to another; None: it is."""

    standing: str
    version: int
    since: int
    until: int | None


def replay(events: Iterable[AnyRegistryEvent]) -> History:
    """The state after `events` of one model, given in order."""
    history = History(None, None, {})
    for history in walk(events):  # noqa: B007 - the last one
        pass
    return history


def spans(events: Iterable[AnyRegistryEvent]) -> list[Span]:
    """What the versions of one model were, and when, by its events in order."""
    closed: list[Span] = []
    present: dict[str | int, Span] = {}  # by alias, and by version where it is a stage
    heard, watched = tee(events)
    for event, history in zip(heard, walk(watched), strict=True):
        numbers = (getattr(event, "version", None), getattr(event, "previous", None))
        touched = {number for number in numbers if number is not None and number in history.stages}
        now: dict[str | int, tuple[str, int | None]] = {number: (history.stages[number], number) for number in touched}
        now |= {"champion": ("champion", history.champion), "challenger": ("challenger", history.challenger)}
        for key, (standing, version) in now.items():
            before = present.get(key)
            if before is not None and before[:2] != (standing, version):
                closed.append(present.pop(key)._replace(until=event.epoch))
            if version is not None:
                present.setdefault(key, Span(standing, version, event.epoch, None))
    return sorted([*closed, *present.values()], key=itemgetter(0, 1, 2))


def standings(champion: int | None, challenger: int | None, stages: Mapping[int, str]) -> set[tuple[str, int]]:
    """What versions are, as (standing, version)."""
    aliases = {("champion", champion), ("challenger", challenger)}
    return {(name, number) for name, number in aliases if number is not None} | {(s, v) for v, s in stages.items()}


def standing(spans: Iterable[tuple[str, int]]) -> History:
    """The other way round: aliases and stages of what versions are."""
    found = dict[str, int]()
    stages: dict[int, str] = {}
    for name, version in spans:
        if name in {"champion", "challenger"}:
            found[name] = version
        else:
            stages[version] = name
    return History(found.get("champion"), found.get("challenger"), stages)


def walk(events: Iterable[AnyRegistryEvent]) -> Iterator[History]:
    """The state after each of `events` of one model, given in order; its stages are one dictionary that changes."""
    champion: int | None = None
    challenger: int | None = None
    stages: dict[int, str] = {}
    missing: dict[int, int] = {}  # approvals still to come, where people decide
    for event in events:
        match event:
            case ModelRegistered() | ProbationEnded() | RollbackReviewed():
                pass
            case TagsChanged() | VersionFlagged() | FlagWithdrawn() | SubjectErased():
                pass
            case AccessChanged() | ArchiveExpired() | CommandRefused():
                pass  # of the whole installation
            case VersionRegistered(version=version):
                stages[version] = "registered"
            case VersionObserved(version=version):
                stages[version] = "observed"
                champion = version
            case VersionValidated(version=version):
                stages[version] = "validated"
            case ApprovalRequested(version=version, approvers=approvers):
                stages[version] = "approval-requested"
                missing[version] = approvers
                challenger = version
            case ApprovalLapsed(version=version):
                stages[version] = "expired"
                challenger = None if challenger == version else challenger
            case VersionArchived(version=version):
                stages[version] = "archived"
            case VersionApproved(version=version):
                missing[version] = missing.get(version, 1) - 1
                if missing[version] <= 0:
                    stages[version] = "approved"
            case VersionRejected(version=version):
                stages[version] = "rejected"
                challenger = None if challenger == version else challenger
            case ModelPromoted(version=version, previous=previous):
                if previous is not None:
                    stages[previous] = "superseded"
                stages[version] = "promoted"
                champion = version
                challenger = None if challenger == version else challenger
            case ModelRolledBack(version=version, previous=previous):
                stages[previous] = "rolled-back"
                stages[version] = "promoted"
                champion = version
        yield History(champion, challenger, stages)


MOST_FREE_NUMBER = 999_999


def number_for(external: str, taken: Iterable[int]) -> int:
    """The number of a version that is called `external` elsewhere: the same where it is one and free, else the next.

    Examples
    --------
    >>> number_for("2024-11-rc1", []), number_for("7", [1, 2]), number_for("7", [7]), number_for("0", [3])
    (1, 7, 8, 4)
    """
    used = set(taken)
    if external.isascii() and external.isdigit() and external == str(int(external)):
        wanted = int(external)
        if 0 < wanted <= MOST_FREE_NUMBER and wanted not in used:
            return wanted
    return max(used, default=0) + 1


def beyond(allowed: Iterable[str], champion: Iterable[str]) -> list[str]:
    """Types that a version's file may hold and the champion's may not: somebody has to agree to them."""
    return sorted(set(allowed) - set(champion))


def trimmed(state: ModelState, limit: int = STATE_LIMIT_BYTES) -> ModelState:
    """`state` small enough for one message: the oldest versions without a part to play go first.

    Notes
    -----
    A consumer that needs a version that old reads the registry itself.
    """
    versions: Sequence[VersionState] = state.versions
    while len(encode(state)) > limit:
        kept = {state.champion, state.challenger, state.shadow, versions[-1].version}
        droppable = [entry for entry in versions if entry.version not in kept]
        if not droppable:
            break
        gone = {entry.version for entry in droppable[: max(1, len(droppable) // 4)]}
        versions = [entry for entry in versions if entry.version not in gone]
        state = msgspec.structs.replace(state, versions=list(versions))
    return state


def chained(previous: str, fields: Mapping[str, object]) -> str:
    """Hash of an audit row: over its fields and the hash of the row before."""
    text = json.dumps({**fields, "previous": previous}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def is_policy(actor: str) -> bool:
    """Whether no person did something, but a rule that one wrote down."""
    return actor.startswith("policy:")


def flag_incident(model: str, version: int, source: int, since: int) -> str:
    """Id of the incident of a champion that is flagged since the epoch `since`."""
    return derived_id(model, "faulty-version", version, source, since)
