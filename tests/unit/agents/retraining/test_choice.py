"""Which rows a successor learns from: never the gate's, more where nothing changed, fewer where it did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents.retraining.choice import EVERYTHING, SINCE, Choice, Span, choose, parts, spans
from agents.retraining.holdout import cutoff_ms
from agents.retraining.project import Project, load_project
from agents.retraining.table import normalise
from agents.retraining.trainer import event_times_ms, train
from schemas.specification import parse
from tests.unit.agents.retraining.projects import PIPELINE, SPEC, write_project
from tests.unit.agents.retraining.tables import DAY_MS, START_MS, toy_table

SPECIFICATION = parse(SPEC)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return load_project(write_project(tmp_path))


def world(*stretches: tuple[int, float]) -> pd.DataFrame:
    """Days of a slope each, one after the other."""
    tables, day = [], 0
    for days, slope in stretches:
        tables.append(toy_table(days, first_day=day, slope=slope))
        day += days
    return normalise(pd.concat(tables), SPECIFICATION, where="t")


@pytest.mark.parametrize(
    ("stretches", "change_day", "chosen"),
    [
        (((120, 2.0),), None, EVERYTHING),
        (((60, -2.0), (60, 2.0)), None, "30d"),
        (((60, -2.0), (60, 2.0)), 60, SINCE),
        # The evidence is wrong: nothing changed there, and more rows are at least as good.
        (((120, 2.0),), 80, EVERYTHING),
        # The change is younger than a usual holdout: both parts have to lie after it.
        (((106, -2.0), (14, 2.0)), 106, SINCE),
    ],
)
def test_the_rows_that_are_best_now(
    project: Project, stretches: tuple[tuple[int, float], ...], change_day: int | None, chosen: str
) -> None:
    table = world(*stretches)
    change = None if change_day is None else START_MS + change_day * DAY_MS
    choice = choose(project, table, change_ms=change)
    assert choice.span.name == choice.report["chosen"] == chosen, choice.report
    kept = event_times_ms(choice.rows(table, SPECIFICATION), SPECIFICATION)
    assert kept.max() == event_times_ms(table, SPECIFICATION).max()
    if chosen == SINCE:
        assert START_MS + (change_day or 0) * DAY_MS <= kept.min()
        assert choice.holdout_from_ms is not None
        assert kept.min() < choice.holdout_from_ms


def test_the_gate_sees_no_row_that_the_choice_has_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every fit ends where the comparison begins, the comparison where the gate's holdout begins."""
    seeing = PIPELINE.replace(
        "    return model.fit", '    print("until", prepare["at"].max().value // 1_000_000)\n    return model.fit'
    )
    table = world((100, 2.0))
    project = load_project(write_project(tmp_path, seeing))
    choice = choose(project, table)
    seen = [int(word) for word in capsys.readouterr().out.split() if word.isdigit()]
    compared_from = pd.Timestamp(choice.report["compared"]["from"]).value // 1_000_000
    assert len(seen) == len(choice.report["tried"]) > 1
    assert max(seen) < compared_from < (choice.holdout_from_ms or 0)
    candidate = train(project, choice.rows(table, SPECIFICATION), where="t", holdout_from_ms=choice.holdout_from_ms)
    assert candidate.cutoff_ms == choice.holdout_from_ms
    # What is deployed has learnt from the comparison too.
    (last,) = [int(word) for word in capsys.readouterr().out.split() if word.isdigit()]
    assert compared_from < last < candidate.cutoff_ms


def test_rows_without_a_label_count_for_nothing() -> None:
    """What is not labelled yet is neither compared nor counted: the newest labelled rows are the latest period."""
    times = np.arange(100_000, dtype=np.int64) * (DAY_MS // 1000)
    labelled = times < 80 * DAY_MS
    cut = parts(times, labelled, SPECIFICATION)
    assert cut is not None
    assert cut.holdout_from_ms == cutoff_ms(times[labelled], np.ones(80_000, bool), DAY_MS) == 73 * DAY_MS
    assert cut.compare_from_ms == 66 * DAY_MS
    found = spans(times, labelled, SPECIFICATION, cut.compare_from_ms, 60 * DAY_MS)
    assert found == [
        Span(EVERYTHING),
        Span("30d", 36 * DAY_MS),
        Span(SINCE, 60 * DAY_MS),
    ]


@pytest.mark.parametrize(("rows", "why"), [(3, "too few"), (300, "too few"), (4_000, "nearly all rows")])
def test_nothing_to_choose_from(project: Project, rows: int, why: str) -> None:
    table = normalise(toy_table(40).head(rows), SPECIFICATION, where="t")
    choice = choose(project, table)
    assert (choice.span, choice.holdout_from_ms) == (Span(EVERYTHING), None)
    assert why in choice.report["why"]
    assert choice.rows(table, SPECIFICATION) is table


def test_the_time_is_bounded_and_told(project: Project) -> None:
    """No time: the largest alone is fitted, and the report says what was not tried."""
    choice: Choice = choose(project, world((60, -2.0), (60, 2.0)), may_go_on=lambda: False)
    assert choice.span.name == EVERYTHING
    assert choice.report["left_out"] == {"30d": "no time was left"}


def test_the_same_rows_give_the_same_choice(project: Project) -> None:
    table = world((60, 1.0), (60, 2.0))
    one, two = choose(project, table, seed=3), choose(project, table, seed=3)
    assert one == two
    numbers: dict[str, Any] = one.report["tried"][1]
    assert numbers["low"] <= numbers["gain"] <= numbers["high"]
