"""The registry's rules, without a database."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.registry.logic import NEXT, RANK, chained, check_step, replay, trimmed
from schemas.codec import encode
from schemas.errors import ConflictError, TransitionError
from schemas.events import (
    ApprovalRequested,
    ModelPromoted,
    ModelRegistered,
    ModelRolledBack,
    ModelState,
    RegistryEvent,
    VersionApproved,
    VersionRegistered,
    VersionState,
    VersionValidated,
)

AT = datetime(2026, 1, 1, tzinfo=UTC)


def event(kind: type[RegistryEvent], **fields: object) -> RegistryEvent:
    return kind(event_id="e", epoch=1, at=AT, model="m", actor="a", **fields)


@pytest.mark.parametrize("stage", list(NEXT))
@pytest.mark.parametrize("to", list(NEXT))
def test_every_pair_of_stages_is_allowed_too_late_or_wrong(stage: str, to: str) -> None:
    if to in NEXT[stage]:
        check_step("m", 1, stage, to)
    elif RANK[stage] >= RANK[to]:
        with pytest.raises(ConflictError, match=f"is {stage} already"):
            check_step("m", 1, stage, to)
    else:
        with pytest.raises(TransitionError, match=f"cannot become {to} while {stage}") as caught:
            check_step("m", 1, stage, to)
        assert caught.value.remedy


def test_people_cannot_approve_what_the_gate_has_not_seen() -> None:
    with pytest.raises(TransitionError):
        check_step("m", 1, "registered", "approved")
    for decided in ("approved", "rejected", "promoted", "superseded", "rolled-back"):
        with pytest.raises(ConflictError):
            check_step("m", 1, decided, "approved")


def test_replay_adds_up_a_history() -> None:
    history = [
        event(ModelRegistered, task="binary"),
        event(VersionRegistered, version=1, artifact="x", parent=None),
        event(VersionValidated, version=1, artifact="x"),
        event(VersionApproved, version=1),
        event(ModelPromoted, version=1, previous=None, artifact="x"),
        event(VersionRegistered, version=2, artifact="y", parent=1),
        event(VersionValidated, version=2, artifact="y"),
        event(ApprovalRequested, version=2, approvers=2),
        event(VersionApproved, version=2),
    ]
    found = replay(history)  # type: ignore[arg-type]
    assert (found.champion, found.challenger, found.stages) == (1, 2, {1: "promoted", 2: "approval-requested"})
    history += [event(VersionApproved, version=2), event(ModelPromoted, version=2, previous=1, artifact="y")]
    found = replay(history)  # type: ignore[arg-type]
    assert (found.champion, found.challenger, found.stages) == (2, None, {1: "superseded", 2: "promoted"})
    history.append(event(ModelRolledBack, version=1, previous=2, artifact="x", reason=""))
    found = replay(history)  # type: ignore[arg-type]
    assert (found.champion, found.stages) == (1, {1: "promoted", 2: "rolled-back"})


@given(st.integers(1, 400), st.integers(0, 399), st.integers(3_000, 60_000))
def test_a_trimmed_state_fits_and_keeps_what_matters(count: int, champion: int, limit: int) -> None:
    versions = [
        VersionState(version=n, stage="rejected", artifact="a" * 64, reference="b" * 64, specification="c" * 64,
                     registered_epoch=n)
        for n in range(1, count + 1)
    ]  # fmt: skip
    alive = champion % count + 1
    state = ModelState(model="m", epoch=9, task="binary", champion=alive, challenger=1, versions=versions)
    small = trimmed(state, limit)
    assert len(encode(small)) <= limit
    assert {alive, 1, count} <= {entry.version for entry in small.versions}
    numbers = [entry.version for entry in small.versions]
    assert numbers == sorted(numbers)
    if len(encode(state)) <= limit:
        assert small == state


def test_the_chain_depends_on_every_field_and_on_what_came_before() -> None:
    fields = {"epoch": 1, "actor": "a", "event": "{}"}
    base = chained("0", fields)
    assert base == chained("0", dict(reversed(fields.items())))
    assert base != chained("1", fields)
    for name in fields:
        assert base != chained("0", {**fields, name: "changed"})
