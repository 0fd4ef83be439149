"""Registration: a version from a folder and a file, and nothing at all when something is wrong."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from sqlalchemy import func, select

from agents.artifacts import ArtifactStore
from agents.config import Settings, load_settings
from agents.database.engine import make_engine, session_factory
from agents.database.outbox import OutboxRow
from agents.registry.service import Registry
from agents.registry.tables import ModelRow, VersionRow
from agents.retraining import jobs
from agents.retraining.packing import restore_project
from agents.retraining.register import register_project
from schemas.errors import DriftlineError, ProjectError, SpecificationError, TrainingError
from schemas.reference import ReferenceStatistics
from tests.unit.agents.retraining.projects import PIPELINE, SPEC, write_project
from tests.unit.agents.retraining.tables import toy_table


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path / "home", artifacts_url="", database_url="", archive_url="")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    toy_table(20).to_csv(path, index=False)
    return path


def test_a_first_version(settings: Settings, tmp_path: Path, table: Path) -> None:
    import msgspec

    project = write_project(tmp_path / "p")
    done = register_project(settings, None, project, table, actor="ada")
    assert (done["model"], done["version"], done["decision"]) == ("toy", 1, "initial")
    assert done["metrics"]["roc_auc"] > 0.8
    assert (done["rows"], done["heldout"]) == (2000, 1000)
    sessions = session_factory(make_engine(settings.database))
    artifacts = ArtifactStore.of(settings)
    with sessions() as session:
        version = Registry(sessions, artifacts).version(session, "toy", 1)
        (run,) = jobs.list_runs(session, "toy")
    assert version.champion
    assert version.actor == "ada"
    assert version.report["rows"] == 2000
    assert version.environment["scikit-learn"]
    assert restore_project(artifacts, version.code["artifact"], tmp_path / "out").tree_hash == version.code["tree"]
    reference = msgspec.json.decode(artifacts.get(version.reference), type=ReferenceStatistics)
    assert reference.rows == 3000
    assert (run.trigger, run.decision, run.status) == ("registration", "initial", "finished")


def test_a_second_version_is_judged_against_the_first(settings: Settings, tmp_path: Path, table: Path) -> None:
    register_project(settings, None, write_project(tmp_path / "p"), table, actor="ada")
    spoiled = PIPELINE.replace(
        'prepare["y"].astype(int)', 'prepare["y"].astype(int).sample(frac=1, random_state=1).to_numpy()'
    )
    done = register_project(settings, None, write_project(tmp_path / "q", spoiled), table, actor="bob")
    assert (done["version"], done["decision"]) == (2, "rejected")
    assert "worse by" in done["reason"]
    # A model that is registered needs no file: the table of its champion is known.
    done = register_project(
        settings,
        None,
        write_project(tmp_path / "r", spec=SPEC.replace('"25d"', '"20000d"')),
        None,
        actor="bob",
    )
    assert (done["version"], done["decision"], done["rows"]) == (3, "promoted", 2000)


@pytest.mark.parametrize(
    ("pipeline", "spec", "data", "error"),
    [
        ("def train(nothing): ...", SPEC, "", ProjectError),
        (PIPELINE, SPEC.replace('"binary"', '"ternary"'), "", SpecificationError),
        (PIPELINE, SPEC, "absent.parquet", TrainingError),
        (PIPELINE, SPEC.replace('x = "numeric"', 'z = "numeric"'), "", TrainingError),
        ("def train(data):\n    raise ValueError('no')\n", SPEC, "", TrainingError),
        ("def train(data):\n    return 5\n", SPEC, "", TrainingError),
    ],
)
def test_nothing_is_half_registered(
    settings: Settings, tmp_path: Path, table: Path, pipeline: str, spec: str, data: str, error: type[DriftlineError]
) -> None:
    project = write_project(tmp_path / "p", pipeline, spec)
    with pytest.raises(error) as caught:
        register_project(settings, None, project, tmp_path / data if data else table, actor="ada")
    assert caught.value.where
    with make_engine(settings.database).connect() as connection:
        if connection.dialect.has_table(connection, "registry_models"):
            for row in (ModelRow, VersionRow, OutboxRow):
                assert connection.scalar(select(func.count()).select_from(row)) == 0


def test_a_first_version_needs_a_table(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no table was given") as caught:
        register_project(settings, None, write_project(tmp_path / "p"), None, actor="ada")
    assert "--data" in caught.value.remedy


def test_seasons_are_learnt_from_a_table_of_a_year_and_kept_for_successors(
    settings: Settings, tmp_path: Path, table: Path
) -> None:
    import msgspec

    short, year = tmp_path / "short.csv", tmp_path / "year.parquet"
    toy_table(100, 20).to_csv(short, index=False)
    before = toy_table(366, 50, seed=5)
    before[["at", "known_at"]] -= pd.Timedelta(days=400)
    before.to_parquet(year)
    project = write_project(tmp_path / "p")
    with pytest.raises(TrainingError, match="seasons take a year"):
        register_project(settings, None, project, table, actor="ada", seasons=short)
    register_project(settings, None, project, table, actor="ada", seasons=year)
    register_project(settings, None, project, table, actor="ada")
    sessions = session_factory(make_engine(settings.database))
    artifacts = ArtifactStore.of(settings)
    with sessions() as session:
        versions = [Registry(sessions, artifacts).version(session, "toy", number) for number in (1, 2)]
    for version in versions:
        seasons = msgspec.json.decode(artifacts.get(version.reference), type=ReferenceStatistics).seasons
        assert seasons is not None
        assert {"feature:x", "feature:noise", "prediction", "label"} <= set(seasons.months)
