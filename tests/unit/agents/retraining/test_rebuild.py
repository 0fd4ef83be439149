"""A version is made again bit by bit, and what differs is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.access.logic import local_principal
from agents.archiving.retention import expire, plan
from agents.artifacts import ArtifactStore
from agents.config import Retention, Settings, load_settings
from agents.database.engine import make_engine, session_factory
from agents.database.migrate import upgrade
from agents.registry import moving
from agents.registry.service import Registry
from agents.registry.tables import VersionRow
from agents.retraining.data import load_registered, store_table
from agents.retraining.rebuild import file_differences, rebuild, whole_table
from agents.retraining.register import register_project
from agents.signing import KeyRing
from agents.skops_file import dump_model
from schemas.errors import ArtifactError, ConfigurationError, ConflictError, NotFoundError, TrainingError
from schemas.events import GroundTruth, Prediction
from tests.support import forked
from tests.unit.agents.archiving.conftest import Archive, Log
from tests.unit.agents.retraining.projects import PIPELINE, SPEC, write_project
from tests.unit.agents.retraining.tables import toy_table


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path / "home", artifacts_url="", database_url="", archive_url="")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training process is a fork of this one: `test_the_same_bits_again` starts a real one."""
    monkeypatch.setattr("agents.retraining.rebuild.subprocess", forked)


def registered(settings: Settings, tmp_path: Path, pipeline: str = PIPELINE, spec: str = SPEC) -> None:
    table = tmp_path / "table.csv"
    toy_table(20).to_csv(table, index=False)
    register_project(settings, None, write_project(tmp_path / "p", pipeline, spec), table, actor="ada", seed=3)


def change(settings: Settings, **columns: dict[str, object]) -> None:
    """Forge columns of the only version: keys of the mappings are replaced."""
    with session_factory(make_engine(settings.database)).begin() as session:
        row = session.query(VersionRow).one()
        for name, values in columns.items():
            setattr(row, name, {**getattr(row, name), **values})


def test_the_same_bits_again(settings: Settings, tmp_path: Path) -> None:
    registered(settings, tmp_path)
    found = rebuild(settings, "toy", 1, here=True)
    assert found.differences == []
    assert found.reproduced
    assert found.artifact["identical"]
    assert found.predictions == {"rows": 3000, "identical": True, "different": 0, "largest_difference": 0.0}
    assert found.data == {"recorded_rows": 3000, "rows": 3000, "identical": True, "trained_rows": 2000}
    assert found.environment["identical"]
    assert not found.environment["fresh"]


@pytest.mark.usefixtures("quick")
def test_another_seed_is_told(settings: Settings, tmp_path: Path) -> None:
    # Another seed trains another model: the recorded one is changed, everything else is as it was.
    sampled = PIPELINE.replace("return data[", "data = data.sample(frac=0.5, random_state=seed)\n    return data[")
    registered(settings, tmp_path, sampled.replace("def prepare(data)", "def prepare(data, seed)"))
    with session_factory(make_engine(settings.database)).begin() as session:
        session.query(VersionRow).one().seed = 4
    found = rebuild(settings, "toy", 1, here=True)
    assert not found.reproduced
    assert found.predictions["different"] == 3000
    assert 0 < found.predictions["largest_difference"] < 0.2
    said = "\n".join(found.differences)
    assert "predictions: 3000 of 3000 rows, by at most 0." in said
    assert "coef_: the numbers differ" in said


@pytest.mark.usefixtures("quick")
def test_other_rows_are_told(settings: Settings, tmp_path: Path) -> None:
    registered(settings, tmp_path)
    artifacts = ArtifactStore.of(settings)
    with session_factory(make_engine(settings.database))() as session:
        sha = session.query(VersionRow).one().dataset["registered"]
    kept = load_registered(artifacts, sha).iloc[5:].reset_index(drop=True)
    change(settings, dataset={"registered": store_table(artifacts, kept)})
    found = rebuild(settings, "toy", 1, here=True)
    assert not found.reproduced
    assert found.differences[0] == "data: 3000 rows were recorded, 2995 are left"


def test_code_data_and_model_are_checked_before_anything_runs(settings: Settings, tmp_path: Path) -> None:
    registered(settings, tmp_path)
    artifacts = ArtifactStore.of(settings)
    with session_factory(make_engine(settings.database))() as session:
        row = session.query(VersionRow).one()
    for sha in (row.code["artifact"], row.dataset["registered"], row.artifact, row.environment["lock"]):
        path = Path(artifacts.path(sha))
        whole = path.read_bytes()
        path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        with pytest.raises(ArtifactError, match="altered"):
            rebuild(settings, "toy", 1, here=True)
        path.write_bytes(whole)
    signature = Path(artifacts.path(row.code["artifact"]) + ".code.sig")
    signature.unlink()
    with pytest.raises(ArtifactError, match="not signed as code"):
        rebuild(settings, "toy", 1, here=True)


def test_here_has_to_be_the_recorded_environment(settings: Settings, tmp_path: Path) -> None:
    import msgspec

    from agents.retraining import lock

    registered(settings, tmp_path)
    artifacts = ArtifactStore.of(settings)
    mine = lock.lock_of({})
    foreign = msgspec.structs.replace(
        mine, packages=[p if p.name != "numpy" else msgspec.structs.replace(p, version="1.0") for p in mine.packages]
    )
    change(settings, environment={"lock": artifacts.put(lock.encode(foreign), lock.KIND)})
    with pytest.raises(ConfigurationError, match=r"not the recorded one: numpy: 1\.0 → ") as caught:
        rebuild(settings, "toy", 1, here=True)
    assert "leave --here out" in caught.value.remedy
    far = msgspec.structs.replace(mine, python="3.99.0")
    change(settings, environment={"lock": artifacts.put(lock.encode(far), lock.KIND)})
    with pytest.raises(ConfigurationError, match=r"trained with Python 3\.99\.0") as caught:
        rebuild(settings, "toy", 1)
    assert "--python" in caught.value.remedy


def test_an_unknown_version(settings: Settings, tmp_path: Path) -> None:
    registered(settings, tmp_path)
    with pytest.raises(NotFoundError, match="no version 7"):
        rebuild(settings, "toy", 7, here=True)


def test_where_two_files_differ() -> None:
    from sklearn.linear_model import LogisticRegression

    rows, labels = [[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1]
    one, two = (dump_model(LogisticRegression(C=c).fit(rows, labels)) for c in (1.0, 2.0))
    said = file_differences(one, two)
    assert 'C: "1.0", rebuilt "2.0"' in said
    assert "coef_: the numbers differ" in said
    assert len(said) <= 10


def archive_days(settings: Settings, log: Log, first_day: int, days: int) -> None:
    """Traffic of days that serving and the systems of record sent, in the archive."""
    archive = Archive(Path(settings.archive), session_factory(make_engine(settings.database)), log)
    records = []
    for row in toy_table(days, 60, first_day=first_day).to_dict("records"):
        at = round(row["at"].timestamp() * 1000)
        partition = int(row["id"].rpartition("-")[2]) % 2
        prediction = Prediction(
            prediction_id=row["id"],
            model="toy",
            version=1,
            event_time_ms=at,
            features={"x": row["x"], "noise": row["noise"], "region": row["region"]},
            prediction=1,
            probability=0.5,
        )
        label = GroundTruth(prediction_id=row["id"], event_time_ms=at + 7_200_000, label=row["y"])
        for topic, event in (("predictions", prediction), ("ground-truth", label)):
            records.append(log.record(topic, event, partition=partition, key=row["id"].encode()))
    archive.write(records)


@pytest.mark.usefixtures("quick")
def test_what_was_archived_since_is_left_out(settings: Settings, tmp_path: Path) -> None:
    spec = SPEC.replace('"25d"', '"20000d"')
    registered(settings, tmp_path, spec=spec)
    log = Log()
    archive_days(settings, log, 20, 5)
    register_project(settings, None, tmp_path / "p", None, actor="ada")
    archive_days(settings, log, 18, 1)  # late: they would have been among the rows
    archive_days(settings, log, 25, 3)
    with session_factory(make_engine(settings.database)).begin() as session:
        row = session.query(VersionRow).filter_by(version=2).one()
        assert row.dataset["archive"]["offsets"] == {
            "predictions": {"0": 150, "1": 150},
            "ground-truth": {"0": 150, "1": 150},
        }
    found = rebuild(settings, "toy", 2, here=True)
    assert found.data["rows"] == 3300
    assert found.differences == []
    assert found.reproduced
    assert found.artifact["identical"]
    # Without the offsets more would be read, and it would be told.
    with session_factory(make_engine(settings.database)).begin() as session:
        row = session.query(VersionRow).filter_by(version=2).one()
        row.dataset = {**row.dataset, "archive": {**row.dataset["archive"], "offsets": None}}
    assert rebuild(settings, "toy", 2, here=True).differences[0] == "data: 3300 rows were recorded, 3540 are left"


@pytest.mark.usefixtures("quick")
def test_an_imported_version_is_made_again_once_its_rows_came(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 1 learnt from a table, version 2 from the archive, too: its offsets mean nothing in another place."""
    monkeypatch.setattr(moving, "_check_model", lambda *_: None)  # it takes seconds, and has its own test
    registered(settings, tmp_path, spec=SPEC.replace('"25d"', '"20000d"'))
    archive_days(settings, Log(), 20, 5)
    register_project(settings, None, tmp_path / "p", None, actor="ada")
    here = load_settings(home=tmp_path / "other", artifacts_url="", database_url="", archive_url="")
    sessions = session_factory(make_engine(here.database))
    upgrade(make_engine(here.database))
    registry, ours = Registry(sessions, ArtifactStore.of(here)), KeyRing(here.home.resolve() / "keys")
    theirs = KeyRing(settings.home.resolve() / "keys")

    def moved(version: int, *, data: bool) -> moving.Imported:
        file = tmp_path / f"{version}.bundle"
        there = Registry(session_factory(make_engine(settings.database)), ArtifactStore.of(settings))
        with there.sessions() as session:
            table = whole_table(settings, there, session, there.version(session, "toy", version))
            moving.export_version(
                *(there, session, theirs, file), model="toy", version=version, by="ada", data=data, table=table
            )
        return moving.import_bundle(registry, ours, file, by="bob", submit=False)

    with pytest.raises(ArtifactError, match="not trusted here") as untrusted:
        moved(1, data=False)
    assert "signing trust" in untrusted.value.remedy
    ours.trust(theirs.public_pem(), "test-system")
    for version in (1, 2):
        assert moved(version, data=False).version == version
        with pytest.raises(TrainingError, match="stayed in the installation it came from") as caught:
            rebuild(here, "toy", version, here=True)
        assert f"driftline export toy {version} FILE --data" in caught.value.remedy
        with pytest.raises(ConflictError, match="registered already"):
            moved(version, data=False)
        done = moved(version, data=True)
        assert (done.version, done.rows_only, done.decision) == (version, True, None)
        found = rebuild(here, "toy", version, here=True)
        assert found.differences == []
        assert found.reproduced
        assert found.data["rows"] == {1: 3000, 2: 3300}[version]


@pytest.mark.usefixtures("quick")
def test_what_was_let_go_is_told(settings: Settings, tmp_path: Path) -> None:
    registered(settings, tmp_path, spec=SPEC.replace('"25d"', '"20000d"'))
    log = Log()
    archive_days(settings, log, 20, 5)
    register_project(settings, None, tmp_path / "p", None, actor="ada")
    sessions = session_factory(make_engine(settings.database))
    keep = Retention({"predictions": 1, "ground-truth": 1})
    archive_days(settings, log, 60, 1)
    clock_ms = 4_000_000_000_000
    with sessions.begin() as session:
        session.query(VersionRow).filter_by(version=2).one().stage = "superseded"
        found = plan(session, keep, clock_ms)
        assert (len(found.due), len(found.held), found.by) == (0, 4, ["toy 2"])
        forced = plan(session, keep, clock_ms, force=True)
        expire(session, forced.due, local_principal("ada"), reason="asked for")
    told = rebuild(settings, "toy", 2, here=True)
    assert not told.reproduced
    assert told.differences[0].startswith("data: not reproducible: 600 rows of the archive were let go by ")
    assert told.differences[1] == "data: 3300 rows were recorded, 3000 are left"


@pytest.mark.slow
def test_a_fresh_environment_gives_the_same_bits(settings: Settings, tmp_path: Path) -> None:
    registered(settings, tmp_path)
    found = rebuild(settings, "toy", 1)
    assert found.environment["fresh"]
    assert found.differences == []
    assert found.reproduced
    assert found.artifact["identical"]
