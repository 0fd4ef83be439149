"""The training table: what was registered and what was archived, each row once, nothing from the future."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from agents.artifacts import ArtifactStore
from agents.retraining import data
from agents.retraining.table import normalise
from schemas.errors import TrainingError
from schemas.specification import parse
from tests.unit.agents.retraining.projects import SPEC
from tests.unit.agents.retraining.tables import DAY_MS, START_MS, toy_table

SPECIFICATION = parse(SPEC)  # a training window of 25 days


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the archive answers (``table``) and what it was asked (``asked``)."""
    state: dict[str, Any] = {"table": toy_table(0)}

    def joined(
        _session: Any, _url: str, _spec: Any, *, event_time_from_ms: int, as_of_ms: int, until: Any, keys: Any
    ) -> pa.Table:
        assert (until, keys) == (None, None)
        state["asked"] = (event_time_from_ms, as_of_ms)
        return pa.Table.from_pandas(state["table"].assign(_version=1, _score=0.5), preserve_index=False)

    monkeypatch.setattr(data, "joined", joined)
    return state


def table_of(registered: pd.DataFrame | None, day: float) -> pd.DataFrame:
    return data.training_table(
        None,  # type: ignore[arg-type]
        "",
        SPECIFICATION,
        None if registered is None else normalise(registered, SPECIFICATION, where="t"),
        as_of_ms=START_MS + round(day * DAY_MS),
    )


def test_both_sources_in_the_window(archive: dict[str, Any]) -> None:
    archive["table"] = toy_table(10, first_day=20)
    table = table_of(toy_table(20), 30)
    assert archive["asked"] == (START_MS + 5 * DAY_MS, START_MS + 30 * DAY_MS)
    assert len(table) == 15 * 150 + 10 * 150
    assert table["at"].is_monotonic_increasing
    assert list(table) == ["id", "at", "known_at", "y", "x", "noise", "region"]
    assert table["at"].min() >= pd.Timestamp(START_MS + 5 * DAY_MS, unit="ms", tz="UTC")


def test_nothing_that_became_known_later(archive: dict[str, Any]) -> None:
    table = table_of(toy_table(20), 10.5)
    as_of = pd.Timestamp(START_MS + round(10.5 * DAY_MS), unit="ms", tz="UTC")
    assert table["at"].max() <= as_of
    late = table["at"] + pd.Timedelta(hours=2) > as_of
    assert late.any()
    assert table.loc[late, "y"].isna().all()
    assert table.loc[~late, "y"].notna().all()
    assert (table["known_at"].dropna() <= as_of).all()


def test_the_archives_row_counts_unless_only_the_other_has_a_label(archive: dict[str, Any]) -> None:
    archive["table"] = toy_table(2).assign(x=100.0)
    archive["table"].loc[:9, ["y", "known_at"]] = None
    table = table_of(toy_table(3), 5).set_index("id")
    assert len(table) == 450
    assert table["y"].notna().all()
    assert (table.loc[[f"d0-{i}" for i in range(10)], "x"] < 50).all()
    assert (table.loc[[f"d0-{i}" for i in range(10, 300)], "x"] == 100).all()


@pytest.mark.parametrize("kind", ["bool", "float64", "int64"])
def test_labels_of_topic_and_file_become_one_type(archive: dict[str, Any], kind: str) -> None:
    later = toy_table(5, first_day=20)
    archive["table"] = later.assign(y=later["y"].astype(kind))
    table = table_of(toy_table(20), 25)
    assert str(table["y"].dtype) == "Int64"
    assert set(table["y"].unique()) == {0, 1}


def test_one_source_may_be_empty(archive: dict[str, Any]) -> None:
    assert len(table_of(toy_table(3), 5)) == 450
    archive["table"] = toy_table(3)
    assert len(table_of(None, 5)) == 450


def test_no_row_at_all(archive: dict[str, Any]) -> None:
    from agents.retraining.table import check_labels

    empty = table_of(toy_table(3), -5)
    assert len(empty) == 0
    with pytest.raises(TrainingError, match="none of the 0 rows"):
        check_labels(empty, SPECIFICATION, where="t")


def test_a_registered_table_is_kept_as_it_was(tmp_path: Path) -> None:
    artifacts = ArtifactStore(str(tmp_path / "a"), tmp_path / "keys")
    table = normalise(toy_table(2), SPECIFICATION, where="t")
    sha = data.store_table(artifacts, table)
    pd.testing.assert_frame_equal(data.load_registered(artifacts, sha), table)
    assert data.store_table(artifacts, table) == sha


def test_the_manifest_tells_what_was_used() -> None:
    table = normalise(toy_table(2), SPECIFICATION, where="t")
    told = data.manifest(table, SPECIFICATION, registered="abc", as_of_ms=START_MS + 2 * DAY_MS)
    assert (told["rows"], told["labelled"], told["registered"]) == (300, 300, "abc")
    assert told["archive"] == {"from": "2023-12-09T00:00:00Z", "as_of": "2024-01-03T00:00:00Z"}
    assert told["columns"]["y"] == "Int64"


def test_the_champions_features_are_kept_beside_the_candidates() -> None:
    slim = parse(SPEC.replace('noise = "numeric"\n', ""))
    assert list(data.widened(slim, SPECIFICATION, None).features) == ["x", "region", "noise"]
    assert list(data.widened(slim, SPECIFICATION, ["x", "region"]).features) == ["x", "region"]
    assert data.widened(slim, None, None) is slim
