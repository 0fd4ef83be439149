"""Training tables: one form in, one form out, and a clear word for each thing that is wrong."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents.retraining.table import check_labels, normalise, read_table
from schemas.errors import TrainingError
from schemas.specification import parse
from tests.unit.agents.retraining.projects import SPEC
from tests.unit.agents.retraining.tables import toy_table

SPECIFICATION = parse(SPEC)


def _with(**columns: Any) -> pd.DataFrame:
    return toy_table(1, 4).assign(**columns)


def test_files_of_both_kinds_give_the_same_table(tmp_path: Path) -> None:
    table = toy_table(3, 50)
    table.loc[3, ["y", "known_at"]] = None
    table.to_parquet(tmp_path / "t.parquet", index=False)
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_csv(tmp_path / "t.csv.gz", index=False)
    parquet = read_table(tmp_path / "t.parquet", SPECIFICATION)
    for name in ("t.csv", "t.csv.gz"):
        pd.testing.assert_frame_equal(read_table(tmp_path / name, SPECIFICATION), parquet)
    assert {str(name): str(kind) for name, kind in parquet.dtypes.items()} == {
        "id": "str",
        "at": "datetime64[ms, UTC]",
        "known_at": "datetime64[ms, UTC]",
        "y": "Int64",
        "x": "float64",
        "noise": "float64",
        "region": "str",
    }


def test_rows_are_put_in_order_of_event_time_and_id() -> None:
    shuffled = toy_table(3, 50).sample(frac=1.0, random_state=1)
    pd.testing.assert_frame_equal(
        normalise(shuffled, SPECIFICATION, where="t"), normalise(toy_table(3, 50), SPECIFICATION, where="t")
    )


def test_times_without_a_zone_are_utc_and_others_become_it() -> None:
    naive = _with(at=["2024-01-01 10:00", "2024-01-01T11:00:00", "2024-01-01", "2024-01-02"])
    aware = _with(at=["2024-01-01T11:00:00+01:00", "2024-01-01T11:00Z", "2024-01-01T00:00Z", "2024-01-02T00:00Z"])
    expected = pd.to_datetime(["2024-01-01T00:00Z", "2024-01-01T10:00Z", "2024-01-01T11:00Z", "2024-01-02T00:00Z"])
    for table in (naive, aware):
        assert list(normalise(table, SPECIFICATION, where="t")["at"]) == list(expected)


@pytest.mark.parametrize(
    ("table", "column", "words"),
    [
        (toy_table(1, 4).drop(columns=["x"]), "", "lacks the column x"),
        (toy_table(1, 4).drop(columns=["y", "known_at"]), "", "lacks the columns y, known_at"),
        (_with(id=["a", "b", "a", "a"]), "id", "2 rows repeat the id of another: a"),
        (_with(id=["a", None, "c", "d"]), "id", "1 rows have no id"),
        (_with(at=["2024-01-01", "yesterday", "2024-01-01", "2024-01-01"]), "at", "cannot be read"),
        (_with(at=["2024-01-01", None, "2024-01-01", "2024-01-01"]), "at", "1 rows have no event time"),
        (_with(at=[1, 2, 3, 4]), "at", "numbers are no times"),
        (_with(x=["1.5", "n/a", "2", "3"]), "x", "hold text such as '1.5'"),
        (_with(x=[1.5, "n/a", 2, 3]), "x", "1 rows hold text such as 'n/a'"),
    ],
)
def test_mistakes_name_table_and_column(table: pd.DataFrame, column: str, words: str) -> None:
    with pytest.raises(TrainingError) as caught:
        normalise(table, SPECIFICATION, where="t.csv")
    assert words in caught.value.what
    assert caught.value.where == (f"t.csv [{column}]" if column else "t.csv")
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([None, None, None, None], "none of the 4 rows has a label"),
        ([1, 1, 1, None], "all 3 labels are '1'"),
        ([0, 1, 2, None], "binary with the positive label '1'"),
        ([0, 2, 0, 2], "binary with the positive label '1'"),
        (["yes", "no", "yes", "no"], "binary with the positive label '1'"),
    ],
)
def test_labels_that_teach_nothing_are_refused(labels: list[Any], words: str) -> None:
    table = normalise(_with(y=labels), SPECIFICATION, where="t")
    with pytest.raises(TrainingError, match=words):
        check_labels(table, SPECIFICATION, where="t")


@pytest.mark.parametrize(
    ("labels", "dtype"),
    [
        ([0, 1, None, 1], "Int64"),
        ([0.0, 1.0, np.nan, 1.0], "Int64"),
        ([True, False, None, True], "boolean"),
        (["a", None, "b", "a"], "str"),
        ([0.5, 1.0, None, 1.0], "Float64"),
    ],
)
def test_labels_take_one_type_whatever_file_they_come_from(labels: list[Any], dtype: str) -> None:
    table = normalise(_with(y=labels), SPECIFICATION, where="t")
    assert str(table["y"].dtype) == dtype
    assert int(table["y"].isna().sum()) == 1


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"no parquet")
    (tmp_path / "t.xlsx").write_bytes(b"")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "empty.csv").write_bytes(b"")
    (tmp_path / "latin.csv").write_bytes("id,at\nMünchen,1\n".encode("latin-1"))
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"id,at\n" * 1000)[:-20])
    mistakes = {
        "t.parquet": "cannot be read", "t.xlsx": "not accepted", "absent.csv": "no such file",
        "folder.csv": "is a folder", "empty.csv": "cannot be read", "latin.csv": "cannot be read",
        "cut.csv.gz": "cannot be read",
    }  # fmt: skip
    for name, words in mistakes.items():
        with pytest.raises(TrainingError, match=words) as caught:
            read_table(tmp_path / name, SPECIFICATION)
        assert name in caught.value.where
        assert caught.value.remedy


def test_categories_of_a_csv_stay_text(tmp_path: Path) -> None:
    toy_table(1, 2).assign(region=["007", "NA"], id=["01", "1"]).to_csv(tmp_path / "t.csv", index=False)
    table = read_table(tmp_path / "t.csv", SPECIFICATION)
    assert sorted(table["id"]) == ["01", "1"]
    assert "007" in set(table["region"])
