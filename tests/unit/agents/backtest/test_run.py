"""The backtest from end to end, on a small world."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from agents.backtest.report import render
from agents.backtest.run import replay, run_backtest
from agents.backtest.shuffled import estimate, shuffle
from agents.cli import app
from schemas.codec import to_ms
from schemas.errors import TrainingError
from tests.unit.agents.backtest.stories import DAYS, TRAIN_DAYS, answered, options, turned
from tests.unit.agents.retraining.projects import PIPELINE, write_project
from tests.unit.agents.retraining.tables import DAY_MS, START_MS, toy_table

QUICK = [
    ("retraining.training_window", "14d"),
    ("retraining.cool_down", "5d"),
    ("retraining.min_labels", 300),
    ("retraining.triggers", ["quality", "schedule:6d"]),
]
"""So that a successor soon leaves out what came before the turn."""
KEYS = {"model", "events", "labelled", "incidents", "retrainings", "series", "summary"}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A world that turns round on day 25, with retraining."""
    return run_backtest(options(tmp_path_factory.mktemp("story"), turned(), settings=QUICK))


def test_the_document_has_the_names_that_are_promised(story: dict[str, Any]) -> None:
    assert set(story) >= KEYS
    assert {"kind", "subject", "segment", "opened_at", "closed_at", "severity", "evidence"} <= set(
        story["incidents"][0]
    )
    assert {"at", "trigger", "rows", "decision", "reason", "version"} == set(story["retrainings"][0])
    assert {"window_start", "window_end", "segment", "n", "live", "frozen"} == set(story["series"][0])
    assert {"live", "frozen", "always_promote", "never_retrain"} == set(story["summary"])
    assert [rule["rule"] for rule in story["alarms"]["rules"]] == ["driftline", "always-fire", "never-fire"]
    json.dumps(story)  # nothing in it that is no JSON


def test_a_lost_quality_is_found_learnt_and_regained(story: dict[str, Any]) -> None:
    turn = "2024-01-26"
    quality = [i for i in story["incidents"] if i["kind"] == "quality"]
    assert quality[0]["opened_at"][:10] > turn
    assert quality[0]["opened_at"][:10] <= "2024-01-30"
    assert quality[0]["hindsight"] == "true"
    assert quality[0]["evidence"]["threshold"]
    decisions = [run["decision"] for run in story["retrainings"]]
    assert decisions[0] == "initial"
    assert "promoted" in decisions
    assert story["summary"]["live"]["roc_auc"] > story["summary"]["frozen"]["roc_auc"] + 0.05
    assert story["summary"]["never_retrain"] == story["summary"]["frozen"]


def test_every_row_is_accounted_for(story: dict[str, Any]) -> None:
    counts = story["accounting"]
    assert story["events"] == (DAYS - TRAIN_DAYS) * 150 == counts["predictions"]
    assert counts["predictions"] == counts["pending"] + counts["labelled"] + counts["expired"]
    assert story["labelled"] == counts["labelled"]
    assert counts["dead_letters"] == {}
    assert sum(row["n"] for row in story["series"] if row["segment"] is None) == story["labelled"]


def test_what_is_decided_does_not_know_what_comes(tmp_path: Path, story: dict[str, Any]) -> None:
    """The same history cut short: everything up to the cut is the same."""
    table = turned()
    cut = START_MS + 36 * DAY_MS
    table = table[table["known_at"].astype("datetime64[ms, UTC]").astype("int64") < cut]
    short = run_backtest(options(tmp_path, table, settings=QUICK))
    until = short["until"]
    assert short["retrainings"] == [run for run in story["retrainings"] if run["at"] <= until]
    told = [(i["incident_id"], i["opened_at"], i["title"]) for i in story["incidents"] if i["opened_at"] <= until]
    assert [(i["incident_id"], i["opened_at"], i["title"]) for i in short["incidents"]] == told
    whole = {row["window_start"]: row for row in story["series"] if row["segment"] is None}
    compared = [row for row in short["series"] if row["segment"] is None and row["window_end"] < until]
    assert compared == [whole[row["window_start"]] for row in compared]


def test_the_same_history_gives_the_same_document(tmp_path: Path) -> None:
    """However the rows of the file stand."""
    table = turned(24, at=18)
    one, other = (
        run_backtest(options(tmp_path / name, rows, frozen=True))
        for name, rows in (("one", table), ("other", table.sample(frac=1.0, random_state=3)))
    )
    for found in (one, other):
        del found["seconds"]
    assert one == other


def test_with_people_who_approve_nobody_is_promoted(tmp_path: Path) -> None:
    found = run_backtest(options(tmp_path, turned(37), settings=[*QUICK, ("approval.mode", "manual")]))
    decisions = [run["decision"] for run in found["retrainings"]]
    assert decisions[0] == "initial"
    assert "awaiting-approval" in decisions
    assert "promoted" not in decisions
    assert found["summary"]["live"] == found["summary"]["frozen"]
    assert found["summary"]["always_promote"]["roc_auc"] > found["summary"]["frozen"]["roc_auc"]


def test_a_successor_that_harms_is_brought_back_by_probation(tmp_path: Path) -> None:
    """The world turns round, a successor learns it, and the world turns back while it is on probation."""
    parts = [(0, 18, 2.0), (18, 14, -2.0), (32, 9, 2.0)]
    table = pd.concat([toy_table(days, 150, first_day=day, slope=slope) for day, days, slope in parts])
    found = run_backtest(options(tmp_path, table, settings=[*QUICK, ("retraining.probation", "6d")]))
    decisions = [(run["decision"], run["trigger"], run["version"]) for run in found["retrainings"]]
    back = [run for run in decisions if run[0] == "rolled-back"]
    assert back
    assert back[0][1] == "probation"
    at = next(run["at"] for run in found["retrainings"] if run["decision"] == "rolled-back")
    swap = next(swap for swap in found["swaps"] if swap["at"] == at)
    assert swap["version"] < back[0][2]
    assert "probation of 6d" in next(r["reason"] for r in found["retrainings"] if r["decision"] == "rolled-back")
    assert found["events"] == (41 - TRAIN_DAYS) * 150
    assert found["accounting"]["predictions"] > found["events"]  # the champion before answered in shadow


def test_new_rows_ask_for_successors_in_event_time(tmp_path: Path) -> None:
    """14 days of 60 rows are learnt from: half as many come in a week; a day is told two days after it began."""
    table = toy_table(36, 60)
    rules = [("retraining.triggers", ["data"]), ("retraining.min_labels", 100), ("retraining.cool_down", "1d")]
    found = run_backtest(options(tmp_path, table, settings=rules))
    assert [run["trigger"] for run in found["retrainings"]] == ["registration", "data", "data"]
    days = [to_ms(datetime.fromisoformat(run["at"])) // DAY_MS - START_MS // DAY_MS for run in found["retrainings"]]
    assert days[1] == TRAIN_DAYS + 7 + 1
    assert days[2] > days[1] + 7  # the second one waits for more: its champion learnt from more, and rows count anew


def test_what_steps_print_stays_out_of_the_document(tmp_path: Path) -> None:
    asked = options(tmp_path, toy_table(17, 60))
    noisy = PIPELINE.replace(
        "def train(prepare, spec, seed):\n", 'def train(prepare, spec, seed):\n    print("hello")\n'
    )
    assert noisy != PIPELINE
    write_project(asked.project, pipeline=noisy)
    arguments = ["backtest", str(asked.project), "--data", str(asked.data), "--train-until", "2024-01-15", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["model"] == "toy"


def test_frozen_trains_once_and_asks_in_vain(tmp_path: Path) -> None:
    found = run_backtest(options(tmp_path, turned(32), frozen=True))
    assert [run["decision"] for run in found["retrainings"]] == ["initial"]
    assert found["mode"] == "frozen"
    assert found["requests"]
    assert found["summary"]["live"] == found["summary"]["frozen"] == found["summary"]["always_promote"]


def test_a_file_with_predictions_is_watched_without_a_pipeline(tmp_path: Path) -> None:
    asked = options(tmp_path, answered(turned()))
    (asked.project / "pipeline.py").unlink()
    found = run_backtest(asked)
    assert found["mode"] == "recorded"
    assert found["retrainings"] == []
    assert any(i["kind"] == "quality" and i["opened_at"][:10] > "2024-01-26" for i in found["incidents"])
    assert not any(i["opened_at"][:10] <= "2024-01-26" for i in found["incidents"])
    assert found["events"] == (DAYS - TRAIN_DAYS) * 150


def test_versions_of_a_file_are_told_apart(tmp_path: Path) -> None:
    table = answered(turned())
    day = ((table["at"].astype("datetime64[ms, UTC]").astype("int64") - START_MS) // DAY_MS).to_numpy()
    table["version"] = ["2024.1" if number < 30 else "2024.2" for number in day]
    world = replay(options(tmp_path, table)).live
    assert {metric.version for metric in world.monitor.quality} == {1, 2}
    assert [swap.version for swap in world.swaps] == [1, 2]
    assert all(to_ms(m.window_start) >= START_MS + 30 * DAY_MS for m in world.monitor.quality if m.version == 2)


def test_other_rules_over_the_same_history(tmp_path: Path) -> None:
    asked = options(
        tmp_path,
        answered(toy_table(40)),
        settings=[("alarms.budget", "1/100d")],
        compare=[[("alarms.budget", "10/1d"), ("metrics.windows", ["1d", "3d"])]],
    )
    found = run_backtest(asked)
    assert found["alarms"]["budget"] == "1/100d"
    variant = found["variants"][0]
    assert variant["set"] == {"alarms.budget": "10/1d", "metrics.windows": ["1d", "3d"]}
    assert variant["alarms"]["budget"] == "10/1d"
    assert variant["alarms"]["tolerated"] > 100 * found["alarms"]["tolerated"]


def test_shuffled_panes_hold_the_same_rows_and_no_trend(tmp_path: Path) -> None:
    outcome = replay(options(tmp_path, answered(turned(60, 40)), shuffles=2))
    mixed, until = shuffle(outcome.history, outcome.frozen.answers, outcome.first, seed=1)
    history = outcome.history
    assert sorted(mixed.ids) == sorted(history.ids[outcome.first :])
    assert (mixed.times_ms[1:] >= mixed.times_ms[:-1]).all()
    where = {prediction_id: row for row, prediction_id in enumerate(history.ids)}
    for row in range(0, len(mixed), 97):
        old = where[mixed.ids[row]]
        moved = int(mixed.times_ms[row] - history.times_ms[old])
        assert moved % DAY_MS == 0
        assert mixed.label_ms[row] - mixed.times_ms[row] == history.label_ms[old] - history.times_ms[old]
        assert mixed.labels[row] == history.labels[old]
        assert mixed.features[row] == history.features[old]
        assert mixed.recorded is not None
        assert mixed.recorded.predictions[row] == outcome.frozen.answers.predictions[old]
    assert mixed.times_ms[0] < until < mixed.times_ms[-1]
    found = estimate(history, outcome.frozen.answers, outcome.first, shuffles=2, seed=0, core="auto")
    assert len(found["incidents"]) == 2
    assert found["tolerated_per_30d"] == 1.0
    assert found["interval_per_30d"][0] <= found["per_30d"] <= found["interval_per_30d"][1]


def test_too_few_panes_to_shuffle_is_said(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="shuffling needs"):
        run_backtest(options(tmp_path, answered(toy_table(17, 60)), shuffles=1))


def test_the_command_prints_one_document_and_writes_a_report(tmp_path: Path) -> None:
    asked = options(tmp_path, answered(turned()), name="history.csv")
    report = tmp_path / "out" / "report.html"
    arguments = [
        *("backtest", str(asked.project), "--data", str(asked.data), "--train-until", "2024-01-15"),
        *("--report", str(report), "--json"),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert set(found) >= KEYS
    html = report.read_text(encoding="utf-8")
    assert "<svg" in html
    assert "<script" not in html
    assert "http" not in html.replace('lang="en"', "")


def test_a_report_that_cannot_be_written_is_said_before_the_replay(tmp_path: Path) -> None:
    asked = options(tmp_path, toy_table(16, 40))
    arguments = [
        *("backtest", str(asked.project), "--data", str(asked.data)),
        *("--train-until", "2024-01-15", "--json"),
    ]
    (tmp_path / "file").write_text("")
    for report in (tmp_path, tmp_path / "file" / "report.html"):
        result = CliRunner().invoke(app, [*arguments, "--report", str(report)])
        error = json.loads(result.stdout)["error"]
        assert (result.exit_code, "cannot be written" in error["what"]) == (2, True)
        assert str(report) in error["where"]
        assert "Training" not in result.stderr


def test_windows_too_thin_to_be_judged_are_remarked_on(tmp_path: Path) -> None:
    found = run_backtest(options(tmp_path, answered(toy_table(17, 60))))
    assert "hold fewer than 100 labelled rows" in found["remarks"][0]
    assert run_backtest(options(tmp_path / "more", answered(toy_table(17, 120))))["remarks"] == []


def test_predictions_that_are_probabilities_are_taken_as_in_traffic(tmp_path: Path) -> None:
    table = answered(turned(30))
    whole = run_backtest(options(tmp_path / "whole", table))
    bare = table.drop(columns="probability").assign(prediction=table["probability"])
    found = run_backtest(options(tmp_path / "bare", bare))
    for key in ("summary", "series", "incidents", "alarms"):
        assert found[key] == whole[key], key


def test_a_file_with_predictions_knows_what_features_matter(tmp_path: Path) -> None:
    reference = replay(options(tmp_path, answered(toy_table(17, 120)))).reference
    assert reference.importances["x"] > 0.5 > reference.importances["noise"]


def test_the_report_tells_incidents_variants_and_what_was_left_out(story: dict[str, Any]) -> None:
    document = {**story, "left_out": {"rows": {"no id": {"count": 2, "rows": [5, 9]}}}}
    html = render(document)
    assert story["incidents"][0]["title"].replace("<", "&lt;") in html
    assert "no id" in html
    assert 'class="band"' in html


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--train-until", "yesterday"], "is no time"),
        (["--train-until", "2020-01-01"], "no row lies before"),
        (["--train-until", "2030-01-01"], "no row lies at or after"),
        (["--train-until", "2024-01-15", "--set", "alarms.budget"], "sets nothing"),
        (["--train-until", "2024-01-15", "--set", "alarms.budgets=1/3d"], "budgets"),
        (["--train-until", "2024-01-15", "--set", "alarms.budget=often"], "often"),
        (["--train-until", "2024-01-15", "--set", "metrics.primary=mae"], "mae"),
    ],
)
def test_mistakes_say_what_and_how_to_mend(tmp_path: Path, arguments: list[str], said: str) -> None:
    asked = options(tmp_path, toy_table(16, 40))
    result = CliRunner().invoke(app, ["backtest", str(asked.project), "--data", str(asked.data), *arguments, "--json"])
    assert result.exit_code in {1, 2}
    error = json.loads(result.stdout)["error"]
    assert said in error["what"]
    assert error["where"]
