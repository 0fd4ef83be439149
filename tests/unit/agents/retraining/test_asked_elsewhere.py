"""A request for a successor of a watched model starts nothing, and the next version that appears answers it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from agents.registry import watched
from agents.retraining import jobs
from agents.retraining.agent import Handler
from schemas.codec import encode
from schemas.events import ObserveVersion, PaneClosed, RetrainRequest
from schemas.topics import OBSERVATIONS, REGISTRY_EVENTS, RETRAIN_REQUESTS
from streams.kafka.records import Record
from tests.support.databases import prepare
from tests.support.registries import EVENT_TIME, RegistryWorld, spec_text

DAY = timedelta(days=1)


class World(RegistryWorld):
    """A registry with a watched model, and the retraining agent's handler."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"sqlite:///{folder / 'r.db'}", folder)
        prepare(self.engine)
        self.handler = Handler(self.registry)

    def watch(self, **how: str) -> None:
        with self.sessions.begin() as session:
            given = how or {"reference": self.store.put(b"{}", "reference")}
            watched.register(self.registry, session, spec_text(), "ann", **given)  # type: ignore[arg-type]

    def see(self, external: str, day: int) -> None:
        command = ObserveVersion(
            command_id=external, model="m", actor="monitoring", external=external, at=EVENT_TIME + day * DAY
        )
        with self.sessions.begin() as session:
            watched.observe(self.registry, session, command)

    def hear_of_versions(self) -> None:
        for event in self.events():
            self.handle(REGISTRY_EVENTS, encode(event))

    def ask(self, request_id: str, day: int) -> None:
        request = RetrainRequest(
            request_id=request_id, model="m", trigger="quality", reason="it fell", as_of=EVENT_TIME + day * DAY
        )
        self.handle(RETRAIN_REQUESTS, encode(request))

    def close_pane(self, day: int) -> None:
        start = EVENT_TIME + day * DAY
        pane = PaneClosed(model="m", pane_start=start, pane_end=start + DAY, observed_at=start + 2 * DAY, labelled=9)
        self.handle(OBSERVATIONS, encode(pane))

    def handle(self, topic: str, value: bytes) -> None:
        with self.sessions.begin() as session:
            self.handler(session, Record(topic, 0, 0, b"m", value, None, 0))

    def runs(self) -> list[tuple[str, str, int | None]]:
        with self.readers() as session:
            return [(run.trigger, run.status, run.version) for run in jobs.list_runs(session, "m")]

    def session(self) -> Session:
        return self.readers()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def test_nothing_is_queued_and_a_new_version_is_the_answer(world: World) -> None:
    world.watch()
    world.see("rc1", 0)
    world.hear_of_versions()
    world.ask("r1", 3)
    world.ask("r1", 3)
    assert world.runs() == [("quality", "asked", None)]
    world.ask("r2", 4)
    assert world.runs() == [("quality", "skipped", None), ("quality", "asked", None)]
    with world.session() as session:
        assert jobs.waiting(session, 1e12) is None
    # Another reference of the version that is asked about answers nothing.
    world.watch()
    world.hear_of_versions()
    assert ("quality", "asked", None) in world.runs()
    world.see("rc2", 6)
    world.hear_of_versions()
    assert world.runs() == [("quality", "skipped", None), ("quality", "finished", 3)]
    with world.session() as session:
        finished = next(run for run in jobs.list_runs(session, "m") if run.status == "finished")
    assert (finished.decision, finished.outcome) == ("promoted", "version rc2 appeared")


def test_an_answer_that_was_seen_before_its_request_counts(world: World) -> None:
    world.watch()
    world.see("rc1", 0)
    world.see("rc2", 5)
    world.hear_of_versions()
    world.ask("r1", 3)
    assert world.runs() == [("quality", "finished", 2)]
    world.ask("r2", 6)
    assert world.runs()[0] == ("quality", "asked", None)


def test_a_reference_is_learnt_when_its_days_and_their_labels_are_over(world: World) -> None:
    world.watch(window="3d")
    world.see("rc1", 0)
    # The first day may be half a one: days 1 to 3 count, their labels take a day, and a pane's news come a day later.
    for day in range(3):
        world.close_pane(day)
        assert world.runs() == []
    world.close_pane(3)
    world.close_pane(4)
    assert world.runs() == [("reference", "queued", None)]
    with world.session() as session:
        run = jobs.list_runs(session, "m")[0]
        assert run.as_of == EVENT_TIME + 5 * DAY
        assert jobs.waiting(session, 1e12) == run.run_id
