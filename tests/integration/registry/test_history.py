"""Random histories against a model that is too simple to be wrong: as-of is right at every transition."""

from __future__ import annotations

import shutil
import tempfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from agents.registry import approvals, flags
from agents.registry.agreement import compare_tables
from agents.registry.audit import verify_audit
from agents.registry.change import Change
from agents.registry.search import Search, find_models, find_versions
from schemas.errors import ConflictError, TransitionError
from tests.support.databases import EmbeddedPostgres, prepare
from tests.support.registries import RegistryWorld

HOUR = timedelta(hours=1)


class Moment(NamedTuple):
    """How everything stood, by the simple model."""

    at: datetime
    champion: int | None
    challenger: int | None
    stages: dict[int, str]
    tags: dict[str, str]
    flagged: set[int]


class Histories(RuleBasedStateMachine):
    """Whatever people and gates do, in any order."""

    postgres: EmbeddedPostgres | None = None

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="histories-"))
        server = type(self).postgres
        self.world = RegistryWorld(server.prepared() if server else f"sqlite:///{self.folder / 'r.db'}", self.folder)
        if server is None:
            prepare(self.world.engine)
        self.world.model(mode="manual")
        # What the simple model knows: stages, the champions in order, and a picture of every moment.
        self.stages: dict[int, str] = {}
        self.champion: int | None = None
        self.before: dict[int, int | None] = {}
        self.asked: dict[int, tuple[datetime, str, set[str]]] = {}  # since when, by whom, who approved
        self.challenger: int | None = None
        self.tags: dict[str, str] = {}
        self.flagged: set[int] = set()
        self.moments: list[Moment] = []

    def picture(self) -> None:
        self.moments.append(
            Moment(
                self.world.now, self.champion, self.challenger, dict(self.stages), dict(self.tags), set(self.flagged)
            )
        )

    def no_longer_asked(self, version: int) -> None:
        self.challenger = None if self.challenger == version else self.challenger

    def promote(self, version: int) -> None:
        if self.champion is not None:
            self.stages[self.champion] = "superseded"
        self.before[version] = self.champion
        self.stages[version] = "promoted"
        self.champion = version
        self.no_longer_asked(version)

    @rule(mode=st.sampled_from(["auto", "manual"]), passed=st.booleans())
    def submit(self, mode: str, passed: bool) -> None:
        version, decision = self.world.candidate(passed=passed, mode=mode, approvers=2, four_eyes=True, expires="1h")
        assert version == len(self.stages) + 1
        if not passed:
            self.stages[version] = "rejected"
        elif mode == "manual":
            self.stages[version] = "approval-requested"
            self.asked[version] = (self.world.now, "retraining", set())
            self.challenger = version
        else:
            self.promote(version)
        wanted = {"rejected": "rejected", "approval-requested": "awaiting-approval"}.get(self.stages[version])
        assert decision == (wanted or ("initial" if self.before[version] is None else "promoted"))
        self.picture()

    @precondition(lambda self: self.stages)
    @rule(data=st.data(), approve=st.booleans(), person=st.sampled_from(["bea", "cyd", "dan", "retraining"]))
    def decide(self, data: st.DataObject, approve: bool, person: str) -> None:
        version = data.draw(st.sampled_from(sorted(self.stages)))
        possible = self.stages[version] == "approval-requested"
        if possible and approve:
            since, requester, approved = self.asked[version]
            possible = self.world.now - since < HOUR and person != requester and person not in approved
            possible = possible and version not in self.flagged
        try:
            with self.world.sessions.begin() as session:
                if approve:
                    self.world.registry.approve(session, "m", version, person)
                else:
                    self.world.registry.reject(session, "m", version, person, "no")
        except (ConflictError, TransitionError):
            assert not possible
            return
        assert possible
        if not approve:
            self.stages[version] = "rejected"
            self.no_longer_asked(version)
        else:
            self.asked[version][2].add(person)
            if len(self.asked[version][2]) == 2:
                self.promote(version)
        self.picture()

    @precondition(lambda self: self.asked)
    @rule(minutes=st.sampled_from([5, 40, 70]))
    def time_passes(self, minutes: int) -> None:
        """The registry's agent looks: questions nobody answered lapse."""
        self.world.now += timedelta(minutes=minutes)
        with self.world.sessions.begin() as session:
            lapsed = {version for _, version in approvals.lapse_due(self.world.registry, session)}
        waiting = [v for v, stage in self.stages.items() if stage == "approval-requested"]
        assert lapsed == {v for v in waiting if self.world.now - self.asked[v][0] >= HOUR}
        for version in lapsed:
            self.stages[version] = "expired"
            self.no_longer_asked(version)
        self.picture()

    @precondition(lambda self: self.stages)
    @rule(data=st.data())
    def ask_again(self, data: st.DataObject) -> None:
        version = data.draw(st.sampled_from(sorted(self.stages)))
        possible = self.stages[version] == "expired"
        try:
            with self.world.sessions.begin() as session:
                approvals.ask_again(self.world.registry, session, "m", version, "bea")
        except (ConflictError, TransitionError):
            assert not possible
            return
        assert possible
        self.stages[version], self.asked[version] = "approval-requested", (self.world.now, "bea", set())
        self.challenger = version
        self.picture()

    @precondition(lambda self: self.stages)
    @rule(data=st.data())
    def archive(self, data: st.DataObject) -> None:
        version = data.draw(st.sampled_from(sorted(self.stages)))
        possible = self.stages[version] in {"expired", "rejected", "superseded", "rolled-back"}
        try:
            with self.world.sessions.begin() as session:
                approvals.archive(self.world.registry, session, "m", version, actor="bea", reason="old")
        except (ConflictError, TransitionError):
            assert not possible
            return
        assert possible
        self.stages[version] = "archived"
        self.picture()

    @precondition(lambda self: self.stages)
    @rule(data=st.data(), named=st.booleans())
    def roll_back(self, data: st.DataObject, named: bool) -> None:
        to = data.draw(st.sampled_from(sorted(self.stages))) if named else None
        goal = to if to is not None else (self.before.get(self.champion) if self.champion else None)
        while to is None and goal in self.flagged:
            goal = self.before[goal]
        possible = self.champion is not None and goal is not None and self.stages[goal] in ("superseded", "rolled-back")
        possible = possible and goal not in self.flagged
        try:
            with self.world.sessions.begin() as session:
                self.world.registry.rollback(session, "m", to, actor="bea", reason="")
        except (ConflictError, TransitionError):
            assert not possible
            return
        assert possible
        assert self.champion is not None
        assert goal is not None
        self.stages[self.champion], self.stages[goal], self.champion = "rolled-back", "promoted", goal
        self.picture()

    @rule(key=st.sampled_from("ab"), value=st.sampled_from(["1", "2", None]))
    def tag(self, key: str, value: str | None) -> None:
        given, gone = ({key: value}, []) if value is not None else ({}, [key])
        with self.world.sessions.begin() as session:
            now = self.world.registry.tag(session, "m", None, given, gone, "bea")
        self.tags = {k: v for k, v in {**self.tags, key: value}.items() if v is not None}
        assert now == self.tags
        self.picture()

    @precondition(lambda self: self.stages)
    @rule(data=st.data())
    def flag_or_withdraw(self, data: st.DataObject) -> None:
        version = data.draw(st.sampled_from(sorted(self.stages)))
        with self.world.sessions.begin() as session:
            change = Change.of(session, "m", self.world.registry.now())
            (flags.withdraw if version in self.flagged else flags.flag)(change, version, "bea", "why not")
        self.flagged ^= {version}
        self.picture()

    @invariant()
    def now_is_right(self) -> None:
        with self.world.readers() as session:
            versions = self.world.registry.versions(session, "m")
            champion = self.world.registry.champion(session, "m")
            replayed = self.world.registry.history(session, "m")
        assert {entry.version: entry.stage for entry in versions} == self.stages == replayed.stages
        assert (champion.version if champion else None) == self.champion == replayed.champion
        state = self.world.states()[-1]
        assert (state.champion, {entry.version: entry.stage for entry in state.versions}) == (
            self.champion,
            self.stages,
        )

    def teardown(self) -> None:
        with self.world.readers() as session:
            for then in self.moments:
                told = self.world.registry.history(session, "m", then.at)
                assert (told.champion, told.challenger, told.stages) == (then.champion, then.challenger, then.stages)
                (model,), _ = find_models(session, Search(as_of=then.at))
                assert (model.champion, model.challenger, model.versions, model.tags) == (
                    *(then.champion, then.challenger, len(then.stages), then.tags),
                )
                for alias in ("champion", "challenger"):
                    found, _ = find_models(session, Search(as_of=then.at, alias=alias, tags=dict(then.tags)))
                    assert len(found) == (getattr(then, alias) is not None)
                    those, _ = find_versions(session, Search(as_of=then.at, alias=alias, match="*"))
                    assert [v.version for v in those] == [n for n in (getattr(then, alias),) if n is not None]
                for stage in sorted({*self.stages.values(), *then.stages.values(), "approved"}):
                    those, _ = find_versions(session, Search(as_of=then.at, stage=stage))
                    assert {v.version: v.stage for v in those} == {n: s for n, s in then.stages.items() if s == stage}
                versions = self.world.registry.versions(session, "m", then.at)
                assert {v.version: (v.stage, v.champion, bool(v.flags)) for v in versions} == {
                    version: (stage, version == then.champion, version in then.flagged)
                    for version, stage in then.stages.items()
                }
            assert compare_tables(session, verify_audit(session)).problem is None
        epochs = [event.epoch for event in self.world.events()]
        assert epochs == list(range(1, len(epochs) + 1))
        self.world.close()
        shutil.rmtree(self.folder)


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_every_history_is_told_right(database: str, request: pytest.FixtureRequest) -> None:
    Histories.postgres = request.getfixturevalue("postgres") if database == "postgresql" else None
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Histories,
        settings=settings(
            max_examples=8, stateful_step_count=24, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
