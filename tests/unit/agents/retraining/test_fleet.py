"""Many models of one project, and all projects of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from agents.access.logic import Grant, Principal
from agents.artifacts import ArtifactStore
from agents.config import Settings, load_settings
from agents.database.engine import make_engine, session_factory
from agents.registry.questions import Questions
from agents.retraining.fleet import Wanted, Watching, register_fleet, register_folder
from agents.retraining.packing import restore_project
from agents.retraining.register import register_project
from schemas.errors import ConfigurationError, SpecificationError, TrainingError
from tests.unit.agents.retraining.projects import SPEC, write_project
from tests.unit.agents.retraining.tables import toy_table

FLEET = SPEC.replace('name = "toy"', 'name = "bus-{route}"\nper = "route"')
ADA = Wanted("ada")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path / "home", artifacts_url="", database_url="", archive_url="")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Routes 7 and 12 with 20 days each, route "New York" that names no model, and five rows without a route."""
    parts = [toy_table(20).assign(route=route) for route in ("7", "12")]
    odd = toy_table(2)
    nameless = odd.head(5).assign(route=None)
    path = tmp_path / "table.csv"
    pd.concat([*parts, odd.assign(route="New York"), nameless]).to_csv(path, index=False)
    return path


def names(done: dict[str, Any]) -> list[tuple[str, str]]:
    return [(entry["model"], entry.get("decision", "error")) for entry in done["models"]]


def test_one_project_becomes_many_models(settings: Settings, tmp_path: Path, table: Path) -> None:
    project = write_project(tmp_path / "p", spec=FLEET)
    told: list[str] = []
    done = register_fleet(settings, None, project, table, ADA, note=told.append)
    assert names(done) == [("bus-New York", "error"), ("bus-12", "initial"), ("bus-7", "initial")]
    assert (done["registered"], done["failed"], done["skipped"], done["nameless"]) == (2, 1, 0, 5)
    assert "cannot be a model name" in done["models"][0]["error"]["what"]
    assert len(told) == 3
    questions, artifacts = Questions(), ArtifactStore.of(settings)
    with session_factory(make_engine(settings.database), read_only=True)() as session:
        assert [info.model for info in questions.models(session)] == ["bus-12", "bus-7"]
        spec = questions.specification(session, "bus-7")
        version = questions.version(session, "bus-7", 1)
    assert (spec.name, spec.model.member, spec.is_fleet) == ("bus-7", {"route": "7"}, False)
    # What is retrained later stands alone.
    assert restore_project(artifacts, version.code["artifact"], tmp_path / "out").spec == spec
    assert version.report["rows"] == 2000

    # Those that are there are trained anew without a table; new ones are added without touching them.
    long = write_project(tmp_path / "q", spec=FLEET.replace('"25d"', '"20000d"'))
    again = register_fleet(settings, None, long, None, ADA._replace(match="bus-1*"))
    assert (names(again), again["skipped"]) == ([("bus-12", "promoted")], 1)
    added = register_fleet(settings, None, project, table, ADA._replace(only_new=True), members=["7", "12"])
    assert (added["models"], added["skipped"]) == ([], 2)


def test_models_side_by_side_are_the_same(settings: Settings, tmp_path: Path, table: Path) -> None:
    project = write_project(tmp_path / "p", spec=FLEET)
    done = register_fleet(settings, None, project, table, ADA._replace(jobs=2), members=["12", "7"])
    alone = load_settings(home=tmp_path / "other", artifacts_url="", database_url="", archive_url="")
    one = register_fleet(alone, None, project, table, ADA, members=["12", "7"])
    same = ("model", "version", "decision", "rows", "metrics", "artifact")
    assert [[entry[key] for key in same] for entry in done["models"]] == [
        [entry[key] for key in same] for entry in one["models"]
    ]


def test_all_projects_of_a_folder(settings: Settings, tmp_path: Path, table: Path) -> None:
    folder, tables = tmp_path / "projects", tmp_path / "tables"
    tables.mkdir()
    (folder / "defaults.toml").parent.mkdir()
    (folder / "defaults.toml").write_text('[approval]\nmode = "manual"\n')
    write_project(folder / "bus", spec=FLEET)
    write_project(folder / "toy", spec='extends = "../defaults.toml"\n' + SPEC)
    write_project(folder / "broken", spec=SPEC.replace('"binary"', '"unary"'))
    write_project(folder / "bare", spec=SPEC.replace('"toy"', '"bare"'))
    (folder / "notes").mkdir()
    table.rename(tables / "bus.csv")
    toy_table(20).to_parquet(tables / "toy.parquet")
    done = register_folder(settings, None, folder, tables, ADA)
    assert sorted(names(done)) == [
        ("bare", "error"),  # no table, and no version before
        ("broken", "error"),
        ("bus-12", "initial"),
        ("bus-7", "initial"),
        ("bus-New York", "error"),
        ("toy", "awaiting-approval"),
    ]
    assert (done["registered"], done["failed"], done["nameless"]) == (3, 3, 5)


def test_models_that_live_elsewhere(settings: Settings, tmp_path: Path, table: Path) -> None:
    past = pd.read_csv(table, dtype={"route": "str"}).assign(prediction=1, probability=0.6)
    past.to_parquet(tmp_path / "past.parquet")
    project = write_project(tmp_path / "p", spec=FLEET)
    (project / "pipeline.py").unlink()
    done = register_fleet(settings, None, project, tmp_path / "past.parquet", ADA, watching=Watching())
    assert [(entry["model"], "error" in entry) for entry in done["models"]] == [
        ("bus-New York", True),
        ("bus-12", False),
        ("bus-7", False),
    ]
    learnt = register_fleet(settings, None, project, None, ADA, members=["40"], watching=Watching(window="14d"))
    assert [entry["model"] for entry in learnt["models"]] == ["bus-40"]


def test_what_cannot_be_told_apart(settings: Settings, tmp_path: Path) -> None:
    project = write_project(tmp_path / "p", spec=FLEET)
    toy_table(2).to_csv(tmp_path / "table.csv", index=False)
    with pytest.raises(TrainingError, match="lacks the column route"):
        register_fleet(settings, None, project, tmp_path / "table.csv", ADA)
    with pytest.raises(ConfigurationError, match="nothing tells which route"):
        register_fleet(settings, None, project, None, ADA)
    with pytest.raises(SpecificationError, match="stands for many models"):
        register_project(settings, None, project, tmp_path / "table.csv", actor="ada")
    with pytest.raises(ConfigurationError, match="no project lies here"):
        register_folder(settings, None, tmp_path / "nowhere", None, ADA)


def test_a_team_registers_its_own_models_and_no_others(settings: Settings, tmp_path: Path) -> None:
    """A new model belongs to the team that its specification names; one that is there, to the team it was given to."""

    def project(name: str, team: str) -> None:
        spec = SPEC.replace('name = "toy"', f'name = "{name}"\nteam = "{team}"' if team else f'name = "{name}"')
        write_project(tmp_path / "projects" / name, spec=spec)

    tables = tmp_path / "tables"
    tables.mkdir()
    for name, team in (("ours", "north"), ("theirs", "south"), ("nobodys", "")):
        project(name, team)
        toy_table(12).to_parquet(tables / f"{name}.parquet")
    bea = Principal("bea", "key", authenticated=True, grants=(Grant("producer", "*", "north"),))
    ours = ADA._replace(actor="bea", by=bea)
    done = register_folder(settings, None, tmp_path / "projects", tables, ours)
    assert names(done) == [("nobodys", "error"), ("ours", "initial"), ("theirs", "error")]
    assert "lacks the role producer" in done["models"][0]["error"]["what"]
    # A specification that claims another's model does not make it one's own.
    register_folder(settings, None, tmp_path / "projects", tables, ADA._replace(match="theirs"))
    project("theirs", "north")
    again = register_folder(settings, None, tmp_path / "projects", tables, ours._replace(match="theirs"))
    assert names(again) == [("theirs", "error")]


def test_a_team_registers_a_fleet(settings: Settings, tmp_path: Path, table: Path) -> None:
    past = pd.read_csv(table, dtype={"route": "str"}).assign(prediction=1, probability=0.6)
    past.to_parquet(tmp_path / "past.parquet")
    project = write_project(tmp_path / "p", spec=FLEET.replace("[data]", 'team = "north"\n[data]'))
    wrong = {}
    for team in ("south", "north"):
        by = Principal("bea", "key", authenticated=True, grants=(Grant("producer", "bus-*", team),))
        wanted = ADA._replace(actor="bea", by=by)
        done = register_fleet(settings, None, project, tmp_path / "past.parquet", wanted, watching=Watching())
        wrong[team] = {entry["model"] for entry in done["models"] if "error" in entry} - {"bus-New York"}
    assert wrong == {"south": {"bus-12", "bus-7"}, "north": set()}
