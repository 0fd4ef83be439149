"""From registration to rebuild: people's rows lie sealed, are left out once erased, and that is counted."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from agents.access.logic import local_principal
from agents.archiving import dataset
from agents.artifacts import ArtifactStore
from agents.config import Settings, load_settings
from agents.database.engine import make_engine, session_factory
from agents.registry.tables import VersionRow
from agents.retraining import data
from agents.retraining.rebuild import rebuild
from agents.retraining.register import register_project
from agents.retraining.table import normalise
from agents.subjects.erasure import Erased, erase
from agents.subjects.keys import SubjectKeys
from agents.subjects.rows import Losses, ids_of, layout_of, opened_table, sealed_bytes
from agents.subjects.sealing import Rule, place, sealed_prediction
from schemas.errors import ConfigurationError, ConflictError, StateError, TrainingError
from schemas.events import GroundTruth, Prediction
from schemas.specification import Specification, parse
from tests.support import forked
from tests.unit.agents.archiving.conftest import Archive, Log
from tests.unit.agents.retraining.projects import SPEC, write_project
from tests.unit.agents.retraining.tables import START_MS, toy_table

TEXT = SPEC.replace('segments = ["region"]', 'segments = ["region"]\nsubject = "who"').replace('"25d"', '"20000d"')
PEOPLE = 40


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path / "home", artifacts_url="", database_url="", archive_url="")


def people(days: int, first_day: int = 0) -> pd.DataFrame:
    table = toy_table(days, first_day=first_day)
    return table.assign(who=[f"citizen-{n % PEOPLE}" for n in range(len(table))])


def kept(settings: Settings, table: pd.DataFrame, spec: Specification) -> bytes:
    return sealed_bytes(table, spec, SubjectKeys.of(settings))


def gone(settings: Settings, subject: str) -> Erased:
    sessions = session_factory(make_engine(settings.database))
    keys = SubjectKeys.of(settings)
    return erase(sessions, keys.master, ArtifactStore.of(settings), subject, local_principal("ann"))


@pytest.mark.parametrize("personal", ['["*"]', '["x"]'])
def test_a_table_comes_back_bit_by_bit(settings: Settings, personal: str) -> None:
    spec = parse(TEXT.replace('subject = "who"', f'subject = "who"\npersonal = {personal}'))
    frame = people(2)
    frame.loc[3, "x"] = np.nan
    frame.loc[4, ["y", "known_at"]] = None
    table = normalise(frame, spec, where="t")
    bytes_ = kept(settings, table, spec)
    assert bytes_ == kept(settings, table, spec), "the same rows have the same hash"
    layout = layout_of(bytes_)
    assert layout is not None
    pd.testing.assert_frame_equal(data.recalled(bytes_, SubjectKeys.of(settings)), table)
    visible = set(pd.read_parquet(io.BytesIO(bytes_)).columns)
    assert visible == {"id", "at", "$sealed"} | ({"noise", "region"} if personal == '["x"]' else set())
    with pytest.raises(StateError, match="sealed under the keys"):
        data.recalled(bytes_, None)


def test_rows_without_a_subject_are_refused() -> None:
    frame = people(1)
    frame.loc[[2, 5], "who"] = None
    with pytest.raises(TrainingError, match="2 rows do not say whose they are"):
        normalise(frame, parse(TEXT), where="t")


def holding(folder: Path, text: bytes) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and text in path.read_bytes()]


def archive_people(settings: Settings, log: Log, first_day: int, days: int) -> None:
    """Traffic as serving writes it."""
    keys, rule = SubjectKeys.of(settings), Rule.of(parse(TEXT))
    assert rule is not None
    records = []
    for row in people(days, first_day).to_dict("records"):
        at = round(row["at"].timestamp() * 1000)
        features = {name: row[name] for name in ("who", "x", "noise", "region")}
        made = Prediction(
            prediction_id=row["id"], model="toy", version=1, event_time_ms=at, features=features, prediction=1,
            probability=0.5, segment={"region": row["region"]},
        )  # fmt: skip
        sealed = sealed_prediction(made, rule, keys.of_subjects([row["who"]])[row["who"]], "predictions")
        label = GroundTruth(prediction_id=row["id"], event_time_ms=at + 7_200_000, label=row["y"])
        records += [log.record("predictions", sealed), log.record("ground-truth", label)]
    archive = Archive(Path(settings.archive), session_factory(make_engine(settings.database)), log)
    archive.write(sorted(records, key=lambda record: (record.topic, record.offset)))


def test_whoever_is_erased_is_missing_from_then_on(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.retraining.rebuild.subprocess", forked)
    table = tmp_path / "table.csv"
    people(12).to_csv(table, index=False)
    project = write_project(tmp_path / "p", spec=TEXT)
    register_project(settings, None, project, table, actor="ada", seed=3)
    archive_people(settings, Log(), 12, 4)
    register_project(settings, None, project, None, actor="ada", seed=3)
    assert holding(settings.home, b"citizen-7") == []
    assert not (settings.home / "steps").exists()
    before = rebuild(settings, "toy", 2, here=True)
    assert (before.differences, before.reproduced, before.erased) == ([], True, 0)

    done = gone(settings, "citizen-7")
    assert done.trained == {"toy": [1, 2]}
    # 45 rows of the table are theirs, and 15 of the archive.
    for version, rows in ((1, 45), (2, 60)):
        found = rebuild(settings, "toy", version, here=True)
        assert (found.reproduced, found.erased) == (False, rows)
        assert found.differences == [f"not reproducible: {rows} erased rows"]

    engine = make_engine(settings.database)
    keys, losses = SubjectKeys.of(settings), Losses()
    with session_factory(engine, read_only=True)() as session:
        spec = parse(TEXT)
        left = data.training_table(
            session, settings.archive, spec, None, as_of_ms=START_MS + 400 * 86_400_000, keys=keys, losses=losses
        )
        assert (losses.erased, len(left)) == (15, 585)
        assert "citizen-7" not in set(left["who"])
        connection = dataset.connect(session, settings.archive, keys)
        counted = connection.sql(
            "SELECT json_exists(features, '/$erased'), count(*), count(json_extract_string(features, '/x')),"
            " count(segment) FROM predictions GROUP BY 1 ORDER BY 1"
        ).fetchall()
        connection.close()
    assert counted == [(False, 585, 585, 585), (True, 15, 0, 0)]
    register_project(settings, None, project, None, actor="ada", seed=3)
    with session_factory(engine)() as session:
        newest = session.query(VersionRow).filter_by(version=3).one()
        assert newest.dataset["rows"] == 2400 - 60
        assert newest.dataset["subjects"]["count"] == PEOPLE - 1
    engine.dispose()


def test_a_row_that_was_moved_does_not_open(settings: Settings) -> None:
    spec = parse(TEXT)
    table = normalise(people(1), spec, where="t")
    keys = SubjectKeys.of(settings)
    key = keys.of_subjects(["citizen-1"])["citizen-1"]
    text = key.seal({"f": {"x": 1.0}}, place("rows", "toy", "a"))
    assert key.open(text, place("rows", "toy", "b")) is None
    bytes_ = kept(settings, table, spec)
    frame = pd.read_parquet(io.BytesIO(bytes_))
    frame.loc[[0, 1], "$sealed"] = frame.loc[[1, 0], "$sealed"].to_numpy()
    layout = layout_of(bytes_)
    assert layout is not None
    with pytest.raises(StateError, match="does not open"):
        opened_table(data.packed(frame), layout, keys)


def test_whoever_is_erased_during_a_training_stops_it(settings: Settings) -> None:
    spec = parse(TEXT)
    table = normalise(people(1), spec, where="t")
    kept(settings, table, spec)
    assert len(ids_of(spec, SubjectKeys.of(settings), table, None, table)) == PEOPLE
    gone(settings, "citizen-3")
    with pytest.raises(ConflictError, match="1 people were erased"):
        ids_of(spec, SubjectKeys.of(settings), table)


def test_datasets_hold_people_sealed_and_lose_whoever_is_erased(settings: Settings) -> None:
    from agents.database.migrate import upgrade
    from agents.datasets.build import Chosen, Wish, choose, create, load, newest
    from agents.datasets.parents import sources
    from agents.datasets.rows import rows_of

    engine = make_engine(settings.database)
    upgrade(engine)
    sessions, artifacts, keys, spec = (
        session_factory(engine),
        ArtifactStore.of(settings),
        SubjectKeys.of(settings),
        parse(TEXT),
    )
    archive_people(settings, Log(), 0, 2)

    def chosen(sql: str, *, aggregate: bool = False) -> Chosen:
        with sessions() as session:
            return choose(session, settings.archive, sql, spec=spec, keys=keys, aggregate=aggregate)

    with pytest.raises(ConfigurationError, match="does not say whose"):
        chosen("SELECT x, region FROM joined")
    counted = chosen("SELECT region, count(*) AS n, avg(x) AS x FROM joined GROUP BY region", aggregate=True)
    assert (counted.visible, counted.table.num_rows) == (None, 2)

    made = chosen('SELECT _subject, id, "at", who, x, region, y, known_at FROM joined WHERE x > 0 ORDER BY id')
    assert 100 < made.table.num_rows < 200, "what is sealed can be asked for"
    manifest = create(sessions, artifacts, made, Wish("few", "ann"), keys)
    assert manifest.sealed == ["who", "x", "region", "y", "known_at"]
    assert not manifest.columns["who"].values
    assert manifest.columns["x"].least is None
    assert holding(settings.home, b"citizen-7") == []
    assert rows_of(artifacts, manifest.data, keys).equals(made.table.replace_schema_metadata(None))
    with pytest.raises(ConflictError, match="these very rows"):
        create(sessions, artifacts, made, Wish("few", "ann"), keys)

    def from_it(sql: str) -> Chosen:
        with sessions() as session:
            views = sources(session, artifacts, ["few@1"], keys)
            return choose(session, settings.archive, sql, keys=keys, sources=views)

    with pytest.raises(ConfigurationError, match="few@1 are people's"):
        from_it("SELECT who, x FROM few")
    fewer = create(sessions, artifacts, from_it("SELECT _subject, id, who, x FROM few"), Wish("fewer", "ann"), keys)
    assert (fewer.sealed, fewer.rows) == (["who", "x"], manifest.rows), "what is sealed stays so"
    assert holding(settings.home, b"citizen-7") == []

    theirs = made.table["who"].to_pylist().count("citizen-7")
    assert theirs > 0
    gone(settings, "citizen-7")
    keys, losses = SubjectKeys.of(settings), Losses()
    left = rows_of(artifacts, manifest.data, keys, losses)
    assert (losses.erased, left.num_rows) == (theirs, made.table.num_rows - theirs)
    assert "citizen-7" not in left["who"].to_pylist()
    assert rows_of(artifacts, fewer.data, keys).num_rows == left.num_rows, "nor is it in what was derived"
    again = create(sessions, artifacts, chosen(made.query or ""), Wish("few", "ann"), keys)
    assert (again.version, again.rows) == (2, left.num_rows)
    assert {"x", "region", "y"} <= set(again.drift)
    with sessions() as session:
        row = newest(session, "few")
        assert row is not None
        assert load(artifacts, row.manifest).sealed == manifest.sealed
    engine.dispose()
