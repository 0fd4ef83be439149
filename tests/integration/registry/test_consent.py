"""A file that may hold more than the defaults is let in by people, who name what: on both databases."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec import UNSET
from sqlalchemy import select

from agents.access.logic import local_principal
from agents.database.outbox import OutboxRow
from agents.gateway.decisions import RegistryDecisions
from agents.registry import record
from agents.registry.batch import listed
from agents.registry.search import Search
from schemas.errors import ConflictError
from schemas.events import ApprovalRequested, ModelPromoted, ModelRolledBack, VersionApproved
from tests.support.registries import RegistryWorld

LIGHT, HEAVY = "lightgbm.sklearn.LGBMClassifier", "own_models.Heavy"
ROOT = local_principal("root")


def approve(world: RegistryWorld, version: int = 1, *consented: str, actor: str = "bea", name: str = "m") -> str:
    with world.sessions.begin() as session:
        return world.registry.approve(session, name, version, actor, consented=consented).stage


def withheld(world: RegistryWorld) -> set[int]:
    return {entry.version for entry in world.states()[-1].versions if entry.withheld is True}


def test_auto_does_not_let_new_types_in_by_itself(world: RegistryWorld) -> None:
    """Whoever registers writes the specification: that is not yet somebody's agreement."""
    world.model(allowed=(LIGHT,))
    assert world.candidate(allowed=(LIGHT,)) == (1, "awaiting-approval")
    assert withheld(world) == {1}, "serving must not load it before"
    with world.readers() as session:
        waiting = world.registry.version(session, "m", 1)
    assert waiting.allowed_types == [LIGHT]
    assert LIGHT in waiting.reason
    with pytest.raises(ConflictError, match="nobody agreed to yet") as caught:
        approve(world)
    assert f"--allow-type {LIGHT}" in caught.value.remedy
    with pytest.raises(ConflictError, match="nobody agreed to yet"):
        approve(world, 1, HEAVY)
    assert approve(world, 1, LIGHT, HEAVY) == "promoted"
    assert withheld(world) == set()

    # What the champion's file may hold was agreed to: a successor of the same specification needs nobody.
    assert world.candidate(allowed=(LIGHT,)) == (2, "promoted")
    assert world.candidate() == (3, "promoted")
    # A champion in between that allows less makes it new again, and a roll-back goes to what was agreed to once.
    assert world.candidate(allowed=(LIGHT,)) == (4, "awaiting-approval")
    with world.sessions.begin() as session:
        world.registry.rollback(session, "m", actor="bea", reason="worse")
    assert withheld(world) == set()
    assert approve(world, 4) == "promoted"


def test_what_was_let_in_and_by_whom_is_in_the_audit(world: RegistryWorld) -> None:
    world.model(mode="manual", approvers=2)
    policy = {"mode": "manual", "approvers": 2}
    world.candidate(allowed=(HEAVY, LIGHT), **policy)
    assert approve(world, 1, LIGHT, HEAVY) == "approval-requested"
    assert withheld(world) == {1}
    with pytest.raises(ConflictError, match=HEAVY):  # what one agreed to is not another's word
        approve(world, 1, LIGHT, actor="cyd")
    assert approve(world, 1, LIGHT, HEAVY, actor="cyd") == "promoted"
    world.candidate(allowed=(LIGHT,))
    with world.sessions.begin() as session:
        world.registry.rollback(session, "m", actor="bea", reason="worse")
    told = [
        (type(event), event.version, event.allowed_types, getattr(event, "consented", None))
        for event in world.events()
        if isinstance(event, ApprovalRequested | VersionApproved | ModelPromoted | ModelRolledBack)
    ]
    both = [LIGHT, HEAVY]
    assert told == [
        (ApprovalRequested, 1, both, None),
        (VersionApproved, 1, both, both),
        (VersionApproved, 1, both, both),
        (ModelPromoted, 1, both, None),
        (VersionApproved, 2, [LIGHT], UNSET),
        (ModelPromoted, 2, [LIGHT], None),
        (ModelRolledBack, 1, both, None),
    ]
    with world.readers() as session:
        history = record.record(world.registry, session, "m", 1).history
    approvals = [entry for entry in history if entry["action"] == "VersionApproved"]
    assert [(entry["actor"], entry["consented"]) for entry in approvals] == [("bea", both), ("cyd", both)]


def test_an_ordinary_version_says_nothing_of_it(world: RegistryWorld) -> None:
    world.model()
    world.candidate()
    with world.readers() as session:
        assert world.registry.version(session, "m", 1).allowed_types == []
        sent = b"".join(session.scalars(select(OutboxRow.payload)))
    assert b"VersionApproved" in sent
    assert b"allowed_types" not in sent
    assert b"withheld" not in sent


def test_many_are_approved_with_what_is_named_and_the_others_say_why_not(world: RegistryWorld) -> None:
    for name, allowed in (("bus-1", (LIGHT,)), ("bus-2", (HEAVY,)), ("bus-3", ())):
        world.model(name, mode="manual", allowed=allowed)
        world.candidate(name, mode="manual", allowed=allowed)
    decisions = RegistryDecisions(world.registry, world.readers)
    found = decisions.chosen("approve", Search(match="bus-*"))
    assert [one.new_types for one in listed(found, "approve")] == [[LIGHT], [HEAVY], []]
    allowed_all: Callable[[str], bool] = lambda _: True  # noqa: E731
    done = decisions.decide_all("approve", found, ROOT, "bea", "", allowed_all, consented=[LIGHT])
    assert [one.stage for one in done] == ["promoted", None, "promoted"]
    assert HEAVY in (done[1].problem or "")
