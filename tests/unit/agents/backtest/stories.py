"""Histories for backtests: the toy project, and tables in which something happens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from agents.backtest.overrides import Setting
from agents.backtest.run import BacktestOptions
from tests.unit.agents.retraining.projects import SPEC, write_project
from tests.unit.agents.retraining.tables import DAY_MS, START_MS, toy_table

NOW_MS = START_MS + 400 * DAY_MS
TRAIN_DAYS = 14
DAYS = 50


def turned(days: int = DAYS, at: int = 25, per_day: int = 150) -> pd.DataFrame:
    """A world whose dependence turns round on day `at`: quality is lost, and a successor gets it back."""
    return pd.concat(
        [toy_table(at, per_day), toy_table(days - at, per_day, first_day=at, slope=-2.0)], ignore_index=True
    )


def answered(table: pd.DataFrame, slope: float = 2.0) -> pd.DataFrame:
    """The table with what a model that was fitted before says of it."""
    chance = 1 / (1 + np.exp(-slope * table["x"].to_numpy()))
    return table.assign(prediction=(chance >= 0.5).astype(int), probability=chance)


def options(folder: Path, table: pd.DataFrame, *, name: str = "history.parquet", **more: Any) -> BacktestOptions:
    """Options of a backtest of the toy project over `table`."""
    spec = more.pop("spec", SPEC)
    folder.mkdir(exist_ok=True)
    project = write_project(folder / "project", spec=spec)
    data = folder / name
    if data.suffix == ".parquet":
        table.to_parquet(data, index=False)
    else:
        table.to_csv(data, index=False)
    settings: Sequence[Setting] = more.pop("settings", ())
    until = START_MS + more.pop("train_days", TRAIN_DAYS) * DAY_MS
    return BacktestOptions(project=project, data=data, train_until_ms=until, settings=settings, now_ms=NOW_MS, **more)
