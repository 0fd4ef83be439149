"""Dirty tables: what can be replayed is, what cannot is counted with its row, and errors say what, where and how."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents.backtest.history import NEVER, History, make_history
from agents.backtest.run import run_backtest
from schemas.errors import TrainingError
from schemas.specification import parse
from tests.unit.agents.backtest.stories import NOW_MS, answered, options
from tests.unit.agents.retraining.projects import PIPELINE, SPEC, write_project
from tests.unit.agents.retraining.tables import DAY_MS, START, START_MS, toy_table

ROWS = 400


def small() -> pd.DataFrame:
    return toy_table(4, ROWS // 4)


def history(table: pd.DataFrame, *, spec: str = SPEC, typed: bool = True) -> History:
    return make_history(table, parse(spec), now_ms=NOW_MS, where="history.parquet", typed=typed)


def put(column: str, values: dict[int, Any]) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """A table with some cells of a column set otherwise."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        cells = table[column].astype(object).tolist()
        for row, value in values.items():
            cells[row] = value
        return table.assign(**{column: pd.Series(cells, dtype=object)})

    return change


@pytest.mark.parametrize(
    ("change", "area", "reason", "rows"),
    [
        (put("id", {3: None, 7: None}), "rows", "no id", [4, 8]),
        (put("id", {3: ""}), "rows", "no id", [4]),
        (put("at", {0: None}), "rows", "no event time", [1]),
        (put("at", {5: "the day before"}), "rows", "event time cannot be read", [6]),
        (put("at", {5: 12}), "rows", "event time cannot be read", [6]),
        (put("at", {9: "1931-05-01T00:00:00Z"}), "rows", "event time before 1970", [10]),
        (put("at", {9: "2999-05-01T00:00:00Z"}), "rows", "event time in the future", [10]),
        (put("id", {4: "d0-1"}), "rows", "id repeated with other values", [5]),
        (lambda t: pd.concat([t, t.iloc[[2, 2]]]), "rows", "row repeated", [401, 402]),
        (put("x", {8: "warm"}), "rows", "x is numeric and holds text", [9]),
        (put("x", {8: np.inf}), "rows", "x is infinite", [9]),
        (put("known_at", {6: None}), "labels", "no label time", [7]),
        (put("known_at", {6: "soon"}), "labels", "label time cannot be read", [7]),
        (put("known_at", {6: "1969-12-31"}), "labels", "label time before 1970", [7]),
        (put("known_at", {6: "2999-12-31"}), "labels", "label time in the future", [7]),
        (put("y", {6: 2}), "training", "the label is neither of the two classes", [7]),
    ],
)
def test_what_cannot_be_used_is_counted_with_its_row(
    change: Callable[[pd.DataFrame], pd.DataFrame], area: str, reason: str, rows: list[int]
) -> None:
    found = history(change(small()))
    assert found.left.document() == {area: {reason: {"count": len(rows), "rows": rows}}}
    assert len(found) == ROWS - (len(rows) if area == "rows" and reason != "row repeated" else 0)
    assert int((found.label_ms == NEVER).sum()) == (len(rows) if area == "labels" else 0)


def test_a_row_is_left_out_for_one_reason_only() -> None:
    table = put("id", {3: None})(put("at", {3: "never"})(put("x", {3: "cold"})(small())))
    assert history(table).left.document() == {"rows": {"no id": {"count": 1, "rows": [4]}}}


def test_a_repeated_id_keeps_the_first_row_of_the_file() -> None:
    table = put("id", {4: "d0-1"})(small())
    found = history(table.iloc[::-1].reset_index(drop=True))
    assert found.ids.count("d0-1") == 1
    kept = found.table.loc[found.table["id"] == "d0-1", "x"].item()
    assert kept == table["x"].iloc[4]


def test_nulls_stay_nulls() -> None:
    table = put("region", {1: None})(put("x", {0: None, 2: np.nan})(small()))
    found = history(table)
    assert found.left.document() == {}
    by_id = dict(zip(found.ids, found.features, strict=True))
    assert b'"x":null' in by_id["d0-0"]
    assert b'"x":null' in by_id["d0-2"]
    assert b'"region":null' in by_id["d0-1"]
    assert found.segments[found.ids.index("d0-1")] == b""


def test_rows_stand_in_order_of_event_time_however_the_file_has_them() -> None:
    mixed = history(small().sample(frac=1.0, random_state=1))
    straight = history(small())
    assert mixed.ids == straight.ids
    assert (np.diff(mixed.times_ms) >= 0).all()
    assert mixed.features == straight.features


def test_times_without_a_zone_are_utc_and_an_hour_may_come_twice() -> None:
    table = small()
    naive = table.assign(at=[f"2024-01-0{1 + i % 3}T02:30:00" for i in range(len(table))])
    found = history(naive)
    assert len(found) == ROWS
    assert len(set(found.times_ms.tolist())) == 3
    assert found.times_ms[0] == START_MS + 9_000_000


def test_numbers_in_csv_are_numbers_though_one_cell_is_text() -> None:
    table = small()
    cells = [str(value) for value in table["x"]]
    cells[5], cells[6] = "n/a?", "  "
    found = history(table.assign(x=pd.Series(cells, dtype="str")), typed=False)
    assert found.left.document() == {"rows": {"x is numeric and holds text": {"count": 1, "rows": [6]}}}
    assert len(found) == ROWS - 1
    row = found.ids.index("d0-7")
    assert float(found.table["x"].iloc[row]) == pytest.approx(table["x"].iloc[7])


@pytest.mark.parametrize(
    ("change", "what", "where"),
    [
        (lambda t: t.drop(columns="x"), "lacks the column x", "history.parquet"),
        (lambda t: t.drop(columns=["region", "known_at"]), "lacks the columns known_at, region", "history.parquet"),
        (lambda t: pd.concat([t, t["x"]], axis=1), "column x more than once", "history.parquet"),
        (lambda t: t.iloc[:0], "no rows", "history.parquet"),
        (lambda t: t.assign(at=17), "numbers are no times", "[at]"),
        (lambda t: t.assign(at="noon"), "no time can be read, such as 'noon'", "[at]"),
        (lambda t: t.assign(known_at="later"), "no time can be read, such as 'later'", "[known_at]"),
        (lambda t: t.assign(id=None), "no row has an id and an event time", "[id, at]"),
        (lambda t: t.assign(x=["a", "b", "c", 1.0] * (ROWS // 4)), "300 of 400 values are text", "[x]"),
        (lambda t: t.assign(x=np.inf), "no row is left", "history.parquet"),
        (lambda t: t.assign(prediction=None), "no row carries a prediction", "[prediction]"),
    ],
)
def test_errors_say_what_and_where_and_how(
    change: Callable[[pd.DataFrame], pd.DataFrame], what: str, where: str
) -> None:
    with pytest.raises(TrainingError) as caught:
        history(change(small()))
    assert what in caught.value.what
    assert where in caught.value.where
    assert caught.value.remedy


def test_with_predictions_odd_values_are_monitored_rather_than_refused() -> None:
    table = put("x", {3: "warm"})(answered(small()))
    table.loc[5, "prediction"] = None
    table.loc[6, "probability"] = 1.5
    found = history(table)
    assert found.recorded is not None
    assert len(found) == ROWS - 1
    assert found.left.document() == {
        "rows": {"no prediction": {"count": 1, "rows": [6]}},
        "values": {
            "x is numeric and holds text": {"count": 1, "rows": [4]},
            "the probability is none between 0 and 1": {"count": 1, "rows": [7]},
        },
    }
    assert b'"x":"warm"' in found.features[found.ids.index("d0-3")]


@pytest.mark.parametrize(
    ("versions", "numbers", "names"),
    [
        ([3, 5], {3, 5}, {3: "3", 5: "5"}),
        (["7", "12"], {7, 12}, {7: "7", 12: "12"}),
        (["b", "a"], {1, 2}, {1: "b", 2: "a"}),
        ([2.0, None], {1, 2}, {1: "2", 2: ""}),
    ],
)
def test_versions_of_a_file_become_numbers(versions: list[Any], numbers: set[int], names: dict[int, str]) -> None:
    table = answered(small())
    half = len(table) // 2
    table["version"] = [versions[0]] * half + [versions[1]] * (len(table) - half)
    recorded = history(table).recorded
    assert recorded is not None
    assert set(recorded.versions.tolist()) == numbers
    assert recorded.names == names


def test_a_column_of_maps_is_the_probabilities_of_classes() -> None:
    spec = SPEC.replace('task = "binary"', 'task = "multiclass"').replace('"roc_auc"', '"accuracy"')
    spec = spec.replace('"accuracy", "brier", "accuracy"', '"accuracy", "log_loss"')
    table = small().assign(prediction="1", probability='{"0": 0.25, "1": 0.75}')
    table["y"] = table["y"].astype(str)
    recorded = history(table, spec=spec, typed=False).recorded
    assert recorded is not None
    assert recorded.probabilities[0] == {"0": 0.25, "1": 0.75}


# ------------------------------------------------------------------------------------------ through the replay


def through(tmp_path: Path, table: pd.DataFrame, **more: Any) -> dict[str, Any]:
    """The backtest of a dirty table, with its accounts checked."""
    found = run_backtest(options(tmp_path, table, **more))
    counts = found["accounting"]
    out = sum(what["count"] for what in found["left_out"].get("rows", {}).values())
    before = counts["predictions"] - found["events"]
    assert before == 0
    assert counts["predictions"] == counts["pending"] + counts["labelled"] + counts["expired"]
    assert found["events"] <= len(table) - out
    return found


def test_rows_that_the_model_cannot_take_are_not_answered(tmp_path: Path) -> None:
    """A logistic regression takes no NaN. Serving would write these requests to the dead letters, and go on."""
    table = toy_table(20, 100)
    table.loc[[1500, 1501, 1700], "x"] = np.nan
    table.loc[1600:1611, "noise"] = np.nan
    found = through(tmp_path, table)
    assert found["events"] == 600 - 15
    assert [(u["version"], u["count"]) for u in found["unanswered"]] == [(1, 15)]
    assert "NaN" in found["unanswered"][0]["reason"]
    assert found["accounting"]["labels.waiting"] + found["accounting"]["labels.orphaned"] == 15


def test_outliers_unseen_categories_and_nulls_go_through(tmp_path: Path) -> None:
    table = answered(toy_table(24, 400))
    late = np.arange(len(table)) >= 7200
    rng = np.random.default_rng(5)
    table["region"] = np.where(late & (rng.random(len(table)) < 0.3), "west", table["region"])
    table.loc[late & (rng.random(len(table)) < 0.2), "x"] = np.nan
    table.loc[7300, "x"] = 1e300
    table.loc[7350, "noise"] = -1e300
    found = through(tmp_path, table)
    kinds = {incident["kind"] for incident in found["incidents"]}
    assert "data-quality" in kinds
    assert found["observations"]["new-segment"] == 1
    assert any(row["segment"] == {"region": "west"} for row in found["series"])


def test_a_constant_column_goes_through(tmp_path: Path) -> None:
    found = through(tmp_path, toy_table(20, 100).assign(noise=3.0))
    assert found["events"] == 600
    assert found["summary"]["live"]["roc_auc"] > 0.7


def test_an_empty_column_goes_through(tmp_path: Path) -> None:
    found = through(tmp_path, answered(toy_table(20, 100)).assign(noise=None))
    assert found["events"] == 600


def test_a_class_may_be_absent_for_days(tmp_path: Path) -> None:
    table = toy_table(22, 100)
    day = np.arange(len(table)) // 100
    table.loc[(day >= 16) & (day < 19), "y"] = 0
    found = through(tmp_path, table)
    overall = {row["window_start"][:10]: row for row in found["series"] if row["segment"] is None}
    assert overall["2024-01-17"]["live"]["roc_auc"] is None
    assert overall["2024-01-17"]["live"]["brier"] is not None
    assert overall["2024-01-21"]["live"]["roc_auc"] is not None


def test_a_gap_of_a_year_costs_nothing_and_is_no_loss(tmp_path: Path) -> None:
    early, late = toy_table(20, 100), toy_table(6, 100, first_day=385)
    found = through(tmp_path, pd.concat([early, late], ignore_index=True))
    assert found["events"] == 1200
    assert found["labelled"] == 1200
    gap = [i for i in found["incidents"] if "2024-02" < i["opened_at"][:7] < "2025-01"]
    assert not [i for i in gap if i["kind"] == "quality"]
    assert {row["window_start"][:7] for row in found["series"]} == {"2024-01", "2025-01"}


def test_labels_before_their_event_late_labels_and_none_are_told_apart(tmp_path: Path) -> None:
    table = toy_table(20, 100)
    day = np.arange(len(table)) // 100
    known = table["known_at"].copy()
    early, late, never = (np.flatnonzero(day == 16)[at] for at in (3, 4, 5))
    known[early] = table["at"][early] - pd.Timedelta(hours=3)
    known[late] = table["at"][late] + pd.Timedelta(days=2)
    table["known_at"] = known
    table["y"] = table["y"].astype("Int64")
    table.loc[never, "y"] = None
    found = through(tmp_path, table)
    counts = found["accounting"]
    assert found["remarks"] == ["1 labels were known before their event"]
    assert counts["labels.late"] == 1
    assert counts["dead_letters"] == {"ground-truth: late": 1}
    assert counts["expired"] == 2
    assert found["labelled"] == counts["labelled"] == 598


def test_a_time_far_off_is_left_out_and_moves_nothing(tmp_path: Path) -> None:
    clean = toy_table(20, 100)
    table = put("at", {0: pd.Timestamp("1900-01-01", tz="UTC"), 1999: START + pd.Timedelta(days=9000)})(clean)
    found = through(tmp_path, table)
    assert found["left_out"]["rows"].keys() == {"event time before 1970", "event time in the future"}
    assert found["until"] == "2024-01-21T00:00:00Z"


def test_a_step_that_fails_is_a_failed_run(tmp_path: Path) -> None:
    """Training fails on what came later; the champion goes on."""
    asked = options(
        tmp_path,
        toy_table(24, 100),
        settings=[("retraining.triggers", ["schedule:3d"]), ("retraining.min_labels", 100)],
    )
    broken = PIPELINE.replace(
        'return data[data["y"].notna()]',
        'if data["at"].max().day > 8: raise ValueError("no more")\n    return data[data["y"].notna()]',
    )
    write_project(asked.project, pipeline=broken)
    found = run_backtest(asked)
    decisions = [run["decision"] for run in found["retrainings"]]
    assert decisions[0] == "initial"
    assert set(decisions[1:]) == {"failed"}
    assert "no more" in found["retrainings"][1]["reason"]
    assert [swap["version"] for swap in found["swaps"]] == [1]


def test_nothing_is_known_of_a_day_before_it_was(tmp_path: Path) -> None:
    """A run's table ends where it was asked for, labels included."""
    found = history(toy_table(4, 100))
    before = START_MS + 2 * DAY_MS + 3_600_000
    table = found.known_at(0, before)
    assert (table["at"].astype("int64") < before).all()
    later = table["at"].astype("int64") + 7_200_000 >= before
    assert table.loc[later, "y"].isna().all()
    assert table.loc[~later, "y"].notna().all()
    assert table.loc[later, "known_at"].isna().all()
