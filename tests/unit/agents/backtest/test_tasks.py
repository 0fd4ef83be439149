"""Every task goes through the backtest, trained here or answered elsewhere; both cores say the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents.backtest.run import BacktestOptions, replay, run_backtest
from schemas.codec import encode
from streams.native import library
from tests.unit.agents.backtest.stories import NOW_MS, options, turned
from tests.unit.agents.retraining.projects import write_project
from tests.unit.agents.retraining.tables import DAY_MS, START_MS, toy_table

SPEC = """
[model]
name = "toy"
task = "TASK"
[data]
id = "id"
event_time = "at"
label_time = "known_at"
label = "y"
max_label_delay = "1d"
segments = ["region"]
[features]
x = "numeric"
noise = "numeric"
region = "categorical"
[metrics]
primary = "PRIMARY"
watch = ["WATCH"]
windows = ["1d"]
[retraining]
triggers = ["schedule:4d"]
training_window = "10d"
cool_down = "2d"
min_labels = 300
"""
PIPELINES = {
    "multiclass": """
from sklearn.linear_model import LogisticRegression
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import make_pipeline


def train(data, seed):
    rows = data[data["y"].notna()]
    columns = ColumnTransformer([("n", "passthrough", ["x", "noise"])])
    return make_pipeline(columns, LogisticRegression(random_state=seed)).fit(rows[["x", "noise", "region"]], rows["y"])
""",
    "regression": """
from sklearn.linear_model import LinearRegression
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import make_pipeline


def train(data):
    rows = data[data["y"].notna()]
    columns = ColumnTransformer([("n", "passthrough", ["x", "noise"])])
    return make_pipeline(columns, LinearRegression()).fit(rows[["x", "noise", "region"]], rows["y"])
""",
}
METRICS = {"multiclass": ("accuracy", "log_loss"), "regression": ("mae", "rmse")}


def story(task: str, days: int = 24) -> pd.DataFrame:
    """On day 18 the world changes: classes change places, or numbers come with an offset."""
    table = toy_table(days, 120)
    day = np.arange(len(table)) // 120
    rng = np.random.default_rng(4)
    value = table["x"].to_numpy() + rng.normal(0, 0.3, len(table))
    if task == "regression":
        return table.assign(y=10 * value + np.where(day >= 18, 25.0, 0.0))
    names = np.array(["low", "middle", "high"], dtype=object)
    number = np.digitize(value, [-0.5, 0.5])
    return table.assign(y=names[np.where(day >= 18, (number + 1) % 3, number)])


def asked(folder: Path, task: str, table: pd.DataFrame, **more: Any) -> BacktestOptions:
    primary, other = METRICS[task]
    spec = SPEC.replace("TASK", task).replace("PRIMARY", primary).replace("WATCH", other)
    project = write_project(folder / "project", pipeline=PIPELINES[task], spec=spec)
    data = folder / "history.parquet"
    table.to_parquet(data, index=False)
    until = START_MS + 14 * DAY_MS
    return BacktestOptions(project=project, data=data, train_until_ms=until, now_ms=NOW_MS, **more)


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_other_tasks_are_trained_watched_and_retrained(tmp_path: Path, task: str) -> None:
    found = run_backtest(asked(tmp_path, task, story(task)))
    assert found["events"] == 1200 == found["labelled"]
    quality = [i for i in found["incidents"] if i["kind"] == "quality"]
    assert quality[0]["opened_at"][:10] in {"2024-01-20", "2024-01-21"}
    assert quality[0]["hindsight"] == "true"
    assert len(found["retrainings"]) >= 2
    assert all(value is not None for value in found["summary"]["live"].values())
    assert any(row["segment"] for row in found["series"])


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # of numpy and scipy, and rightly so
@pytest.mark.parametrize("row", [100, 2000])
def test_an_absurd_label_costs_no_run(tmp_path: Path, row: int) -> None:
    """Squares of it are infinite: learnt from or not, the replay goes on."""
    table = story("regression")
    table.loc[row, "y"] = 1e300
    found = run_backtest(asked(tmp_path, "regression", table))
    assert found["labelled"] == 1200
    assert "failed" not in {run["decision"] for run in found["retrainings"]}


def test_classes_that_somebody_else_predicts(tmp_path: Path) -> None:
    table = story("multiclass")
    number = np.digitize(table["x"], [-0.5, 0.5])
    names = np.array(["low", "middle", "high"], dtype=object)
    shares = [{name: 0.8 if name == predicted else 0.1 for name in names} for predicted in names[number]]
    table = table.assign(prediction=names[number], probability=shares)
    found = run_backtest(asked(tmp_path, "multiclass", table))
    assert found["mode"] == "recorded"
    assert found["summary"]["live"]["log_loss"] is not None
    assert next(i["opened_at"][:10] for i in found["incidents"] if i["kind"] == "quality") <= "2024-01-21"


def test_numbers_that_somebody_else_predicts(tmp_path: Path) -> None:
    table = story("regression")
    found = run_backtest(asked(tmp_path, "regression", table.assign(prediction=10 * table["x"])))
    assert next(i["opened_at"][:10] for i in found["incidents"] if i["kind"] == "quality") <= "2024-01-21"
    assert found["summary"]["live"]["mae"] > 2


@pytest.mark.skipif(not library.available(), reason="the native core was not built")
def test_both_cores_see_the_same(tmp_path: Path) -> None:
    told = options(tmp_path, turned(30), frozen=True)
    native, reference = (replay(replace(told, core=core)).live.monitor for core in ("native", "reference"))
    for name in ("quality", "estimates", "drift", "observations", "panes", "alerts"):
        assert list(map(encode, getattr(native, name))) == list(map(encode, getattr(reference, name)))
    assert native.totals == reference.totals
