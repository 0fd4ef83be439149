"""Policies of approval on both databases: who, how many, until when, about which bytes; many at once; reviews."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import msgspec
import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from agents.access.logic import local_principal
from agents.database.engine import make_engine, session_factory
from agents.gateway.decisions import RegistryDecisions
from agents.registry import approvals
from agents.registry.agreement import compare_tables
from agents.registry.audit import verify_audit
from agents.registry.batch import Outcome, What, confirmed, listed
from agents.registry.reviews import review, reviews
from agents.registry.search import Search
from agents.registry.tables import ApprovalRequestRow, ApprovalRow, ReviewRow
from agents.registry.views import VersionInfo
from schemas.errors import ConflictError, NotFoundError, SpecificationError, TransitionError
from schemas.events import ApprovalLapsed, ApprovalRequested, ModelPromoted, RollbackReviewed, VersionArchived
from schemas.specification import parse
from tests.support.registries import RegistryWorld, spec_text

ROOT = local_principal("root")


def waiting(world: RegistryWorld, name: str = "m", **policy: object) -> None:
    """A model with a version that waits for approval."""
    world.model(name, mode="manual", **policy)
    assert world.candidate(name, mode="manual", **policy)[1] == "awaiting-approval"


def approve(world: RegistryWorld, actor: str, name: str = "m", version: int = 1) -> str:
    with world.sessions.begin() as session:
        return world.registry.approve(session, name, version, actor).stage


def decide(
    decisions: RegistryDecisions,
    what: What,
    *,
    actor: str = "bea",
    allowed: Callable[[str], bool] = lambda _: True,
    **search: object,
) -> list[Outcome]:
    found = decisions.chosen(what, Search(**search))  # type: ignore[arg-type]
    return decisions.decide_all(what, found, by=ROOT, actor=actor, reason="all fine", allowed=allowed)


def stage(world: RegistryWorld, name: str = "m", version: int = 1) -> str:
    with world.readers() as session:
        return world.registry.version(session, name, version).stage


def test_under_four_eyes_whoever_asks_does_not_approve(world: RegistryWorld) -> None:
    waiting(world, four_eyes=True)
    with pytest.raises(ConflictError, match=r"retraining asked for it: .* four_eyes wants another person"):
        approve(world, "retraining")
    assert approve(world, "bea") == "promoted"


def test_without_four_eyes_one_may(world: RegistryWorld) -> None:
    waiting(world)
    assert approve(world, "retraining") == "promoted"


@pytest.mark.parametrize(
    "wrong",
    [
        {"actor": "retraining"},
        {"artifact": "0" * 64},
        {"four_eyes": False},
        {"requester": "somebody else"},
        {"request": 99},
    ],
)
def test_the_database_itself_refuses_what_the_policy_forbids(world: RegistryWorld, wrong: dict[str, object]) -> None:
    """Also where the code that should have refused it is wrong, or is not ours."""
    waiting(world, four_eyes=True)
    with world.readers() as session:
        asked = session.scalars(select(ApprovalRequestRow)).one()
    right = {
        "model": "m", "version": 1, "actor": "bea", "artifact": asked.artifact, "comment": "", "at": world.now,
        "request": asked.id, "requester": asked.requester, "four_eyes": True,
    }  # fmt: skip
    with pytest.raises(IntegrityError), world.sessions.begin() as session:
        session.execute(insert(ApprovalRow).values(**{**right, **wrong}))
    with world.sessions.begin() as session:
        session.execute(insert(ApprovalRow).values(**right))


def test_a_question_lapses_and_can_be_asked_again(world: RegistryWorld) -> None:
    waiting(world, approvers=2, expires="7d")
    asked = world.now
    assert approve(world, "bea") == "approval-requested"
    world.now = asked + timedelta(days=7)
    with pytest.raises(ConflictError, match="the question lapsed at") as caught:
        approve(world, "cyd")
    assert "driftline request-approval m 1" in caught.value.remedy
    assert approvals.due(world.registry, world.readers)
    with world.sessions.begin() as session:
        assert approvals.lapse_due(world.registry, session) == [("m", 1)]
        assert approvals.lapse_due(world.registry, session) == []
    assert not approvals.due(world.registry, world.readers)
    assert stage(world) == "expired"
    assert isinstance(world.events()[-1], ApprovalLapsed)
    assert world.states()[-1].challenger is None
    with pytest.raises(TransitionError, match="cannot become approved while expired"):
        approve(world, "cyd")
    with world.sessions.begin() as session:
        assert approvals.ask_again(world.registry, session, "m", 1, "dan").stage == "approval-requested"
    assert isinstance(world.events()[-1], ApprovalRequested)
    assert world.states()[-1].challenger == 1
    assert approve(world, "bea") == "approval-requested", "what she approved before counts no more"
    assert approve(world, "cyd") == "promoted"
    with world.readers() as session:
        assert world.registry.history(session, "m").stages == {1: "promoted"}
        assert all(row.closed_at for row in session.scalars(select(ApprovalRequestRow)))


def test_before_its_time_nothing_lapses_and_without_one_never(world: RegistryWorld) -> None:
    waiting(world, expires="7d")
    waiting(world, "n")
    world.now += timedelta(days=6, hours=23)
    with world.sessions.begin() as session:
        assert approvals.lapse_due(world.registry, session) == []
    world.now += timedelta(days=9999)
    with world.sessions.begin() as session:
        assert approvals.lapse_due(world.registry, session) == [("m", 1)]
    assert approve(world, "bea", "n") == "promoted"


def test_what_was_decided_in_time_does_not_lapse(world: RegistryWorld) -> None:
    waiting(world, expires="1d")
    waiting(world, "n", expires="1d")
    approve(world, "bea")
    with world.sessions.begin() as session:
        world.registry.reject(session, "n", 1, "bea", "no")
    world.now += timedelta(days=2)
    with world.sessions.begin() as session:
        assert approvals.lapse_due(world.registry, session) == []
    assert (stage(world), stage(world, "n")) == ("promoted", "rejected")


@pytest.mark.parametrize("expires", ["soon", "-1d", "7"])
def test_a_time_that_is_none_is_refused(expires: str) -> None:
    with pytest.raises(SpecificationError) as caught:
        parse(spec_text(mode="manual", expires=expires))
    assert "approval.expires" in caught.value.where


def test_many_are_approved_by_pattern_and_one_that_is_refused_keeps_no_other(world: RegistryWorld) -> None:
    for name in ("bus-1", "bus-2", "bus-3", "tram-1"):
        waiting(world, name, four_eyes=name == "bus-2")
    world.model("bus-4")
    decisions = RegistryDecisions(world.registry, world.readers)
    found = decide(decisions, "approve", match="bus-*", actor="retraining", allowed=lambda model: model != "bus-3")
    assert [(o.model, o.version, o.stage) for o in found] == [
        ("bus-1", 1, "promoted"), ("bus-2", 1, None), ("bus-3", 1, None),
    ]  # fmt: skip
    assert "four_eyes" in (found[1].problem or "")
    assert "lacks the role approver" in (found[2].problem or "")
    assert [stage(world, name) for name in ("bus-1", "bus-2", "bus-3", "tram-1")] == [
        "promoted", "approval-requested", "approval-requested", "approval-requested",
    ]  # fmt: skip
    epochs = [event.epoch for event in world.events()]
    assert epochs == list(range(1, len(epochs) + 1)), "what was refused left no gap"
    promoted = [event for event in world.events() if isinstance(event, ModelPromoted)]
    assert [(event.model, event.principal) for event in promoted] == [("bus-1", "local:root")]
    assert decide(decisions, "approve", match="ship-*") == []


def test_what_was_half_done_when_it_was_refused_is_undone(
    world: RegistryWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decision among many that fails after it has written leaves nothing, and the others stand."""
    for n in range(3):
        waiting(world, f"bus-{n}")
    approved = world.registry.approve

    def late(session: Session, model: str, *given: object, **more: object) -> VersionInfo:
        done = approved(session, model, *given, **more)  # type: ignore[arg-type]
        if model == "bus-1":
            raise ConflictError("somebody was faster", where=model)
        return done

    monkeypatch.setattr(world.registry, "approve", late)
    found = decide(RegistryDecisions(world.registry, world.readers), "approve")
    assert [(o.stage, o.problem) for o in found] == [
        ("promoted", None), (None, "somebody was faster"), ("promoted", None),
    ]  # fmt: skip
    assert [stage(world, f"bus-{n}") for n in range(3)] == ["promoted", "approval-requested", "promoted"]
    epochs = [event.epoch for event in world.events()]
    assert epochs == list(range(1, len(epochs) + 1))
    with world.readers() as session:
        assert compare_tables(session, verify_audit(session)).problem is None


def test_many_are_approved_as_the_bytes_that_were_listed(world: RegistryWorld) -> None:
    for n in range(2):
        waiting(world, f"bus-{n}")
    decisions = RegistryDecisions(world.registry, world.readers)
    first, second = decisions.chosen("approve", Search())
    seen = [msgspec.structs.replace(first, artifact=second.artifact), second]
    done = decisions.decide_all("approve", seen, by=ROOT, actor="bea", reason="", allowed=lambda _: True)
    assert [o.stage for o in done] == [None, "promoted"]
    assert f"holds artifact {first.artifact}, approved was {second.artifact}" in (done[0].problem or "")


def test_more_than_one_transaction_of_approvals(world: RegistryWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.registry.batch.CHUNK", 2)
    for n in range(5):
        waiting(world, f"bus-{n}")
    decisions = RegistryDecisions(world.registry, world.readers)
    found = decide(decisions, "approve")
    assert [outcome.stage for outcome in found] == ["promoted"] * 5


def test_many_are_rejected_by_tag(world: RegistryWorld) -> None:
    for n in range(3):
        waiting(world, f"bus-{n}")
    with world.sessions.begin() as session:
        for n in (0, 2):
            world.registry.tag(session, f"bus-{n}", None, {"line": "m"}, [], "ann")
    decisions = RegistryDecisions(world.registry, world.readers)
    assert [(o.model, o.stage) for o in decide(decisions, "reject", tags={"line": "m"})] == [
        ("bus-0", "rejected"),
        ("bus-2", "rejected"),
    ]
    assert stage(world, "bus-1") == "approval-requested"


def test_many_are_rolled_back_as_many_as_were_seen(world: RegistryWorld) -> None:
    for name, versions in (("bus-1", 2), ("bus-2", 3), ("bus-3", 1), ("tram-1", 2)):
        world.model(name)
        for _ in range(versions):
            world.candidate(name)
    decisions = RegistryDecisions(world.registry, world.readers)
    found = decisions.chosen("rollback", Search(match="bus-*"))
    assert [(o.model, o.version, o.problem) for o in listed(found, "rollback")] == [
        ("bus-1", 1, None),
        ("bus-2", 2, None),
        ("bus-3", 1, "has no predecessor"),
    ]
    with pytest.raises(ConflictError, match="2 models would be rolled back, 3 were confirmed"):
        confirmed(found, 3)
    with world.sessions.begin() as session:  # somebody is faster with one of them
        world.registry.rollback(session, "bus-2", 1, actor="cyd", reason="burns")
    done = decisions.decide_all(
        "rollback", confirmed(found, 2), by=ROOT, actor="bea", reason="bad data", allowed=lambda _: True
    )
    assert [(o.model, o.version, o.stage) for o in done] == [("bus-1", 1, "promoted"), ("bus-2", 3, None)]
    assert "champion is version 1, not 3" in (done[1].problem or "")
    assert (stage(world, "tram-1", 2), stage(world, "bus-2")) == ("promoted", "promoted")


def rolled_back(world: RegistryWorld, actor: str, **spec: object) -> int:
    world.model(**spec)
    world.candidate(**spec)
    world.candidate(**spec)
    with world.sessions.begin() as session:
        world.registry.rollback(session, "m", actor=actor, reason="it burns")
    return world.events()[-1].epoch


def test_a_roll_back_needs_one_person_and_is_reviewed_afterwards(world: RegistryWorld) -> None:
    number = rolled_back(world, "bea", approvers=3, four_eyes=True)
    with world.readers() as session:
        (flagged,) = reviews(session)
    assert (flagged.id, flagged.model, flagged.previous, flagged.version) == (number, "m", 2, 1)
    assert (flagged.actor, flagged.reason, flagged.reviewed_by) == ("bea", "it burns", None)
    with pytest.raises(ConflictError, match="bea made it"), world.sessions.begin() as session:
        review(session, number, "bea", "fine", now=world.now)
    with world.sessions.begin() as session:
        assert review(session, number, "cyd", "was right", now=world.now).reviewed_by == "cyd"
    with pytest.raises(ConflictError, match="was reviewed by cyd already"), world.sessions.begin() as session:
        review(session, number, "dan", "", now=world.now)
    with pytest.raises(NotFoundError), world.sessions.begin() as session:
        review(session, 999, "dan", "", now=world.now)
    event = world.events()[-1]
    assert isinstance(event, RollbackReviewed)
    assert (event.rollback_epoch, event.comment, event.actor) == (number, "was right", "cyd")
    with world.readers() as session:
        assert reviews(session) == []
        assert [one.comment for one in reviews(session, done=True)] == ["was right"]
        assert world.registry.history(session, "m").champion == 1
    with pytest.raises(IntegrityError), world.sessions.begin() as session:
        session.execute(text("UPDATE registry_reviews SET reviewed_by = actor"))


def test_without_four_eyes_one_reviews_oneself_and_policies_are_not_reviewed(world: RegistryWorld) -> None:
    number = rolled_back(world, "bea")
    with world.sessions.begin() as session:
        review(session, number, "bea", "checked", now=world.now)
        world.registry.rollback(session, "m", 2, actor="policy:probation", reason="worse")
        assert len(session.scalars(select(ReviewRow)).all()) == 1


def test_what_is_archived_is_out_of_use_for_good(world: RegistryWorld) -> None:
    world.model(probation="7d")
    for _ in range(3):
        world.candidate(probation="7d")
    world.candidate(passed=False)

    def archive(version: int) -> str:
        with world.sessions.begin() as session:
            return approvals.archive(world.registry, session, "m", version, actor="bea", reason="old").stage

    with pytest.raises(TransitionError, match="cannot become archived while promoted"):
        archive(3)
    with pytest.raises(ConflictError, match="answers in shadow"):
        archive(2)
    assert archive(1) == archive(4) == "archived"
    event = world.events()[-1]
    assert isinstance(event, VersionArchived)
    assert (event.version, event.reason, event.actor) == (4, "old", "bea")
    with pytest.raises(ConflictError, match="is archived already"), world.sessions.begin() as session:
        world.registry.rollback(session, "m", 1, actor="bea", reason="")
    with pytest.raises(ConflictError, match="is archived already"):
        archive(1)
    with world.readers() as session:
        assert world.registry.history(session, "m").stages == {
            1: "archived", 2: "superseded", 3: "promoted", 4: "archived",
        }  # fmt: skip


def test_questions_and_approvals_of_the_release_before_are_kept(database_url: str) -> None:
    """Upward with data: a version with one of two approvals, one that nobody has looked at, one that is decided."""
    from alembic import command
    from alembic.config import Config

    from agents.database.migrate import MIGRATIONS, upgrade

    engine = make_engine(database_url)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    versions = [(1, "promoted"), (2, "approval-requested"), (3, "approval-requested")]
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0007")
        connection.execute(text("INSERT INTO registry_specifications VALUES ('s', '')"))
        connection.execute(
            text(
                "INSERT INTO registry_models (name, task, specification, epoch, actor, registered_at, monitored)"
                " VALUES ('m', 'binary', 's', 1, 'ann', '2026-01-01 00:00:00', false)"
            )
        )
        for version, found in versions:
            connection.execute(
                text(
                    "INSERT INTO registry_versions (model, version, artifact, reference, specification, code, dataset,"
                    " environment, parameters, seed, report, actor, at, registered_at, registered_epoch, stage, reason)"
                    " VALUES ('m', :version, :artifact, 'r', 's', '{}', '{}', '{}', '{}', 1, '{}', 'retraining',"
                    " '2026-01-01 00:00:00', '2026-01-02 00:00:00', 1, :stage, '')"
                ),
                {"version": version, "artifact": f"a{version}", "stage": found},
            )
        for version in (1, 2):
            connection.execute(
                text("INSERT INTO registry_approvals VALUES ('m', :v, 'bea', :a, 'fine', '2026-01-03 00:00:00')"),
                {"v": version, "a": f"a{version}"},
            )
    upgrade(engine)
    with session_factory(engine, read_only=True)() as session:
        asked = session.scalars(select(ApprovalRequestRow).order_by(ApprovalRequestRow.version)).all()
        assert [(r.version, r.artifact, r.requester, r.closed_at is None) for r in asked] == [
            (1, "a1", "retraining", False), (2, "a2", "retraining", True), (3, "a3", "retraining", True),
        ]  # fmt: skip
        given = session.scalars(select(ApprovalRow).order_by(ApprovalRow.version)).all()
        assert [(a.version, a.actor, a.comment, a.request) for a in given] == [
            (1, "bea", "fine", asked[0].id), (2, "bea", "fine", asked[1].id),
        ]  # fmt: skip
    with pytest.raises(IntegrityError), session_factory(engine).begin() as session:
        session.execute(text("UPDATE registry_approvals SET artifact = 'other'"))
    engine.dispose()
