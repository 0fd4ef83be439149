"""Datasets: chosen as of a moment, kept once, checked, described, compared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from typer.testing import CliRunner

from agents.artifacts import ArtifactStore
from agents.database.engine import make_engine, session_factory
from agents.datasets import lineage
from agents.datasets.build import Chosen, Wish, choose, create
from agents.datasets.catalog import find, listed, load
from agents.datasets.diff import difference
from agents.datasets.manifest import Column, Manifest, Moved
from agents.datasets.parents import sources
from agents.datasets.rows import rows_of
from agents.datasets.statistics import described, moved, oddities
from schemas.errors import ArtifactError, ConfigurationError, ConflictError, NotFoundError
from tests.support.databases import prepare
from tests.unit.agents.archiving.conftest import Archive
from tests.unit.agents.archiving.test_dataset import label, predicted, spec
from tests.unit.agents.retraining.projects import write_project
from tests.unit.agents.retraining.tables import toy_table


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    engine = make_engine(f"sqlite:///{tmp_path / 'm.db'}")
    prepare(engine)
    yield Archive(tmp_path / "archive", session_factory(engine))
    engine.dispose()


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "artifacts"))


def chosen(archive: Archive, query: str, **more: Any) -> Chosen:
    with archive.sessions() as session:
        return choose(session, archive.url, query, **more)


def made(archive: Archive, artifacts: ArtifactStore, rows: dict[str, Any], name: str = "d", **wish: Any) -> Manifest:
    return create(archive.sessions, artifacts, Chosen(pa.table(rows), []), Wish(name, "ada", **wish))


# ------------------------------------------------------------------------------------------------------ choosing


def test_a_query_sees_what_had_happened(archive: Archive) -> None:
    archive.write([predicted(archive, "a", 1000), predicted(archive, "b", 2000)])
    archive.write([label(archive, "a", 1050), label(archive, "b", 2050)])
    archive.write([predicted(archive, "c", 9000)])
    query = "SELECT prediction_id FROM predictions ORDER BY 1"
    assert chosen(archive, query).table["prediction_id"].to_pylist() == ["a", "b", "c"]
    then = chosen(archive, query, as_of_ms=2000)
    assert then.table["prediction_id"].to_pylist() == ["a", "b"]
    # Of the files behind it, the one that holds later rows only was not needed, nor were the labels.
    assert [(file.topic, file.first_offset, file.last_offset) for file in then.files] == [("predictions", 0, 1)]
    assert all(len(file.sha256) == 64 for file in then.files)


def test_joined_rows_know_the_labels_of_the_moment(archive: Archive) -> None:
    archive.write([predicted(archive, "a", 1000), predicted(archive, "b", 2000)])
    archive.write([label(archive, "a", 1050), label(archive, "b", 2050)])
    query = "SELECT flight, late FROM joined ORDER BY 1"
    found = chosen(archive, query, as_of_ms=2010, spec=spec())
    assert found.table.to_pylist() == [{"flight": "a", "late": 1}, {"flight": "b", "late": None}]
    assert {file.topic for file in found.files} == {"predictions", "ground-truth"}
    assert found.model == "m"


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("SELECT nothing FROM predictions", "nothing"),
        ("SELECT * FROM read_csv('/etc/passwd')", "disabled"),
        ("COPY (SELECT 1) TO '/tmp/x.csv'", "only reads"),
        ("SELECT 1 AS a; SELECT 2 AS a", "only reads"),
        ("SELECT 1 AS a, 2 AS a", "names of their own"),
    ],
)
def test_queries_that_cannot_be(archive: Archive, query: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        chosen(archive, query)


# ------------------------------------------------------------------------------------------------------- keeping


def test_where_a_dataset_comes_from(archive: Archive, artifacts: ArtifactStore) -> None:
    archive.write([predicted(archive, "a", 1000), predicted(archive, "b", 2000)])
    archive.write([predicted(archive, "c", 3000)])
    found = chosen(archive, "SELECT prediction_id\nFROM predictions", as_of_ms=4000)
    manifest = create(archive.sessions, artifacts, found, Wish("trips", "ada"))
    vertex = lineage.thing(manifest)
    assert vertex.node.id == "dataset:trips@1"
    assert vertex.inputs == [
        ("archive", "trips@1/predictions", "predictions, 2 files, 3 rows", "rows of"),
        ("query", "trips@1", "SELECT prediction_id FROM predictions", "answer to"),
    ]
    with archive.sessions() as session:
        assert lineage.known(session, artifacts, ["trips@1", "gone@1"]) == [vertex]


def test_versions_are_kept_once_and_never_change(archive: Archive, artifacts: ArtifactStore) -> None:
    first = made(archive, artifacts, {"x": [1.0, 2.0]}, description="trips")
    assert (first.version, first.rows, first.previous) == (1, 2, None)
    with pytest.raises(ConflictError, match="as version 1"):
        made(archive, artifacts, {"x": [1.0, 2.0]})
    second = made(archive, artifacts, {"x": [1.0, 2.0, 3.0]})
    assert (second.version, second.previous) == (2, 1)
    # Another dataset may hold the same rows; they are stored once.
    assert made(archive, artifacts, {"x": [1.0, 2.0]}, name="e").data == first.data
    with archive.sessions() as session:
        assert [(row.name, row.version) for row in listed(session)] == [("d", 2), ("e", 1)]
        assert [row.version for row in listed(session, "d")] == [1, 2]
        assert load(artifacts, find(session, "d@1").manifest) == first
        assert find(session, "d").version == 2
        for unknown in ("d@3", "f"):
            with pytest.raises(NotFoundError):
                find(session, unknown)
        with pytest.raises(ConfigurationError, match="names no dataset"):
            find(session, "d@")
    assert rows_of(artifacts, first.data).to_pydict() == {"x": [1.0, 2.0]}


def test_an_altered_manifest_is_refused(archive: Archive, artifacts: ArtifactStore) -> None:
    made(archive, artifacts, {"x": [1.0]})
    with archive.sessions() as session:
        sha = find(session, "d").manifest
    path = Path(artifacts.path(sha))
    path.write_bytes(path.read_bytes().replace(b'"rows":1', b'"rows":9'))
    with pytest.raises(ArtifactError, match="altered"):
        load(artifacts, sha)


def test_conditions_are_held_before_anything_is_kept(archive: Archive, artifacts: ArtifactStore) -> None:
    assert made(archive, artifacts, {"x": [1, 2]}, checks=["count(*) = 2", "max(x) < 5"]).checks == [
        "count(*) = 2",
        "max(x) < 5",
    ]
    for check, error in (("min(x) > 1", ConflictError), ("y > 1", ConfigurationError), ("x > 1", ConflictError)):
        with pytest.raises(error):
            made(archive, artifacts, {"x": [1, 2]}, name="other", checks=[check])
    with pytest.raises(ConfigurationError, match="no column k"):
        made(archive, artifacts, {"x": [1]}, name="other", key=["k"])
    with pytest.raises(ConfigurationError, match="cannot name"):
        made(archive, artifacts, {"x": [1]}, name="a b")
    with archive.sessions() as session:
        assert [row.name for row in listed(session)] == ["d"]


# ---------------------------------------------------------------------------------------------------- describing


def test_what_looks_odd_is_told() -> None:
    table = pa.table(
        {
            "id": [1, 2, 2, 3],
            "empty": pa.array([None] * 4, pa.string()),
            "sparse": [1.0, None, None, None],
            "same": ["a"] * 4,
            "wild": [1.0, float("inf"), 2.0, 3.0],
        }
    )
    assert oddities(table, described(table), ["id"]) == [
        "empty is empty",
        "sparse is empty in 75% of the rows",
        "same has one value only: a",
        "wild is infinite in 1 rows",
        "1 rows have a key (id) that came before",
    ]
    none = table.slice(0, 0)
    assert oddities(none, described(none), []) == ["there is no row"]


@given(
    st.lists(
        st.one_of(st.none(), st.floats(width=64), st.just(0.0), st.integers(-5, 5).map(float)), min_size=0, max_size=60
    )
)
@settings(deadline=None, max_examples=60)
def test_numbers_are_described_whatever_they_are(values: list[float | None]) -> None:
    column = described(pa.table({"x": pa.array(values, pa.float64())}))["x"]
    finite = [value for value in values if value is not None and np.isfinite(value)]
    assert column.nulls == len(values) - len(finite)
    assert sum(column.counts) == len(finite)
    if finite:
        assert float(column.least or "nan") == min(finite)
        assert float(column.most or "nan") == max(finite)


def test_what_moved_and_what_did_not() -> None:
    rng = np.random.default_rng(5)
    n = 4_000

    def table(shift: float, share: float) -> pa.Table:
        return pa.table(
            {
                "still": rng.normal(size=n),
                "shifted": rng.normal(shift, size=n),
                "kind": rng.choice(["a", "b"], size=n, p=[share, 1 - share]),
                "id": [f"{rng.integers(10**12)}" for _ in range(n)],
                "flag": rng.random(n) < 0.3,
            }
        )

    old, new = table(0.0, 0.5), table(1.0, 0.9)
    found = moved(old, new, described(old))
    assert {name for name, one in found.items() if one.moved} == {"shifted", "kind"}
    assert set(found) == {"still", "shifted", "kind", "flag"}, "an id is no distribution"
    before, after = old["shifted"].to_numpy(), new["shifted"].to_numpy()
    assert found["shifted"].ks == pytest.approx(stats.ks_2samp(before, after).statistic)
    apart = stats.wasserstein_distance(before, after)
    assert found["shifted"].wasserstein == pytest.approx(apart / before.std())
    assert 0.9 < found["shifted"].wasserstein < 1.1, "in standard deviations"
    distances = {name: one.jensen_shannon for name, one in found.items()}
    assert all(0 <= one <= 1 for one in distances.values() if one is not None)
    assert min(distances["shifted"], distances["kind"]) > 10 * max(distances["still"], distances["flag"])
    kind = [old["kind"].to_pylist(), new["kind"].to_pylist()]
    table = [[values.count(value) for value in "ab"] for values in kind]
    pearson = stats.chi2_contingency(table, correction=False)
    assert found["kind"].chi2 == pytest.approx(pearson.statistic * 2 / n)
    assert found["kind"].p_value == pytest.approx(pearson.pvalue)
    assert found["kind"].ks is found["kind"].wasserstein is found["shifted"].chi2 is None


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=4),
    st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=4),
)
@settings(deadline=None, max_examples=60)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_is_kept_of_a_move_can_be_read(a: list[float], b: list[float]) -> None:
    old, new = (pa.table({"x": pa.array(values, pa.float64())}) for values in (a, b))
    found = moved(old, new, described(old))
    assert msgspec.json.decode(msgspec.json.encode(found), type=dict[str, Moved]) == found
    columns = described(old)
    assert msgspec.json.decode(msgspec.json.encode(columns), type=dict[str, Column]) == columns


@pytest.mark.parametrize(
    ("old", "new", "moves"),
    [
        ([1.0, 2.0, 3.0] * 200, [None] * 600, True),  # every value is lost
        ([None] * 600, [1.0, 2.0, 3.0] * 200, None),  # there was nothing to be far from
        ([5.0] * 600, [5.0] * 600, False),
        ([5.0] * 600, [5.0, 6.0] * 300, True),  # what never changed begins to
        ([1e308, -1e308] * 300, [1e308] * 600, True),  # farther apart than a number can say
        ([0.1, 0.2, 0.3] * 200, [0.1, 0.2, 0.3] * 200, False),
    ],
)
def test_however_far_a_column_is_its_manifest_can_be_read(
    archive: Archive, artifacts: ArtifactStore, old: list[float], new: list[float], moves: bool | None
) -> None:
    versions = [
        pa.table({"n": range(start, start + 600), "x": pa.array(values, pa.float64())})
        for start, values in enumerate((old, new))
    ]
    _, made = [create(archive.sessions, artifacts, Chosen(rows, []), Wish("d", "ada")) for rows in versions]
    with archive.sessions() as session:
        kept = load(artifacts, find(session, "d@2").manifest)
    assert kept == made
    assert (kept.drift["x"].moved if "x" in kept.drift else None) == moves


# ----------------------------------------------------------------------------------------------------- comparing


def test_a_difference_by_key(archive: Archive, artifacts: ArtifactStore) -> None:
    a = made(archive, artifacts, {"id": [1, 2, 3], "x": [1.0, None, 3.0], "old": [1, 1, 1]}, key=["id"])
    b = made(archive, artifacts, {"id": [2, 3, 4], "x": [None, 4.0, 5.0], "new": ["u", "v", "w"]}, key=["id"])
    found = difference(a, b, rows_of(artifacts, a.data), rows_of(artifacts, b.data))
    assert found["rows"] == {"a": 3, "b": 3, "added": 1, "removed": 1, "changed": 1, "key": ["id"]}
    assert found["schema"] == {"added": ["new"], "removed": ["old"], "changed": {}}
    assert found["columns"]["x"]["nulls"] == [1, 1]
    assert not found["equal"]
    assert difference(a, a, rows_of(artifacts, a.data), rows_of(artifacts, a.data))["equal"]


@given(st.lists(st.integers(0, 4), max_size=12), st.lists(st.integers(0, 4), max_size=12))
@settings(deadline=None, max_examples=40)
def test_a_difference_of_whole_rows_counts_each_as_often_as_it_is_there(a: list[int], b: list[int]) -> None:
    from collections import Counter

    from agents.datasets.diff import _rows

    one, other = (pa.table({"x": pa.array(values, pa.int64())}) for values in (a, b))
    found = _rows(one, other, ())
    assert found["added"] == (Counter(b) - Counter(a)).total()
    assert found["removed"] == (Counter(a) - Counter(b)).total()


# ----------------------------------------------------------------------------------------------------- commands


def run(home: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    from agents.cli import app

    monkeypatch.setenv("DRIFTLINE_HOME", str(home))
    result = CliRunner().invoke(app, ["datasets", *arguments])
    return result.exit_code, result.stdout


def test_a_version_names_the_dataset_it_was_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agents.cli import app
    from agents.config import load_settings
    from agents.registry.questions import Questions

    home = tmp_path / "home"
    toy_table(20).to_csv(tmp_path / "t.csv", index=False)
    project = write_project(tmp_path / "p")
    assert run(home, monkeypatch, "create", "trips", "--data", str(tmp_path / "t.csv"))[0] == 0

    def register(*arguments: str) -> int:
        return CliRunner().invoke(app, ["register", str(project), *arguments]).exit_code

    clean = ("create", "clean", "--sql", "SELECT * FROM t", "--from", "t=trips@1", "--json")
    code, said = run(home, monkeypatch, *clean)
    assert (code, json.loads(said)["parents"][0]["dataset"]) == (0, "trips@1")
    assert "rows of trips@1 as t" in run(home, monkeypatch, "show", "clean")[1]
    assert run(home, monkeypatch, "create", "clean", "--data", str(tmp_path / "t.csv"), "--from", "trips")[0] != 0
    assert register("--dataset", "clean") == 0
    engine = make_engine(load_settings(home=home).database)
    with session_factory(engine, read_only=True)() as session:
        version = Questions().version(session, "toy", 1)
    engine.dispose()
    assert version.dataset["dataset"] == "clean@1"
    found = json.loads(CliRunner().invoke(app, ["lineage", "--dataset", "trips@1", "--json"]).stdout)
    made = [(use["model"], use["version"], use["through"]) for use in found["versions"]]
    assert made == [("toy", 1, "trained on clean@1")]
    graph = json.loads(CliRunner().invoke(app, ["lineage", "toy", "1", "--json"]).stdout)
    assert ("dataset:trips@1", "dataset trips@1") in [(node["id"], node["label"]) for node in graph["nodes"]]
    assert ("file", "dataset:trips@1") in [(e["source"].partition(":")[0], e["target"]) for e in graph["edges"]]

    def lineage(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["lineage", *arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    tree = lineage("--dataset", "trips", "--tree")
    assert "dataset trips@1" in tree
    assert tree.index("came as: file") < tree.index("trained on: toy 1 (champion)")
    lineage("--dataset", "trips@1", "--svg", str(tmp_path / "trips.svg"))
    assert "toy 1" in (tmp_path / "trips.svg").read_text()
    # One that nothing was trained on has a lineage, too.
    toy_table(10).to_csv(tmp_path / "fewer.csv", index=False)
    assert run(home, monkeypatch, "create", "trips", "--data", str(tmp_path / "fewer.csv"))[0] == 0
    alone = json.loads(lineage("--dataset", "trips@2", "--tree", "--json"))
    assert sorted(alone["depth"].values()) == [-1, 0]
    assert register("--dataset", "trips@9") != 0
    assert register("--dataset", "trips", "--data", str(tmp_path / "t.csv")) != 0


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    (tmp_path / "a.csv").write_text("id,x\n1,5\n2,6\n")
    (tmp_path / "b.csv").write_text("id,x\n1,5\n2,7\n3,8\n")
    assert "no dataset" in run(home, monkeypatch)[1]
    for file in ("a.csv", "b.csv"):
        code, said = run(home, monkeypatch, "create", "trips", "--data", str(tmp_path / file), "--key", "id")
        assert code == 0, said
    assert json.loads(run(home, monkeypatch, "--json")[1])["datasets"][0]["version"] == 2
    assert json.loads(run(home, monkeypatch, "show", "trips@1", "--json")[1])["rows"] == 2
    found = json.loads(run(home, monkeypatch, "diff", "trips@1", "trips", "--json")[1])
    assert found["rows"] == {"a": 2, "b": 3, "added": 1, "removed": 0, "changed": 1, "key": ["id"]}
    assert "1 added" in run(home, monkeypatch, "diff", "trips@1", "trips@2")[1]
    assert run(home, monkeypatch, "write", "trips@2", str(tmp_path / "out.csv"))[0] == 0
    assert (tmp_path / "out.csv").read_text().splitlines()[1:] == ["1,5", "2,7", "3,8"]
    query = "SELECT count(*) AS n FROM predictions"
    assert run(home, monkeypatch, "create", "counted", "--sql", query, "--as-of", "2020-01-01")[0] == 0
    assert "n has" not in run(home, monkeypatch, "show", "counted")[1]
    for wrong in (("create", "x"), ("create", "x", "--data", "none.txt"), ("show", "y"), ("write", "trips", "out.xml")):
        assert run(home, monkeypatch, *wrong)[0] != 0


# ------------------------------------------------------------------------------------------------------- deriving


def derived(archive: Archive, artifacts: ArtifactStore, name: str, query: str, *parents: str, **more: Any) -> Manifest:
    with archive.sessions() as session:
        found = choose(session, archive.url, query, sources=sources(session, artifacts, parents), **more)
    return create(archive.sessions, artifacts, found, Wish(name, "ada"))


def test_a_dataset_of_datasets(archive: Archive, artifacts: ArtifactStore) -> None:
    made(archive, artifacts, {"id": ["a", "b"], "x": [1, 2]}, name="left-side")
    made(archive, artifacts, {"id": ["b", "c"], "x": [20, 30]}, name="right")
    pair = derived(
        archive, artifacts, "pair", "SELECT l.x + r.x AS x FROM left_side l JOIN r USING (id)", "left-side", "r=right@1"
    )
    assert rows_of(artifacts, pair.data).to_pydict() == {"x": [22]}
    assert [(one.dataset, one.view, one.rows) for one in pair.parents] == [
        ("left-side@1", "left_side", 2),
        ("right@1", "r", 2),
    ]
    made(archive, artifacts, {"id": ["b"], "x": [200]}, name="right")
    derived(archive, artifacts, "last", "SELECT * FROM pair", "pair")
    with archive.sessions() as session:
        assert load(artifacts, find(session, "pair").manifest) == pair
        assert lineage.derived(session, ["right@1"]) == ["last@1", "pair@1"]
        assert lineage.derived(session, ["right@2"]) == lineage.derived(session, ["last@1"]) == []
        vertices = {one.node.id: one.inputs for one in lineage.known(session, artifacts, ["last@1"])}
    assert set(vertices) == {"dataset:last@1", "dataset:pair@1", "dataset:left-side@1", "dataset:right@1"}
    assert ("dataset", "right@1", "dataset right@1", "derived from") in vertices["dataset:pair@1"]


def test_a_dataset_keeps_what_moment_it_knows(archive: Archive, artifacts: ArtifactStore) -> None:
    archive.write([predicted(archive, "a", 1000), predicted(archive, "b", 2000)])
    create(
        archive.sessions,
        artifacts,
        chosen(archive, "SELECT prediction_id FROM predictions", as_of_ms=1500),
        Wish("p", "a"),
    )
    assert derived(archive, artifacts, "q", "SELECT 1 AS one FROM p", "p").as_of == "1970-01-01T00:00:01.500000Z"
    beside = "SELECT p.prediction_id FROM p JOIN predictions USING (prediction_id)"
    assert derived(archive, artifacts, "r", beside, "p").as_of is None, "the archive was read as it is now"
    assert derived(archive, artifacts, "r", f"{beside} UNION ALL {beside}", "p", as_of_ms=1500).as_of is not None
    with pytest.raises(ConfigurationError, match="which is later"):
        derived(archive, artifacts, "r", beside, "p", as_of_ms=1400)


@pytest.mark.parametrize(
    ("references", "words"),
    [
        (["d", "d@1"], "called 'd'"),
        (["joined=d"], "called 'joined'"),
        (["Ground_Truth=d"], "called 'Ground_Truth'"),
        (["a b=d"], "called 'a b'"),
    ],
)
def test_views_have_names_of_their_own(
    archive: Archive, artifacts: ArtifactStore, references: list[str], words: str
) -> None:
    made(archive, artifacts, {"x": [1]})
    with archive.sessions() as session, pytest.raises(ConfigurationError, match=words):
        sources(session, artifacts, references)
