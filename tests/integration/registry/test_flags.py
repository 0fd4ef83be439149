"""A version found faulty: flagged with its descendants, never promoted, told where it is live, on both databases."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from agents.access.logic import local_principal
from agents.database.outbox import OutboxRow
from agents.gateway.decisions import RegistryDecisions
from agents.registry.audit import verify_audit
from agents.registry.batch import listed
from agents.registry.search import Search
from schemas.codec import decode
from schemas.errors import ConflictError, NotFoundError, TransitionError
from schemas.events import Alert, FlagWithdrawn, VersionFlagged
from schemas.topics import ALERTS
from tests.support.registries import EVENT_TIME, RegistryWorld, spec_text

BY = local_principal("root")


def candidate(world: RegistryWorld, parent: int | None, name: str = "m", **spec: object) -> tuple[int, str]:
    """A version trained after `parent` was champion, and what was decided about it."""
    with world.sessions.begin() as session:
        version = world.registry.register_version(
            session,
            name,
            artifact=world.store.put(f"model {name} {world.now}".encode(), "model"),
            reference=world.store.put(b"{}", "reference"),
            specification_text=spec_text(name, **spec),  # type: ignore[arg-type]
            code={},
            dataset={"registered": f"{parent or 0}d" * 32},
            environment={"python": "3.11"},
            parameters={},
            seed=0,
            parent=parent,
            run_id=None,
            report={},
            actor="retraining",
            at=EVENT_TIME,
        )
        return version, world.submit(session, version, name)


@pytest.fixture
def family(world: RegistryWorld) -> RegistryDecisions:
    """1 → 2 → 3 → 4, and 5 which comes from 1 again; 5 is champion."""
    world.model()
    for parent in (None, 1, 2, 3, 1):
        candidate(world, parent)
    return RegistryDecisions(world.registry, world.readers)


def alerts(world: RegistryWorld) -> list[tuple[str, int, str]]:
    with world.readers() as session:
        rows = session.scalars(select(OutboxRow).where(OutboxRow.topic == ALERTS).order_by(OutboxRow.id))
        found = [decode(row.payload, Alert) for row in rows]
    assert {alert.kind for alert in found} <= {"faulty-version"}
    return [(alert.status, alert.version, alert.incident_id) for alert in found]


def flagged(decisions: RegistryDecisions) -> list[tuple[int, int]]:
    return [(one.version, one.source) for one in decisions.flags("m")]


def flag(decisions: RegistryDecisions, version: int, reason: str = "leaked labels") -> list[int]:
    return [one.version for one in decisions.flag("m", version, by=BY, actor="bea", reason=reason)]


def withdraw(decisions: RegistryDecisions, version: int) -> list[int]:
    return [one.version for one in decisions.withdraw_flag("m", version, by=BY, actor="cyd", reason="was fine")]


def test_descendants_are_flagged_and_siblings_are_not(world: RegistryWorld, family: RegistryDecisions) -> None:
    assert flag(family, 2) == [2, 3, 4]
    assert flagged(family) == [(2, 2), (3, 2), (4, 2)]
    with pytest.raises(ConflictError, match="flagged already"):
        flag(family, 2)
    with pytest.raises(NotFoundError):
        flag(family, 9)
    told = [event for event in world.events() if isinstance(event, VersionFlagged)]
    assert [(e.version, e.source, e.live, e.actor, e.principal) for e in told] == [
        (version, 2, False, "bea", "local:root") for version in (2, 3, 4)
    ]
    assert alerts(world) == []
    state = world.states()[-1]
    assert [entry.version for entry in state.versions if entry.flagged is True] == [2, 3, 4]
    info = family.info("m", 3)
    assert [str(one) for one in info.flags] == ["descends from version 2, flagged faulty: leaked labels (bea)"]
    assert {node.label for node in family.lineage("m", 2).nodes if node.flagged} == {"m 2", "m 3", "m 4"}
    with world.readers() as session:
        assert verify_audit(session).problem is None


def test_nothing_that_is_flagged_comes_to_answer(world: RegistryWorld, family: RegistryDecisions) -> None:
    flag(family, 4)
    with pytest.raises(ConflictError, match="is flagged faulty: leaked labels"):
        family.rollback("m", 4, by=BY, actor="bea", reason="back")
    # By itself a roll-back passes over what is flagged.
    assert [(o.version, o.stage) for o in listed(family.chosen("rollback", Search()), "rollback")] == [
        (3, "instead of 5")
    ]
    assert family.rollback("m", None, by=BY, actor="bea", reason="back") == 3
    flag(family, 1, "all of it")
    with pytest.raises(TransitionError, match="no predecessor that is not flagged"):
        family.rollback("m", None, by=BY, actor="bea", reason="back")


def test_a_new_descendant_waits_for_people_who_have_to_clear_it(
    world: RegistryWorld, family: RegistryDecisions
) -> None:
    flag(family, 5)
    assert candidate(world, 5) == (6, "awaiting-approval"), "auto approval does not promote what is flagged"
    assert flagged(family) == [(5, 5), (6, 5)]
    with pytest.raises(ConflictError, match="descends from version 5"):
        family.approve("m", 6, by=BY, actor="bea", comment="")
    assert withdraw(family, 6) == [6]
    family.approve("m", 6, by=BY, actor="bea", comment="trained anew")
    assert family.model("m").champion == 6
    assert flagged(family) == [(5, 5)], "its parent stays flagged"
    assert candidate(world, 1) == (7, "promoted")


def test_a_live_version_opens_an_incident_until_it_is_rolled_back(
    world: RegistryWorld, family: RegistryDecisions
) -> None:
    flag(family, 5)
    (opened,) = alerts(world)
    assert opened[:2] == ("opened", 5)
    assert [one.version for one in family.live_flags()] == [5]
    family.rollback("m", None, by=BY, actor="bea", reason="faulty")
    assert alerts(world) == [opened, ("closed", 5, opened[2])]
    assert family.live_flags() == []
    # Withdrawn while it is live: closed too, once.
    flag(family, 4)
    withdraw(family, 4)
    assert [status for status, *_ in alerts(world)] == ["opened", "closed"] * 2


def test_what_is_withdrawn_takes_its_descendants_along(world: RegistryWorld, family: RegistryDecisions) -> None:
    flag(family, 1)
    before = world.now
    flag(family, 3, "another fault")
    assert flagged(family) == [(1, 1), (2, 1), (3, 1), (3, 3), (4, 1), (4, 3), (5, 1)]
    assert withdraw(family, 3) == [3, 4], "its own flag"
    assert flagged(family) == [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1)]
    assert withdraw(family, 3) == [3, 4], "then what it inherited: it is clear of the first fault, and so is 4"
    assert flagged(family) == [(1, 1), (2, 1), (5, 1)]
    assert withdraw(family, 1) == [1, 2, 5]
    with pytest.raises(ConflictError, match="is not flagged"):
        withdraw(family, 1)
    told = [event for event in world.events() if isinstance(event, FlagWithdrawn)]
    assert [(e.version, e.source) for e in told] == [(3, 3), (4, 3), (3, 1), (4, 1), (1, 1), (2, 1), (5, 1)]
    then = {info.version: [one.source for one in info.flags] for info in family.infos("m", before)}
    assert then == {1: [1], 2: [1], 3: [1], 4: [1], 5: [1]}, "as it stood"


def test_all_that_a_table_went_into_is_flagged(world: RegistryWorld, family: RegistryDecisions) -> None:
    world.model("n")
    candidate(world, None, "n")
    done = family.flag_made_from("dataset", "0d" * 32, by=BY, actor="bea", reason="wrong unit")
    assert {(one.model, one.version) for one in done} == {("m", v) for v in range(1, 6)} | {("n", 1)}
    with pytest.raises(NotFoundError):
        family.flag_made_from("dataset", "ff" * 32, by=BY, actor="bea", reason="x")
