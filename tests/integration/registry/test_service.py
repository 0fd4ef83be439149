"""What the registry does, step by step, on both databases."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from agents.database.outbox import OutboxRow
from agents.registry.tables import AuditRow, VersionRow
from schemas.errors import ConflictError, DriftlineError, NotFoundError, SpecificationError, TransitionError
from schemas.events import (
    ApprovalRequested,
    ModelPromoted,
    ModelRegistered,
    ModelRolledBack,
    ProbationEnded,
    VersionApproved,
    VersionRegistered,
    VersionRejected,
    VersionValidated,
)
from tests.support.registries import EVENT_TIME, START, RegistryWorld, spec_text


def test_auto_approval_does_everything_in_one_transaction_and_in_order(world: RegistryWorld) -> None:
    world.model()
    assert world.candidate() == (1, "initial")
    assert world.candidate() == (2, "promoted")
    events = world.events()
    assert [type(event) for event in events] == [
        ModelRegistered,
        *[VersionRegistered, VersionValidated, VersionApproved, ModelPromoted] * 2,
    ]
    assert [event.epoch for event in events] == list(range(1, 10))
    assert len({event.event_id for event in events}) == 9
    last = events[-1]
    assert isinstance(last, ModelPromoted)
    assert (last.version, last.previous, last.at, last.actor) == (2, 1, EVENT_TIME, "policy:auto")
    state = world.states()[-1]
    assert (state.champion, state.challenger, state.epoch) == (2, None, 9)
    assert [(entry.version, entry.stage) for entry in state.versions] == [(1, "superseded"), (2, "promoted")]
    assert state.versions[1].registered_epoch == 6


def test_the_state_names_what_is_in_the_artifact_store(world: RegistryWorld) -> None:
    world.model()
    world.candidate()
    entry = world.states()[-1].versions[0]
    assert world.store.get(entry.artifact).startswith(b"model m")
    assert world.store.get(entry.reference) == b"{}"
    assert world.store.get(entry.specification).decode() == spec_text()


def test_a_refused_candidate_changes_nothing_in_production(world: RegistryWorld) -> None:
    world.model()
    world.candidate()
    assert world.candidate(passed=False) == (2, "rejected")
    with world.readers() as session:
        champion = world.registry.champion(session, "m")
        refused = world.registry.version(session, "m", 2)
    assert champion is not None
    assert champion.version == 1
    assert (refused.stage, refused.decision, refused.reason) == ("rejected", "rejected", "worse")
    assert isinstance(world.events()[-1], VersionRejected)


def test_a_refused_first_version_leaves_the_model_without_champion(world: RegistryWorld) -> None:
    world.model()
    assert world.candidate(passed=False) == (1, "rejected")
    assert world.candidate() == (2, "initial")


def test_manual_approval_waits_for_a_person(world: RegistryWorld) -> None:
    world.model(mode="manual")
    assert world.candidate(mode="manual") == (1, "awaiting-approval")
    assert (world.states()[-1].champion, world.states()[-1].challenger) == (None, 1)
    with world.sessions.begin() as session:
        approved = world.registry.approve(session, "m", 1, "bea", "looks good")
    assert (approved.stage, approved.decision, approved.champion) == ("promoted", "initial", True)
    assert [type(event) for event in world.events()[-3:]] == [ApprovalRequested, VersionApproved, ModelPromoted]
    assert (world.states()[-1].champion, world.states()[-1].challenger) == (1, None)


def test_as_many_people_as_the_specification_says_have_to_approve(world: RegistryWorld) -> None:
    world.model(mode="manual", approvers=2)
    world.candidate(mode="manual", approvers=2)
    with world.sessions.begin() as session:
        assert world.registry.approve(session, "m", 1, "bea").stage == "approval-requested"
    with pytest.raises(ConflictError, match="bea has approved it already"), world.sessions.begin() as session:
        world.registry.approve(session, "m", 1, "bea")
    with world.readers() as session:
        assert world.registry.history(session, "m").stages == {1: "approval-requested"}
    with world.sessions.begin() as session:
        assert world.registry.approve(session, "m", 1, "cyd").stage == "promoted"


def test_an_approval_is_bound_to_the_bytes_that_were_looked_at(world: RegistryWorld) -> None:
    world.model(mode="manual")
    world.candidate(mode="manual")
    with pytest.raises(ConflictError, match="holds artifact"), world.sessions.begin() as session:
        world.registry.approve(session, "m", 1, "bea", artifact="0" * 64)
    with world.sessions.begin() as session:
        held = world.registry.version(session, "m", 1).artifact
        assert world.registry.approve(session, "m", 1, "bea", artifact=held).stage == "promoted"


def test_rejecting_ends_the_question(world: RegistryWorld) -> None:
    world.model(mode="manual")
    world.candidate(mode="manual")
    with world.sessions.begin() as session:
        rejected = world.registry.reject(session, "m", 1, "bea", "biased")
    assert (rejected.stage, rejected.reason) == ("rejected", "biased")
    event = world.events()[-1]
    assert isinstance(event, VersionRejected)
    assert (event.actor, event.reason) == ("bea", "biased"), "the audit keeps why"
    assert world.states()[-1].challenger is None
    with pytest.raises(ConflictError, match="is rejected already"), world.sessions.begin() as session:
        world.registry.approve(session, "m", 1, "cyd")


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (lambda world, session: world.registry.approve(session, "m", 1, "bea"), TransitionError),
        (lambda world, session: world.registry.reject(session, "m", 9, "bea", ""), NotFoundError),
        (lambda world, session: world.registry.approve(session, "nope", 1, "bea"), NotFoundError),
        (lambda world, session: world.registry.rollback(session, "m", actor="bea", reason=""), TransitionError),
        (lambda world, session: world.registry.versions(session, "nope"), NotFoundError),
    ],
)
def test_impossible_steps_say_why(
    world: RegistryWorld, step: Callable[[RegistryWorld, object], object], error: type[DriftlineError]
) -> None:
    world.model()
    with world.sessions.begin() as session:
        world.version(session)
    before = world.events()
    with pytest.raises(error) as caught, world.sessions.begin() as session:
        step(world, session)
    assert caught.value.where
    assert caught.value.remedy
    assert world.events() == before


def test_a_candidate_is_decided_on_once(world: RegistryWorld) -> None:
    world.model()
    world.candidate()
    with pytest.raises(ConflictError, match="is promoted already"), world.sessions.begin() as session:
        world.submit(session, 1)


def test_rollback_brings_the_previous_champion_back(world: RegistryWorld) -> None:
    world.model()
    for _ in range(3):
        world.candidate()
    with world.sessions.begin() as session:
        back = world.registry.rollback(session, "m", actor="bea", reason="complaints")
    assert back.version == 2
    event = world.events()[-1]
    assert isinstance(event, ModelRolledBack)
    assert (event.version, event.previous, event.reason, event.artifact) == (2, 3, "complaints", back.artifact)
    with world.sessions.begin() as session:
        assert world.registry.rollback(session, "m", actor="bea", reason="worse still").version == 1
    with pytest.raises(TransitionError, match="no predecessor"), world.sessions.begin() as session:
        world.registry.rollback(session, "m", actor="bea", reason="")
    with world.sessions.begin() as session:
        assert world.registry.rollback(session, "m", 3, actor="bea", reason="it was fine").version == 3
        stages = {entry.version: entry.stage for entry in world.registry.versions(session, "m")}
    assert stages == {1: "rolled-back", 2: "rolled-back", 3: "promoted"}


def test_a_probation_has_a_shadow_until_it_ends(world: RegistryWorld) -> None:
    """The champion before shadows the promoted version; the end, a roll-back and the next promotion are its end."""
    world.model(probation="7d")
    for _ in range(3):
        world.candidate(probation="7d")
    promoted = {state.champion: state.shadow for state in world.states()}
    assert promoted == {None: None, 1: None, 2: 1, 3: 2}
    with pytest.raises(ConflictError, match="champion is version 3, not 2"), world.sessions.begin() as session:
        world.registry.end_probation(session, "m", 2, actor="policy:probation", reason="too late")
    with world.sessions.begin() as session:
        world.registry.end_probation(session, "m", 3, actor="policy:probation", reason="it held", at=EVENT_TIME)
    event, state = world.events()[-1], world.states()[-1]
    assert isinstance(event, ProbationEnded)
    assert (event.version, event.previous, event.reason, event.at) == (3, 2, "it held", EVENT_TIME)
    assert (state.champion, state.shadow) == (3, None)
    with pytest.raises(ConflictError, match="on no probation"), world.sessions.begin() as session:
        world.registry.end_probation(session, "m", 3, actor="policy:probation", reason="again")
    world.candidate(probation="7d")
    with world.sessions.begin() as session:
        world.registry.rollback(session, "m", 3, actor="policy:probation", reason="worse", expected=4, at=EVENT_TIME)
    assert (world.states()[-1].champion, world.states()[-1].shadow) == (3, None)
    assert world.events()[-1].at == EVENT_TIME
    world.candidate(probation="0")
    assert (world.states()[-1].champion, world.states()[-1].shadow) == (5, None)
    with world.readers() as session:
        assert world.registry.history(session, "m").champion == 5


def test_rollback_refuses_what_never_was_champion_or_is_no_longer(world: RegistryWorld) -> None:
    world.model()
    world.candidate()
    world.candidate(passed=False)
    world.candidate()
    with pytest.raises(TransitionError, match="cannot become promoted while rejected"), world.sessions.begin() as s:
        world.registry.rollback(s, "m", 2, actor="bea", reason="")
    with pytest.raises(ConflictError, match="champion is version 3, not 1"), world.sessions.begin() as s:
        world.registry.rollback(s, "m", actor="bea", reason="", expected=1)
    with pytest.raises(ConflictError), world.sessions.begin() as s:
        world.registry.rollback(s, "m", 3, actor="bea", reason="")


def test_nothing_is_half_registered(world: RegistryWorld) -> None:
    with pytest.raises(SpecificationError), world.sessions.begin() as session:
        world.registry.register_model(session, "[model]\nname = 3", "ann")
    world.model()

    def cut_short() -> None:
        with world.sessions.begin() as session:
            version = world.version(session)
            world.submit(session, version)
            raise RuntimeError("the connection went away")

    with pytest.raises(RuntimeError):
        cut_short()
    with world.readers() as session:
        assert world.registry.versions(session, "m") == []
        assert session.scalar(select(func.count()).select_from(AuditRow)) == 1
        assert session.scalar(select(func.count()).select_from(OutboxRow)) == 2
    assert world.candidate() == (1, "initial")


def test_a_model_keeps_its_task(world: RegistryWorld) -> None:
    world.model()
    world.model()  # again: no event
    assert len(world.events()) == 1
    with pytest.raises(ConflictError, match="is registered as binary"):
        world.model(task="regression")


def test_a_version_needs_its_bytes(world: RegistryWorld) -> None:
    world.model()
    world.store.put = lambda data, kind: "f" * 64  # type: ignore[method-assign]
    with pytest.raises(NotFoundError, match="not in the store"), world.sessions.begin() as session:
        world.version(session)


def test_the_specification_is_the_champions(world: RegistryWorld) -> None:
    world.model()
    with world.readers() as session:
        assert world.registry.specification(session, "m").approval.approvers == 1
    world.candidate()
    world.candidate(passed=False, approvers=3)
    with world.readers() as session:
        assert world.registry.specification(session, "m").approval.approvers == 1
        assert world.registry.specification(session, "m", 2).approval.approvers == 3


def test_reports_survive_whatever_numbers_are_in_them(world: RegistryWorld) -> None:
    world.model()
    world.candidate()
    with world.readers() as session:
        assert world.registry.version(session, "m", 1).report == {"auc": 0.7, "gap": None}


def test_fifty_approvals_at_once_one_wins(world: RegistryWorld) -> None:
    world.model(mode="manual")
    world.candidate(mode="manual")
    outcomes: Counter[str] = Counter()
    barrier = threading.Barrier(50)
    lock = threading.Lock()

    def approve(n: int) -> None:
        barrier.wait()
        try:
            with world.sessions.begin() as session:
                if n % 2:
                    world.registry.approve(session, "m", 1, f"person {n}")
                else:
                    world.registry.reject(session, "m", 1, f"person {n}", "no")
            outcome = "won"
        except ConflictError:
            outcome = "conflict"
        except Exception as error:
            outcome = repr(error)
        with lock:
            outcomes[outcome] += 1

    threads = [threading.Thread(target=approve, args=(n,)) for n in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == {"won": 1, "conflict": 49}
    decided = [event for event in world.events() if isinstance(event, VersionApproved | VersionRejected)]
    assert len(decided) == 1
    assert [event.epoch for event in world.events()] == list(range(1, len(world.events()) + 1))


def test_fifty_rollbacks_at_once_go_back_once(world: RegistryWorld) -> None:
    world.model()
    for _ in range(3):
        world.candidate()
    outcomes: Counter[str] = Counter()
    lock = threading.Lock()

    def roll_back() -> None:
        try:
            with world.sessions.begin() as session:
                world.registry.rollback(session, "m", actor="bea", reason="", expected=3)
            outcome = "won"
        except ConflictError:
            outcome = "conflict"
        with lock:
            outcomes[outcome] += 1

    threads = [threading.Thread(target=roll_back) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == {"won": 1, "conflict": 49}
    assert world.states()[-1].champion == 2


def test_registrations_at_once_get_numbers_of_their_own(world: RegistryWorld) -> None:
    world.model()
    threads = [threading.Thread(target=world.candidate) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with world.readers() as session:
        versions = world.registry.versions(session, "m")
        stored = session.scalars(select(VersionRow.registered_epoch).order_by(VersionRow.version)).all()
    assert [entry.version for entry in versions] == list(range(1, 13))
    assert Counter(entry.stage for entry in versions) == {"superseded": 11, "promoted": 1}
    assert list(stored) == sorted(stored)
    rows = [event.epoch for event in world.events()]
    assert rows == list(range(1, len(rows) + 1)), "the outbox keeps the order of epochs"


def test_as_of_is_right_at_every_transition(world: RegistryWorld) -> None:
    world.model(mode="manual")
    with world.readers() as session:
        assert world.registry.champion(session, "m", as_of=START - timedelta(days=1)) is None
    moments = []
    for _ in range(3):
        version, _ = world.candidate(mode="manual")
        with world.sessions.begin() as session:
            world.registry.approve(session, "m", version, "bea")
        moments.append((world.now, version))
    with world.sessions.begin() as session:
        world.registry.rollback(session, "m", 1, actor="bea", reason="")
    moments.append((world.now, 1))
    with world.readers() as session:
        for moment, version in moments:
            champion = world.registry.champion(session, "m", as_of=moment)
            assert champion is not None
            assert champion.version == version
        then = world.registry.versions(session, "m", as_of=moments[1][0])
        assert [(entry.version, entry.stage, entry.champion) for entry in then] == [
            (1, "superseded", False),
            (2, "promoted", True),
        ]


def test_a_clock_that_goes_back_does_not_confuse_the_record(world: RegistryWorld) -> None:
    world.model()
    world.candidate()
    last = world.now
    world.now = START - timedelta(days=30)
    world.candidate()
    with world.readers() as session:
        recorded = session.scalars(select(AuditRow.recorded_at).order_by(AuditRow.epoch)).all()
        assert recorded == sorted(recorded)
        champion = world.registry.champion(session, "m", as_of=last)
    assert champion is not None
    assert champion.version == 2, "recorded no earlier than what came before it"


def test_models_are_listed_by_name(world: RegistryWorld) -> None:
    for name in ("b", "a"):
        world.model(name)
    world.candidate("b")
    with world.readers() as session:
        listed = world.registry.models(session)
    assert [(entry.model, entry.versions, entry.champion) for entry in listed] == [("a", 0, None), ("b", 1, 1)]
