"""The trigger `code`: when changed code or packages ask for a successor, and when they do not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.retraining import jobs
from agents.retraining.code import CodeWatch, difference
from agents.retraining.packing import restore_project
from agents.retraining.project import load_project
from agents.retraining.tables import RunRow
from schemas.codec import derived_id, utc
from schemas.events import PaneClosed, RetrainRequest, SubmitCandidate
from tests.support.databases import prepare
from tests.support.registries import EVENT_TIME, RegistryWorld
from tests.unit.agents.retraining.projects import PIPELINE, SPEC, write_project

DAY_MS = 86_400_000
BEGAN_MS = round(EVENT_TIME.timestamp() * 1000)
PACKAGES = {"python": "3.11", "scikit-learn": "1.7"}
TEXT = SPEC + 'triggers = ["code"]\n'


class World(RegistryWorld):
    """The toy model in production, made from a folder with `PACKAGES`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"sqlite:///{folder / 'registry.db'}", folder)
        prepare(self.engine)
        self.folder = write_project(folder / "project", spec=TEXT)
        self.promote(load_project(self.folder).tree_hash)

    def promote(self, tree: str, packages: dict[str, str] = PACKAGES, text: str = TEXT) -> None:
        with self.sessions.begin() as session:
            self.registry.register_model(session, text, "ann")
            number = self.registry.register_version(
                session,
                "toy",
                artifact=self.store.put(f"model {self.now}".encode(), "model"),
                reference=self.store.put(b"{}", "reference"),
                specification_text=text,
                code={"tree": tree},
                dataset={"rows": 3},
                environment=packages,
                parameters={},
                seed=7,
                parent=None,
                run_id="run",
                report={},
                actor="retraining",
                at=EVENT_TIME,
            )
            command = SubmitCandidate(
                command_id=str(number), model="toy", actor="retraining", version=number, run_id="run", passed=True,
                reason="better", at=EVENT_TIME,
            )  # fmt: skip
            self.registry.submit(session, command)

    def look(self, watch: CodeWatch, day: int) -> list[jobs.Run]:
        """A pane closes on that day; the runs afterwards, oldest first."""
        at = utc(BEGAN_MS + day * DAY_MS)
        pane = PaneClosed(model="toy", pane_start=at, pane_end=at, observed_at=at, labelled=1)
        with self.sessions.begin() as session:
            watch.due(session, pane)
        with self.readers() as session:
            return jobs.list_runs(session, "toy")[::-1]

    def end(self, run_id: str) -> None:
        """The run failed: there is no other champion."""
        with self.sessions.begin() as session:
            jobs.lease(session, run_id, "w", now=0.0, seconds=1.0)
            jobs.fail(session, run_id, "w", "it did not work")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def test_nothing_changed_asks_for_nothing(world: World) -> None:
    assert world.look(CodeWatch(world.registry, [world.folder], PACKAGES), 1) == []
    assert world.look(CodeWatch(world.registry, [], PACKAGES), 2) == []


def test_a_changed_folder_is_asked_for_once_and_trained_as_it_is(world: World, tmp_path: Path) -> None:
    watch = CodeWatch(world.registry, [tmp_path / "nothing", world.folder], PACKAGES)
    (world.folder / "pipeline.py").write_text(PIPELINE + "\n# otherwise\n", encoding="utf-8")
    (run,) = world.look(watch, 1)
    assert (run.trigger, run.status, run.as_of) == ("code", "queued", utc(BEGAN_MS + DAY_MS))
    assert "version 1: its project's code" in run.reason
    with world.readers() as session:
        row = session.get(RunRow, run.run_id)
    assert row is not None
    assert row.project is not None
    restored = restore_project(world.store, row.project, tmp_path / "restored")
    assert restored.tree_hash == load_project(world.folder).tree_hash
    world.end(run.run_id)
    assert len(world.look(watch, 9)) == 1  # it failed: the same is not tried again, and not after a restart either
    assert len(world.look(CodeWatch(world.registry, [world.folder], PACKAGES), 10)) == 1
    (world.folder / "pipeline.py").write_text(PIPELINE + "\n# mended\n", encoding="utf-8")
    assert [r.trigger for r in world.look(watch, 11)] == ["code", "code"]


def test_an_upgrade_asks_for_the_champions_own_project_again(world: World) -> None:
    upgraded = CodeWatch(world.registry, [world.folder], {**PACKAGES, "scikit-learn": "1.8", "skops": "1"})
    (run,) = world.look(upgraded, 1)
    assert run.reason == "version 1: of its packages scikit-learn 1.7 is 1.8 now"
    world.end(run.run_id)
    world.promote(load_project(world.folder).tree_hash, {**PACKAGES, "scikit-learn": "1.8"})
    assert len(world.look(upgraded, 9)) == 1


def test_one_job_a_model_and_the_cool_down_put_it_off(world: World) -> None:
    watch = CodeWatch(world.registry, [], {"python": "3.12"})
    with world.sessions.begin() as session:
        asked = RetrainRequest(
            request_id=derived_id("x"), model="toy", trigger="quality", reason="it fell", as_of=utc(BEGAN_MS)
        )
        open_run = jobs.accept(session, asked)
    assert [run.trigger for run in world.look(watch, 0)] == ["quality"]
    world.end(open_run)
    assert [run.trigger for run in world.look(watch, 1)] == ["quality"]  # a cool-down of two days
    assert [run.trigger for run in world.look(watch, 2)] == ["quality", "code"]


def test_who_does_not_ask_for_it_is_left_alone(world: World) -> None:
    world.promote("another tree", text=SPEC)
    assert world.look(CodeWatch(world.registry, [world.folder], {"python": "4"}), 1) == []


def test_a_folder_that_cannot_be_read_is_said_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    (world.folder / "driftline.toml").write_text("[model", encoding="utf-8")
    watch = CodeWatch(world.registry, [world.folder], PACKAGES)
    assert world.look(watch, 1) == []
    assert world.look(watch, 2) == []
    assert len([r for r in caplog.records if "is left out" in r.message]) == 1


def test_what_a_version_did_not_record_is_no_difference(world: World) -> None:
    with world.readers() as session:
        champion = world.registry.champion(session, "toy")
    assert champion is not None
    assert difference(champion, None, PACKAGES) is None
    assert difference(champion, champion.code["tree"], {**PACKAGES, "duckdb": "1"}) is None
