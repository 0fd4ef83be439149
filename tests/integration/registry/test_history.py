"""Random histories against a model that is too simple to be wrong: as-of is right at every transition."""

from __future__ import annotations

import shutil
import tempfile
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from agents.database.migrate import upgrade
from agents.registry.audit import verify_audit
from schemas.errors import ConflictError, TransitionError
from tests.support.databases import EmbeddedPostgres
from tests.support.registries import RegistryWorld


class Histories(RuleBasedStateMachine):
    """Whatever people and gates do, in any order."""

    postgres: EmbeddedPostgres | None = None

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="histories-"))
        server = type(self).postgres
        self.world = RegistryWorld(server.fresh() if server else f"sqlite:///{self.folder / 'r.db'}", self.folder)
        upgrade(self.world.engine)
        self.world.model(mode="manual")
        # What the simple model knows: stages, the champions in order, and a picture of every moment.
        self.stages: dict[int, str] = {}
        self.champion: int | None = None
        self.before: dict[int, int | None] = {}
        self.moments: list[tuple[datetime, int | None, dict[int, str]]] = []

    def picture(self) -> None:
        self.moments.append((self.world.now, self.champion, dict(self.stages)))

    def promote(self, version: int) -> None:
        if self.champion is not None:
            self.stages[self.champion] = "superseded"
        self.before[version] = self.champion
        self.stages[version] = "promoted"
        self.champion = version

    @rule(mode=st.sampled_from(["auto", "manual"]), passed=st.booleans())
    def submit(self, mode: str, passed: bool) -> None:
        version, decision = self.world.candidate(passed=passed, mode=mode)
        assert version == len(self.stages) + 1
        if not passed:
            self.stages[version] = "rejected"
        elif mode == "manual":
            self.stages[version] = "approval-requested"
        else:
            self.promote(version)
        wanted = {"rejected": "rejected", "approval-requested": "awaiting-approval"}.get(self.stages[version])
        assert decision == (wanted or ("initial" if self.before[version] is None else "promoted"))
        self.picture()

    @precondition(lambda self: self.stages)
    @rule(data=st.data(), approve=st.booleans())
    def decide(self, data: st.DataObject, approve: bool) -> None:
        version = data.draw(st.sampled_from(sorted(self.stages)))
        waiting = self.stages[version] == "approval-requested"
        try:
            with self.world.sessions.begin() as session:
                if approve:
                    self.world.registry.approve(session, "m", version, "bea")
                else:
                    self.world.registry.reject(session, "m", version, "bea", "no")
        except ConflictError:
            assert not waiting
            return
        assert waiting
        if approve:
            self.promote(version)
        else:
            self.stages[version] = "rejected"
        self.picture()

    @precondition(lambda self: self.stages)
    @rule(data=st.data(), named=st.booleans())
    def roll_back(self, data: st.DataObject, named: bool) -> None:
        to = data.draw(st.sampled_from(sorted(self.stages))) if named else None
        goal = to if to is not None else (self.before.get(self.champion) if self.champion else None)
        possible = self.champion is not None and goal is not None and self.stages[goal] in ("superseded", "rolled-back")
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
            for moment, champion, stages in self.moments:
                then = self.world.registry.history(session, "m", moment)
                assert (then.champion, then.stages) == (champion, stages)
            assert verify_audit(session).problem is None
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
            max_examples=12, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
