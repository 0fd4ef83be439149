"""The SQL join: label rules, one row a prediction, types, order, and parity with the streaming join."""

from __future__ import annotations

from typing import Any

import duckdb
import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from agents.archiving import dataset
from agents.archiving.logic import SCHEMAS
from agents.archiving.reading import only_reads
from agents.archiving.tables import ArchiveFileRow, ArchivePositionRow
from schemas.codec import SHADOW, encode
from schemas.errors import ConfigurationError, StateError
from schemas.events import GroundTruth, Prediction
from schemas.specification import Specification, parse
from schemas.topics import GROUND_TRUTH, PREDICTIONS
from streams.kafka.records import Record
from tests.support.joins import View, Worker
from tests.support.plans import plan as make_plan
from tests.support.plans import prediction as make_prediction
from tests.unit.agents.archiving.conftest import Archive

DELAY, HORIZON, BASE = 100, 200, 1000


def spec(task: str = "binary", primary: str = "roc_auc") -> Specification:
    return parse(f"""
[model]
name = "m"
task = "{task}"
[data]
id = "flight"
event_time = "departure"
label = "late"
label_time = "arrival"
max_label_delay = "{DELAY}ms"
revision_horizon = "{HORIZON}ms"
segments = ["origin", "tier"]
[features]
distance = "numeric"
origin = "categorical"
"night/day" = "boolean"
[metrics]
primary = "{primary}"
""")


def predicted(archive: Archive, key: str, at_ms: int, *, shadow: bool = False, **over: Any) -> Record:
    values: dict[str, Any] = {
        "model": "m",
        "version": 1,
        "features": {"distance": 12, "origin": "EWR", "night/day": True},
        "prediction": 1,
        "probability": 0.75,
        "segment": {"origin": "EWR", "tier": "gold"},
    }
    value = Prediction(prediction_id=key, event_time_ms=at_ms, **{**values, **over})
    record = archive.log.record(PREDICTIONS, value, key=key.encode())
    return record._replace(headers=[("ce_type", b"Prediction"), SHADOW] if shadow else None)


def label(archive: Archive, key: str, at_ms: int | None, value: Any = 1, revision: int = 0) -> Record:
    if at_ms is None:
        return archive.log.record(GROUND_TRUTH, None, key=key.encode())
    truth = GroundTruth(prediction_id=key, event_time_ms=at_ms, label=value, revision=revision)
    return archive.log.record(GROUND_TRUTH, truth, key=key.encode())


def read(
    archive: Archive, *, of: Specification | None = None, from_ms: int = 0, as_of_ms: int = 10**9, **over: Any
) -> Any:
    with archive.sessions() as session:
        table = dataset.joined(
            session, archive.url, of or spec(), event_time_from_ms=from_ms, as_of_ms=as_of_ms, **over
        )
    return table


def test_columns_have_the_names_and_types_of_the_specification(archive: Archive) -> None:
    archive.write(
        [predicted(archive, "a", 1000), predicted(archive, "b", 1001, features={"distance": None}, segment=None)]
    )
    archive.write([label(archive, "a", 1050)])
    table = read(archive)
    assert {f.name: str(f.type) for f in table.schema} == {
        "flight": "string",
        "departure": "timestamp[us, tz=UTC]",
        "distance": "double",
        "origin": "string",
        "night/day": "bool",
        "tier": "string",
        "late": "int64",
        "arrival": "timestamp[us, tz=UTC]",
        "_version": "int32",
        "_prediction": "int64",
        "_score": "double",
    }
    first, second = table.to_pylist()
    assert (first["distance"], first["origin"], first["night/day"], first["tier"]) == (12.0, "EWR", True, "gold")
    assert (first["late"], first["arrival"].timestamp(), first["_score"]) == (1, 1.05, 0.75)
    assert (second["distance"], second["night/day"], second["late"], second["arrival"]) == (None, None, None, None)


LABELS = [
    ("in time", [(50, 1, 0)], 1),
    ("at the limit", [(DELAY, 1, 0)], 1),
    ("late", [(DELAY + 1, 1, 0)], None),
    ("late, then one in time", [(DELAY + 1, 0, 0), (DELAY, 1, 0)], 1),
    ("the highest revision counts", [(50, 0, 2), (60, 1, 1)], 0),
    ("of equal revisions the later offset counts", [(60, 0, 1), (50, 1, 1)], 1),
    ("a correction within the horizon", [(50, 0, 0), (50 + HORIZON, 1, 1)], 1),
    ("a correction past the horizon", [(50, 0, 0), (51 + HORIZON, 1, 1)], 0),
    ("null withdraws", [(50, 1, 0), (60, None, 1)], None),
    ("null of an older revision does not", [(50, 1, 2), (60, None, 1)], 1),
    ("a tombstone withdraws whatever the revision", [(50, 1, 9), (None, None, 0)], None),
    ("a label after a tombstone counts again", [(50, 1, 9), (None, None, 0), (60, 0, 0)], 0),
    ("a tombstone before any label does nothing", [(None, None, 0), (60, 0, 0)], 0),
    ("not known yet", [(50, 1, 0), (400, 0, 1)], 1),
    ("much older than its prediction", [(-HORIZON - 1, 1, 0)], None),
    ("as old as it may be", [(-HORIZON, 1, 0)], 1),
    ("a correction counts from the prediction at least", [(1 - HORIZON, 1, 0), (HORIZON, 0, 0)], 0),
    ("none", [], None),
]


@pytest.mark.parametrize(("labels", "expected"), [c[1:] for c in LABELS], ids=[c[0] for c in LABELS])
def test_which_label_counts(archive: Archive, labels: list[tuple[int | None, Any, int]], expected: int | None) -> None:
    archive.write([predicted(archive, "a", BASE)])
    for at_ms, value, revision in labels:
        archive.write([label(archive, "a", None if at_ms is None else BASE + at_ms, value, revision)])
    (row,) = read(archive, as_of_ms=BASE + 300).to_pylist()
    assert row["late"] == expected
    assert (row["arrival"] is None) == (expected is None)


LIVE, SHADOWED = False, True


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([(2, LIVE), (1, SHADOWED)], 2),
        ([(1, SHADOWED), (2, LIVE)], 2),
        ([(3, LIVE), (2, SHADOWED), (2, LIVE)], 3),  # sent again after a roll-back
        ([(2, LIVE), (1, LIVE), (1, LIVE)], 2),
        ([(1, SHADOWED)], 1),
    ],
)
def test_one_row_a_prediction_the_first_that_answered_somebody(
    archive: Archive, answers: list[tuple[int, bool]], expected: int
) -> None:
    records = [predicted(archive, "a", 10, model="other", version=0)]
    records += [
        predicted(archive, "a", 10, version=version, shadow=shadow, probability=version / 10)
        for version, shadow in answers
    ]
    for part in (records[:2], records[2:]):
        archive.write(part)
    (row,) = read(archive).to_pylist()
    assert (row["_version"], row["_score"]) == (expected, expected / 10)


def test_files_of_older_releases_know_no_shadow(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, and beside newer ones."""
    older = SCHEMAS[PREDICTIONS].remove(SCHEMAS[PREDICTIONS].get_field_index("shadow"))
    with monkeypatch.context() as patch:
        patch.setattr("agents.archiving.logic.SCHEMAS", {**SCHEMAS, PREDICTIONS: older})
        archive.write([predicted(archive, "a", 10, version=1), predicted(archive, "b", 10, version=1)])
    assert read(archive)["_version"].to_pylist() == [1, 1]
    archive.write([predicted(archive, "c", 10, version=2), predicted(archive, "c", 10, version=1, shadow=True)])
    assert read(archive)["_version"].to_pylist() == [1, 1, 2]
    with archive.sessions() as session, dataset.connect(session, archive.url) as connection:
        found = connection.execute("SELECT prediction_id, version, shadow FROM predictions ORDER BY ALL").fetchall()
    assert found == [("a", 1, None), ("b", 1, None), ("c", 1, True), ("c", 2, False)]


def test_rows_are_ordered_and_limited_by_event_time(archive: Archive) -> None:
    archive.write([predicted(archive, key, at) for key, at in [("c", 30), ("b", 20), ("a", 20), ("z", 10), ("y", 31)]])
    assert read(archive, from_ms=20, as_of_ms=30)["flight"].to_pylist() == ["a", "b", "c"]


def test_files_that_are_not_in_the_manifest_do_not_exist(archive: Archive) -> None:
    archive.write([predicted(archive, "a", 1)])
    with archive.sessions.begin() as session:
        session.execute(delete(ArchiveFileRow))
        session.execute(delete(ArchivePositionRow))
    table = read(archive)
    assert table.num_rows == 0
    assert "distance" in table.column_names


def test_a_file_that_is_gone_is_an_error_naming_it(archive: Archive) -> None:
    archive.write([predicted(archive, "a", 1)])
    for path in archive.folder.rglob("*.parquet"):
        path.unlink()
    with pytest.raises(StateError, match="cannot be read"):
        read(archive)


def test_poison_between_good_records_is_left_out(archive: Archive) -> None:
    bad = archive.log.record(PREDICTIONS, b"{")
    archive.write(
        [predicted(archive, "a", 1), bad, predicted(archive, "b", 2), archive.log.record(GROUND_TRUTH, b"\xff")]
    )
    assert read(archive)["flight"].to_pylist() == ["a", "b"]


@pytest.mark.parametrize(
    ("task", "primary", "prediction", "probability", "truth", "expected"),
    [
        ("binary", "roc_auc", True, 0.6, True, (True, True, 0.6)),
        ("binary", "roc_auc", 1, {"0": 0.4, "1": 0.6}, 0, (1, 0, 0.6)),
        ("multiclass", "accuracy", "a", {"a": 0.7, "b/c": 0.2}, "b", ("a", "b", 0.7)),
        ("multiclass", "accuracy", "a", None, "b", ("a", "b", None)),
        ("regression", "mae", 3, None, 4.5, (3.0, 4.5, 3.0)),
        ("regression", "mae", 3, None, "4.5", (3.0, None, 3.0)),
        ("regression", "mae", 3, None, True, (3.0, None, 3.0)),
    ],
)
def test_values_by_task(
    archive: Archive, task: str, primary: str, prediction: Any, probability: Any, truth: Any, expected: Any
) -> None:
    archive.write(
        [predicted(archive, "a", 1, prediction=prediction, probability=probability), label(archive, "a", 2, truth)]
    )
    (row,) = read(archive, of=spec(task, primary)).to_pylist()
    assert (row["_prediction"], row["late"], row["_score"]) == expected


def test_a_third_class_of_a_binary_model_is_no_label(archive: Archive) -> None:
    archive.write([predicted(archive, "a", 1), label(archive, "a", 2, 1.0), label(archive, "a", 3, 7)])
    assert read(archive, classes=("0", "1"))["late"].to_pylist() == [1]
    assert read(archive)["late"].to_pylist() == [7]


def test_views_show_everything_and_reach_nothing_else(archive: Archive, tmp_path: Any) -> None:
    archive.write([predicted(archive, "a", 1), label(archive, "a", 2)])
    outside = tmp_path / "secret.csv"
    outside.write_text("a\n1\n")
    with archive.sessions() as session, dataset.connect(session, archive.url) as connection:
        query = "SELECT p.model, l.label FROM predictions AS p JOIN ground_truth AS l USING (prediction_id)"
        assert connection.execute(query).fetchall() == [("m", "1")]
        assert connection.execute("SELECT count(*) FROM alerts").fetchall() == [(0,)]
        with pytest.raises(duckdb.PermissionException):
            connection.execute(f"SELECT * FROM read_csv('{outside}')")


@pytest.mark.parametrize(
    ("sql", "allowed"),
    [
        ("SELECT 1", True),
        ("FROM predictions", True),
        ("WITH a AS (SELECT 1) SELECT * FROM a", True),
        ("DESCRIBE predictions", True),
        ("SUMMARIZE predictions", True),
        ("SHOW TABLES", True),
        ("VALUES (1)", True),
        ("", False),
        ("SELECT 1; SELECT 2", False),
        ("SELECT 1; DROP VIEW predictions", False),
        ("CREATE TABLE x AS SELECT 1", False),
        ("CREATE OR REPLACE VIEW predictions AS SELECT 1", False),
        ("INSERT INTO predictions VALUES (1)", False),
        ("DELETE FROM predictions", False),
        ("COPY (SELECT 1) TO '{file}'", False),
        ("EXPLAIN ANALYZE COPY (SELECT 1) TO '{file}'", False),
        ("EXPORT DATABASE '{folder}'", False),
        ("ATTACH '{folder}/x.db'", False),
        ("INSTALL httpfs", False),
        ("LOAD httpfs", False),
        ("SET enable_external_access = true", False),
        ("PRAGMA disable_checkpoint_on_shutdown", False),
        ("CALL pragma_version()", False),
    ],
)
def test_only_statements_that_read_pass(archive: Archive, sql: str, allowed: bool) -> None:
    archive.write([predicted(archive, "a", 1)])
    (file,) = archive.folder.rglob("*.parquet")
    before = file.read_bytes()
    sql = sql.format(file=file, folder=archive.folder)
    with archive.sessions() as session, dataset.connect(session, archive.url) as connection:
        if allowed:
            assert connection.execute(only_reads(connection, sql)).fetchall()
        else:
            with pytest.raises(ConfigurationError, match="only reads"):
                only_reads(connection, sql)
    assert file.read_bytes() == before


@pytest.mark.parametrize("path", ["{folder}/ground-truth/0/beside.parquet", "{folder}/../secret.csv", "s3://b/x.csv"])
def test_files_that_the_manifest_does_not_name_cannot_be_read(archive: Archive, path: str) -> None:
    archive.write([label(archive, "a", 1)])
    (file,) = archive.folder.rglob("*.parquet")
    (archive.folder / "ground-truth/0/beside.parquet").write_bytes(file.read_bytes())
    (archive.folder.parent / "secret.csv").write_text("a\n1\n")
    named = path.format(folder=archive.folder)
    reader = "read_csv" if named.endswith("csv") else "read_parquet"
    with archive.sessions() as session, dataset.connect(session, archive.url) as connection:
        assert connection.execute("SELECT count(*) FROM ground_truth").fetchall() == [(1,)]
        with pytest.raises(duckdb.Error, match=r"disabled|loading"):
            connection.execute(f"SELECT * FROM {reader}('{named}')")


def test_covers_compares_with_what_was_archived(archive: Archive) -> None:
    archive.write([predicted(archive, "a", 1), predicted(archive, "b", 1)])
    with archive.sessions() as session:
        assert dataset.covers(session, {(PREDICTIONS, 0): 2, (GROUND_TRUTH, 0): 0})
        assert not dataset.covers(session, {(PREDICTIONS, 0): 3})
        assert not dataset.covers(session, {(PREDICTIONS, 0): 2, (GROUND_TRUTH, 1): 1})


def test_many_small_files_are_read_quickly(archive: Archive) -> None:
    """What was not merged yet is still one read: 1,200 files here; 3,000 take about a second."""
    days, partitions, each = 50, 12, 10
    writer = archive.writer()
    pairs = [(topic, partition) for topic in (PREDICTIONS, GROUND_TRUTH) for partition in range(partitions)]
    writer.claim(pairs)
    for day in range(days):
        for partition in range(partitions):
            for n in range(each):
                key = f"{day}-{partition}-{n}"
                made = (predicted(archive, key, day * 1000 + n), label(archive, key, day * 1000 + n + 5, n % 2))
                writer.add((r._replace(partition=partition, offset=day * each + n) for r in made), 0)
        writer.flush(dict.fromkeys(pairs, (day + 1) * each))
    table = read(archive)
    assert table.num_rows == days * partitions * each
    assert sum(table["late"].to_pylist()) == table.num_rows // 2


FACTS = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(BASE - HORIZON - 20, BASE + 420)),
        st.sampled_from([0, 1, None, 7]),
        st.integers(0, 2),
    ),
    max_size=6,
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(FACTS, min_size=1, max_size=25))
@example([[(BASE - HORIZON, 0, 0)], [(BASE - HORIZON - 1, 0, 0)], [(BASE + DELAY, 0, 0)], [(BASE + DELAY + 1, 0, 0)]])
def test_the_sql_join_takes_the_label_that_the_streaming_join_takes(archive: Archive, cases: list[Any]) -> None:
    plan = make_plan("binary", delay=f"{DELAY}ms", horizon=f"{HORIZON}ms", windows=("50ms",))
    worker = Worker(View({("m", 1): plan}))
    with archive.sessions.begin() as session:
        session.execute(delete(ArchiveFileRow))
        session.execute(delete(ArchivePositionRow))
    for index, facts in enumerate(cases):
        key = f"p{index}"
        worker.predict(make_prediction(key, BASE))
        for at_ms, value, revision in facts:
            if at_ms is None:
                worker.tombstone(key)
            else:
                worker.label(key, at_ms, value, revision)
    worker.step()
    streamed = {key: entry.predictions[0].label for key, entry in worker.join._entries.items()}
    records = [*worker.log[PREDICTIONS], *worker.log[GROUND_TRUTH]]
    for part in (records[: len(records) // 2], records[len(records) // 2 :]):
        archive.write(part)
    table = read(archive, of=plan.spec, classes=plan.classes)
    assert dict(zip(table["id"].to_pylist(), table["y"].to_pylist(), strict=True)) == streamed


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.permutations([1, 2, 3]), st.integers(0, 2), FACTS), min_size=1, max_size=12))
def test_the_sql_join_takes_the_version_that_the_streaming_join_took_first(archive: Archive, cases: list[Any]) -> None:
    """Beside each answer stand those made in shadow: one label joins them all, and the live one is learnt from."""
    plan = make_plan("binary", delay=f"{DELAY}ms", horizon=f"{HORIZON}ms", windows=("50ms",))
    worker = Worker(View({("m", version): plan for version in (1, 2, 3)}))
    with archive.sessions.begin() as session:
        session.execute(delete(ArchiveFileRow))
        session.execute(delete(ArchivePositionRow))
    for index, (versions, shadows, facts) in enumerate(cases):
        key = f"p{index}"
        for place, version in enumerate(versions[: 1 + shadows]):
            value = encode(msgspec.structs.replace(make_prediction(key, BASE), version=version))
            worker.send(PREDICTIONS, value, key.encode(), [SHADOW] if place else None)
        for at_ms, value, revision in facts:
            if at_ms is None:
                worker.tombstone(key)
            else:
                worker.label(key, at_ms, value, revision)
    worker.step()
    first = {key: entry.predictions[0] for key, entry in worker.join._entries.items()}
    streamed = {key: (prediction.version, prediction.label) for key, prediction in first.items()}
    archive.write([*worker.log[PREDICTIONS], *worker.log[GROUND_TRUTH]])
    table = read(archive, of=plan.spec, classes=plan.classes)
    columns = (table[name].to_pylist() for name in ("id", "_version", "y"))
    assert {key: (version, label) for key, version, label in zip(*columns, strict=True)} == streamed
